"""Reports: figures of merit as JSON and Markdown, tables and figures."""

from bayesdrop.reporting.files import read_json, write_json, write_text
from bayesdrop.reporting.report import Report, add_baseline, build_report
from bayesdrop.reporting.tables import Row, markdown_table, rich_table

__all__ = [
    "Report",
    "Row",
    "add_baseline",
    "build_report",
    "markdown_table",
    "read_json",
    "rich_table",
    "write_json",
    "write_text",
]
