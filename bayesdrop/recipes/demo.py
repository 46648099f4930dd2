"""The demonstration: three networks on embedded digits, compared and pruned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from bayesdrop.compression import save_plain
from bayesdrop.data import load_ood
from bayesdrop.recipes.outputs import report_run
from bayesdrop.recipes.recipe import get
from bayesdrop.recipes.run import run_recipe
from bayesdrop.reporting import Report, add_baseline

_KNOWN, _UNKNOWN = "digits:0-7", "digits:8-9"


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    num_samples: int = 64,
    epochs: int | None = None,
    progress: bool = True,
    announce: Callable[[str], object] | None = None,
) -> Report:
    """Train a plain network, one with nn.Dropout and one with beta-Bernoulli dropout.

    All three train for as many epochs. The classes 8 and 9 are held out: real images that no
    network has seen.

    Args:
        out: Folder; each network has a subfolder, and an interrupted demo continues.
        seed: Seed of all three.
        num_samples: Posterior samples.
        epochs: Epochs of each network; the default is the recipes'.
        progress: Whether to show progress bars.
        announce: Called with one line at the start of each stage.

    Returns:
        The report of the beta-Bernoulli network with the others beside it; ``compact.pt`` is
        written, the report is not.
    """
    out = Path(out)
    runs = {}
    for folder, name in (
        ("plain", ""),
        ("dropout", "-dropout"),
        ("beta-bernoulli", "-beta-bernoulli"),
    ):
        recipe = get(f"digits-mlp{name}")
        if epochs is not None:
            before = max(1, epochs // 4)
            several = len(recipe.stages) > 1
            recipe = recipe.override(
                epochs=epochs - before if several else epochs,
                pretrain_epochs=before if several else None,
            )
        runs[folder] = run_recipe(
            recipe, out=out / folder, data=_KNOWN, seed=seed, progress=progress, announce=announce
        )
    run = dataclasses.replace(runs["beta-bernoulli"], plain=runs["plain"].bnn)
    report = report_run(run, ood=[_UNKNOWN], num_samples=num_samples)
    test = run.load_data().test
    ood = {_UNKNOWN: load_ood(_UNKNOWN, _KNOWN)}
    report = add_baseline(report, "nn.Dropout", runs["dropout"].bnn, ood)
    if report.compact is not None:
        save_plain(report.compact, out / "compact.pt", test[0][:2])
    return report
