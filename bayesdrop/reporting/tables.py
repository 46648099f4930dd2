"""The comparison table, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One method's line in the comparison.

    Args:
        method: What to call it.
        error: Wrong classes, in percent.
        nll: Nats per example.
        brier: Brier score, summed over classes.
        ece: Expected calibration error, 15 bins.
        auroc: Out-of-distribution data set to AUROC of the predictive entropy.
        units: Units kept by each dropout layer, or the widths of a network without.
        params: Parameters of the network that predicts.
        flops: Operations per example, multiply and add both counted.
        latency_ms: Measured milliseconds per batch; None if not measured.
    """

    method: str
    error: float
    nll: float
    brier: float
    ece: float
    auroc: dict[str, float] = field(default_factory=dict)
    units: Sequence[int] = ()
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None


def table_cells(rows: Sequence[Row], *, latency_batch: int) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of the comparison table."""
    sets = list(dict.fromkeys(name for row in rows for name in row.auroc))
    header = ["method", "error %", "NLL", "Brier", "ECE"]
    header += [f"AUROC {name}" for name in sets]
    header += ["units kept", "parameters", "FLOPs", f"ms / {latency_batch}"]
    cells = [
        [
            row.method,
            f"{row.error:.2f}",
            f"{row.nll:.4f}",
            f"{row.brier:.4f}",
            f"{row.ece:.4f}",
            *(f"{row.auroc[name]:.3f}" if name in row.auroc else "–" for name in sets),
            "-".join(str(count) for count in row.units) or "–",
            "–" if row.params is None else f"{row.params:,}",
            "–" if row.flops is None else f"{row.flops:,}",
            "–" if row.latency_ms is None else f"{row.latency_ms:.2f}",
        ]
        for row in rows
    ]
    return header, cells


def rich_table(rows: Sequence[Row], *, title: str, latency_batch: int) -> Table:
    """Return the comparison as a rich table."""
    from rich import box
    from rich.table import Table

    header, cells = table_cells(rows, latency_batch=latency_batch)
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for line in cells:
        table.add_row(*line)
    return table
