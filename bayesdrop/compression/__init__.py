"""From a posterior over masks to a smaller plain network, its cost, and its files."""

from bayesdrop.compression.compact import compact
from bayesdrop.compression.cost import (
    CompressionTable,
    Footprint,
    compression_table,
    count_bytes,
    count_flops,
    count_params,
    measure_latency,
)
from bayesdrop.compression.export import export_onnx, load_compact, save_compact
from bayesdrop.compression.frontier import (
    Frontier,
    FrontierRow,
    choose_threshold,
    pruning_frontier,
)
from bayesdrop.compression.per_input import PerInputCost, per_input_cost
from bayesdrop.compression.size import SizeInterval, SizePosterior, size_posterior

__all__ = [
    "CompressionTable",
    "Footprint",
    "Frontier",
    "FrontierRow",
    "PerInputCost",
    "SizeInterval",
    "SizePosterior",
    "choose_threshold",
    "compact",
    "compression_table",
    "count_bytes",
    "count_flops",
    "count_params",
    "export_onnx",
    "load_compact",
    "measure_latency",
    "per_input_cost",
    "pruning_frontier",
    "save_compact",
    "size_posterior",
]
