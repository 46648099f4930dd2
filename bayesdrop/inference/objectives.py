"""What a training step minimises: the closed form, a Pyro ELBO, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pyro
import torch
from pyro.infer import ELBO, ReweightedWakeSleep
from torch import Tensor

from bayesdrop.errors import ConfigError
from bayesdrop.inference.importance_weighted import ImportanceWeighted
from bayesdrop.inference.score_function import ARM, DisARM, Reinforce
from bayesdrop.nn import kl_divergence
from bayesdrop.program.inputs import Inputs
from bayesdrop.program.program import Program
from bayesdrop.typing import LossTerms, NumMasks

__all__ = [
    "ARM",
    "DisARM",
    "ImportanceWeighted",
    "Objective",
    "PyroObjective",
    "Reinforce",
    "as_objective",
    "closed_form",
]

Objective: TypeAlias = Callable[[Any, Any, Tensor], LossTerms]
"""A function of the program and a batch, inputs and targets: the two halves of the loss."""


def closed_form(bnn: Program, x: Inputs, y: Tensor) -> LossTerms:
    """Return ``bnn.loss(x, y)``: one reparameterised sample, divergences in closed form."""
    return bnn.loss(x, y)


def as_objective(
    objective: ELBO | Objective | None,
    num_masks: NumMasks = 1,
    autocast: torch.dtype | None = None,
) -> Objective:
    """Return the function that ``fit`` minimises.

    Args:
        objective: As for ``fit``.
        num_masks: As for ``fit``.
        autocast: As for ``fit``.

    Raises:
        ConfigError: If it is neither a Pyro ELBO nor a function, or a function with several masks;
            if the ELBO is one of the traced (``Jit...``) or has two losses; or if ``autocast`` is
            another dtype than bfloat16.
    """
    if autocast is not None:
        return _under_autocast(as_objective(objective, num_masks), autocast)
    if objective is None and num_masks != 1:
        return lambda bnn, x, y: bnn.loss(x, y, num_masks=num_masks)
    if objective is None:
        return closed_form
    if isinstance(objective, ELBO):
        _refuse_elbo(objective)
        return PyroObjective(objective, num_masks)
    if callable(objective) and not isinstance(objective, type) and num_masks != 1:
        raise ConfigError(
            "fit",
            expected="num_masks=1 with an objective of your own",
            got=f"num_masks={num_masks!r}",
            hint="Call bnn.loss(x, y, num_masks=...) inside the function.",
        )
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


def _refuse_elbo(objective: ELBO) -> None:
    """Raise ``ConfigError`` for estimators that look parameters up by name, or have two losses."""
    kind = type(objective).__name__
    if kind.startswith("Jit") or isinstance(objective, ReweightedWakeSleep):
        raise ConfigError(
            "fit",
            expected="a Pyro ELBO with one loss, which is not traced",
            got=kind,
            hint="For example pyro.infer.TraceMeanField_ELBO(); None is the closed form.",
        )


def _under_autocast(objective: Objective, dtype: torch.dtype) -> Objective:
    if dtype != torch.bfloat16:
        raise ConfigError(
            "fit",
            expected="autocast to be torch.bfloat16 or None",
            got=repr(dtype),
            hint="float16 overflows without a scaled loss, which bfloat16 does not need.",
        )

    def lowered(bnn: Program, x: Inputs, y: Tensor) -> LossTerms:
        with torch.autocast(x.device.type, dtype):
            return objective(bnn, x, y)

    return lowered


class PyroObjective:
    """A Pyro ELBO as an objective; its parameters stay out of the global store.

    Args:
        elbo: The estimator. One that only knows ``loss_and_grads``, as ``RenyiELBO``, is asked for
            its gradients, which are then handed on.
        num_masks: Masks of each example in the model.
    """

    def __init__(self, elbo: ELBO, num_masks: NumMasks = 1) -> None:
        self.elbo: Any = elbo
        self._options = {} if num_masks == 1 else {"num_masks": num_masks}

    def __call__(self, bnn: Program, x: Inputs, y: Tensor) -> LossTerms:
        """Return the estimator's loss, with the KL part of the global latents in closed form."""
        with pyro.settings.context(module_local_params=True):
            if hasattr(self.elbo, "differentiable_loss"):
                loss = self.elbo.differentiable_loss(bnn.model, bnn.guide, x, y, **self._options)
            else:
                loss = self._with_its_gradients(bnn, x, y)
        # The split is for the record only; the gradient is the estimator's.
        with torch.no_grad():
            kl = bnn.kl_weight * kl_divergence(bnn.network)
        return LossTerms(loss - kl, kl)

    def _with_its_gradients(self, bnn: Program, x: Inputs, y: Tensor) -> Tensor:
        parameters = [p for p in bnn.parameters() if p.requires_grad]
        before = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        loss = self.elbo.loss_and_grads(bnn.model, bnn.guide, x, y, **self._options)
        surrogate = torch.zeros((), device=x.device)
        for parameter, kept in zip(parameters, before, strict=True):
            if parameter.grad is not None:
                surrogate = surrogate + (parameter * parameter.grad).sum()
            parameter.grad = kept
        # The value of the loss and the gradient of the surrogate.
        return surrogate - surrogate.detach() + loss
