"""Hooks of a module, for one that takes its place."""

from __future__ import annotations

import copy

from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def take_hooks(new: nn.Module, old: nn.Module) -> None:
    """Let a call of ``new`` run the hooks, of forward and of backward, that one of ``old`` does.

    Args:
        new: A module with the inputs and outputs of the other; its own hooks are gone.
        old: The module that it is put in the place of.
    """
    for name in HOOKS:
        setattr(new, name, copy.copy(getattr(old, name)))
