"""What a Pyro model is run for, where its masks then need a word."""

from __future__ import annotations

import warnings

import torch
from pyro.distributions import Delta, TorchDistribution
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from bayesdrop.errors import ConfigError, ModeWarning, RandomDensityWarning
from bayesdrop.nn import ModelPass
from bayesdrop.typing import Latents


class ModelUse:
    """Says what is wrong where a model is run for something that its masks do not fit.

    Three uses look alike to the model, and are told apart by Pyro's handlers and by gradients:
    prediction in training mode, a step of SVI in evaluation mode, and the log density of imposed
    latents, which MCMC evaluates.
    """

    def __init__(self) -> None:
        self._noise: bytes | None = None

    def check(self, run: ModelPass, y: Tensor | None) -> None:
        """Warn, or raise, after the network has run in the model.

        Args:
            run: The pass, with all masks that were drawn in it.
            y: The observations, if any.

        Raises:
            ConfigError: If a gradient is wanted of a density that is another one at each run, or
                MCMC has nothing to sample.
        """
        imposed = [frame.data for frame in _PYRO_STACK if isinstance(frame, ConditionMessenger)]
        if any(isinstance(f, MaskMessenger) and f.mask is False for f in _PYRO_STACK):
            if imposed:  # by Predictive
                _check_prediction(run)
        elif y is not None:
            names = {f"{o.path}.{name}" for o, values in run.latents.items() for name in values}
            if not names and {} in imposed and _evaluates_density():
                raise _nothing_to_sample(run)
            if any(len(data) and all(name in data for name in names) for data in imposed):
                self._check_density(run)
            else:
                _check_gradient(run)

    def _check_density(self, run: ModelPass) -> None:
        random = [layer for layer, fn, _ in run.draws if not _is_fixed(fn)]
        if not random:
            return
        # The same generator's state as last time, as under poutine.seed, means the same masks.
        device = run.draws[0][2].device
        cuda = device.type == "cuda"
        state = torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()
        before, self._noise = self._noise, state.numpy().tobytes()
        if before in (None, self._noise):
            return
        expected = "a log density that is the same at each evaluation"
        got = f"masks of {random[0].name} that are drawn for each"
        hint = (
            "MCMC has no use for it: sum the masks out, mcmc.run(x, y, num_masks='exact'), or "
            "hold their noise fixed, NUTS(poutine.seed(bnn.model, rng_seed=0)), with num_masks=16 "
            "or so to come near the posterior."
        )
        latents = (v for values in run.latents.values() for v in values.values())
        if any(value.requires_grad for value in latents):
            self._noise = None  # the next evaluation is of another run
            raise ConfigError("model", expected=expected, got=got, hint=hint)
        warnings.warn(
            f"model: expected {expected}, got {got}. {hint}", RandomDensityWarning, stacklevel=2
        )


def _evaluates_density() -> bool:
    """Return whether it is MCMC, which alone enumerates under imposed values."""
    return any(isinstance(frame, EnumMessenger) for frame in _PYRO_STACK)


def _nothing_to_sample(run: ModelPass) -> ConfigError:
    kinds = sorted({type(layer).__name__ for layer, _, _ in run.draws})
    return ConfigError(
        "model",
        expected="latents that all examples share, for MCMC to sample",
        got=f"none in {', '.join(kinds) or 'a network without Bayesian layers'}",
        hint="Predict with bd.predict, or take a prior over keep probabilities, such as "
        "bd.BetaBernoulliDropout.",
    )


def _is_fixed(fn: TorchDistribution) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def _check_prediction(run: ModelPass) -> None:
    training = [layer for layer, _, _ in run.draws if layer.training]
    if training:
        warnings.warn(
            f"model: expected evaluation mode for prediction, got {training[0].name} in training "
            "mode, where masks are relaxed and running statistics change. Call bnn.eval() first.",
            ModeWarning,
            stacklevel=2,
        )


def _check_gradient(run: ModelPass) -> None:
    # Outside gradients, as in evaluate_loss, a loss in evaluation mode is what validation wants.
    for layer, _, z in run.draws if torch.is_grad_enabled() else ():
        if not layer.training and not z.requires_grad and _learns(run.latents[layer]):
            warnings.warn(
                f"model: expected training mode for a loss with gradients, got {layer.name} in "
                "evaluation mode, where masks are exact and have no gradient: the KL divergence "
                "alone would move the posterior, and close all units. Call bnn.train() first.",
                ModeWarning,
                stacklevel=2,
            )
            return


def _learns(latents: Latents) -> bool:
    return any(value.requires_grad for value in latents.values())
