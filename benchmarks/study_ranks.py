"""The study's rows by their ranks: a critical-difference diagram for each measure.

    python benchmarks/study_ranks.py

Every finished setting (network and data) is a block: the mean over seeds of each row is ranked
among the rows that all settings have, 1 the best. Nemenyi's test says which ranks differ
(scikit-posthocs, ``pip install 'bayesdrop[study]'``); rows that a bar joins are not told apart at
5 %. Four settings tell few rows apart: the paired differences of ``tables_study.py`` see far more.
Draws ``figures/study_ranks.png``.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pandas as pd
import tables_study
from matplotlib.figure import Figure

from bayesdrop.reporting.plots import save_figure
from bayesdrop.reporting.plots.style import styled

ROOT = Path(__file__).parent
MEASURES = {"error": "error", "nll": "NLL", "ece": "ECE"}


def means(measure: str) -> pd.DataFrame:
    """Return the mean over seeds of each row that all finished settings have."""
    found = {
        f"{network}, {data}": {
            row.title: statistics.fmean(row.over_seeds(measure))
            for row in tables_study.rows(network, data).values()
        }
        for network, data in tables_study.settings()
    }
    return pd.DataFrame(found).T.dropna(axis=1)


@styled
def diagram(values: dict[str, pd.DataFrame]) -> Figure:
    """Return one diagram for each measure.

    Args:
        values: Title of the measure to blocks and rows; less is better.
    """
    import scikit_posthocs

    figure = Figure(figsize=(8, 2.6 * len(values)), layout="constrained")
    for axes, (title, of) in zip(figure.subplots(len(values), 1), values.items(), strict=True):
        ranks = of.rank(axis=1).mean()
        apart = scikit_posthocs.posthoc_nemenyi_friedman(of.to_numpy())
        apart.index = apart.columns = of.columns
        scikit_posthocs.critical_difference_diagram(ranks, apart, ax=axes)
        axes.set_title(f"mean rank of {title} in {len(of)} settings", loc="left")
    return figure


def main() -> None:
    values = {title: means(name) for name, title in MEASURES.items()}
    blocks = min(len(of) for of in values.values())
    if blocks < 2:
        raise SystemExit(f"expected two finished settings or more, got {blocks}.")
    save_figure(diagram(values), ROOT / "figures" / "study_ranks.png")


if __name__ == "__main__":
    main()
