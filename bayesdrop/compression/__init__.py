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

__all__ = [
    "CompressionTable",
    "Footprint",
    "compact",
    "compression_table",
    "count_bytes",
    "count_flops",
    "count_params",
    "export_onnx",
    "load_compact",
    "measure_latency",
    "save_compact",
]
