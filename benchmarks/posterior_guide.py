r"""How often the best guide of independent latents holds the truth, where it cannot be right.

    python benchmarks/posterior_guide.py

One unit of the input-dependent layer as ``posterior.py sbc`` has it: :math:`\pi` from U(0, 1), a
shift :math:`\beta` from N(0, 5), 30 observations :math:`y_n = 2 z_n + N(0, 1)` with
:math:`P(z_n = 1) = \pi\, \mathrm{clamp}(1 + \beta, 0, 1)`: the data know the product alone. The
exact posterior is that of a grid of prior quantiles; the best guide, a Kumaraswamy of
:math:`\pi` and a normal of :math:`\beta`, independent, is the best of three starts of Adam on the
ELBO, by quadrature, without masks or noise. No ``fit`` takes part. One thread.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from result_files import write
from torch import Tensor
from torch.distributions import Normal

import bayesdrop as bd

OUT = Path(__file__).parent / "results" / "posterior-guide.json"
SIMULATIONS, OBSERVATIONS, STEPS = 400, 30, 500
GRID, NODES, CELLS = 120, 24, 1500
LEVELS = (0.5, 0.8, 0.9, 0.95)
SCALE = math.sqrt(5.0)
STARTS = ((0.0, 0.0, 1.0, 0.0), (0.0, 0.0, -1.0, 0.0), (1.0, 1.0, 2.0, 0.0))


def middles(number: int) -> Tensor:
    """Return the middles of equal parts of the unit interval."""
    return (torch.arange(number) + 0.5) / number


def coverage(ranks: Tensor) -> dict[str, float]:
    """Return how many truths are in central intervals, from their quantiles in the posterior."""
    return {str(p): float(((ranks - 0.5).abs() <= p / 2).double().mean()) for p in LEVELS}


class Problem:
    """Simulated data, and their log-likelihood as a table over the product."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pi = torch.rand(SIMULATIONS, generator=generator)
        self.shift = SCALE * torch.randn(SIMULATIONS, generator=generator)
        shape = (SIMULATIONS, OBSERVATIONS)
        kept = torch.rand(shape, generator=generator) < self.product(self.pi, self.shift)[:, None]
        y = 2.0 * kept + torch.randn(shape, generator=generator)
        ratio = (2.0 * y - 2.0).exp()  # of the densities with and without the unit
        p = torch.linspace(0.0, 1.0, CELLS + 1)
        self.table = sum(torch.log1p(p * (r - 1.0)) for r in ratio.T[..., None])

    def product(self, pi: Tensor, shift: Tensor) -> Tensor:
        """Return P(z = 1)."""
        return pi * (1.0 + shift).clamp(1e-10, 1.0)

    def log_likelihood(self, pi: Tensor, shift: Tensor) -> Tensor:
        """Return that of all pairs, ``(L, J)`` each, as ``(L, J, J)``."""
        p = CELLS * self.product(pi[:, :, None], shift[:, None, :])
        cell = p.detach().long().clamp(max=CELLS - 1)
        low, high = (self.table.gather(1, (cell + i).flatten(1)).view_as(p) for i in (0, 1))
        return low + (high - low) * (p - cell)


def exact(problem: Problem) -> tuple[dict[str, float], float]:
    """Return the coverage of the exact posterior, and the mean size of its correlation."""
    pi = middles(GRID).expand(SIMULATIONS, -1)
    shift = SCALE * Normal(0.0, 1.0).icdf(pi)
    weights = problem.log_likelihood(pi, shift).flatten(1).softmax(1)
    weights = weights.view(-1, GRID, GRID)
    ranks, centred = [], []
    for values, of, truth in (
        (pi, weights.sum(2), problem.pi),
        (shift, weights.sum(1), problem.shift),
    ):
        below = values < truth[:, None]
        last = below.sum(1, keepdim=True).sub(1).clamp(min=0)
        # Half of the cell that the truth is in, or next to.
        ranks.append((of * below).sum(1) - 0.5 * of.gather(1, last)[:, 0])
        mean = (of * values).sum(1, keepdim=True)
        centred.append((values - mean) / (of * (values - mean).square()).sum(1, True).sqrt())
    correlation = (weights * centred[0][:, :, None] * centred[1][:, None, :]).sum((1, 2))
    return coverage(torch.cat(ranks)), float(correlation.abs().mean())


def best_guide(problem: Problem) -> dict[str, float]:
    """Return the coverage of the guide with the highest ELBO."""
    u = middles(NODES)
    z = Normal(0.0, 1.0).icdf(u)
    found: Tensor | None = None
    for start in STARTS:
        learned = torch.tensor(start).repeat(SIMULATIONS, 1).requires_grad_()
        optimizer = torch.optim.Adam([learned], 0.08)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 0.08 if step < 0.7 * STEPS else 0.008
            a, b, loc, scale = (learned * 1).unbind(1)
            a, b, scale = a.exp(), b.exp(), scale.exp()
            q = bd.distributions.Kumaraswamy(a, b)
            pi = (-torch.expm1(torch.log1p(-u) / b[:, None])).pow(1 / a[:, None])
            shift = loc[:, None] + scale[:, None] * z
            kl = torch.distributions.kl_divergence(q, torch.distributions.Beta(1.0, 1.0))
            kl = kl + torch.distributions.kl_divergence(Normal(loc, scale), Normal(0.0, SCALE))
            loss = kl - problem.log_likelihood(pi, shift).mean((1, 2))
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        new = torch.stack([loss, a, b, loc, scale]).detach()
        found = new if found is None else torch.where(new[:1] < found[:1], new, found)
    assert found is not None
    _, a, b, loc, scale = found
    ranks = 1 - (1 - problem.pi**a) ** b, Normal(loc, scale).cdf(problem.shift)
    return coverage(torch.cat(ranks))


def main() -> None:
    """Run both."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    problem = Problem()
    truth, correlation = exact(problem)
    result = {
        "command": "python benchmarks/posterior_guide.py",
        "torch": str(torch.__version__),
        "bayesdrop": bd.__version__,
        "simulations": SIMULATIONS,
        "exact": truth,
        "correlation": correlation,
        "best_guide": best_guide(problem),
    }
    print(json.dumps(result))
    write(result, OUT)


if __name__ == "__main__":
    main()
