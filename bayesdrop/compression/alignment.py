"""Graphs of one origin, node by node."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx

_OPTIONAL = {str(function) for function in (torch.index_select, torch.mul, torch.add)}


class UngroupedError(RuntimeError):
    """The networks have something that cannot run as one."""


def rows_of(graphs: Sequence[fx.Graph]) -> Iterator[tuple[fx.Node | None, ...]]:
    """Yield the nodes that correspond: None for a graph that does without.

    Args:
        graphs: What ``compact`` made of one network, with other masks each.

    Raises:
        UngroupedError: If they have other operations.
    """
    queues = [deque(n for n in graph.nodes if n.op != "get_attr") for graph in graphs]
    while all(queues):
        heads = [queue[0] for queue in queues]
        kinds = {(node.op, str(node.target)) for node in heads}
        if len(kinds) > 1:
            # Where all units stay there is no choice of them, and no factor where all are 1.
            kinds = {kind for kind in kinds if kind[1] in _OPTIONAL}
        if not kinds:
            raise UngroupedError("other operations")
        chosen = min(kinds)
        have = [(node.op, str(node.target)) == chosen for node in heads]
        yield tuple(n if has else None for n, has in zip(heads, have, strict=True))
        for queue, has in zip(queues, have, strict=True):
            if has:
                queue.popleft()


def source_of(node: fx.Node) -> fx.Node:
    """Return the first input of an operation that is no parameter.

    Raises:
        UngroupedError: If there is none, as of a weight times a number.
    """
    for source in node.all_input_nodes:
        if source.op != "get_attr":
            return source
    raise UngroupedError("a value of parameters alone")


def identity(node: fx.Node, tensors: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Return the units, or the vector, with which an operation does nothing.

    Args:
        node: The operation of a graph that has it.
        tensors: The units or the vector there.
        shape: Of the value in a graph that does without.

    Raises:
        UngroupedError: If it has none, as the sum of two values, or of a value and a number.
    """
    if len(tensors) != 1:
        raise UngroupedError("other operations")
    (known,) = tensors
    if node.target is torch.index_select:
        dim = node.args[1]
        return torch.arange(shape[dim] if isinstance(dim, int) else 0)
    size = shape[len(shape) - known.ndim]
    return known.new_full((size,), 1.0 if node.target is torch.mul else 0.0)
