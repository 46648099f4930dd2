"""Dataset shift of a report's methods, at a bounded cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesdrop.diagnostics import ShiftCurves, measure_shift
from bayesdrop.metrics import corruptions
from bayesdrop.program.network import BayesianNetwork

if TYPE_CHECKING:
    from bayesdrop.reporting.report import Report

SHIFT_SEED = 0
"""Of the choice of test images, their corruption and the posterior samples."""

_IMAGES, _FEWEST, _SAMPLES = 2000, 200, 16
_FLOPS = 3e12  # A minute or two on one core.


@dataclass(frozen=True, eq=False)
class ShiftAnalysis:
    """What ``analyse_shift`` returns.

    Args:
        curves: Method to curves; empty if they were left out.
        num_images: Test images that were corrupted.
        num_samples: Posterior samples of the Monte Carlo prediction.
        note: Why they were left out.
    """

    curves: dict[str, ShiftCurves] = field(default_factory=dict)
    num_images: int = 0
    num_samples: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any] | None:
        """Return all numbers, ready for JSON; None if there are none."""
        if not self.curves:
            return None
        return {
            "num_images": self.num_images,
            "num_samples": self.num_samples,
            "seed": SHIFT_SEED,
            "curves": {method: curves.to_dict() for method, curves in self.curves.items()},
        }


def analyse_shift(
    report: Report,
    bnn: BayesianNetwork,
    plain: BayesianNetwork | None,
    test: tuple[Tensor, Tensor],
    *,
    wanted: bool | None = None,
) -> ShiftAnalysis:
    """Return the shift curves of each method on some of the test images.

    Args:
        report: The report of these networks.
        bnn: The Bayesian network.
        plain: The network without Bayesian dropout, or None.
        test: The test images and labels.
        wanted: True for up to 2,000 images, whatever it takes; None for as many as take a minute
            or two, if these are at least 200; False for none.
    """
    channels, *sides = test[0].shape[1:]
    if wanted is False:
        return ShiftAnalysis(note="Left out on request.")
    if channels not in (1, 3) or len(sides) != 2 or min(sides) < 4:
        note = "Left out: only images of at least 4 x 4 pixels, grey or RGB, can be corrupted."
        return ShiftAnalysis(note=note)
    samples = min(_SAMPLES, report.values["num_samples"])
    passes = {"plain": 1, "mean_mask": 1, "monte_carlo": samples}
    conditions = 5 * len(corruptions) + 1
    price = report.values["flops_total"] * conditions * sum(passes[m] for m in report.methods)
    limit = min(_IMAGES, len(test[1]))
    count = limit if wanted else min(limit, int(_FLOPS // max(1, price)))
    if count < min(limit, _FEWEST):
        return ShiftAnalysis(
            note=f"Left out: {limit:,} images in {conditions} conditions take "
            f"{price * limit:.1e} operations. Ask for it with --shift (shift=True)."
        )
    generator = torch.Generator().manual_seed(SHIFT_SEED)
    rows = torch.randperm(len(test[1]), generator=generator)[:count]
    some = test[0][rows], test[1][rows]
    networks = {"plain": bnn if plain is None else plain, "mean_mask": bnn, "monte_carlo": bnn}
    curves = {
        method: measure_shift(
            networks[method],
            some,
            num_samples=samples,
            seed=SHIFT_SEED,
            predict_options={"sample": method == "monte_carlo"},
        )
        for method in report.methods
    }
    return ShiftAnalysis(curves, count, samples)
