"""What a network is given: one tensor, or several with a row for each example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError, DataError

_WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def require_data(who: str, name: str, value: object) -> Tensor:
    """Return ``value`` if it is a tensor of numbers that a network can be trained on.

    Of the unsigned integers torch knows little but bytes: wider ones become int64.

    Args:
        who: Who asks, for the message.
        name: What it is, such as ``"x"``.
        value: Anything.

    Raises:
        DataError: If it is no tensor, sparse, nested, complex, or of floats in eight bits.
    """
    if not isinstance(value, Tensor):
        raise DataError(
            who,
            expected=f"{name} to be a tensor",
            got="None" if value is None else f"a {type(value).__name__}",
            hint=_made_of(value),
        )
    if value.layout != torch.strided or value.is_nested:
        raise DataError(
            who,
            expected=f"{name} to be a dense tensor",
            got="a nested one" if value.is_nested else f"one of layout {value.layout}",
            hint=f"Pass {name}.to_dense().",
        )
    if value.is_complex():
        raise DataError(
            who,
            expected=f"{name} to be real",
            got=f"numbers of {value.dtype}",
            hint="torch.view_as_real makes two real channels of them.",
        )
    if value.is_floating_point() and value.element_size() == 1:
        raise DataError(
            who,
            expected=f"{name} of at least 16 bits a number",
            got=f"{value.dtype}",
            hint=f"Pass {name}.float().",
        )
    return value.long() if value.dtype in _WIDE_UNSIGNED else value


def _made_of(value: object) -> str:
    if value is None:
        return "Inputs alone have no loss: pass x and y."
    if hasattr(value, "to_numpy"):
        return "torch.as_tensor makes one of what its to_numpy() returns."
    return "torch.as_tensor makes one of a NumPy array or a list."


class SeveralInputs:
    """The inputs of one pass through a network that takes several, as one batch.

    A tuple becomes positional arguments of ``forward``, a mapping keyword arguments. Every tensor
    has the examples in its first dimension, and as many of them as the others.

    Args:
        *args: Those that ``forward`` gets by position.
        **kwargs: Those that it gets by name.

    Example:
        >>> x = SeveralInputs(torch.zeros(5, 3), mask=torch.ones(5, 2))
        >>> len(x), x[:2].shapes
        (5, ((2, 3), (2, 2)))
    """

    def __init__(self, *args: Tensor, **kwargs: Tensor) -> None:
        self.args, self.kwargs = args, kwargs

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, those by position first."""
        return (*self.args, *self.kwargs.values())

    def like(self, tensors: Sequence[Tensor]) -> SeveralInputs:
        """Return other tensors in the same places.

        Args:
            tensors: In the order of ``tensors``.
        """
        split = len(self.args)
        named = dict(zip(self.kwargs, tensors[split:], strict=True))
        return SeveralInputs(*tensors[:split], **named)

    @property
    def device(self) -> torch.device:
        """The device of the first."""
        return self.tensors[0].device

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each."""
        return tuple(tuple(tensor.shape) for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to(self, *args: Any, **kwargs: Any) -> SeveralInputs:
        """Return them on another device, as ``Tensor.to``."""
        return self.like([tensor.to(*args, **kwargs) for tensor in self.tensors])

    def cpu(self) -> SeveralInputs:
        """Return them on the CPU."""
        return self.to("cpu")

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: Any) -> SeveralInputs:
        """Return some examples: an index that keeps the first dimension."""
        return self.like([tensor[rows] for tensor in self.tensors])

    def __repr__(self) -> str:
        named = ", ".join(f"{name} {tuple(t.shape)}" for name, t in named_inputs(self))
        return f"SeveralInputs({named})"


Inputs: TypeAlias = Tensor | SeveralInputs
"""A batch of inputs."""

GivenInputs: TypeAlias = Inputs | Sequence[Tensor] | Mapping[str, Tensor]
"""What users pass for one: a tensor, a tuple for ``forward(x1, x2)``, or a mapping by name."""


def as_inputs(who: str, given: GivenInputs) -> Inputs:
    """Return a batch of inputs, as it was given or as one object.

    Args:
        who: Who asks, for the message.
        given: A tensor; a tuple or list of tensors, a network's positional arguments; or a
            mapping, its keyword arguments.

    Raises:
        DataError: If there is none, one is no dense real tensor, or they do not have the same
            number of examples in their first dimension.
    """
    if isinstance(given, Tensor):
        return require_data(who, "x", given)
    if isinstance(given, SeveralInputs):
        several = given
    elif isinstance(given, Mapping):
        several = SeveralInputs(**{str(name): value for name, value in given.items()})
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        several = SeveralInputs(*given)
    else:
        return require_data(who, "x", given)
    lengths: dict[str, int] = {}
    for name, value in named_inputs(several):
        tensor = require_data(who, name, value)
        if tensor.ndim == 0:
            raise DataError(
                who,
                expected=f"the examples in the first dimension of {name}",
                got="a single number",
                hint="Bind what is no example's own in a module around the network.",
            )
        lengths[name] = len(tensor)
    if not lengths:
        raise DataError(
            who, expected="at least one input", got="none", hint="Pass a tensor, or several."
        )
    if len(set(lengths.values())) > 1:
        raise DataError(
            who,
            expected="as many examples in the first dimension of every input",
            got=", ".join(f"{name} with {number}" for name, number in lengths.items()),
            hint="What all examples share belongs into the network, as a buffer say.",
        )
    return several


def joined_inputs(tensors: Sequence[Tensor]) -> Inputs:
    """Return positional arguments as one batch."""
    return tensors[0] if len(tensors) == 1 else SeveralInputs(*tensors)


def named_inputs(x: Inputs) -> list[tuple[str, Tensor]]:
    """Return each tensor of a batch with what to call it in a message."""
    if isinstance(x, Tensor):
        return [("x", x)]
    return [(f"input {i}", value) for i, value in enumerate(x.args)] + [
        (repr(name), value) for name, value in x.kwargs.items()
    ]


def tensors_of(x: Inputs) -> tuple[Tensor, ...]:
    """Return all tensors of a batch."""
    return (x,) if isinstance(x, Tensor) else x.tensors


def each_input(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Return a batch with every tensor changed in the same way."""
    return function(x) if isinstance(x, Tensor) else x.like([function(t) for t in x.tensors])


