"""Small regressions of one kind, trained side by side as the blocks of one network.

Block ``s`` sees its own rows, in its own order, under its own noise, and Adam goes by entry: what
comes out is what ``bd.fit(networks[s], rows[s], seed=seeds[s], ...)`` trains without weight decay,
to rounding, at a fraction of the time. A test compares them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.nn import (
    BayesianDropout,
    BetaBernoulliDropout,
    ConcreteDropout,
    MonteCarloDropout,
)
from bayesdrop.ops import noise


class LinearBlocks(nn.Module):
    """Linear layers side by side: outputs of a block see the inputs of that block only.

    The weight is that of one Linear layer for all inputs, ``(out, S * in)``, so that a mask on
    these finds the weights that each of its units is multiplied by.

    Shape:  input ``(N, S * in)``, output ``(N, S * out)``.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.num_blocks = len(layers)
        self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers], 1))
        self.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each block to its own inputs."""
        outputs = self.weight.shape[0]
        inputs = x.unflatten(1, (self.num_blocks, -1)).transpose(0, 1)
        weights = self.weight.view(outputs, self.num_blocks, -1).permute(1, 2, 0)
        bias = self.bias.view(self.num_blocks, 1, outputs)
        return torch.baddbmm(bias, inputs, weights).transpose(0, 1).flatten(1)


class ConcreteBlocks(ConcreteDropout):
    """Concrete dropout with one learned rate, and one prior, for the units of each block."""

    def __init__(self, layers: Sequence[ConcreteDropout]) -> None:
        units = layers[0].num_units
        super().__init__(len(layers) * units, length_scale=1.0)
        self.units = units
        self.drop_logits = nn.Parameter(torch.stack([x.drop_logits.detach() for x in layers]))
        scales = torch.tensor([layer.length_scale for layer in layers])
        self.register_buffer("precision", scales.square().repeat_interleave(units))

    def _bounded(self) -> Tensor:
        return super()._bounded().repeat_interleave(self.units)

    def _expected_energy(self, second_moment: Tensor, *, bias: bool) -> Tensor | None:
        return super()._expected_energy(second_moment * self.precision, bias=bias)


def _monte_carlo_blocks(layers: Sequence[MonteCarloDropout]) -> MonteCarloDropout:
    first = layers[0]
    units = len(layers) * first.num_units
    mask = MonteCarloDropout(units, length_scale=first.length_scale)
    mask.drop_prob = torch.stack([x.drop_prob for x in layers]).repeat_interleave(first.num_units)
    return mask


def _beta_bernoulli_blocks(layers: Sequence[BetaBernoulliDropout]) -> BetaBernoulliDropout:
    first = layers[0]
    mask = BetaBernoulliDropout(
        len(layers) * first.num_units,
        kl_scale=first.kl_scale,
        parametrization=first.parametrization,
    )
    own = zip(*(layer.parameters() for layer in layers), strict=True)
    with torch.no_grad():
        for joined, parameters in zip(mask.parameters(), own, strict=True):
            joined.copy_(torch.cat(parameters))
    return mask


_BLOCKS = {
    ConcreteDropout: ConcreteBlocks,
    MonteCarloDropout: _monte_carlo_blocks,
    BetaBernoulliDropout: _beta_bernoulli_blocks,
    nn.Linear: LinearBlocks,
    nn.ReLU: lambda layers: nn.ReLU(),
}
"""Kinds of layers to what makes one layer of those of all blocks."""


class _Streams:
    """What is random, for each block from the stream of its seed; blocks of one seed share it."""

    def __init__(self, seeds: Sequence[int]) -> None:
        distinct = sorted(set(seeds))
        self.generators = [torch.Generator().manual_seed(seed) for seed in distinct]
        self.of = torch.tensor([distinct.index(seed) for seed in seeds])

    def orders(self, count: int) -> Tensor:
        """Return a permutation for each block, ``(count, S)``."""
        drawn = [torch.randperm(count, generator=g) for g in self.generators]
        return torch.stack(drawn, 1)[:, self.of]

    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return self.uniforms([shape], like).reshape(tuple(shape))

    def uniforms(self, shapes: Sequence[Sequence[int]], like: Tensor) -> Tensor:
        blocks = len(self.of)
        sizes = [math.prod(shape) // blocks for shape in shapes]
        drawn = torch.empty(len(self.generators), sum(sizes), dtype=like.dtype)
        for row, generator in zip(drawn, self.generators, strict=True):
            row.uniform_(generator=generator)
        info = torch.finfo(like.dtype)
        parts = drawn.clamp_(info.tiny, 1.0 - info.eps).split(sizes, 1)
        # A block's units stand beside each other in the last dimension.
        return torch.cat(
            [
                part.reshape(len(drawn), -1, shape[-1] // blocks)
                .transpose(0, 1)
                .index_select(1, self.of)
                .flatten()
                for part, shape in zip(parts, shapes, strict=True)
            ]
        )

    @contextlib.contextmanager
    def replace_noise(self) -> Iterator[None]:
        own = {"uniform": self.uniform, "uniforms": self.uniforms, "normal": _refused}
        before = {name: getattr(noise, name) for name in own}
        try:
            for name, function in own.items():
                setattr(noise, name, function)
            yield
        finally:
            for name, function in before.items():
                setattr(noise, name, function)


def _refused(shape: Sequence[int], like: Tensor) -> Tensor:
    raise NotImplementedError("Only uniform noise is that of networks trained one by one.")


class _Rows:
    """Batches of all blocks' rows, each block's in an order of its own."""

    def __init__(
        self, rows: Sequence[tuple[Tensor, Tensor]], batch_size: int, streams: _Streams
    ) -> None:
        self.x, self.y = (torch.stack(parts, 1) for parts in zip(*rows, strict=True))
        self.batch_size, self.streams = batch_size, streams

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        blocks = torch.arange(self.x.shape[1])
        for order in self.streams.orders(len(self.x)).split(self.batch_size):
            yield self.x[order, blocks].flatten(1), self.y[order, blocks].flatten(1)


def fit(
    networks: Sequence[bd.BayesianNetwork],
    rows: Sequence[tuple[Tensor, Tensor]],
    seeds: Sequence[int],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    variational_learning_rate: float,
) -> None:
    """Train networks of the same layers, in place, as the blocks of one network.

    Args:
        networks: Sequences of masks, Linear layers and ReLU with learned noise of one target,
            initialised one by one. Rates of Monte Carlo dropout and length scales of concrete
            dropout may differ; ``kl_scale`` may not.
        rows: Of each network, as many as of the others.
        seeds: Of each network.
        epochs: As for ``bd.fit``, like the following.
        batch_size: Rows of a network in a step.
        learning_rate: Of weights and the likelihood.
        variational_learning_rate: Of the masks' parameters.
    """
    streams = _Streams(seeds)
    likelihood = bd.Gaussian("learned", num_outputs=len(networks))
    whole = bd.BayesianNetwork(_joined(networks), likelihood, len(rows[0][1]))
    with streams.replace_noise():
        bd.fit(
            whole,
            _Rows(rows, batch_size, streams),
            epochs=epochs,
            learning_rate=learning_rate,
            variational_learning_rate=variational_learning_rate,
            weight_decay=0.0,
            schedule=(),
            progress=False,
        )
    own = zip(*(bnn.parameters() for bnn in networks), strict=True)
    with torch.no_grad():
        for joined, parameters in zip(whole.parameters(), own, strict=True):
            parts = joined.chunk(len(networks), joined.ndim - 1)
            for part, parameter in zip(parts, parameters, strict=True):
                parameter.copy_(part.reshape(parameter.shape))
    for bnn in networks:
        bnn.eval()


def _joined(networks: Sequence[bd.BayesianNetwork]) -> nn.Sequential:
    whole = nn.Sequential()
    for layers in zip(*(bnn.network.children() for bnn in networks), strict=True):
        whole.append(_BLOCKS[type(layers[0])](layers))
        if isinstance(layers[0], nn.Linear):
            mask = whole[-2]
            if not isinstance(mask, BayesianDropout):
                raise TypeError("A mask is expected in front of every Linear layer.")
            mask.bind_weights(whole[-1], dim=1)
    return whole
