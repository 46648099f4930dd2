"""The contract of a likelihood: all that prediction and evaluation ask of one."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesdrop.abstract import Abstract
from bayesdrop.distributions.elements import elements
from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics.checks import as_mixture
from bayesdrop.metrics.crps import crps_per_target
from bayesdrop.ops.transforms import takes_plain_operations


class Likelihood(Abstract, nn.Module):
    r"""Abstract likelihood :math:`p(y \mid f)` of a target given the network's output.

    A subclass says whether it classifies, and defines ``distribution``, ``target`` and
    ``moments``; the objective, prediction and evaluation follow. What else it may override has a
    default that claims nothing: without ``cdf`` there is no coverage of intervals, without
    ``has_normal_noise`` or ``crps`` no CRPS, without ``has_logits`` no energy score.

    The distribution's batch shape is the data plate's, ``output.shape[:1]``; the rest is event.
    Where an output has a dimension of classes, channels or means and scales, it is dimension 1,
    as in ``torch.nn.functional.cross_entropy``.

    Example:
        Waiting times, exponential with a mean that depends on the input:

        >>> import bayesdrop as bd
        >>> class Exponential(bd.Likelihood):
        ...     is_classifier = False
        ...
        ...     def distribution(self, output, batch_ndim=1):
        ...         return dist.Exponential((-output).exp()).to_event(output.ndim - batch_ndim)
        ...
        ...     def target(self, output, y):
        ...         return y.reshape(output.shape).to(output.dtype)
        ...
        ...     def moments(self, output):
        ...         return output.exp(), (2 * output).exp()
        ...
        ...     def cdf(self, output, target):
        ...         return -torch.expm1(-target * (-output).exp())
        >>> bnn = bd.BayesianNetwork(nn.Linear(2, 1), Exponential(), num_data=10)
        >>> bd.predict(bnn, (torch.zeros(5, 2), torch.ones(5))).pit.shape
        torch.Size([5, 1])
    """

    is_classifier: ClassVar[bool]
    """Whether predictions are class probabilities (else a mean and a variance)."""
    has_logits: ClassVar[bool] = False
    """Whether the output is the logits of one softmax; then predictions have an energy and the
    norm of the logits, which probabilities do not determine."""
    has_normal_noise: ClassVar[bool] = False
    """Whether ``y`` is normal with the ``moments``; then the CRPS has a closed form."""

    # -- what a likelihood defines -------------------------------------------------------------

    @abstractmethod
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        """Return the Pyro distribution of ``y`` given the network's output.

        Args:
            output: Network output; its first ``batch_ndim`` dimensions are the batch.
            batch_ndim: 1, or more where several posterior samples are evaluated side by side.
        """

    @abstractmethod
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        """Return ``y`` in the shape and dtype the distribution expects, or say what is wrong."""

    @abstractmethod
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return class probabilities and None, or the mean and variance of ``y``."""

    # -- what it may define --------------------------------------------------------------------

    @property
    def is_density(self) -> bool:
        """Whether ``distribution`` has the log density of ``y``, and no weighted form of it."""
        return True

    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        """Return what the objective takes for the log-likelihood of each example, ``(N,)``, nats.

        All of an example's outputs are summed; what is missing adds nothing.

        Args:
            output: Network output, ``(N, ...)``.
            y: Targets of any shape that ``target`` takes.
        """
        return self.distribution(output).log_prob(self.target(output, y))

    def log_density(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the log density of each example's target in nats, ``(N,)``, as it is reported.

        It is ``log_prob`` wherever ``is_density``.

        Args:
            output: Network output, ``(N, ...)``.
            y: Targets of any shape that ``target`` takes.
        """
        return self.log_prob(output, y)

    def nll(self, output: Tensor, y: Tensor) -> Tensor:
        """Return minus the sum of ``log_prob`` over a batch, in nats: what training minimises."""
        return -self.distribution(output).log_prob(self.target(output, y)).sum()

    def cdf(self, output: Tensor, target: Tensor) -> Tensor | None:
        r"""Return the distribution function at the targets, of their shape; None if unknown.

        .. math:: P(y < t) + \tfrac12 P(y = t)

        For a continuous law that is :math:`P(y \le t)`. For a discrete one it is the mid-
        distribution function, the average of the randomised probability integral transform: a
        central interval then covers its nominal probability up to that of one atom, and the
        functions of several posterior samples average to that of their mixture.

        Args:
            output: Network output, ``(N, ...)``.
            target: What ``target`` returned.
        """
        return None

    def crps(self, means: Tensor, variances: Tensor, target: Tensor) -> Tensor | None:
        """Return the continuous ranked probability score of each target; None if unknown.

        It is that of the mixture of the posterior samples' laws, see
        ``continuous_ranked_probability_score`` of ``bayesdrop.metrics``. The default knows that of
        normal noise.

        Args:
            means: What ``moments`` returned for each posterior sample, ``(S, N, ...)``.
            variances: Likewise.
            target: What ``target`` returned, ``(N, ...)``.
        """
        if not self.has_normal_noise:
            return None
        mean, variance = (part.flatten(1)[..., None] for part in (means, variances))
        mixture = as_mixture("crps", mean, target.reshape(-1, 1), variance)
        return crps_per_target(mixture).reshape(target.shape)

    def doubt(self, output: Tensor) -> str | None:
        """Return what makes one doubt that the network ends as this likelihood expects, if any.

        ``fit`` warns of it, once, after the first pass.

        Args:
            output: Network output, ``(N, ...)``, of a pass with gradients.
        """
        return None

    # -- classifiers only ----------------------------------------------------------------------

    def logits(self, output: Tensor) -> Tensor:
        """Return the logits with the classes in dimension 1, if it ``has_logits``."""
        return output

    def label_log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the log-probability of each label in nats, of the target's shape.

        It comes from the logits, so that it is right where a probability is too small for its
        dtype. A missing label's is 0.

        Args:
            output: Network output, ``(N, ...)``.
            y: Targets of any shape that ``target`` takes.
        """
        return elements(self.distribution(output)).log_prob(self.target(output, y))

    def entropy(self, probabilities: Tensor) -> Tensor:
        """Return the entropy of class probabilities in nats: ``(N, C, ...)`` to ``(N, ...)``."""
        # torch.special.entr takes ten times as long on a CPU, and at 0 the limit is this anyway.
        least = torch.finfo(probabilities.dtype).tiny
        return -(probabilities * probabilities.clamp(min=least).log()).sum(1)

    def confidence(self, probabilities: Tensor) -> Tensor:
        """Return the largest probability: ``(N, C, ...)`` to ``(N, ...)``."""
        return probabilities.amax(1)

    def flatten_labels(self, probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return every labelled element as an example of its own, for metrics over arrays.

        Args:
            probabilities: What ``moments`` returned, or its average over samples, ``(N, C, ...)``.
            y: The targets.

        Returns:
            ``(M, C)`` and ``(M,)``, missing labels left out; a binary likelihood returns the
            probability of 1, ``(M,)``, and ``(M,)``.
        """
        labels = self.target(probabilities, y)
        return probabilities.movedim(1, -1).reshape(-1, probabilities.shape[1]), labels.flatten()


def require_rows(who: str, output: Tensor, y: Tensor) -> None:
    """Raise ``ShapeError`` unless there is a target for each output."""
    if y.shape[:1] != output.shape[:1]:
        raise ShapeError(
            who,
            expected=f"one target for each of {output.shape[0]} outputs",
            got=f"targets of shape {tuple(y.shape)}",
            hint="Are x and y from the same batch?",
        )


def match_shape(who: str, output: Tensor, y: Tensor) -> Tensor:
    """Return targets of the output's shape, or raise ``ShapeError``.

    ``(N,)`` against ``(N, 1)`` would broadcast to ``(N, N)``: the classic silent regression bug.
    """
    require_rows(who, output, y)
    if y.ndim == 1 and output.shape[1:] == (1,):
        y = y.unsqueeze(-1)
    if y.shape != output.shape:
        raise ShapeError(
            who,
            expected=f"targets of shape {tuple(output.shape)}",
            got=str(tuple(y.shape)),
            hint="Targets and network outputs must have the same shape.",
        )
    return y


def finite_target(who: str, output: Tensor, y: Tensor) -> Tensor:
    """Return real targets in the output's shape and dtype.

    Raises:
        DataError: If one is NaN or infinite; ``ShapeError`` if shapes do not fit.
    """
    y = match_shape(who, output, y).to(output.dtype)
    if _has_values(y) and bool((bad := ~torch.isfinite(y)).any()):
        raise DataError(
            who,
            expected="finite targets",
            got=f"NaN or infinity in row {first_row(bad)} of the batch",
            hint="Missing targets are not supported here: leave those rows out.",
        )
    return y


def count_target(who: str, output: Tensor, y: Tensor) -> Tensor:
    """Return counts in the output's shape and dtype.

    Raises:
        DataError: If one is negative or no whole number; ``ShapeError`` if shapes do not fit.
    """
    y = match_shape(who, output, y).to(output.dtype)
    if not _has_values(y):
        return y
    bad = ~(torch.isfinite(y) & (y >= 0) & (y == y.round()))
    if bool(bad.any()):
        raise DataError(
            who,
            expected="counts: whole numbers >= 0",
            got=f"{float(y[bad][0]):g} in row {first_row(bad)} of the batch",
            hint="Do not standardise or take logs of counts. Missing targets are not supported "
            "here: leave those rows out.",
        )
    return y


def _has_values(y: Tensor) -> bool:
    # On an accelerator a check would wait for the device at every step; under a transform there is
    # no value.
    return y.device.type == "cpu" and not takes_plain_operations()


def first_row(bad: Tensor) -> int:
    """Return the first row in which anything is true."""
    return int(bad.reshape(len(bad), -1).any(1).nonzero()[0])
