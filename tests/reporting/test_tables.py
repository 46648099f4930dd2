import io

from rich.console import Console

from bayesdrop.reporting import Row, rich_table
from bayesdrop.reporting.tables import table_cells
from bayesdrop.tables import markdown_table

ROWS = [
    Row("plain", 1.5, 0.05, 0.02, 0.01, {"ood": 0.9}, [64, 10], 12345, 67890, 0.25),
    Row("other", 2.0, 0.06, 0.03, 0.02),
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
    console.print(rich_table(ROWS, title="t", latency_batch=100))
    for cell in cells[0]:
        assert cell in console.file.getvalue()
