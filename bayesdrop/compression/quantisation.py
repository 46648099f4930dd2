"""Weights stored as coarsely as their posterior is wide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.compression.compaction import analysed, detached, mean_compacted, verify
from bayesdrop.compression.counter import FixedMask, replaced
from bayesdrop.compression.example import Example, example_of
from bayesdrop.compression.grid import Grid, grid_of, on_grid
from bayesdrop.compression.quantised_file import Stored, entries_of, file_of, note_grids
from bayesdrop.compression.weighted import Weighted
from bayesdrop.conversion import without_dropout
from bayesdrop.errors import CompactionError, ConfigError, unknown_name
from bayesdrop.nn import named_dropout_layers, named_weight_layers
from bayesdrop.nn.arguments import is_real
from bayesdrop.program.checks import require_module
from bayesdrop.program.program import Program
from bayesdrop.record import ShortRepr, TableRecord

Group: TypeAlias = Literal["layer", "output", "input"]
"""What shares a step, see ``quantise``."""
_AXES: dict[str, int | None] = {"layer": None, "output": 0, "input": 1}
_ALL = 2**31  # a number of units that every mask leaves a multiple of, by keeping all


@dataclass(frozen=True)
class QuantisedTensor:
    """One entry of a quantised file.

    Args:
        name: Its name in the state dict.
        shape: Its shape.
        weights: Number of values that are stored.
        bits: Bits of each, the mean over groups.
        bytes: Bytes it takes.
        bytes_dense: Bytes of all its values.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    bits: float
    bytes: int
    bytes_dense: int

    @property
    def is_weight(self) -> bool:
        """Whether it is a matrix or a kernel, and no bias."""
        return len(self.shape) > 1


@dataclass(frozen=True, repr=False)
class Quantised(
    ShortRepr,
    TableRecord,
    also=("weights", "weights_total", "compression", "pruned", "pruned_and_rounded"),
    without=("network",),
):
    """What ``quantise`` returns.

    Args:
        network: The plain network with rounded weights, of the architecture before masks. Units
            that are pruned have weights of zero, which ``compact`` takes out;
            ``save_plain(network, path, format="quantised")`` writes it.
        tensors: Every entry of its state dict, as the file has it.
        file_bytes: Size of the file.
        bytes_dense: Bytes of all values of the state dict, without any overhead.
    """

    network: nn.Module
    tensors: tuple[QuantisedTensor, ...]
    file_bytes: int
    bytes_dense: int

    @property
    def weights_total(self) -> int:
        """Number of weights, biases not counted."""
        return sum(math.prod(t.shape) for t in self.tensors if t.is_weight)

    @property
    def weights(self) -> int:
        """Number of weights between units that are left."""
        return sum(t.weights for t in self.tensors if t.is_weight)

    @property
    def compression(self) -> float:
        """Bytes of all values over the bytes of the whole file: biases, steps, names, checksum."""
        return self.bytes_dense / self.file_bytes

    @property
    def pruned(self) -> float:
        """All weights over those that are left, as in the literature."""
        return self.weights_total / self.weights if self.weights else math.inf

    @property
    def pruned_and_rounded(self) -> float:
        """Bits of all weights over those of the weights that are left, as in the literature.

        Neither biases nor steps, nor which units are left, nor any header count.
        """
        bits = sum(t.weights * t.bits for t in self.tensors if t.is_weight)
        dense = sum(8 * t.bytes_dense for t in self.tensors if t.is_weight)
        return dense / bits if bits else math.inf

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        rows = [
            [t.name, f"{math.prod(t.shape):,}", f"{t.weights:,}", f"{t.bits:.1f}"]
            + [f"{t.bytes_dense:,}", f"{t.bytes:,}"]
            for t in self.tensors
            if t.is_weight
        ]
        file = f"file, compression {self.compression:.1f}x"
        sizes = f"{self.weights_total:,}", f"{self.weights:,}", ""
        rows.append([file, *sizes, f"{self.bytes_dense:,}", f"{self.file_bytes:,}"])
        return ["", "weights", "left", "bits", "bytes, dense", "bytes"], rows


