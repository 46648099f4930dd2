"""Temperature scaling: one number, fitted on validation data, that mends over-confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.checks import (
    Array,
    as_labels,
    as_mean_probabilities,
    require_examples,
    require_finite,
    require_two_classes,
)
from bayesdrop.record import Record

# A network that is certain and wrong in one of ten needs 708 / log 9 = 322.
_COLDEST, _HOTTEST = 1e-3, 1e4


@dataclass(frozen=True)
class TemperatureScaling(Record):
    """What ``fit_temperature`` returns; call it with the probabilities of other data.

    Args:
        temperature: Above 1 the network was over-confident, below 1 under-confident.
        nll_before: Negative log-likelihood of the validation data, nats per example.
        nll_after: The same after scaling.
        num_examples: Validation examples.
    """

    temperature: float
    nll_before: float
    nll_after: float
    num_examples: int

    def __call__(self, predictions: Array, *, logits: bool = False) -> Tensor:
        r"""Return :math:`p_{nc}^{1 / T} / \sum_k p_{nk}^{1 / T}`, ``(N, C)`` in float64.

        Args:
            predictions: As for ``fit_temperature``.
            logits: Whether they are logits.

        Raises:
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.
        """
        log_p = _log_probabilities("TemperatureScaling", predictions, logits)
        return (log_p / self.temperature).softmax(-1)


def fit_temperature(
    predictions: Array, labels: Array, *, logits: bool = False
) -> TemperatureScaling:
    r"""Choose the temperature that gives validation labels the highest likelihood.

    .. math::
        T = \arg\min_T -\frac1N \sum_n \log q_{n y_n}, \qquad
        q_{nc} = \frac{\bar p_{nc}^{1 / T}}{\sum_k \bar p_{nk}^{1 / T}}, \qquad
        \bar p_n = \frac1S \sum_s p_{ns}

    Scaling changes no decision: the order of the classes stays. The objective is convex in
    :math:`1 / T`, so the one root of its derivative is found by bisection and secants, to
    rounding. Fit it on data the network was neither trained nor is tested on.

    Args:
        predictions: ``(N, C)``, P(y = 1) of shape ``(N,)``, or posterior samples ``(S, N, C)``.
            Samples are averaged as probabilities, then scaled. Probabilities of exactly 0 count as
            float64's smallest normal number, so that a certain mistake can be mended.
        labels: Integers ``(N,)`` of at least two classes.
        logits: Whether ``predictions`` are logits, ``(N, C)`` or ``(S, N, C)``.

    Raises:
        DataError: If no temperature between 0.001 and 10,000 is best, as where all predictions are
            right, or worse than chance; or if the values make no sense, ``ShapeError`` if the
            shapes do not.

    References:
        Guo, Pleiss, Sun, Weinberger (2017), https://arxiv.org/abs/1706.04599. Scaling after
        averaging: Rahaman, Thiery (2021), https://arxiv.org/abs/2007.08792.

    Example:
        >>> p = torch.tensor([[0.9, 0.1]]).expand(10, 2)
        >>> labels = torch.tensor([0] * 7 + [1] * 3)  # 0.9 is right in 7 of 10
        >>> scaling = fit_temperature(p, labels)
        >>> bool((scaling(p)[0, 0] - 0.7).abs() < 1e-6), scaling.temperature > 1
        (True, True)
    """
    from scipy.optimize import brentq

    who = "fit_temperature"
    log_p = _log_probabilities(who, predictions, logits)
    target = as_labels(who, labels, log_p, predictions)
    require_two_classes(who, target)
    # Scaling is the same; equal probabilities are then exactly 0, and so is their slope.
    log_p = log_p - log_p.amax(1, keepdim=True)
    chosen = log_p.gather(1, target[:, None]).squeeze(1)

    def nll(temperature: float) -> float:
        return float(((log_p / temperature).logsumexp(1) - chosen / temperature).mean())

    def slope(log_sharpness: float) -> float:
        expected = ((log_p * math.exp(log_sharpness)).softmax(1) * log_p).sum(1)
        return float((expected - chosen).mean())

    flat, sharp = -math.log(_HOTTEST), -math.log(_COLDEST)
    if not slope(flat) < 0.0 < slope(sharp):
        best = _HOTTEST if slope(flat) >= 0.0 else _COLDEST
        raise DataError(
            who,
            expected=f"a best temperature between {_COLDEST:g} and {_HOTTEST:g}",
            got=f"a likelihood that still rises, or stays, at {best:g}",
            hint="Are all predictions right (training data?), equal, or worse than chance?",
        )
    temperature = math.exp(-brentq(slope, flat, sharp, xtol=1e-12))
    return TemperatureScaling(temperature, nll(1.0), nll(temperature), len(target))


def _log_probabilities(who: str, predictions: Array, logits: bool) -> Tensor:
    values = as_tensor(who, predictions).to("cpu", torch.float64)
    if logits:
        if values.ndim not in (2, 3) or values.shape[-1] < 2:
            raise ShapeError(
                who,
                expected="logits of shape (N, classes) or (S, N, classes)",
                got=str(tuple(values.shape)),
                hint="One logit? Pass its sigmoid, with logits=False.",
            )
        require_examples(who, "logits", values)
        require_finite(who, "logits", values)
        if values.ndim == 2:
            return values.log_softmax(-1)
        values = values.softmax(-1)
    mean = as_mean_probabilities(who, values)
    return mean.clamp(min=torch.finfo(torch.float64).tiny).log()
