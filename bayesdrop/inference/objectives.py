"""What a training step minimises: the closed form, a Pyro ELBO, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from bayesdrop.errors import ConfigError
from bayesdrop.nn import kl_divergence
from bayesdrop.program.program import Program
from bayesdrop.typing import LossTerms

Objective: TypeAlias = Callable[[Any, Tensor, Tensor], LossTerms]
"""A function of the program and a batch that returns the two halves of the loss."""


def closed_form(bnn: Program, x: Tensor, y: Tensor) -> LossTerms:
    """Return ``bnn.loss(x, y)``: one reparameterised sample, divergences in closed form."""
    return bnn.loss(x, y)


def as_objective(objective: ELBO | Objective | None) -> Objective:
    """Return the function that ``fit`` minimises.

    Args:
        objective: As for ``fit``.

    Raises:
        ConfigError: If it is neither a Pyro ELBO nor a function.
    """
    if objective is None:
        return closed_form
    if isinstance(objective, ELBO):
        return PyroObjective(objective)
    if isinstance(objective, type) or not callable(objective):
        made = (
            f"{objective.__name__}()" if isinstance(objective, type) else "pyro.infer.Trace_ELBO()"
        )
        raise ConfigError(
            "fit",
            expected="an objective that is a Pyro ELBO or a function of (bnn, x, y)",
            got=repr(objective),
            hint=f"For example {made}; None is the closed form.",
        )
    return objective


class PyroObjective:
    """A Pyro ELBO as an objective; its parameters stay out of the global store.

    Args:
        elbo: The estimator. One that only knows ``loss_and_grads``, as ``RenyiELBO``, is asked for
            its gradients, which are then handed on.
    """

    def __init__(self, elbo: ELBO) -> None:
        self.elbo: Any = elbo

    def __call__(self, bnn: Program, x: Tensor, y: Tensor) -> LossTerms:
        """Return the estimator's loss, with the KL part of the global latents in closed form."""
        with pyro.settings.context(module_local_params=True):
            if hasattr(self.elbo, "differentiable_loss"):
                loss = self.elbo.differentiable_loss(bnn.model, bnn.guide, x, y)
            else:
                loss = self._with_its_gradients(bnn, x, y)
        # The split is for the record only; the gradient is the estimator's.
        with torch.no_grad():
            kl = bnn.kl_weight * kl_divergence(bnn.network)
        return LossTerms(loss - kl, kl)

    def _with_its_gradients(self, bnn: Program, x: Tensor, y: Tensor) -> Tensor:
        parameters = [p for p in bnn.parameters() if p.requires_grad]
        before = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        loss = self.elbo.loss_and_grads(bnn.model, bnn.guide, x, y)
        surrogate = torch.zeros((), device=x.device)
        for parameter, kept in zip(parameters, before, strict=True):
            if parameter.grad is not None:
                surrogate = surrogate + (parameter * parameter.grad).sum()
            parameter.grad = kept
        # The value of the loss and the gradient of the surrogate.
        return surrogate - surrogate.detach() + loss