@torch.no_grad()
def quantise(
    network: nn.Module,
    example_input: Example | None = None,
    *,
    coarseness: float = 1.0,
    group: Group = "layer",
    check: bool = True,
) -> Quantised:
    r"""Return a plain network whose weights are rounded within their posterior uncertainty.

    The mean masks go into the weights, as in ``compact``, but no unit out of the network. A weight
    :math:`w_{ij} = z_{ij} \tilde w_{ij}`, of all scales :math:`z` that are folded into it, has

    .. math::
        \mathrm{Var}[w_{ij}] = E[z_{ij}^2] (\mu_{ij}^2 + \sigma_{ij}^2)
        - E[z_{ij}]^2 \mu_{ij}^2, \qquad
        \Delta_g^2 = c^2 \Bigl(\frac{1}{|g|} \sum_{ij \in g} \frac{1}{\mathrm{Var}[w_{ij}]}
        \Bigr)^{-1}

    and becomes the nearest multiple of its group's step :math:`\Delta_g`, an integer of as many
    bits as the largest of the group needs. An error that is uniform within the step adds
    :math:`c^2 / 24` to the mean of :math:`(w - E[w])^2 / (2 \mathrm{Var}[w])`, whatever the
    variances are. Of a mask, :math:`E[z]` is its mean mask, and :math:`E[z^2]` that squared over
    ``keep_prob``: exact but for hard-concrete gates and targeted masks, whose mean mask is another
    number than the mean. Where a posterior is narrower than float32 is fine, a step is the largest
    weight times 2^-30: then nothing changes.

    Args:
        network: A ``BayesianNetwork`` or module with random weights
            (``"gaussian-weights"``, ``"sparse-variational"``), with or without masks; not changed.
            Layers without a posterior of their weights keep them as they are.
        example_input: A batch to trace shapes with, as for ``compact``.
        coarseness: :math:`c > 0`. Choose it, after the masks' threshold, on validation data.
        group: What shares a step: ``"layer"``, or the ``"output"`` or ``"input"`` units of each
            layer, at five bytes a unit.
        check: Whether to compare outputs on the example before rounding.

    Raises:
        ConfigError: If the network has no random weights, or an argument makes no sense.
        CompactionError: If its masks cannot be folded into the weights of the architecture it had,
            as those that depend on the input.

    References:
        Louizos, Ullrich, Welling (2017), "Bayesian Compression for Deep Learning", section 4,
        https://arxiv.org/abs/1705.08665. Deviations: fixed-point steps follow from the variances
        (the authors' code has mantissas of a whole number of bits and an exponent of eight or so);
        compression is that of a file that can be read.

    Example:
        >>> import bayesdrop as bd
        >>> net = bd.convert(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)),
        ...                  "normal-jeffreys", weights="gaussian-weights")
        >>> small = quantise(net, torch.rand(2, 8))
        >>> small.network(torch.rand(5, 8)).shape, small.weights
        (torch.Size([5, 3]), 44)
    """
    if not is_real(coarseness) or not 0.0 < coarseness < math.inf:
        raise ConfigError(
            "quantise",
            expected="a finite coarseness > 0",
            got=f"{coarseness=}",
            hint="1 rounds by at most half a posterior standard deviation, or so.",
        )
    if group not in get_args(Group):
        raise unknown_name("group of quantise", group, get_args(Group))
    require_module("quantise", network)
    module = network.network if isinstance(network, Program) else network
    if not list(named_weight_layers(module)):
        raise ConfigError(
            "quantise",
            expected="a network with random weights, whose posterior says how coarse they may be",
            got=f"a {type(module).__name__} without any",
            hint="bd.convert(net, 'normal-jeffreys', weights='gaussian-weights').",
        )
    example = example_of("quantise", network, example_input)
    plain, variances = _folded(module, example)
    if check:
        verify(detached(module)(*example), plain(*example))
    state, grids = plain.state_dict(), {}
    for name, variance in variances.items():
        grids[name] = _grid(state[name], variance, coarseness, _AXES[group])
        state[name].copy_(on_grid(state[name], grids[name]))
    note_grids(plain, grids)
    entries = entries_of(plain)
    tensors = tuple(map(_described, entries))
    dense = sum(t.bytes_dense for t in tensors)
    return Quantised(plain, tensors, len(file_of(entries)), dense)


