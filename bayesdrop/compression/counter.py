"""The cost of the compact network of any mask, from one analysis of the full one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from bayesdrop.compression.compaction import analysed
from bayesdrop.compression.flops import LayerFlops, count_flops
from bayesdrop.compression.rules import Mask
from bayesdrop.nn import BayesianDropout, named_dropout_layers, with_plain_weights
from bayesdrop.typing import Latents


class LayerCosts(NamedTuple):
    """Parameters and FLOPs per example of each layer by name, of one compact network."""

    params: dict[str, int]
    flops: dict[str, int]


class CostCounter:
    """Counts the cost of the compact network of any mask, from one analysis of the full one.

    Args:
        network: A network in evaluation mode; it is copied.
        *inputs: One example.
    """

    def __init__(self, network: nn.Module, *inputs: Tensor) -> None:
        work = with_plain_weights(copy.deepcopy(network))
        self.fixed: dict[str, FixedMask] = {}
        for name, layer in list(named_dropout_layers(work)):
            self.fixed[name] = FixedMask(layer)
            work = replaced(work, name, self.fixed[name])
        count_flops(work.eval(), inputs)  # for its warnings, by the layers' own names
        self.flow = analysed(work, inputs)
        plain = self.flow.source
        self._weights = _weights(plain.named_children())
        flops = LayerFlops(plain).count(*inputs)
        self.full = LayerCosts(_params(plain.named_children()), flops)

    def __call__(self, masks: Mapping[str, Tensor]) -> LayerCosts:
        """Return the costs of the network that ``compact`` makes of these masks ``(K,)``."""
        for name, mask in masks.items():
            self.fixed[name].value = mask
        self._propagate()
        parts = self.flow.parts.items()
        # Matrix products and convolutions, plain and depthwise, cost as much as they have weights;
        # all other layers are kept whole.
        weights: dict[str, int] = {}
        for path, size in _weights(parts).items():
            # A recurrent layer may come in layers of several sizes, which are modules inside it.
            owner = path if path in self._weights else path.rpartition(".")[0]
            weights[owner] = weights.get(owner, 0) + size
        flops = dict(self.full.flops)
        for name in flops.keys() & self._weights.keys():
            flops[name] = flops[name] * weights.get(name, 0) // self._weights[name]
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
            flow.constant[node] = rule.constant().double()
            flow.needed[node] = torch.zeros(rule.size, dtype=torch.bool)
        for node, rule in reversed(flow.rules.items()):
            if rule.size and not flow.needed[node].any():
                flow.needed[node][0] = True
            rule.request(flow.needed[node])
        # Factors are not folded into weights: that changes no size.
        for node, rule in flow.rules.items():
            flow.made[node], flow.kept[node] = rule.emit()
        flow.drop_unused()


class FixedMask(BayesianDropout):
    """Multiplies by a mask that was drawn before."""

    key = "fixed"
    reference = ""

    def __init__(self, layer: BayesianDropout) -> None:
        super().__init__(layer.num_units, unit_dim=layer.unit_dim, batch_dim=layer.batch_dim)
        self.path = layer.path
        self.value = layer.keep_prob().new_ones(layer.num_units)

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


def replaced(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Return a network with a module in a place, which may be that of all of it."""
    if not name:
        return module
    network.set_submodule(name, module)
    return network


def _weights(parts: Iterable[tuple[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, part in parts:
        for path, module in part.named_modules(prefix=name) if isinstance(part, nn.Module) else ():
            weight = getattr(module, "weight", None)
            own = [weight] if isinstance(weight, Tensor) else _matrices(module)
            size = sum(value.numel() for value in own)
            if size:
                found[path] = size
    return found


def _matrices(module: nn.Module) -> list[Tensor]:
    return [value for value in module._parameters.values() if value is not None and value.ndim > 1]


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
