"""How often a guaranteed threshold is refused and violated, and what leave-one-out is worth.

    python benchmarks/guarantees.py [--num-sets 300]

Thresholds: validation sets of five classes with 25 % errors, whose probabilities are calibrated.
``select_threshold`` beside the choice among twenty coverages, each bounded at a twentieth of the
failure probability. The true risk of a threshold comes from a million examples. In the worst case
every threshold has a risk just above the target, so that each answer is a violation.

Leave-one-out: one unit of weight 2 in noise of 1 under a flat prior, for which it is an integral.
The guide has 1.3 times the posterior's standard deviation, and in the last row is two deviations
off and twice as wide.
"""

import argparse
import math
import os
import platform
import sys
import warnings
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch
from result_files import write
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.diagnostics.arviz_bridge import import_arviz
from bayesdrop.errors import DataError
from bayesdrop.metrics.binomial import upper_bound

RESULT = Path(__file__).parent / "results" / "guarantees.json"
SETTINGS = ((0.1, 0.10, 300), (0.1, 0.05, 1000), (0.3, 0.10, 300))
PROBLEMS = ((0.8, 30, 0.0, 1.3), (0.5, 100, 0.0, 1.3), (0.5, 100, 2.0, 2.0))


def classified(rows: int) -> tuple[Tensor, Tensor]:
    """Return confidences, and which examples are wrong."""
    confidence = (3.1 * torch.randn(rows, 5)).softmax(1).amax(1)
    return confidence, torch.rand(rows) > confidence


def in_order(confidence: Tensor, wrong: Tensor, failure: float, target: float) -> float | None:
    """Return the threshold of ``select_threshold``, None if it refuses."""
    p = torch.tensor([[1.0, 0.0]]).expand(len(wrong), 2)
    options = {"target_risk": target, "failure_probability": failure, "confidence": confidence}
    try:
        return bd.metrics.select_threshold(p, wrong.long(), **options).threshold
    except DataError:
        return None


def all_at_once(confidence: Tensor, wrong: Tensor, failure: float, target: float) -> float | None:
    """Return the threshold of the best of twenty coverages, all of which are tested."""
    ordered, order = confidence.sort(descending=True)
    errors = wrong[order].double().cumsum(0)
    answered = (torch.arange(1, 21) * len(wrong) + 19) // 20
    good = upper_bound(errors[answered - 1], answered, failure / 20) <= target
    if not good.any():
        return None
    chosen = int(answered[good].max())
    return float(ordered[chosen]) if chosen < len(ordered) else -math.inf


def threshold_rows(num_sets: int) -> list[dict]:
    """Return a row for each setting and way of choosing."""
    confidence, wrong = classified(1_000_000)
    ordered, order = confidence.sort(descending=True)
    risk = wrong[order].double().cumsum(0) / torch.arange(1, len(wrong) + 1)
    rows = []
    for failure, target, size in SETTINGS:
        for choose in (all_at_once, in_order):
            torch.manual_seed(1)  # the same sets for both
            refused, violated, coverage, worst = 0, 0, 0.0, 0
            for _ in range(num_sets):
                threshold = choose(*classified(size), failure, target)
                refused += threshold is None
                if threshold is not None:
                    answered = int(torch.searchsorted(-ordered, torch.tensor(-threshold)))
                    violated += answered > 0 and float(risk[answered - 1]) > target
                    coverage += answered / len(ordered)
                lucky = torch.rand(size), torch.rand(size) < target + 1e-9
                worst += choose(*lucky, failure, target) is not None
            rows.append(
                {
                    "choice": choose.__name__,
                    "failure_probability": failure,
                    "target_risk": target,
                    "num_examples": size,
                    "refused": refused / num_sets,
                    "violated": violated / num_sets,
                    "mean_coverage": coverage / num_sets,
                    "violated_in_the_worst_case": worst / num_sets,
                    "largest_coverage_of_the_target": int((risk <= target).sum()) / len(risk),
                }
            )
    return rows


def one_unit(keep: float, rows: int, shift: float, width: float) -> dict:
    """Return leave-one-out by quadrature, by ``bd.loo`` and by ``az.loo``."""
    y = 2 * (torch.rand(rows) < keep).double() + torch.randn(rows, dtype=torch.float64)
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    kept, dropped = (torch.distributions.Normal(m, 1.0).log_prob(y).exp() for m in (2.0, 0.0))
    terms = (grid * kept[:, None] + (1 - grid) * dropped[:, None]).log()
    total = terms.sum(0)
    exact = float((total.logsumexp(0) - (total - terms).logsumexp(1)).sum())
    posterior = total.softmax(0)
    mean = float((grid * posterior).sum())
    sd = math.sqrt(float((grid**2 * posterior).sum()) - mean**2)
    mean, sd = mean + shift * sd, width * sd
    b = (1 - mean) * (mean * (1 - mean) / sd**2 - 1)
    a = torch.logspace(-3, 3, 20_001, dtype=torch.float64)
    log_mean = math.log(b) + math.lgamma(b) + torch.lgamma(1 + 1 / a) - torch.lgamma(1 + 1 / a + b)
    a = float(a[(log_mean.exp() - mean).abs().argmin()])
    layer = bd.BetaBernoulliDropout(
        1, prior_concentration1=1.0, init_concentration1=a, init_concentration0=b
    )
    net = nn.Sequential(layer, nn.Linear(1, 1, bias=False))
    nn.init.constant_(net[1].weight, 2.0)
    bnn, x, y = bd.BayesianNetwork(net, bd.Gaussian(1.0), rows), torch.ones(rows, 1), y.float()
    az = import_arviz()

    def by_arviz(**options: int) -> float:
        result = az.loo(bd.to_inference_data(bnn, x, y, num_samples=1000, seed=0, **options))
        return float(result.elpd if hasattr(result, "elpd") else result.elpd_loo)

    ours = bd.loo(bnn, (x, y), num_samples=1000, seed=0)
    return {
        "keep_prob": keep,
        "num_examples": rows,
        "guide_shift_in_deviations": shift,
        "guide_width": width,
        "exact": exact,
        "bd_loo": ours.elpd,
        "bd_loo_monte_carlo_error": ours.monte_carlo_error,
        "az_loo": by_arviz(),
        "az_loo_of_one_mask": by_arviz(num_masks=1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-sets", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # one mask, and k of it, are the point
    result = {
        "command": "python " + " ".join(["benchmarks/guarantees.py", *sys.argv[1:]]),
        "num_sets": options.num_sets,
        "seed": 0,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "thresholds": threshold_rows(options.num_sets),
        "leave_one_out": [one_unit(*problem) for problem in PROBLEMS],
    }
    write(result, options.out)
    for row in [*result["thresholds"], *result["leave_one_out"]]:
        print(row)


if __name__ == "__main__":
    main()
