"""Modules that stand in a graph for what depends on the mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional as F
from typing_extensions import override

ATTENTION: dict[Any, tuple[str, ...]] = {
    F.scaled_dot_product_attention: ("query", "key", "value", "attn_mask", "dropout_p"),
    F.multi_head_attention_forward: (
        *inspect.signature(F.multi_head_attention_forward).parameters,
    ),
}
"""Functions with a dropout inside, and the names of their parameters."""


@dataclass(frozen=True)
class Slot:
    """The place of an input among the arguments of a function."""

    index: int


class FunctionByMode(nn.Module):
    """A function with other settings in training mode than in evaluation mode.

    Args:
        function: What is called; a string is a method of its first argument.
        training: Arguments and keyword arguments in training mode, a slot for each input; None
            if it is then not called, and the first input is what comes out.
        evaluation: Those in evaluation mode, or None.
    """

    def __init__(
        self, function: Callable[..., Any] | str, training: Any, evaluation: Any = None
    ) -> None:
        super().__init__()
        self.function = function
        self.by_mode = (evaluation, training)

    @property
    def is_of_torch(self) -> bool:
        """Whether the function is one of torch's own, which torch.fx sees as one operation."""
        if isinstance(self.function, str):
            return True
        module = str(getattr(self.function, "__module__", None))
        return module.split(".")[0] in ("torch", "_operator", "builtins", "None")

    @override
    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", str(self.function))

    def drop_rates(self) -> list[float]:
        """Return the rates of dropout, by their names, that it is called with in training mode."""
        args, kwargs = self.by_mode[True] or ((), {})
        settings = {**dict(zip(ATTENTION.get(self.function, ()), args, strict=False)), **kwargs}
        found = settings.items()
        return [float(v) for k, v in found if "drop" in k and isinstance(v, int | float)]

    def forward(self, *inputs: Any) -> Any:
        """Call the function as the mode asks for."""
        settings = self.by_mode[self.training]
        if settings is None:
            return inputs[0]
        args, kwargs = _filled(settings, inputs)
        if isinstance(self.function, str):
            return getattr(args[0], self.function)(*args[1:], **kwargs)
        return self.function(*args, **kwargs)


def _filled(value: Any, inputs: tuple[Any, ...]) -> Any:
    if isinstance(value, Slot):
        return inputs[value.index]
    if isinstance(value, Mapping):
        return {key: _filled(item, inputs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        filled = [_filled(item, inputs) for item in value]
        return tuple(filled) if isinstance(value, tuple) else filled
    return value


class ChoiceByMode(nn.Module):
    """One value in training mode, another in evaluation mode."""

    def forward(self, training: Any, evaluation: Any) -> Any:
        """Return the value that the mode asks for."""
        return training if self.training else evaluation