def _described(entry: Stored) -> QuantisedTensor:
    value, own = entry.value, entry.packed
    stored = int((value != 0).sum()) if own is None else own.weights
    bits = 8.0 * value.element_size()
    if own is not None:
        bits = own.bits_total / own.weights if own.weights else 0.0
    dense = value.numel() * value.element_size()
    shape = tuple(value.shape)
    return QuantisedTensor(entry.name, shape, stored, bits, len(entry.content), dense)


def _grid(value: Tensor, variance: Tensor, coarseness: float, axis: int | None) -> Grid:
    """Return the grid whose steps are the weights' harmonic mean of variances, by group."""
    used = value != 0
    tiny = torch.finfo(torch.float64).tiny
    inverse = torch.where(used, 1.0 / variance.double().clamp(min=tiny), 0.0)
    counts = used.double()
    if axis is None:
        sums, numbers = inverse.sum(), counts.sum()
    else:
        sums, numbers = (x.transpose(0, axis).flatten(1).sum(1) for x in (inverse, counts))
    # A group without weights has any step.
    step = torch.where(numbers > 0, (numbers / sums.clamp(min=tiny)).sqrt(), 1.0)
    return grid_of(value, coarseness * step, axis)


def _folded(
    network: nn.Module, example: tuple[Tensor, ...]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the plain network of all units, and the variance of each random weight by name.

    Weights of units that nothing uses, or that have nothing to say, are zero.
    """
    dependent = [name for name, mask in named_dropout_layers(network) if mask.input_dependent]
    if dependent:
        raise CompactionError(
            "quantise",
            expected="masks that are the same for every input",
            got=f"{dependent}, which depend on it",
            hint="Such a mask is no factor of weights: bd.compact takes it along.",
        )
    plain, squared = (_factors(network, example, power) for power in (1, 2))
    expected = {name: x.shape for name, x in without_dropout(network).state_dict().items()}
    found = {name: x.shape for name, x in plain.state_dict().items()}
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if wrong:
        raise CompactionError(
            "quantise",
            expected="masks that can be multiplied into the weights of their layers",
            got=f"{wrong[0]!r}, {tuple(found.get(wrong[0], ())) or 'none'} instead of "
            f"{tuple(expected.get(wrong[0], ())) or 'none'}",
            hint="A layer that keeps no unit cannot be stored: lower its mask's threshold. Other "
            "networks: bd.compact and bd.save_plain.",
        )
    state, squares, variances = plain.state_dict(), squared.state_dict(), {}
    for name, layer in named_weight_layers(network):
        key = f"{name}.weight" if name else "weight"
        mean, variance = layer.weight_moments()
        second = squares[key] * (mean.square() + variance)
        variances[key] = (second - (state[key] * mean).square()).clamp(min=0.0)
        state[key].mul_(layer.mean_weight())
    _cut_unused(plain, example)
    return plain, variances


def _cut_unused(plain: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Set to zero the weights of units that nothing uses, and for inputs that are zero."""
    flow = analysed(detached(plain), example)
    for node, rule in flow.rules.items():
        if not isinstance(rule, Weighted):
            continue
        layer: Any = plain.get_submodule(str(node.target))
        weight = rule.weight_of(layer)
        silent = flow.constant_along(rule.input, rule.dim) == 0
        if len(silent) == weight.shape[1]:
            weight[:, silent.to(weight.device)] = 0.0
        # Where a unit is constant, compact takes it out and leaves its effect behind.
        unused = (~flow.needed[node] & flow.constant[node].isnan()).to(weight.device)
        if bool(unused.any()):
            weight[unused] = 0.0
            if layer.bias is not None:
                layer.bias[unused] = 0.0


def _factors(module: nn.Module, example: tuple[Tensor, ...], power: int) -> nn.Module:
    """Return a network with the means of scales, or of their squares, for random weights."""
    work = detached(module, random=True)
    for name, layer in list(named_weight_layers(work)):
        ones: Any = layer.to_plain()
        ones.weight.fill_(1.0)
        work = replaced(work, name, ones)
    for name, mask in list(named_dropout_layers(work)):
        fixed = FixedMask(mask)
        mean = mask.mean_mask()
        # Of masks whose mean mask is their mean, keep_prob is E[z]^2 / E[z^2].
        squares = mean.square() / mask.keep_prob().clamp(min=torch.finfo(mean.dtype).tiny)
        fixed.value = mean if power == 1 else squares
        work = replaced(work, name, fixed)
    return mean_compacted(work.eval(), example, multiple_of=_ALL, check=False)
