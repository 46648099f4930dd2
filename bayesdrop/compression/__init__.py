"""From a posterior over masks to a smaller plain network, its cost, and its files."""

from bayesdrop.compression.compacting import compact
from bayesdrop.compression.cost import (
    CompressionTable,
    Footprint,
    count_bytes,
    count_params,
    measure_compression,
    measure_latency,
    time_in_turns,
)
from bayesdrop.compression.ensemble import Members
from bayesdrop.compression.flops import count_flops
from bayesdrop.compression.frontier import (
    Frontier,
    FrontierRow,
    choose_threshold,
    sweep_thresholds,
)
from bayesdrop.compression.latency import LatencyRow, LatencyTable, compare_latency
from bayesdrop.compression.lora import cut_lora_ranks
from bayesdrop.compression.magnitude import (
    MagnitudeRow,
    MagnitudeSweep,
    prune_by_magnitude,
    sweep_magnitudes,
)
from bayesdrop.compression.per_input import PerInputCost, measure_per_input
from bayesdrop.compression.plain import load_plain, save_plain
from bayesdrop.compression.quantisation import Quantised, QuantisedTensor, quantise
from bayesdrop.compression.report import CompactionReport, Cut, compaction_report
from bayesdrop.compression.size import SizeInterval, SizePosterior, measure_size
from bayesdrop.compression.sparse import (
    SparseTensor,
    SparsityTable,
    measure_sparsity,
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
    "CompactionReport",
    "CompressionTable",
    "Cut",
    "Footprint",
    "Frontier",
    "FrontierRow",
    "LatencyRow",
    "LatencyTable",
    "MagnitudeRow",
    "MagnitudeSweep",
    "Members",
    "PerInputCost",
    "Quantised",
    "QuantisedTensor",
    "SizeInterval",
    "SizePosterior",
    "SparseTensor",
    "SparsityTable",
    "WidthRow",
    "WidthSweep",
    "choose_threshold",
    "choose_width",
    "compact",
    "compaction_report",
    "compare_latency",
    "count_bytes",
    "count_flops",
    "count_params",
    "cut_lora_ranks",
    "cut_to_width",
    "hold_width",
    "load_plain",
    "measure_compression",
    "measure_latency",
    "measure_per_input",
    "measure_size",
    "measure_sparsity",
    "quantise",
    "prune_by_magnitude",
    "save_plain",
    "sweep_magnitudes",
    "sweep_thresholds",
    "sweep_widths",
    "time_in_turns",
]
