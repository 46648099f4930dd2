"""A traced network whose copies are called as it is, hooks and all."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx

from bayesdrop.nn.hooks import HOOKS

_TABLES = ("_parameters", "_buffers", "_modules")


class TracedNetwork(fx.GraphModule):
    """A ``torch.fx.GraphModule`` that keeps its hooks in copies and files.

    torch's own leaves out of a copy the hooks of a forward and of a backward, and whatever else
    its user has set, so that the copy may compute other values.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedNetwork:
        result: TracedNetwork = super().__deepcopy__(memo)  # type: ignore[assignment]
        return _with(result, copy.deepcopy(vars(self), memo))

    def __copy__(self) -> TracedNetwork:
        former = {name: copy.copy(v) if name in HOOKS else v for name, v in vars(self).items()}
        return _with(TracedNetwork(self, self.graph, type(self).__name__), former)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, super().__reduce__()


def _unpickled(made: Any, arguments: tuple[Any, ...]) -> TracedNetwork:
    former = dict(arguments[0])
    module = made(*arguments)
    return _with(TracedNetwork(module, module.graph, type(module).__name__), former)


def _with(result: TracedNetwork, former: Mapping[str, Any]) -> TracedNetwork:
    own = vars(result)
    for name, value in former.items():
        if name in HOOKS or name not in own:
            own[name] = value
    for table in _TABLES:
        own[table] = {**former[table], **own[table]}
    return result
