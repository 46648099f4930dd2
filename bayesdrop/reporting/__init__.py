"""Reports: figures of merit as JSON and Markdown, tables and figures."""

from bayesdrop.diagnostics.guide import GuideDiagnostic, guide_diagnostic
from bayesdrop.diagnostics.inference_data import to_inference_data
from bayesdrop.files import read_json, write_json, write_text
from bayesdrop.reporting.analysis import Analysis, analyse
from bayesdrop.reporting.compare import Comparison, ComparisonRow, compare_predictions
from bayesdrop.reporting.report import Report, add_baseline, build_report
from bayesdrop.reporting.tables import Row, rich_table
from bayesdrop.tables import markdown_table

__all__ = [
    "Analysis",
    "Comparison",
    "ComparisonRow",
    "GuideDiagnostic",
    "Report",
    "Row",
    "add_baseline",
    "analyse",
    "build_report",
    "compare_predictions",
    "guide_diagnostic",
    "markdown_table",
    "read_json",
    "rich_table",
    "to_inference_data",
    "write_json",
    "write_text",
]
