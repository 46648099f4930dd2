r"""Is what ``fit`` returns the posterior? Where it is known, or simulated from.

    python benchmarks/posterior.py one-unit sbc nuts

``one-unit``: a known weight 2 behind one Bernoulli mask, 200 observations
:math:`y_n = 2 z_n + N(0, 1)`, prior Beta(1, 1); the exact posterior by quadrature, beside what
1,400 steps of ``bd.fit`` with its default rates find. ``sbc``: simulation-based calibration of
priors with two units, 60 observations, 80 simulations, 400 steps at rate 0.05. ``nuts``: stock
NUTS on the program with its masks summed out, on the first one-unit problem. One thread; seconds
are those of the process. Parts that are run replace those of the file; so do the ``--priors`` of
``sbc`` that are run alone. The input-dependent layer's slope has no prior and is known.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from pyro.infer import MCMC, NUTS
from result_files import write
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.diagnostics import simulation_based_calibration

OUT = Path(__file__).parent / "results" / "posterior.json"
RATES = (0.5, 0.2, 0.8)
MASKS = (1, 4, 16, "exact")
FLAT = {"prior_concentration1": 1.0, "init_concentration1": 1.0}
PRIORS: dict[str, dict] = {
    "beta-bernoulli": FLAT,
    "indian-buffet": {"concentration": 3.0},
    "hierarchical-indian-buffet": {"concentration": 3.0},
    "dependent-beta-bernoulli": FLAT,
    "gaussian-weights": {},
}


def observations(rate: float, number: int = 200) -> tuple[Tensor, Tensor]:
    """Return inputs, all one, and targets of the one-unit problem."""
    generator = torch.Generator().manual_seed(1)
    z = (torch.rand(number, 1, generator=generator) < rate).float()
    return torch.ones(number, 1), 2.0 * z + torch.randn(number, 1, generator=generator)


def exact(y: Tensor) -> tuple[float, float]:
    """Return the mean and standard deviation of the exact posterior, by quadrature."""
    pi = torch.linspace(1e-4, 1 - 1e-4, 9999, dtype=torch.float64)
    kept, dropped = -0.5 * (y.double() - 2.0).square(), -0.5 * y.double().square()
    log_density = torch.logaddexp(kept + pi.log(), dropped + torch.log1p(-pi)).sum(0)
    weights = (log_density - log_density.max()).softmax(0)
    mean = (weights * pi).sum()
    return float(mean), float((weights * (pi - mean).square()).sum().sqrt())


def one_unit(**options: str) -> bd.BayesianNetwork:
    """Return the network of one unit with a known weight."""
    net = nn.Sequential(bd.BetaBernoulliDropout(1, **FLAT, **options), nn.Linear(1, 1, bias=False))
    net[1].weight.data.fill_(2.0)
    net[1].requires_grad_(False)
    return bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=200)


def fitted() -> list[dict]:
    """Fit the one-unit problems."""
    rows = []
    for rate in RATES:
        x, y = observations(rate)
        mean, deviation = exact(y)
        rows.append({"rate": rate, "how": "exact", "mean": mean, "deviation": deviation})
        for parametrization in ("location", "softplus"):
            for masks in MASKS:
                bnn = one_unit(parametrization=parametrization)
                begin = time.process_time()
                bd.fit(bnn, (x, y), epochs=700, num_masks=masks, progress=False, seed=0)
                q = bnn.network[0].posterior()["pi"].base_dist
                rows.append(
                    {
                        "rate": rate,
                        "how": parametrization,
                        "masks": masks,
                        "mean": float(q.mean.detach()),
                        "deviation": float(q.variance.detach()) ** 0.5,
                        "seconds": round(time.process_time() - begin, 1),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def two_units(key: str) -> bd.BayesianNetwork:
    """Return a network of two units, each of which half of the inputs look at."""
    if key == "gaussian-weights":
        layer = bd.nn.GaussianWeights(nn.Linear(2, 1, bias=False))
        return bd.BayesianNetwork(nn.Sequential(layer), bd.Gaussian(1.0), num_data=60)
    net = nn.Sequential(bd.nn.make(key, 2, **PRIORS[key]), nn.Linear(2, 1))
    net[1].weight.data = torch.tensor([[2.0, -2.0]])
    net[1].bias.data.zero_()
    for name, parameter in net[0].named_parameters():
        parameter.requires_grad_(name != "slope")
    return bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=60)


def simulated(priors: Sequence[str] = tuple(PRIORS)) -> list[dict]:
    """Calibrate priors by simulation."""
    x = torch.eye(2).repeat(30, 1)
    rows = []
    for key in priors:
        for masks in (1,) if key == "gaussian-weights" else (1, 8, "exact"):
            begin = time.process_time()
            found = simulation_based_calibration(
                two_units(key),
                x,
                num_simulations=80,
                num_masks=masks,
                epochs=400,
                learning_rate=0.05,  # of the means of weights
                variational_learning_rate=0.05,
                progress=False,
            )
            seconds = round(time.process_time() - begin, 1)
            rows.append({"prior": key, "masks": masks, "seconds": seconds, **found.to_dict()})
            print(key, masks, seconds, found.verdict, dict(found.coverage), flush=True)
    return rows


def sampled() -> dict:
    """Sample the first one-unit problem with NUTS."""
    x, y = observations(RATES[0])
    torch.manual_seed(0)
    bnn = one_unit()
    begin = time.process_time()
    kernel = NUTS(lambda x, y: bnn.model(x, y, num_masks="exact"))
    mcmc = MCMC(kernel, num_samples=1000, warmup_steps=300, disable_progbar=True)
    mcmc.run(x, y)
    pi = mcmc.get_samples()["0.pi"]
    row = {"mean": float(pi.mean()), "deviation": float(pi.std())}
    assert math.isfinite(row["mean"])
    return {**row, "draws": 1000, "seconds": round(time.process_time() - begin, 1)}


PARTS = {"one-unit": fitted, "sbc": simulated, "nuts": sampled}


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--priors", nargs="+", choices=PRIORS, help="of sbc [default: all]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", bd.errors.BayesdropWarning)
    for part in arguments.parts:
        if part == "sbc" and arguments.priors:
            rows = simulated(arguments.priors)
            others = [r for r in stored().get("sbc", []) if r["prior"] not in arguments.priors]
            rows = others + rows
        else:
            rows = PARTS[part]()
        versions = {"torch": str(torch.__version__), "bayesdrop": bd.__version__}
        command = "python benchmarks/posterior.py one-unit sbc nuts"
        write({**stored(), "command": command, **versions, part: rows}, OUT)


def stored() -> dict:
    """Return what the file has."""
    return json.loads(OUT.read_text()) if OUT.exists() else {}


if __name__ == "__main__":
    main()
