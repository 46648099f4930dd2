"""The last value of a costly function of a layer's parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from bayesdrop.ops.transforms import takes_plain_operations


class Memo:
    """Keeps the last value of a function of tensors, until one of them has other values.

    It compares what is in the tensors, not their versions, so that nothing that changes them goes
    unnoticed: a step, ``load_state_dict``, ``.to()``, or a write through ``.data``. That takes a
    microsecond a tensor on a CPU. Where it would cost more, or a gradient is wanted, it computes.

    Example:
        >>> x, memo = torch.zeros(2), Memo()
        >>> memo(x.exp, x)
        tensor([1., 1.])
        >>> x.data.fill_(-torch.inf), memo(x.exp, x)
        (tensor([-inf, -inf]), tensor([0., 0.]))
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[object, ...], Tensor] | None = None

    def __call__(
        self, compute: Callable[[], Tensor], *inputs: Tensor, setting: object = None
    ) -> Tensor:
        """Return the value of ``compute``, as a tensor of the caller's own.

        Args:
            compute: The function.
            inputs: The tensors that its value depends on.
            setting: What else it depends on.
        """
        value = self.shared(compute, *inputs, setting=setting)
        return value.clone() if self._kept is not None and value is self._kept[1] else value

    def shared(
        self, compute: Callable[[], Tensor], *inputs: Tensor, setting: object = None
    ) -> Tensor:
        """Return the same, for a caller that does not change it."""
        grad = torch.is_grad_enabled()
        for x in inputs:
            if type(x) not in _PLAIN or not x.is_cpu or (grad and x.requires_grad):
                return compute()
        if takes_plain_operations() or torch.jit.is_tracing():
            return compute()
        found = (setting, *map(_content, inputs))
        kept = self._kept
        if kept is None or kept[0] != found:
            # Outside of inference mode, whose tensors are no good after it.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = kept = found, compute()
        return kept[1]


_PLAIN = (torch.nn.Parameter, Tensor)


def _content(x: Tensor) -> tuple[torch.dtype, bytes]:
    # Read past torch: a pass of one example takes as long as a few calls of its operations.
    if not x.is_contiguous():
        x = x.contiguous()
    return x.dtype, ctypes.string_at(x.data_ptr(), x.nbytes)
