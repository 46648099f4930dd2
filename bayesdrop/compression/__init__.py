"""From a posterior over masks to a smaller plain network, its cost, and its files."""

from bayesdrop.compression.compaction import compact
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
from bayesdrop.compression.sparse import (
    SparseTensor,
    SparsityTable,
    load_sparse,
    save_sparse,
    sparsity_table,
)
from bayesdrop.compression.width import (
    WidthRow,
    WidthSweep,
    at_width,
    choose_width,
    width_sweep,
    with_width,
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
    "at_width",
    "choose_threshold",
    "choose_width",
    "compact",
    "compression_table",
    "count_bytes",
    "count_flops",
    "count_params",
    "export_onnx",
    "load_compact",
    "load_sparse",
    "measure_latency",
    "per_input_cost",
    "pruning_frontier",
    "save_compact",
    "save_sparse",
    "size_posterior",
    "sparsity_table",
    "width_sweep",
    "with_width",
]
