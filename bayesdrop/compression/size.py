"""A posterior over size: what masks drawn from the posterior leave of a network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from bayesdrop.compression.compaction import analysed
from bayesdrop.compression.cost import evaluating
from bayesdrop.compression.rules import Mask
from bayesdrop.errors import ConfigError
from bayesdrop.nn import BayesianDropout, PosteriorSample, named_dropout_layers, with_plain_weights
from bayesdrop.program.program import Program
from bayesdrop.record import Record, plain
from bayesdrop.tables import markdown_table
from bayesdrop.typing import Latents


class LayerCosts(NamedTuple):
    """Parameters and FLOPs per example of each layer by name, of one compact network."""

    params: dict[str, int]
    flops: dict[str, int]


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
        units: Dropout layer to active units (mask not zero).
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
        """Return samples of ``"units"``, ``"params"`` or ``"flops"`` of all layers together."""
        return torch.stack(list(self._samples(quantity).values())).sum(0)

    def summary(self, level: float = 0.9) -> list[SizeInterval]:
        """Return mean and equal-tailed credible interval, by layer and in total.

        Args:
            level: Posterior probability of the interval, in (0, 1).

        Raises:
            ConfigError: If ``level`` is not in (0, 1).
        """
        if not 0.0 < level < 1.0:
            raise ConfigError(
                "measure_size",
                expected="a level in (0, 1)",
                got=f"level={level}",
                hint="0.9 leaves 5 % on either side.",
            )
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
        return {"units": self.units, "params": self.params, "flops": self.flops}[quantity]

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
    *,
    num_samples: int = 200,
    example_input: Tensor | None = None,
    seed: int | None = None,
) -> SizePosterior:
    r"""Draw masks from the posterior and count what each leaves of the network.

    .. math:: \pi \sim q(\pi),\ z \sim q(z \mid \pi); \qquad
        \text{active units } \sum_k [z_k \ne 0], \text{ and the size of the network cut to } z

    A unit with keep probability 0.5 is in half of the samples: this is the size of a network
    drawn from the posterior. That of the mean-masked network, which keeps every unit that is not
    almost surely zero, is what ``compact`` builds, and is larger.

    Parameters and FLOPs are those of ``compact`` with that mask in place of the mean mask (which
    keeps one unit where a mask leaves none); the
    FLOPs are those of the full network's layers, scaled by the weights that are left.

    Args:
        bnn: A ``BayesianNetwork`` or a module with Bayesian dropout layers; it is not changed.
        num_samples: Masks :math:`S`.
        example_input: A batch of inputs; None makes one of the shape that a ``BayesianNetwork``
            last saw. Masks that depend on the input are drawn for its examples in turn, so pass
            many: the posterior is then also over inputs.
        seed: Makes the draw reproducible and leaves torch's global generator alone; None draws
            from the global generator.

    Raises:
        CompactionError: If the network cannot be traced.
        ConfigError: If there is no dropout layer, no example input, or no sample asked for.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> size = measure_size(net, num_samples=50, example_input=torch.ones(1, 4))
        >>> left = size.units["0"].clamp(min=1)
        >>> size.total("params").shape, bool((size.params["1"] == 3 * left + 3).all())
        (torch.Size([50]), True)
    """
    work = copy.deepcopy(bnn.network if isinstance(bnn, Program) else bnn).eval()
    layers = dict(named_dropout_layers(work))
    if num_samples < 1 or not layers:
        raise ConfigError(
            "measure_size",
            expected="num_samples >= 1 and a network with Bayesian dropout layers",
            got=f"num_samples={num_samples} and {len(layers)} layers",
            hint="Use bd.convert to put dropout layers into a network.",
        )
    x = example_of("measure_size", bnn) if example_input is None else example_input
    counter = CostCounter(work, x[:1])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()), enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        masks = [_draw_masks(work, layers, x, index) for index in range(num_samples)]
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


class CostCounter:
    """Counts the cost of the compact network of any mask, from one analysis of the full one.

    Args:
        network: A network in evaluation mode; it is copied.
        example_input: One example.
    """

    def __init__(self, network: nn.Module, example_input: Tensor) -> None:
        work = with_plain_weights(copy.deepcopy(network))
        self.fixed: dict[str, FixedMask] = {}
        for name, layer in list(named_dropout_layers(work)):
            self.fixed[name] = FixedMask(layer)
            if name:
                work.set_submodule(name, self.fixed[name])
            else:
                work = self.fixed[name]
        self.flow = analysed(work.eval(), (example_input,))
        plain = self.flow.source
        self._weights = _weights(plain.named_children())
        flops = _FlopsByNode(plain).count(example_input)
        self.full = LayerCosts(_params(plain.named_children()), flops)

    def __call__(self, masks: Mapping[str, Tensor]) -> LayerCosts:
        """Return the costs of the network that ``compact`` makes of these masks ``(K,)``."""
        for name, mask in masks.items():
            self.fixed[name].value = mask
        self._propagate()
        parts = self.flow.parts.items()
        # Matrix products and convolutions, plain and depthwise, cost as much as they have weights;
        # all other layers are kept whole.
        weights = _weights(parts)
        flops = {
            name: full * weights[name] // self._weights[name] if name in weights else full
            for name, full in self.full.flops.items()
        }
        return LayerCosts(_params(parts), flops)

    def _propagate(self) -> None:
        """Do what ``compact`` does with the new masks, up to the graph module."""
        flow = self.flow
        flow.graph, flow.parts = fx.Graph(), {}
        for state in (flow.made, flow.kept, flow.selected):
            state.clear()
        for node, rule in flow.rules.items():
            if isinstance(rule, Mask):
                rule.mask = self.fixed[str(node.target)].value.detach().double().cpu()
            flow.constant[node] = rule.constant()
            flow.needed[node] = torch.zeros(rule.size, dtype=torch.bool)
        for node, rule in reversed(flow.rules.items()):
            if rule.size and not flow.needed[node].any():
                flow.needed[node][0] = True
            rule.request(flow.needed[node])
        # Factors are not folded into weights: that changes no size.
        for node, rule in flow.rules.items():
            flow.made[node], flow.kept[node] = rule.emit()


class FixedMask(BayesianDropout):
    """Multiplies by a mask that was drawn before."""

    key = "fixed"
    reference = ""

    def __init__(self, layer: BayesianDropout) -> None:
        super().__init__(layer.num_units, unit_dim=layer.unit_dim)
        self.path = layer.path
        self.value = torch.ones(layer.num_units)

    @override
    def prior(self) -> dict[str, dist.TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, dist.TorchDistribution]:
        return {}

    @override
    def mask_distribution(
        self, latents: Latents, x: Tensor | None = None
    ) -> dist.TorchDistribution:
        return dist.Delta(self.value, event_dim=1)

    @override
    def keep_prob(self) -> Tensor:
        return (self.value != 0).to(self.value)

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        return self.value


class _FlopsByNode(fx.Interpreter):
    """Runs a traced network and counts the FLOPs of each node under its layer's name."""

    def count(self, x: Tensor) -> dict[str, int]:
        self.found: dict[str, int] = {}
        with evaluating(self.module), torch.no_grad():
            self.run(x)
        return {name: flops // x.shape[0] for name, flops in self.found.items() if flops}

    @override
    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        name = str(n.target) if n.op == "call_module" else n.name
        self.found[name] = self.found.get(name, 0) + counter.get_total_flops()
        return result


class _Recorded(PosteriorSample):
    """A posterior sample that keeps the masks it gave out."""

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        mask = super().mask(layer, x)
        if mask is not None:
            self.masks[layer] = mask.reshape(-1, layer.num_units)[0]
        return mask


def example_of(who: str, network: nn.Module) -> Tensor:
    """Return an example of the shape that a ``BayesianNetwork`` last saw, or say that it has none.

    Raises:
        ConfigError: If it is another module or has seen nothing.
    """
    shape = network.input_shape if isinstance(network, Program) else None
    parameter = next(network.parameters(), None)
    if shape is None or parameter is None:
        raise ConfigError(
            who,
            expected="an example input, or a BayesianNetwork that has seen one",
            got=f"a {type(network).__name__} and no input",
            hint="Pass example_input=x[:1].",
        )
    return torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device)


