r"""Training Bernoulli masks without a relaxation: unbiased gradients for exact masks.

An objective of this file draws every mask that is Bernoulli given the global latents as zeros and
ones, each example its own, and estimates the gradient of

.. math:: E_{b \sim \mathrm{Bernoulli}(\sigma(\ell))}\, f_n(b), \qquad
    f_n = -\log p(y_n \mid x_n, b)

in the log-odds :math:`\ell` from values of :math:`f_n` alone; from there on it is an ordinary
gradient, so that slopes, latents and whatever :math:`\ell` depends on are trained. Weights get
the gradient of :math:`f_n` under the drawn masks. Masks of other kinds are drawn as in training.

Passed to ``fit(objective=...)``. All are unbiased where an example's loss depends on its own masks
only; batch norm in training mode couples examples, and what passes between them there is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn import ExactDraw, ExactMasks, TwoValuedMask
from bayesdrop.program.checks import require_output
from bayesdrop.program.inputs import GivenInputs, outputs_of, require_data
from bayesdrop.program.program import Program
from bayesdrop.typing import LossTerms

Baseline: TypeAlias = Literal["examples", "second-mask", "none"]
"""What REINFORCE compares a loss with, see there."""

_Run: TypeAlias = Callable[[ExactMasks], Tensor]


class ScoreFunction(ABC):
    """Abstract objective that estimates the gradient of exact masks from losses.

    A subclass defines ``log_odds_gradients``. In evaluation mode it is ``bnn.loss``.

    Raises:
        ConfigError: If the network has no layer with such a mask, or examples with latents of
            their own; or, for some, masks that look at their input.
    """

    takes_input_dependent: ClassVar[bool] = True
    """Whether masks may depend on the layer's input, and so on the masks before it."""

    def __call__(self, bnn: Program, x: GivenInputs, y: Tensor) -> LossTerms:
        """Return the loss of one exact mask an example, with the estimated gradient."""
        if not bnn.training:
            return bnn.loss(x, y)
        self._check(bnn)
        batch = bnn.check_batch(x, require_data(type(self).__name__, "y", y))

        def run(masks: ExactMasks) -> Tensor:
            with masks:
                output = outputs_of(bnn.network, batch)
            output = require_output(type(self).__name__, output, len(batch))
            own = bnn.kl_weight * masks.divergence_by_example()
            return own - bnn.likelihood.log_prob(output, y)

        masks = ExactMasks(len(batch))
        masks.draw_jointly(bnn.network)
        losses = run(masks)
        with torch.no_grad():
            gradients = self.log_odds_gradients(masks, losses.detach(), run)
        pairs = zip(gradients, masks.draws, strict=True)
        masks.hold_draws(losses)
        surrogate = sum((gradient * draw.logits).sum() for gradient, draw in pairs)
        scale = bnn.num_data / len(batch)
        nll = scale * (losses.sum() + surrogate - torch.as_tensor(surrogate).detach())
        return LossTerms(nll, bnn.kl_weight * masks.kl_divergence(bnn.network))

    @abstractmethod
    def log_odds_gradients(self, masks: ExactMasks, losses: Tensor, run: _Run) -> list[Tensor]:
        """Return an estimate of each example's gradient in the log-odds of each draw, ``(N, K)``.

        Args:
            masks: The pass, with its draws.
            losses: The loss of each example under it, ``(N,)``.
            run: Makes another pass and returns its losses.
        """

    def __repr__(self) -> str:
        """Show the class and its options: the name of the objective in a checkpoint."""
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"

    def _check(self, bnn: Program) -> None:
        who = type(self).__name__
        if bnn.has_local_latents:
            raise ConfigError(
                who,
                expected="a BayesianNetwork",
                got=f"a {type(bnn).__name__}, whose examples have latents of their own",
                hint="Use the closed form, objective=None.",
            )
        bnn.check_plain_torch(who)
        layers = [m for _, m in bnn.named_dropout_layers() if isinstance(m, TwoValuedMask)]
        if not layers:
            found = sorted({type(m).__name__ for _, m in bnn.named_dropout_layers()})
            raise ConfigError(
                who,
                expected="a layer whose mask is Bernoulli given its latents",
                got=", ".join(found) or "a network without dropout layers",
                hint="For example bd.convert(network, 'neural-plasticity'); others need no such "
                "estimate, and are trained with objective=None.",
            )
        dependent = [m.name for m in layers if m.input_dependent]
        if dependent and not self.takes_input_dependent:
            raise ConfigError(
                who,
                expected="masks that do not look at their input",
                got=dependent[0],
                hint="Under another mask before it the same noise is another one: use "
                "Reinforce('second-mask').",
            )


