"""Reports: figures of merit as JSON and Markdown, tables, figures and pages."""

from bayesdrop.files import read_json, write_json, write_text
from bayesdrop.reporting import plots
from bayesdrop.reporting.analysis import Analysis, analyse
from bayesdrop.reporting.build import add_analysis, add_baseline, build_report, report
from bayesdrop.reporting.compare import Comparison, ComparisonRow, compare_predictions
from bayesdrop.reporting.comparison_pages import comparison_document, write_comparison
from bayesdrop.reporting.costs import SizeFigures
from bayesdrop.reporting.methods import Method
from bayesdrop.reporting.prediction_pages import predictions_document, write_predictions
from bayesdrop.reporting.prediction_record import PredictionReport
from bayesdrop.reporting.predictions import report_predictions
from bayesdrop.reporting.report_pages import report_document, write_page, write_report
from bayesdrop.reporting.report_record import Report
from bayesdrop.reporting.results import MethodResult
from bayesdrop.reporting.tables import rich_table
from bayesdrop.tables import markdown_table

__all__ = [
    "Analysis",
    "Comparison",
    "ComparisonRow",
    "Method",
    "MethodResult",
    "PredictionReport",
    "Report",
    "SizeFigures",
    "add_analysis",
    "add_baseline",
    "analyse",
    "build_report",
    "compare_predictions",
    "comparison_document",
    "markdown_table",
    "plots",
    "read_json",
    "predictions_document",
    "report",
    "report_document",
    "report_predictions",
    "rich_table",
    "write_comparison",
    "write_json",
    "write_page",
    "write_predictions",
    "write_report",
    "write_text",
]
