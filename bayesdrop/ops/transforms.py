"""Written-out gradients beside torch's transforms, its compiler and higher derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def in_transform() -> bool:
    """Return whether a transform of ``torch.func`` is at work, such as ``vmap`` or ``grad``.

    What it runs has no effect but its value: no running statistics are updated.
    """
    return torch._C._are_functorch_transforms_active()


def takes_plain_operations() -> bool:
    """Return whether a transform of ``torch.func`` is at work, or the compiler.

    Both differentiate, batch and fuse plain operations by themselves. An
    ``autograd.Function`` that saves what its forward pass has computed is opaque to the one,
    and the form that torch can transform costs five times as much at each call.
    """
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def plain_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Return a function's gradients with their graph, for derivatives of a higher order.

    Args:
        function: The function in plain operations.
        inputs: Its arguments, as the forward pass has saved them.
        grad: The gradient in its value.

    Returns:
        A gradient for each argument; None for those that need none.
    """
    # Views, so that an argument that another one follows from is not met twice.
    views = [x.view_as(x) for x in inputs]
    wanted = [x for x in views if x.requires_grad]
    found = iter(torch.autograd.grad(function(*views), wanted, grad, create_graph=True))
    return tuple(next(found) if x.requires_grad else None for x in views)