class ARM(ScoreFunction):
    r"""Augment-REINFORCE-merge: two passes under antithetic masks.

    .. math:: \frac{\partial}{\partial \ell_k} E f
        = E_u\bigl[(f(1[u > \sigma(-\ell)]) - f(1[u < \sigma(\ell)]))\,(u_k - \tfrac12)\bigr]

    The second pass needs no gradient: a step costs about a third more than that of one mask.

    References:
        Yin, Zhou (2019), "ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks",
        https://arxiv.org/abs/1807.11143; for gates, Li, Ji (2019), "L0-ARM",
        https://arxiv.org/abs/1904.04432. Deviations from the authors' released code: both passes
        are in training mode, as batch norm needs; and losses are those of single examples, since
        masks are.

    Example:
        >>> import bayesdrop as bd
        >>> network = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=100)
        >>> ARM()(bnn, torch.zeros(10, 4), torch.zeros(10).long()).loss.shape
        torch.Size([])
    """

    takes_input_dependent: ClassVar[bool] = False

    @override
    def log_odds_gradients(self, masks: ExactMasks, losses: Tensor, run: _Run) -> list[Tensor]:
        difference = run(masks.again(antithetic=True)) - losses
        return [difference[:, None] * (draw.uniform - 0.5) for draw in masks.draws]


class DisARM(ScoreFunction):
    r"""DisARM, also found as U2G: ARM with its noise given both masks integrated out.

    .. math:: \frac{\partial}{\partial \ell_k} E f = E\bigl[\tfrac12 (f(b) - f(\tilde b))\,
        (-1)^{\tilde b_k}\, 1[b_k \ne \tilde b_k]\, \sigma(|\ell_k|)\bigr]

    with the masks of ``ARM``: same passes and never more variance. A unit that is open, or closed,
    in both masks gets no noise.

    References:
        Dong, Mnih, Tucker (2020), "DisARM: An Antithetic Gradient Estimator for Binary Latent
        Variables", https://arxiv.org/abs/2006.10680; Yin, Ho, Yan, Qian, Zhou (2020),
        "Probabilistic Best Subset Selection via Gradient-Based Optimization",
        https://arxiv.org/abs/2006.06448.
    """

    takes_input_dependent: ClassVar[bool] = False

    @override
    def log_odds_gradients(self, masks: ExactMasks, losses: Tensor, run: _Run) -> list[Tensor]:
        other = masks.again(antithetic=True)
        difference = 0.5 * (losses - run(other))
        return [
            difference[:, None] * (draw.kept - antithetic.kept) * torch.sigmoid(draw.logits.abs())
            for draw, antithetic in zip(masks.draws, other.draws, strict=True)
        ]


class Reinforce(ScoreFunction):
    r"""REINFORCE, the score-function estimator, with a baseline.

    .. math:: \frac{\partial}{\partial \ell_k} E f
        = E\bigl[(f(b) - c)\,(b_k - \sigma(\ell_k))\bigr]

    It takes every mask, also those that look at their input.

    Args:
        baseline: What :math:`c` is. ``"examples"``: the mean loss of the other examples of the
            batch, in one pass. ``"second-mask"``: the loss of the same example under an
            independent second mask, in a second pass without gradient; where masks do not look at
            their input both masks take both roles, which is REINFORCE leave-one-out,
            :math:`\tfrac12 (f(b) - f(b'))\,(b_k - b'_k)`. ``"none"``: zero.

    References:
        Williams (1992), https://doi.org/10.1007/BF00992696; Kool, van Hoof, Welling (2019), "Buy
        4 REINFORCE Samples, Get a Baseline for Free!", https://openreview.net/forum?id=r1lgTGL5DE.
    """

    def __init__(self, baseline: Baseline = "second-mask") -> None:
        known = ("examples", "second-mask", "none")
        if baseline not in known:
            raise unknown_name("baseline", baseline, known)
        self.baseline = baseline

    @override
    def log_odds_gradients(self, masks: ExactMasks, losses: Tensor, run: _Run) -> list[Tensor]:
        if self.baseline == "second-mask":
            other = masks.again(antithetic=False)
            difference = losses - run(other)
            return [
                difference[:, None]
                * (_score(draw) if draw.layer.input_dependent else 0.5 * (draw.kept - second.kept))
                for draw, second in zip(masks.draws, other.draws, strict=True)
            ]
        others = max(1, len(losses) - 1)
        centre = (losses.sum() - losses) / others if self.baseline == "examples" else 0.0
        return [(losses - centre)[:, None] * _score(draw) for draw in masks.draws]


def _score(draw: ExactDraw) -> Tensor:
    return draw.kept - torch.sigmoid(draw.logits)


SCORE_FUNCTIONS: dict[str, ScoreFunction] = {
    "arm": ARM(),
    "disarm": DisARM(),
    "reinforce": Reinforce(),
    "reinforce-one-pass": Reinforce("examples"),
}
"""The objectives that a recipe's stage can name."""
