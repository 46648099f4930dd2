"""Gradients of Bernoulli masks in their log-odds: bias and variance beside an exact sum, cost.

    python benchmarks/mask_gradients.py --out benchmarks/results/mask-gradients.json

A network 64-10-10 on digits with a mask over its ten hidden units, trained without one, so that
all 1,024 masks can be summed. Batches of 100 examples, each example its own mask; variances are of
the batch's gradient and summed over units, and a bias is the distance of the mean gradient from
the exact one, both over the length of the exact gradient, with the noise of the mean taken out.
Costs are those of a training step of LeNet-500-300 (batch 100, Adam) beside the closed form's, in
the process's CPU time: medians of the ratio over rounds in which all take turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from result_files import write
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import bayesdrop as bd
from bayesdrop.distributions import BinaryConcrete, BinaryConcreteStraightThrough
from bayesdrop.inference.objectives import ARM, DisARM, Reinforce
from bayesdrop.nn import ExactMasks

UNITS, ROWS, REPEATS = 10, 100, 40
STATES = {"1/2": 0.0, "0.95": 2.944, "spread": None}
ESTIMATORS: dict[str, Any] = {
    "DisARM (U2G)": DisARM(),
    "ARM": ARM(),
    "REINFORCE, second mask": Reinforce(),
    "REINFORCE, mean of the others": Reinforce("examples"),
    "REINFORCE, no baseline": Reinforce("none"),
    "concrete, temperature 2/3": (BinaryConcrete, 2 / 3),
    "concrete, temperature 0.1": (BinaryConcrete, 0.1),
    "straight-through, temperature 2/3": (BinaryConcreteStraightThrough, 2 / 3),
}


def trained(seed: int) -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """Return both halves of a trained network, and a batch."""
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, UNITS), nn.ReLU())
    last = nn.Linear(UNITS, 10)
    x, y = bd.load_data("digits").train
    bnn = bd.BayesianNetwork(nn.Sequential(first, last), bd.Categorical(), len(x))
    bd.fit(bnn, (x, y), epochs=30, learning_rate=5e-3, seed=seed, progress=False)
    rows = torch.randperm(len(x))[:ROWS]
    return first, last, (first(x[rows]).detach(), y[rows])


def exact(last: nn.Module, logits: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
    """Return the gradient of the batch's expected loss, summed over all masks."""
    hidden, y = data
    ell = logits.clone().requires_grad_()
    total = torch.zeros(())
    for masks in torch.tensor(list(itertools.product((0.0, 1.0), repeat=UNITS))).split(128):
        log_prob = torch.where(masks > 0, ell, -ell).sigmoid().log().sum(1)
        output = last(hidden[:, None] * masks).transpose(1, 2)
        losses = cross_entropy(output, y[:, None].expand(-1, len(masks)), reduction="none")
        total = total + (log_prob.exp() * losses).sum()
    return torch.autograd.grad(total, ell)[0]


def estimates(
    estimator: Any, last: nn.Module, logits: Tensor, data: tuple[Tensor, Tensor]
) -> Tensor:
    """Return estimates of the batch's gradient, ``(REPEATS, K)``."""
    hidden, y = (value.repeat(REPEATS, *[1] * (value.ndim - 1)) for value in data)
    if isinstance(estimator, tuple):
        family, temperature = estimator
        ell = logits.expand(len(hidden), -1).clone().requires_grad_()
        mask = family(torch.tensor(temperature), logits=ell).rsample()
        loss = cross_entropy(last(hidden * mask), y, reduction="sum")
        gradient = torch.autograd.grad(loss, ell)[0]
    else:
        layer = bd.nn.NeuralPlasticityDropout(UNITS, slope=1.0)
        layer.scores.data = logits

        @torch.no_grad()
        def run(masks: ExactMasks) -> Tensor:
            with masks:
                return cross_entropy(last(layer(hidden)), y, reduction="none")

        masks = ExactMasks(len(hidden))
        (gradient,) = estimator.log_odds_gradients(masks, run(masks), run)
    return gradient.detach().reshape(REPEATS, ROWS, UNITS).sum(1)


def accuracy(seed: int, rounds: int) -> list[dict[str, Any]]:
    """Return bias and variance of all estimators, in all states of the gates."""
    _, last, data = trained(seed)
    found = []
    for state, value in STATES.items():
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(UNITS, generator=generator)
        logits = logits if value is None else torch.full((UNITS,), value)
        truth = exact(last, logits, data)
        for name, estimator in ESTIMATORS.items():
            values = torch.cat([estimates(estimator, last, logits, data) for _ in range(rounds)])
            variance = float(values.var(0).sum())
            error = float((values.mean(0) - truth).square().sum()) - variance / len(values)
            size = float(truth.square().sum())
            found.append(
                {
                    "seed": seed,
                    "gates": state,
                    "estimator": name,
                    "variance": variance / size,
                    "bias": (max(0.0, error) / size) ** 0.5,
                    "samples": len(values),
                }
            )
    return found


def costs(rounds: int) -> dict[str, float]:
    """Return the CPU time of a step by each objective over that of the closed form."""
    torch.manual_seed(0)
    x, y = torch.rand(100, 1, 28, 28), torch.randint(10, (100,))
    steps: dict[str, Callable[[], None]] = {}
    objectives = {"closed form": lambda bnn, x, y: bnn.loss(x, y)}
    objectives |= {n: e for n, e in ESTIMATORS.items() if not isinstance(e, tuple)}
    for name, objective in objectives.items():
        net = bd.convert(bd.networks.lenet_500_300(), "neural-plasticity")
        bnn = bd.BayesianNetwork(net, bd.Categorical(), 60_000).train()
        optimizer = torch.optim.Adam(bnn.parameters(), fused=True)

        def step(bnn: Any = bnn, optimizer: Any = optimizer, objective: Any = objective) -> None:
            optimizer.zero_grad()
            objective(bnn, x, y).loss.backward()
            optimizer.step()

        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        for name, step in steps.items():
            started = time.process_time()
            for _ in range(5):
                step()
            if index:
                times[name].append(time.process_time() - started)
    base = times["closed form"]
    return {
        name: statistics.median(own / plain for own, plain in zip(values, base, strict=True))
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=30, help=f"of {REPEATS} estimates")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "bayesdrop": bd.__version__,
        "load": round(os.getloadavg()[0], 1),
        "costs": costs(12),
        "runs": [row for seed in args.seeds for row in accuracy(seed, args.rounds)],
    }
    write(result, args.out)


if __name__ == "__main__":
    main()
