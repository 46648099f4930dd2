"""What the network's output means: the distribution of the observation given it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.ops.stable import inverse_softplus


class Likelihood(nn.Module, ABC):
    """Abstract likelihood: network output to the distribution of ``y``.

    The distribution's batch shape is the data plate's, ``output.shape[:1]``; the rest is event.
    """

    is_classifier: ClassVar[bool]
    """Whether predictions are class probabilities (else a mean and a variance)."""

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

    def nll(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the summed negative log-likelihood of a batch, in nats."""
        return -self.distribution(output).log_prob(self.target(output, y)).sum()


def _require_rows(who: str, output: Tensor, y: Tensor) -> None:
    if y.shape[:1] != output.shape[:1]:
        raise ShapeError(
            who,
            expected=f"one target for each of {output.shape[0]} outputs",
            got=f"targets of shape {tuple(y.shape)}",
            hint="Are x and y from the same batch?",
        )


class Categorical(Likelihood):
    r"""Classification: :math:`y_n \sim \mathrm{Categorical}(\mathrm{softmax}(f_n))`.

    Shape:  network output ``(N, C)`` logits; target ``(N,)`` integers in ``[0, C)``.

    Example:
        >>> Categorical().distribution(torch.zeros(5, 3)).batch_shape
        torch.Size([5])
    """

    is_classifier = True

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        return dist.Categorical(logits=output)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        if output.ndim != 2:
            raise ShapeError(
                "Categorical",
                expected="network output of shape (N, classes)",
                got=str(tuple(output.shape)),
                hint="Does the network end in a Linear layer with one output per class?",
            )
        _require_rows("Categorical", output, y)
        if y.ndim != 1 or y.is_floating_point():
            raise DataError(
                "Categorical",
                expected="integer labels of shape (N,)",
                got=f"{y.dtype} of shape {tuple(y.shape)}",
                hint="One-hot labels? Use y.argmax(1). Float labels? Use y.long().",
            )
        # On an accelerator the check would wait for the device at every step.
        if y.device.type == "cpu" and y.numel() and not 0 <= y.min() <= y.max() < output.shape[1]:
            raise DataError(
                "Categorical",
                expected=f"labels in 0..{output.shape[1] - 1}",
                got=f"labels from {int(y.min())} to {int(y.max())}",
                hint="Does the network have one output per class?",
            )
        return y.long()

    @override
    def nll(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output, self.target(output, y), reduction="sum")

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        return output.softmax(-1), None


class Bernoulli(Likelihood):
    r"""Independent binary targets: :math:`y_{nj} \sim \mathrm{Bernoulli}(\sigma(f_{nj}))`.

    Shape:  network output ``(N, ...)`` logits; target the same shape, or ``(N,)`` for an output of
        ``(N, 1)``, with values 0 and 1.

    Example:
        >>> Bernoulli().distribution(torch.zeros(5, 3)).event_shape
        torch.Size([3])
    """

    is_classifier = True

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=output).to_event(output.ndim - batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        y = _match_shape("Bernoulli", output, y).to(output.dtype)
        if not bool(((y == 0) | (y == 1)).all()):
            raise DataError(
                "Bernoulli",
                expected="targets of 0 and 1",
                got=f"values from {float(y.min()):g} to {float(y.max()):g}",
                hint="Threshold or sample grey values first.",
            )
        return y

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        return output.sigmoid(), None


class Gaussian(Likelihood):
    r"""Regression: :math:`y_{nj} \sim N(\mu_{nj}, \sigma^2_{nj})`.

    Args:
        scale: A number: fixed noise scale :math:`\sigma > 0`. ``"learned"``: one :math:`\sigma`
            for each output, a point estimate. ``"heteroscedastic"``: the network's output has two
            halves along its last dimension, the mean and a raw scale, :math:`\sigma =
            \mathrm{softplus}(\cdot)`.
        num_outputs: Number of outputs :math:`D`, for ``"learned"``.
        init_scale: Initial :math:`\sigma` for ``"learned"``.
        min_scale: Added to a learned or heteroscedastic scale, in the units of ``y``.

    Shape:  network output ``(N, D)``, or ``(N, 2 D)`` if heteroscedastic; target ``(N, D)``, or
        ``(N,)`` where ``D = 1``.

    Example:
        >>> Gaussian("heteroscedastic").distribution(torch.zeros(5, 2)).event_shape
        torch.Size([1])
    """

    is_classifier = False
    fixed_scale: Tensor

    def __init__(
        self,
        scale: float | Literal["learned", "heteroscedastic"] = "learned",
        *,
        num_outputs: int = 1,
        init_scale: float = 1.0,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        numeric = isinstance(scale, int | float) and not isinstance(scale, bool)
        if (numeric and not 0 < float(scale) < math.inf) or (
            not numeric and scale not in ("learned", "heteroscedastic")
        ):
            raise ConfigError(
                "Gaussian",
                expected="a positive noise scale, 'learned' or 'heteroscedastic'",
                got=repr(scale),
                hint="The default is 'learned'.",
            )
        if init_scale <= min_scale or min_scale < 0:
            raise ConfigError(
                "Gaussian",
                expected="init_scale > min_scale >= 0",
                got=f"init_scale={init_scale}, min_scale={min_scale}",
                hint="Both are in the units of y.",
            )
        self.mode = "fixed" if numeric else str(scale)
        self.min_scale = min_scale
        if numeric:
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))
        elif self.mode == "learned":
            raw = inverse_softplus(init_scale - min_scale)
            self.raw_scale = nn.Parameter(torch.full((num_outputs,), raw))

    def _mean_and_scale(self, output: Tensor) -> tuple[Tensor, Tensor]:
        if self.mode == "heteroscedastic":
            if output.shape[-1] % 2:
                raise ShapeError(
                    "Gaussian('heteroscedastic')",
                    expected="an even number of outputs: means, then raw scales",
                    got=f"output of shape {tuple(output.shape)}",
                    hint="Double the last layer's outputs.",
                )
            mean, raw = output.chunk(2, dim=-1)
            return mean, F.softplus(raw) + self.min_scale
        if self.mode == "fixed":
            return output, self.fixed_scale.expand_as(output)
        if output.ndim > 1 and self.raw_scale.numel() not in (1, output.shape[-1]):
            raise ShapeError(
                "Gaussian('learned')",
                expected=f"{self.raw_scale.numel()} outputs",
                got=f"output of shape {tuple(output.shape)}",
                hint="Pass num_outputs=... to Gaussian.",
            )
        return output, (F.softplus(self.raw_scale) + self.min_scale).expand_as(output)

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        mean, scale = self._mean_and_scale(output)
        return dist.Normal(mean, scale).to_event(mean.ndim - batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        return _match_shape("Gaussian", self._mean_and_scale(output)[0], y).to(output.dtype)

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, scale = self._mean_and_scale(output)
        return mean, scale.square()


def _match_shape(who: str, output: Tensor, y: Tensor) -> Tensor:
    # (N,) against (N, 1) would broadcast to (N, N): the classic silent regression bug.
    _require_rows(who, output, y)
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
