"""A posterior over size: what masks drawn from the posterior leave of a network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.compression.counter import CostCounter
from bayesdrop.compression.example import Example, example_of
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.metrics.options import require_count, require_fraction
from bayesdrop.nn import BayesianDropout, PosteriorSample, RecordedMasks, named_dropout_layers
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.checks import require_module
from bayesdrop.program.program import Program
from bayesdrop.record import Record, plain
from bayesdrop.tables import markdown_table


class SizeInterval(NamedTuple):
    """One line of a summary of sizes: posterior mean and equal-tailed credible interval."""

    quantity: str
    layer: str
    mean: float
    lower: float
    upper: float
    full: int


@dataclass(frozen=True, eq=False)
class SizePosterior(Record):
    """What ``measure_size`` returns: samples ``(S,)`` of sizes, as int64.

    Args:
        units: Dropout layer to units kept (mask not zero).
        params: Layer to parameters of the compact network of that mask.
        flops: Layer to FLOPs per example of the same, as ``count_flops`` counts them.
        full: The plain network's numbers: ``"units"``, ``"params"``, ``"flops"`` to layer to
            number.
    """

    units: dict[str, Tensor]
    params: dict[str, Tensor]
    flops: dict[str, Tensor]
    full: dict[str, dict[str, int]]

    def total(self, quantity: str) -> Tensor:
        """Return samples of ``"units"``, ``"params"`` or ``"flops"`` of all layers together.

        Raises:
            ConfigError: If the quantity is unknown.
        """
        return torch.stack(list(self._samples(quantity).values())).sum(0)

    def summary(self, level: float = 0.9) -> list[SizeInterval]:
        """Return mean and equal-tailed credible interval, by layer and in total.

        Args:
            level: Posterior probability of the interval, in (0, 1).

        Raises:
            ConfigError: If ``level`` is not in (0, 1).
        """
        require_fraction("measure_size", "level", level)
        return list(self._intervals(level))

    @override
    def to_dict(self, level: float = 0.9) -> dict[str, Any]:
        """Return the summary and the samples of the totals as plain numbers, ready for JSON."""
        totals = {quantity: self.total(quantity) for quantity in ("units", "params", "flops")}
        return plain({"level": level, "summary": self.summary(level), "total": totals})

    def to_markdown(self, level: float = 0.9) -> str:
        """Return the summary as a Markdown table."""
        cells = [
            [quantity, layer, f"{mean:,.1f}", f"{lower:,.0f} - {upper:,.0f}", f"{full:,d}"]
            for quantity, layer, mean, lower, upper, full in self.summary(level)
        ]
        interval = f"{100 * level:g} % credible interval"
        return markdown_table(["", "layer", "mean", interval, "full"], cells, text_columns=2)

    def __str__(self) -> str:
        return self.to_markdown()

    def _samples(self, quantity: str) -> dict[str, Tensor]:
        known = {"units": self.units, "params": self.params, "flops": self.flops}
        if quantity not in known:
            raise unknown_name("quantity of measure_size", quantity, known)
        return known[quantity]

    def _intervals(self, level: float) -> Iterator[SizeInterval]:
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        for quantity in ("units", "params", "flops"):
            full = self.full[quantity]
            rows = {**self._samples(quantity), "total": self.total(quantity)}
            for layer, samples in rows.items():
                values = samples.double()
                # A size that was drawn, not one between two sizes.
                lower, upper = values.quantile(tails, interpolation="nearest").tolist()
                whole = sum(full.values()) if layer == "total" else full[layer]
                yield SizeInterval(quantity, layer, float(values.mean()), lower, upper, whole)


@torch.no_grad()
def measure_size(
    bnn: nn.Module,
    example_input: Example | None = None,
    *,
    num_samples: int = 200,
    seed: int | None = None,
) -> SizePosterior:
    r"""Draw masks from the posterior and count what each leaves of the network.

    .. math:: \pi \sim q(\pi),\ z \sim q(z \mid \pi); \qquad
        \text{units kept } \sum_k [z_k \ne 0], \text{ and the size of the network cut to } z

    A unit with keep probability 0.5 is in half of the samples: this is the size of a network
    drawn from the posterior. That of the mean-masked network, which keeps every unit that is not
    almost surely zero, is what ``compact`` builds, and is larger.

    Parameters and FLOPs are those of ``compact`` with that mask in place of the mean mask (which
    keeps one unit where a mask leaves none); the
    FLOPs are those of the full network's layers, scaled by the weights that are left.

    Args:
        bnn: A ``BayesianNetwork`` or a module with Bayesian dropout layers; it is not changed.
        example_input: A batch of inputs, or a tuple of them; None makes one of the shape that a
            ``BayesianNetwork`` last saw. Masks that depend on the input are drawn for its examples
            in turn, so pass many: the posterior is then also over inputs.
        num_samples: Masks :math:`S`.
        seed: Makes the draw reproducible and leaves torch's global generator alone; None draws
            from the global generator.

    Raises:
        CompactionError: If the network cannot be traced.
        ConfigError: If there is no dropout layer, no sample asked for, or no example input where
            masks depend on it or the network has seen none.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> size = measure_size(net, torch.ones(1, 4), num_samples=50)
        >>> left = size.units["0"].clamp(min=1)
        >>> size.total("params").shape, bool((size.params["1"] == 3 * left + 3).all())
        (torch.Size([50]), True)
    """
    require_module("measure_size", bnn)
    require_count("measure_size", "num_samples", num_samples, "The default is 200.")
    work = copy.deepcopy(bnn.network if isinstance(bnn, Program) else bnn).eval()
    layers = dict(named_dropout_layers(work))
    if not layers:
        raise ConfigError(
            "measure_size",
            expected="a network with Bayesian dropout layers",
            got=f"a {type(bnn).__name__} without any",
            hint="Use bd.convert to put dropout layers into a network.",
        )
    if example_input is None and any(layer.input_dependent for layer in layers.values()):
        raise ConfigError(
            "measure_size",
            expected="example inputs for masks that depend on them",
            got="none",
            hint="Pass example_input=x with many examples, such as validation data.",
        )
    inputs = example_of("measure_size", bnn, example_input)
    counter = CostCounter(work, *(x[:1] for x in inputs))
    with seeded(seed):
        masks = [_draw_masks(work, layers, inputs, index) for index in range(num_samples)]
    costs = [counter(mask) for mask in masks]
    return SizePosterior(
        units={n: torch.stack([(m[n] != 0).sum() for m in masks]).cpu() for n in layers},
        params=_stack([cost.params for cost in costs], counter.full.params),
        flops=_stack([cost.flops for cost in costs], counter.full.flops),
        full={
            "units": {name: layer.num_units for name, layer in layers.items()},
            "params": counter.full.params,
            "flops": counter.full.flops,
        },
    )


def _draw_masks(
    network: nn.Module, layers: Mapping[str, BayesianDropout], inputs: Sequence[Tensor], index: int
) -> dict[str, Tensor]:
    latents = {layer: layer.draw_latents() for layer in layers.values()}
    sample = PosteriorSample(latents, shared=True)
    recorder = RecordedMasks(sample)
    if any(layer.input_dependent for layer in layers.values()):
        row = index % len(inputs[0])
        with recorder:
            network(*(x[row : row + 1] for x in inputs))
    masks = {**sample.masks, **recorder.masks}
    return {name: masks[layer].reshape(-1, layer.num_units)[0] for name, layer in layers.items()}


def _stack(costs: list[dict[str, int]], names: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: torch.tensor([cost.get(name, 0) for cost in costs]) for name in names}
