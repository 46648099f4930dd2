"""Gradients of single examples, each clipped, and their sum."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bayesdrop.errors import BayesdropError, BayesdropWarning, ConfigError
from bayesdrop.files import first_line
from bayesdrop.ops.stable import wide
from bayesdrop.program.inputs import Inputs, shape_text, tensors_of
from bayesdrop.program.program import Program
from bayesdrop.typing import NumMasks

Gradients: TypeAlias = dict[str, Tensor]
"""Name of a parameter to a gradient of its shape."""

# Gradients of so many numbers are held at once: 256 MiB of float32.
_MOST_NUMBERS = 2**26


class ClippedSum(NamedTuple):
    """What a batch gives.

    Args:
        gradients: For each trainable parameter, the sum over the examples of the gradients of the
            data term, each scaled down to a norm of at most ``clip_norm``.
        norms: Norm of each example's whole gradient before that, ``(B,)``.
        data_term: Sum of the examples' data terms, in nats.
    """

    gradients: Gradients
    norms: Tensor
    data_term: float


class _DataTerm(nn.Module):
    # As a forward pass, which torch.func.functional_call calls.
    def __init__(self, bnn: Program, num_masks: NumMasks) -> None:
        super().__init__()
        self.bnn, self.num_masks = bnn, num_masks

    def forward(self, x: Inputs, y: Tensor) -> Tensor:
        return self.bnn.data_term(x, y, num_masks=self.num_masks)


class ClippedGradients:
    r"""Sums the gradients of single examples, each clipped as a whole.

    .. math:: \sum_{n=1}^{B} g_n \min\Bigl(1, \frac{C}{\|g_n\|}\Bigr), \qquad
        g_n = \nabla_\theta\, \mathtt{data\_term}(x_n, y_n)

    over all trainable parameters :math:`\theta` together, those of posteriors included. An example
    has its own draw of every latent, and is alone in its pass: no other has an influence on its
    gradient.

    All examples of a batch are differentiated at once by ``torch.func``. The weight of an
    ``nn.Linear``, most of a network's numbers, is spared: its gradient is the outer product of the
    layer's input and the gradient in its output, of which norm and sum follow without it. A
    network that ``torch.func`` cannot batch is differentiated one example after the other, which
    a warning says.

    Args:
        bnn: The program, in training mode.
        clip_norm: The largest norm :math:`C` > 0; infinite for none.
        num_masks: Masks of each example, as for ``bnn.loss``.
    """

    def __init__(self, bnn: Program, clip_norm: float, num_masks: NumMasks = 1) -> None:
        self.bnn, self.clip_norm = bnn, clip_norm
        self.one_by_one = False
        self._data_term = _DataTerm(bnn, num_masks)
        self._taps: dict[tuple[object, ...], Taps] = {}

    def __call__(self, x: Inputs, y: Tensor) -> ClippedSum:
        """Return the sum for a batch, which may be empty."""
        parameters: Gradients = {n: p for n, p in self.bnn.named_parameters() if p.requires_grad}
        if not len(x):
            zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
            return ClippedSum(zeros, torch.zeros(0, device=x.device), 0.0)
        if not self.one_by_one:
            try:
                return self._all_at_once(parameters, x, y)
            except BayesdropError:
                raise
            except Exception as error:  # what is the network's own fault the loop raises again
                warnings.warn(
                    "fit: torch.func cannot batch this network's examples "
                    f"({first_line(error)}). Their gradients are computed one after the other, "
                    "with the same result and in many times as long.",
                    BayesdropWarning,
                    stacklevel=2,
                )
                self.one_by_one = True
        return self._one_by_one(parameters, x, y)

    # -- one after the other -------------------------------------------------------------------

    def _one_by_one(self, parameters: Gradients, x: Inputs, y: Tensor) -> ClippedSum:
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        norms, terms = [], 0.0
        for n in range(len(x)):
            with _buffers_kept(self.bnn) as before:
                term = self._data_term(x[n : n + 1], y[n : n + 1])
                _check_buffers(self.bnn, before)
            found = torch.autograd.grad(term, [*parameters.values()], allow_unused=True)
            given = [g for g in found if g is not None]
            norm = torch.sqrt(sum((g.square().sum() for g in given), start=term.new_zeros(())))
            factor = _factors(norm, self.clip_norm)
            for name, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    total[name] += factor * gradient
            norms.append(norm)
            terms += float(term.detach())
        return ClippedSum(total, torch.stack(norms).detach(), terms)

    # -- all at once ---------------------------------------------------------------------------

    def _all_at_once(self, parameters: Gradients, x: Inputs, y: Tensor) -> ClippedSum:
        key = (shape_text(x[:1]), *((name, p.shape) for name, p in parameters.items()))
        if key not in self._taps:
            self._taps[key] = find_taps(self.bnn, self._data_term, x[:1], y[:1])
        taps = self._taps[key]
        spared = {f"{path}.{name}" for path in taps for name in ("weight", "bias")}
        small = {f"bnn.{n}": p.detach() for n, p in parameters.items() if n not in spared}
        fixed = {
            f"bnn.{n}": p.detach()
            for n, p in self.bnn.named_parameters()
            if f"bnn.{n}" not in small
        }
        size = sum(p.numel() for p in small.values()) + sum(
            math.prod(shape) for shapes in taps.values() for shape in shapes
        )
        step = max(1, _MOST_NUMBERS // max(1, size))
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        norms, terms = [], 0.0
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            part = self._chunk(small, fixed, taps, x[rows], y[rows])
            for name, gradient in part.gradients.items():
                if name in total:  # a frozen bias is none
                    total[name] += gradient
            norms.append(part.norms)
            terms += part.data_term
        return ClippedSum(total, torch.cat(norms), terms)

    def _chunk(
        self, small: Gradients, fixed: Gradients, taps: Taps, x: Inputs, y: Tensor
    ) -> ClippedSum:
        def term(
            small: Gradients, added: dict[str, list[Tensor]], y: Tensor, *inputs_of_one: Tensor
        ) -> tuple[Tensor, Any]:
            rows = [tensor[None] for tensor in inputs_of_one]
            one = rows[0] if isinstance(x, Tensor) else x.like(rows)
            with tapped(self.bnn, added) as inputs:
                value = torch.func.functional_call(
                    self._data_term, {**small, **fixed}, (one, y[None])
                )
            return value, (value, inputs)

        added = {
            path: [
                torch.zeros(shape, dtype=_dtype(self.bnn, path), device=x.device)
                for shape in shapes
            ]
            for path, shapes in taps.items()
        }
        singly = torch.func.vmap(
            torch.func.grad(term, argnums=(0, 1), has_aux=True),
            in_dims=(None, None, 0, *[0] * len(tensors_of(x))),
            randomness="different",
        )
        # Attention's fused kernels have no rule for batches of single examples.
        with sdpa_kernel(SDPBackend.MATH):
            (gradients, outputs), (values, inputs) = singly(small, added, y, *tensors_of(x))
        layers = {
            path: (_positions(calls), _positions(outputs[path][: len(calls)]))
            for path, calls in inputs.items()
        }
        has_bias = {path: self.bnn.get_submodule(path).bias is not None for path in layers}
        squares = values.new_zeros(len(x))
        for gradient in gradients.values():
            squares = squares + gradient.reshape(len(x), -1).square().sum(1)
        for path, (a, g) in layers.items():
            weight_is_trained, bias_is_trained = self._trained(path)
            if weight_is_trained:
                squares = squares + _outer_squares(a, g).to(squares)
            if bias_is_trained:
                squares = squares + g.sum(1).square().sum(1)
        norms = squares.clamp(min=0.0).sqrt()
        factors = _factors(norms, self.clip_norm)
        summed = {
            name.removeprefix("bnn."): torch.tensordot(factors.to(gradient), gradient, 1)
            for name, gradient in gradients.items()
        }
        for path, (a, g) in layers.items():
            g = g * factors.to(g)[:, None, None]
            summed[f"{path}.weight"] = g.flatten(0, 1).T @ a.flatten(0, 1)
            if has_bias[path]:
                summed[f"{path}.bias"] = g.sum((0, 1))
        return ClippedSum(summed, norms, float(values.sum()))

    def _trained(self, path: str) -> tuple[bool, bool]:
        layer: Any = self.bnn.get_submodule(path)
        bias = layer.bias
        return bool(layer.weight.requires_grad), bias is not None and bool(bias.requires_grad)


Taps: TypeAlias = dict[str, list[torch.Size]]
"""Path of an ``nn.Linear`` to the shape of its output in each of its calls."""


def find_taps(bnn: Program, data_term: nn.Module, x: Inputs, y: Tensor) -> Taps:
    """Return the Linear layers whose weights act by their layer's calls alone.

    Weights that other modules hold too, or that anything else computes with, such as a mask whose
    rates follow from them, are left out.

    Args:
        bnn: The program.
        data_term: Its data term as a module.
        x: One example.
        y: Its target.
    """
    held: dict[int, int] = {}
    for module in bnn.modules():
        for parameter in module.parameters(recurse=False):
            held[id(parameter)] = held.get(id(parameter), 0) + 1
    taps: Taps = {}
    layers = {
        path: layer
        for path, layer in bnn.named_modules()
        if type(layer) is nn.Linear
        and all(held[id(p)] == 1 for p in layer.parameters())
        and any(p.requires_grad for p in layer.parameters())
    }

    def hook(path: str) -> Any:
        def without(
            module: nn.Linear, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> Tensor:
            taps.setdefault(path, []).append(output.shape)
            bias = None if module.bias is None else module.bias.detach()
            x = [*args, *named.values()][0]
            return nn.functional.linear(x, module.weight.detach(), bias)

        return without

    handles = [
        layer.register_forward_hook(hook(path), with_kwargs=True) for path, layer in layers.items()
    ]
    try:
        with torch.random.fork_rng(_devices(x)), _buffers_kept(bnn), torch.enable_grad():
            term = data_term(x, y)
    finally:
        for handle in handles:
            handle.remove()
    weights = {
        name: p
        for path in taps
        for name, p in layers[path].named_parameters(prefix=path)
        if p.requires_grad
    }
    if not weights or not term.requires_grad:
        return taps
    used = torch.autograd.grad(term, [*weights.values()], allow_unused=True)
    elsewhere = {n.rpartition(".")[0] for n, g in zip(weights, used, strict=True) if g is not None}
    return {path: shapes for path, shapes in taps.items() if path not in elsewhere}


@contextmanager
def tapped(bnn: Program, added: dict[str, list[Tensor]]) -> Iterator[dict[str, list[Tensor]]]:
    """Add something to the output of each call of the named layers; yield their inputs."""
    inputs: dict[str, list[Tensor]] = {}

    def hook(path: str) -> Any:
        def tap(
            module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> Tensor:
            calls = inputs.setdefault(path, [])
            if len(calls) == len(added[path]) or added[path][len(calls)].shape != output.shape:
                raise RuntimeError(f"layer {path!r} is not called alike for every batch")
            calls.extend((*args, *named.values()))
            return output + added[path][len(calls) - 1]

        return tap

    handles = [
        bnn.get_submodule(p).register_forward_hook(hook(p), with_kwargs=True) for p in added
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _buffers_kept(bnn: Program) -> Iterator[dict[str, Tensor]]:
    before = {name: buffer.clone() for name, buffer in bnn.named_buffers()}
    try:
        yield before
    finally:
        with torch.no_grad():
            for name, buffer in bnn.named_buffers():
                if not torch.equal(buffer, before[name]):  # which a graph may hold
                    buffer.copy_(before[name])


def _check_buffers(bnn: Program, before: Gradients) -> None:
    """Raise ``ConfigError`` if a pass has changed a buffer: the next example would meet it."""
    for name, buffer in bnn.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise ConfigError(
                "fit",
                expected="layers that keep nothing of the data in private training",
                got=f"one that changes its buffer {name!r}",
                hint="Its statistics would be published without noise: hold them with eval().",
            )


def _outer_squares(a: Tensor, g: Tensor) -> Tensor:
    """Return the squared norm of each ``g[n].T @ a[n]``, ``(B,)``, from products of positions."""
    if a.shape[1] == 1:
        return a.square().sum((1, 2)) * g.square().sum((1, 2))
    a, g = wide(a), wide(g)  # terms of either sign: a norm that is too small would break the bound
    return ((a @ a.mT) * (g @ g.mT)).sum((1, 2))


def _factors(norms: Tensor, clip_norm: float) -> Tensor:
    return (clip_norm / norms).clamp(max=1.0).detach()


def _positions(calls: list[Tensor]) -> Tensor:
    """Return what a layer had in its calls as ``(B, positions, features)``."""
    return torch.cat(
        [call.flatten(1, -2) if call.ndim > 2 else call[:, None] for call in calls], 1
    )


def _dtype(bnn: Program, path: str) -> torch.dtype:
    return bnn.get_parameter(f"{path}.weight").dtype


def _devices(x: Inputs) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []
