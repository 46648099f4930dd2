"""Which dimension of a network's inputs the examples are in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.nn.mode import evaluation_mode


class BatchDim:
    """Sees, while a network runs, whether examples come second, as in ``(T, N, ...)``.

    Recurrent layers, attention and masks say so, by ``batch_first=False`` or ``batch_dim=1``,
    where their input begins with the same two sizes as the network's.

    Args:
        network: The network that is run.
        x: Its (first) input.
    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self.dim = 0
        self._leading = x.shape[:2]
        self._hooks = [
            module.register_forward_pre_hook(self._look, with_kwargs=True)
            for module in network.modules()
            if _is_sequence_first(module)
        ]

    def remove(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()

    def _look(self, module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        x = next((v for v in (*inputs, *named.values()) if isinstance(v, Tensor)), None)
        if x is None or len(self._leading) < 2:
            return
        if isinstance(module, nn.RNNCellBase):  # sees one step of all examples
            found = x.shape[:1] == self._leading[1:]
        else:
            found = x.ndim > 2 and x.shape[:2] == self._leading
        if found:
            self.dim = 1


@torch.no_grad()
def batch_dims(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[int]:
    """Return the dimension of the examples in each input, 0 or 1.

    Where they come second in the first input they do so in all others in which that dimension has
    the same size, and the first one has not.

    Args:
        network: The network, which is run once if it has a layer that could say so.
        inputs: An example.
    """
    if not any(map(_is_sequence_first, network.modules())):
        return [0] * len(inputs)
    run = inputs
    size = inputs[0].shape[0]
    if inputs[0].shape[1:2] == (size,):  # a square tells nothing
        other = slice(size - 1) if size > 1 else [0, 0]
        run = tuple(x[other] if len(x) == size else x for x in inputs)
    seen = BatchDim(network, run[0])
    try:
        with evaluation_mode(network):
            network(*run)
    finally:
        seen.remove()
    if not seen.dim:
        return [0] * len(inputs)
    count = inputs[0].shape[1]
    others = [int(x.ndim > 1 and x.shape[1] == count != x.shape[0]) for x in inputs[1:]]
    return [1, *others]


def _is_sequence_first(module: nn.Module) -> bool:
    first = getattr(module, "batch_first", True) is False or getattr(module, "batch_dim", 0) == 1
    return first or isinstance(module, nn.RNNCellBase)
