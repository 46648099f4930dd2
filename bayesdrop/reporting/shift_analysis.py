"""Dataset shift of a report's methods, at a bounded cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from bayesdrop.diagnostics import ShiftCurves, measure_shift
from bayesdrop.metrics import corruptions
from bayesdrop.metrics.corruption import has_grey_levels
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.reporting.methods import Method
from bayesdrop.reporting.results import MethodResult, Pair

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

    curves: dict[Method, ShiftCurves] = field(default_factory=dict)
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
    results: Mapping[Method, MethodResult],
    bnn: BayesianNetwork,
    plain: BayesianNetwork | None,
    test: Pair,
    *,
    num_samples: int = 64,
    wanted: bool | None = None,
) -> ShiftAnalysis:
    """Return the shift curves of each method on some of the test images.

    Args:
        results: What each method made of the test set, for its cost.
        bnn: The Bayesian network.
        plain: The network without Bayesian dropout, or None.
        test: The test images and labels.
        num_samples: Posterior samples of the Monte Carlo prediction, of which 16 are used at most.
        wanted: True for up to 2,000 images, whatever it takes; None for as many as take a minute
            or two, if these are at least 200 and have values in [0, 1]; False for none.
    """
    shape = test[0].shape[1:] if isinstance(test[0], Tensor) else ()
    if wanted is False:
        return ShiftAnalysis(note="Left out on request.")
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 4:
        note = "Left out: only images of at least 4 x 4 pixels, grey or RGB, can be corrupted."
        return ShiftAnalysis(note=note)
    if wanted is None and not has_grey_levels(cast(Tensor, test[0])):
        note = (
            "Left out: images are corrupted as they are before normalising, with values in [0, 1]."
        )
        return ShiftAnalysis(note=note)
    samples = min(_SAMPLES, num_samples)
    conditions = 5 * len(corruptions) + 1
    passes = sum(samples if method.samples else 1 for method in results)
    # One pass of the whole network: sampling takes as many as there are samples.
    costs = [(r.flops or 0) / (num_samples if m.samples else 1) for m, r in results.items()]
    price = max(costs) * conditions * passes
    limit = min(_IMAGES, len(test[1]))
    count = limit if wanted else min(limit, int(_FLOPS // max(1, price)))
    if count < min(limit, _FEWEST):
        return ShiftAnalysis(
            note=f"Left out: {limit:,} images in {conditions} conditions take "
            f"{price * limit:.1e} operations. Ask for it with --shift (shift=True)."
        )
    generator = torch.Generator().manual_seed(SHIFT_SEED)
    rows = torch.randperm(len(test[1]), generator=generator)[:count]
    some = cast(Tensor, test[0])[rows], test[1][rows]
    curves = {
        method: measure_shift(
            method.network(bnn, plain),
            some,
            num_samples=samples,
            seed=SHIFT_SEED,
            predict_options={"sample": method.samples},
        )
        for method in results
    }
    return ShiftAnalysis(curves, count, samples)
