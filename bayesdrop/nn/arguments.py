"""What a layer was built with, checked and shown in its ``repr``; and what it is given."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError, DataError, ShapeError, unknown_name


def is_whole(value: object) -> bool:
    """Return whether a value is an integer, of Python or NumPy, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Return whether a value is a real number, of Python or NumPy, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


_PLAIN = (bool, int, float, str, type(None))


def given_arguments(cls: type, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values among the arguments of a constructor, by name, without defaults.

    Raises:
        TypeError: If they do not fit the constructor; the message names the class that was called,
            and what a misspelt option may have meant.
    """
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    parameters = list(signature.parameters.values())[1:]
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(known) == len(parameters):
        for name in options:
            if name not in known:
                raise TypeError(str(unknown_name(f"option of {cls.__name__}", name, known)))
    try:
        bound = signature.bind(None, *args, **options)
    except TypeError as error:
        raise TypeError(f"{cls.__name__}: {error}") from None
    # A module that was passed is not held on to.
    given = list(bound.arguments.items())[1:]
    return {name: value for name, value in given if isinstance(value, _PLAIN)}


def shown_arguments(layer: object, given: Mapping[str, Any], always: Sequence[str] = ()) -> str:
    """Return the keyword arguments of a layer that are not the default, as ``name=value, ...``.

    An argument that the layer keeps under its name is shown with its present value.

    Args:
        layer: The layer.
        given: What ``given_arguments`` returned for it.
        always: Names that are shown whatever their value.
    """
    return ", ".join(_shown(layer, given, always))


def _shown(layer: object, given: Mapping[str, Any], always: Sequence[str]) -> Iterator[str]:
    for name, parameter in inspect.signature(type(layer).__init__).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        value = _plain(getattr(layer, name, None))
        if value is None:
            value = given.get(name, parameter.default)
        asked = name in always or name in given or parameter.default is not None
        if (
            asked
            and isinstance(value, _PLAIN)
            and (name in always or not _equal(value, parameter.default))
        ):
            yield f"{name}={value!r}"


def _plain(value: object) -> Any:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if not isinstance(value, _PLAIN):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _equal(value: Any, default: Any) -> bool:
    if isinstance(value, float) and isinstance(default, float):
        return math.isclose(value, default, rel_tol=1e-5)
    return bool(value == default)


def check_units(name: str, x: Tensor, units: int, dim: int, hint: str) -> None:
    """Raise an error unless an input has so many units, as floating-point numbers.

    Args:
        name: The layer's, for the message.
        x: Its input.
        units: How many there should be.
        dim: In which dimension, counted from the last.
        hint: What to do where there are others.

    Raises:
        DataError: If the input is of integers, which a mask would turn into floats unscaled.
        ShapeError: If it has other units.
    """
    if not x.is_floating_point():
        scaled = " Images: divide by 255." if x.dtype == torch.uint8 else ""
        raise DataError(
            name,
            expected="an input of floating-point numbers",
            got=f"one of {x.dtype}",
            hint=f"Pass x.float().{scaled}",
        )
    if x.ndim + dim >= 0 and x.shape[dim] == units:
        return
    where = "the last dimension" if dim == -1 else f"dimension {dim}"
    raise ShapeError(
        name,
        expected=f"{units} units in {where}",
        got=f"input of shape {tuple(x.shape)}",
        hint=hint,
    )


def check_weights(name: str, layer: nn.Module, units: int, dim: int) -> None:
    """Raise an error unless a layer has weights, of so many units.

    Args:
        name: Of the mask that the layer is given to, for the message.
        layer: The layer.
        units: How many there should be.
        dim: The dimension of its weights that counts them, 0 or 1.

    Raises:
        ConfigError: If it has none, or of others.
    """
    weight: Any = getattr(layer, "weight", None)
    matrix = isinstance(weight, Tensor) and weight.ndim > 1 and dim in (0, 1)
    if not matrix or weight.shape[dim] != units:
        raise ConfigError(
            name,
            expected=f"a layer with {units} inputs (dim=1) or outputs (dim=0)",
            got=f"{layer} and dim={dim}",
            hint="Attach the layer behind the mask with dim=1, the one before with dim=0.",
        )


def check_num_data(who: str, num_data: float) -> None:
    """Raise ``ConfigError`` unless a number is the size of a data set."""
    if not is_real(num_data) or not 1 <= num_data < math.inf or num_data != int(num_data):
        raise ConfigError(
            who,
            expected="a whole num_data >= 1, the size of the training set",
            got=f"num_data={num_data!r}",
            hint="Pass len(train_set), not the batch size.",
        )
