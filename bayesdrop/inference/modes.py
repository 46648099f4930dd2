"""Which modules a run leaves in evaluation mode."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesdrop.nn.mode import in_turn
from bayesdrop.program.program import Program


@in_turn
def frozen_modules(bnn: Program) -> frozenset[str]:
    """Return the names of the modules of ``bnn.network`` that training leaves in evaluation mode.

    Those are the ones in evaluation mode beside others in training mode. A network that is wholly
    in evaluation mode, as ``fit`` leaves it, or as it was loaded, says nothing: then they are the
    ones of the last ``fit``. Batch norm with frozen parameters, all of them, is frozen too.
    """
    modules = dict(bnn.network.named_modules())
    frozen = {name for name, module in modules.items() if not module.training}
    if len(frozen) == len(modules):
        frozen = set(bnn.frozen) & modules.keys()
    return frozenset(
        frozen | {name for name, module in modules.items() if _is_frozen_norm(module)}
    )


@in_turn
def train_but(bnn: Program, frozen: frozenset[str]) -> None:
    """Put ``bnn`` into training mode but for the modules of its network called so."""
    bnn.training = True
    bnn.likelihood.train()
    for name, module in bnn.network.named_modules():
        module.training = name not in frozen


def normalizes_batches(bnn: Program, frozen: frozenset[str]) -> bool:
    """Return whether a module needs at least two examples in a batch of training data."""
    return any(
        isinstance(module, _BatchNorm) and name not in frozen
        for name, module in bnn.network.named_modules()
    )


def _is_frozen_norm(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return (
        isinstance(module, _BatchNorm)
        and bool(parameters)
        and not any(parameter.requires_grad for parameter in parameters)
    )
