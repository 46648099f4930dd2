import dataclasses
import io

import torch
from rich.console import Console

from bayesdrop.metrics import ClassifierFigures
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.reporting import MethodResult, rich_table
from bayesdrop.reporting.tables import table_cells
from bayesdrop.tables import markdown_table


def result(title, error, **options):
    figures = ClassifierFigures.from_predictions(torch.eye(2), torch.arange(2))
    figures = dataclasses.replace(figures, error=error)
    return MethodResult(title, figures, Prediction(torch.eye(2), 1), **options)


ROC = {"ood": {"entropy": {"auroc": 0.9}}}
ROWS = [
    result("plain", 1.5, ood=ROC, units=[64, 10], params=12345, flops=67890, latency_ms=0.25),
    result("other", 2.0),
]


def test_cells_are_aligned_with_the_header_and_gaps_are_dashes():
    header, cells = table_cells(ROWS, latency_batch=100)
    assert [len(line) for line in cells] == [len(header)] * 2
    assert cells[0][-4:] == ["64-10", "12,345", "67,890", "0.25"]
    assert cells[1][-5:] == ["–"] * 5 and header[-1] == "ms / 100"


def test_markdown_and_terminal_show_the_same_cells():
    header, cells = table_cells(ROWS, latency_batch=100)
    text = markdown_table(header, cells)
    assert [line.count("|") for line in text.splitlines()] == [len(header) + 1] * 4
    console = Console(file=io.StringIO(), width=160)
    console.print(rich_table(ROWS, title="t [/2]", latency_batch=100))
    assert "0.900" in cells[0]
    for cell in cells[0]:
        assert cell in console.file.getvalue()
    assert "t [/2]" in console.file.getvalue()
