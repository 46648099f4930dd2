"""Figure of selective prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bayesdrop.metrics.selective import RiskCoverage
from bayesdrop.reporting.plots.style import COLOURS, stacked_axes, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_risk_coverage(
    curves: Mapping[str, RiskCoverage], *, target_risk: float | None = None
) -> Figure:
    """Draw the risk of the examples that are answered against how many are.

    Args:
        curves: Method name to what ``risk_coverage`` returned.
        target_risk: Drawn as a line, if given.
    """
    figure, (axes,) = stacked_axes(6.4, 4.2)
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(
            100.0 * curve.coverage.numpy(),
            100.0 * curve.risk.numpy(),
            color=COLOURS[index % len(COLOURS)],
            linewidth=1.6,
            # One point alone, where all are equally confident, has no line.
            marker="o" if len(curve.risk) == 1 else None,
            label=f"{name}: AURC {1000 * curve.aurc:.2f} / 1000",
        )
    if target_risk is not None:
        target = 100.0 * target_risk
        axes.axhline(target, color="#999999", linestyle="--", label=f"target {target:g} %")
    axes.set(xlabel="coverage: examples answered (%)", ylabel="risk: errors among them (%)")
    axes.set(xlim=(0, 100), ylim=(0, None), title="Risk against coverage")
    axes.legend(loc="upper left")
    return figure