def _draw_masks(
    network: nn.Module, layers: Mapping[str, BayesianDropout], x: Tensor, index: int
) -> dict[str, Tensor]:
    latents = {layer: layer.draw_latents() for layer in layers.values()}
    sample = _Recorded(latents, shared=True)
    if any(layer.input_dependent for layer in layers.values()):
        row = index % len(x)
        with sample:
            network(x[row : row + 1])
    return {name: sample.masks[layer] for name, layer in layers.items()}


def _weights(parts: Iterable[tuple[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, part in parts:
        for path, module in part.named_modules(prefix=name) if isinstance(part, nn.Module) else ():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.numel():
                found[path] = weight.numel()
    return found


def _params(parts: Iterable[tuple[str, Any]]) -> dict[str, int]:
    # Shared parameters are counted once, as by count_params.
    owners: dict[int, tuple[str, int]] = {}
    for name, part in parts:
        pairs = part.named_parameters(prefix=name) if isinstance(part, nn.Module) else ()
        for path, value in [(name, part)] if isinstance(part, nn.Parameter) else pairs:
            owners.setdefault(id(value), (path.rpartition(".")[0], value.numel()))
    counts: dict[str, int] = {}
    for owner, count in owners.values():
        counts[owner] = counts.get(owner, 0) + count
    return counts


def _stack(costs: list[dict[str, int]], names: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: torch.tensor([cost.get(name, 0) for cost in costs]) for name in names}