def shape_text(x: Inputs) -> str:
    """Return the shapes of a batch for a message."""
    if isinstance(x, Tensor):
        return f"x of shape {tuple(x.shape)}"
    return ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in named_inputs(x))


def outputs_of(network: Callable[..., Any], x: Inputs) -> Any:
    """Run a network on a batch; of a result with ``logits`` (Hugging Face's) return these."""
    output = network(x) if isinstance(x, Tensor) else network(*x.args, **x.kwargs)
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else output


def bound_inputs(network: nn.Module, x: Inputs) -> dict[str, Tensor]:
    """Return the argument of ``forward`` that each tensor is.

    Raises:
        TypeError: If ``forward`` does not take them.
    """
    args, kwargs = ((x,), {}) if isinstance(x, Tensor) else (x.args, x.kwargs)
    signature = inspect.signature(network.forward)
    found: dict[str, Tensor] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found |= {f"{name}[{i}]": part for i, part in enumerate(cast(Any, value))}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            found |= cast(Any, value)
        else:
            found[name] = value
    return found


def positional_inputs(who: str, network: nn.Module, x: Inputs) -> tuple[Tensor, ...]:
    """Return a batch as positional arguments, as what traces a network wants it.

    Raises:
        ConfigError: If ``forward`` does not take them, takes one by keyword only, or has arguments
            before them that are left at their defaults.
    """
    if isinstance(x, Tensor) or not x.kwargs:
        return tensors_of(x)
    try:
        bound = bound_inputs(network, x)
    except TypeError as error:
        raise ConfigError(
            who,
            expected=f"inputs that {type(network).__name__}.forward takes",
            got=f"{', '.join(x.kwargs)}: {error}",
            hint="A mapping's keys are the names of forward's arguments.",
        ) from error
    parameters = inspect.signature(network.forward).parameters.values()
    places = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    names = places[: len(bound)]
    if names != list(bound):
        raise ConfigError(
            who,
            expected=f"the first arguments of {type(network).__name__}.forward, without gaps, "
            "none by keyword only",
            got=", ".join(bound),
            hint="Wrap the network in a module whose forward takes these alone.",
        )
    return tuple(bound.values())


def empty_like(x: Inputs) -> Inputs:
    """Return a batch of no examples of the same shapes and dtypes, which holds no memory."""
    return each_input(lambda t: torch.empty((0, *t.shape[1:]), dtype=t.dtype), x)


def described(x: Inputs | None) -> list[list[Any]]:
    """Return the names, shapes and dtypes of inputs in plain values, as a file holds them."""
    if x is None:
        return []
    names = [""] if isinstance(x, Tensor) else [*[""] * len(x.args), *x.kwargs]
    return [
        [name, list(t.shape[1:]), str(t.dtype).removeprefix("torch.")]
        for name, t in zip(names, tensors_of(x), strict=True)
    ]


def from_description(values: Sequence[Sequence[Any]]) -> Inputs | None:
    """Return the empty batch that ``described`` was asked for."""
    tensors = [
        (name, torch.empty((0, *shape), dtype=getattr(torch, dtype.removeprefix("torch."))))
        for name, shape, dtype in values
    ]
    if len(tensors) == 1 and not tensors[0][0]:
        return tensors[0][1]
    if not tensors:
        return None
    return SeveralInputs(
        *[t for name, t in tensors if not name], **{n: t for n, t in tensors if n}
    )
