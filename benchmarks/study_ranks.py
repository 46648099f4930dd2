"""The study's rows by their ranks: a critical-difference diagram for each measure.

    python benchmarks/study_ranks.py

Every seed of LeNet-500-300 on each data set is a block, in which the rows that all blocks have
are ranked, 1 the best. Nemenyi's test says which mean ranks differ (scikit-posthocs, ``pip
install 'bayesdrop[study]'``); rows that a bar joins are not told apart at 5 %. With data sets as
blocks two could tell nothing at all. Seeds share the test images of their data set, so the
diagram speaks of other seeds on these data and not of other data; the paired differences of
``tables_study.py`` see more. Draws ``figures/study_ranks.png``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import tables_study
from matplotlib.figure import Figure

from bayesdrop.reporting.plots import save_figure
from bayesdrop.reporting.plots.style import styled

ROOT = Path(__file__).parent
NETWORK = "lenet-500-300"
"""Another network has fewer rows, and would leave no others."""

MEASURES = {"error": "error", "nll": "NLL", "ece": "ECE"}


def values(measure: str) -> pd.DataFrame:
    """Return a measure of each block, and of each row that all blocks have."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for network, data in tables_study.settings():
        for row in tables_study.rows(network, data).values() if network == NETWORK else ():
            for seed, value in zip(row.results, row.over_seeds(measure), strict=True):
                found.setdefault((data, seed), {})[row.title] = value
    return pd.DataFrame(found).T.dropna(axis=1)


@styled
def diagram(measures: dict[str, pd.DataFrame]) -> Figure:
    """Return one diagram for each measure.

    Args:
        measures: Title of the measure to blocks and rows; less is better.
    """
    import scikit_posthocs

    height = 0.2 * max(of.shape[1] for of in measures.values())
    figure = Figure(figsize=(9, height * len(measures)), layout="constrained")
    for axes, (title, of) in zip(figure.subplots(len(measures), 1), measures.items(), strict=True):
        ranks = of.rank(axis=1).mean()
        apart = scikit_posthocs.posthoc_nemenyi_friedman(of.to_numpy())
        apart.index = apart.columns = of.columns
        scikit_posthocs.critical_difference_diagram(ranks, apart, ax=axes)
        axes.set_title(f"mean rank of {title}, {len(of)} blocks", loc="left")
    return figure


def main() -> None:
    measures = {title: values(name) for name, title in MEASURES.items()}
    blocks = min(len(of) for of in measures.values())
    if blocks < 2:
        raise SystemExit(f"expected two blocks or more, got {blocks}.")
    save_figure(diagram(measures), ROOT / "figures" / "study_ranks.png")


if __name__ == "__main__":
    main()
