"""From a posterior over masks to a smaller plain network, its cost, and its files."""

from bayesdrop.compression.compaction import compact
from bayesdrop.compression.cost import (
    CompressionTable,
    Footprint,
    count_bytes,
    count_params,
    measure_compression,
    measure_latency,
    time_in_turns,
)
from bayesdrop.compression.export import export_onnx, load_compact, save_compact
from bayesdrop.compression.flops import count_flops
from bayesdrop.compression.frontier import (
    Frontier,
    FrontierRow,
    choose_threshold,
    sweep_thresholds,
)
from bayesdrop.compression.per_input import PerInputCost, measure_per_input
from bayesdrop.compression.size import SizeInterval, SizePosterior, measure_size
from bayesdrop.compression.sparse import (
    SparseTensor,
    SparsityTable,
    load_sparse,
    measure_sparsity,
    save_sparse,
)
from bayesdrop.compression.width import (
    WidthRow,
    WidthSweep,
    choose_width,
    cut_to_width,
    hold_width,
    sweep_widths,
)

__all__ = [
    "CompressionTable",
    "Footprint",
    "Frontier",
    "FrontierRow",
    "PerInputCost",
    "SizeInterval",
    "SizePosterior",
    "SparseTensor",
    "SparsityTable",
    "WidthRow",
    "WidthSweep",
    "cut_to_width",
    "choose_threshold",
    "choose_width",
    "compact",
    "measure_compression",
    "count_bytes",
    "count_flops",
    "count_params",
    "export_onnx",
    "load_compact",
    "load_sparse",
    "measure_latency",
    "time_in_turns",
    "measure_per_input",
    "sweep_thresholds",
    "save_compact",
    "save_sparse",
    "measure_size",
    "measure_sparsity",
    "sweep_widths",
    "hold_width",
]
