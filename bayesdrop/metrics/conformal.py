"""Split conformal prediction: sets of classes and intervals that hold the truth as often as asked.

A quantile of scores on data not trained on; whatever the network, and however bad, the coverage
holds. MAPIE and crepes do more of the kind, around estimators of scikit-learn and with pandas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics.arrays import as_tensor, check_index
from bayesdrop.metrics.checks import Array, as_mean_probabilities, require_finite
from bayesdrop.metrics.examples import as_examples
from bayesdrop.metrics.options import require_fraction
from bayesdrop.record import Record


@dataclass(frozen=True)
class ConformalSets(Record):
    """What ``conformal_sets`` returns.

    Args:
        threshold: The smallest probability of a class in a set.
        miscoverage: As asked for.
        num_examples: Validation examples.
    """

    threshold: float
    miscoverage: float
    num_examples: int

    def predict(self, predictions: Array) -> Tensor:
        """Return the classes of each example's set, booleans ``(N, C)``; a set may be empty.

        Args:
            predictions: As for ``conformal_sets``.

        Raises:
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.
        """
        return as_mean_probabilities("ConformalSets.predict", predictions) >= self.threshold


def conformal_sets(predictions: Array, labels: Array, *, miscoverage: float) -> ConformalSets:
    r"""Choose, on validation data, how probable a class must be to belong to a set.

    .. math::
        C(x) = \{c : p_c(x) \ge 1 - \hat q\}, \qquad
        \hat q = s_{(\lceil (n + 1)(1 - \alpha) \rceil)}, \quad s_i = 1 - p_{y_i}(x_i)

    Then :math:`P(y \in C(x)) \ge 1 - \alpha` for a new example that is exchangeable with the
    validation examples, on average over both (not for each class or input), and at most
    :math:`1 / (n + 1)` more where no scores are tied.

    Args:
        predictions: Probabilities ``(N, C)``, P(y = 1) of shape ``(N,)``, or posterior samples
            ``(S, N, C)``, which are averaged; of data not trained on.
        labels: Integers ``(N,)``.
        miscoverage: :math:`\alpha`, inside (0, 1).

    Raises:
        ConfigError: If ``miscoverage`` is not inside (0, 1).
        DataError: If there are fewer than :math:`1 / \alpha - 1` examples, or the values make no
            sense; ``ShapeError`` if the shapes do not.

    References:
        Sadinle, Lei, Wasserman (2019), https://arxiv.org/abs/1609.00451; Vovk, Gammerman, Shafer
        (2005), "Algorithmic learning in a random world".

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
        >>> sets = conformal_sets(p, torch.tensor([0, 1, 1]), miscoverage=0.25)
        >>> sets.predict(torch.tensor([[0.5, 0.5], [0.7, 0.3]])).tolist()
        [[True, True], [True, False]]
    """
    who = "conformal_sets"
    require_fraction(who, "miscoverage", miscoverage)
    examples = as_examples(who, predictions, labels, average=True)
    of_label = examples.probabilities.gather(1, examples.labels[:, None]).squeeze(1)
    rank = conformal_rank(who, len(of_label), miscoverage)
    # Its own value, not 1 - (1 - p), so that the example itself is in its set.
    threshold = float(of_label.sort(descending=True).values[rank - 1])
    return ConformalSets(threshold, miscoverage, len(of_label))


@dataclass(frozen=True)
class ConformalIntervals(Record):
    """What ``conformal_intervals`` returns.

    Args:
        quantile: Half of an interval's width, in the units of ``y``, or in scales.
        miscoverage: As asked for.
        num_examples: Validation examples.
    """

    quantile: float
    miscoverage: float
    num_examples: int

    def predict(self, mean: Array, *, scale: Array | None = None) -> tuple[Tensor, Tensor]:
        """Return the lower and upper ends, of the shape of ``mean``.

        Args:
            mean: Point predictions ``(N,)`` or ``(N, 1)``.
            scale: As for ``conformal_intervals``, if it had one.

        Raises:
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.
        """
        who = "ConformalIntervals.predict"
        centre = _as_column(who, "mean", mean)
        half = self.quantile * _as_scale(who, scale, centre)
        shape = as_tensor(who, mean).shape
        return (centre - half).reshape(shape), (centre + half).reshape(shape)


def conformal_intervals(
    mean: Array, y: Array, *, miscoverage: float, scale: Array | None = None
) -> ConformalIntervals:
    r"""Choose, on validation data, how wide an interval around a regression must be.

    .. math::
        C(x) = \mu(x) \pm \hat q\, \sigma(x), \qquad
        \hat q = s_{(\lceil (n + 1)(1 - \alpha) \rceil)}, \quad
        s_i = \frac{|y_i - \mu(x_i)|}{\sigma(x_i)}

    Coverage is guaranteed as for ``conformal_sets``.

    Args:
        mean: Point predictions ``(N,)`` or ``(N, 1)``, of data not trained on.
        y: Targets of the same number.
        miscoverage: :math:`\alpha`, inside (0, 1).
        scale: :math:`\sigma > 0`, such as ``prediction.variance.sqrt()``, with which intervals are
            wider where the network is less sure; None makes all equally wide. One that is wrong
            costs width, not coverage.

    Raises:
        ConfigError: If ``miscoverage`` is not inside (0, 1).
        DataError: If there are fewer than :math:`1 / \alpha - 1` examples, or the values make no
            sense; ``ShapeError`` if the shapes do not.

    References:
        Lei, G'Sell, Rinaldo, Tibshirani, Wasserman (2018), sections 2.2 and 5.2,
        https://arxiv.org/abs/1604.04173.

    Example:
        >>> intervals = conformal_intervals(torch.zeros(3), torch.arange(3.0), miscoverage=0.25)
        >>> [end.tolist() for end in intervals.predict(torch.tensor([5.0]))]
        [[3.0], [7.0]]
    """
    who = "conformal_intervals"
    require_fraction(who, "miscoverage", miscoverage)
    check_index(who, mean, y, scale)
    centre, target = _as_column(who, "mean", mean), _as_column(who, "y", y)
    if len(centre) != len(target):
        raise ShapeError(
            who,
            expected=f"{len(centre)} targets, one for each prediction",
            got=f"{len(target)}",
            hint="Do both come from the same data?",
        )
    distance = (target - centre).abs() / _as_scale(who, scale, centre)
    rank = conformal_rank(who, len(distance), miscoverage)
    return ConformalIntervals(float(distance.sort().values[rank - 1]), miscoverage, len(distance))


def conformal_rank(who: str, count: int, miscoverage: float) -> int:
    r"""Return :math:`\lceil (n + 1)(1 - \alpha) \rceil`, the rank of the score that is enough.

    Raises:
        DataError: If that is more than there are examples.
    """
    # Exact where (n + 1) alpha is a whole number, which floats may miss by one in the last place.
    rank = count + 1 - math.floor((count + 1) * miscoverage + 1e-9)
    if rank > count:
        raise DataError(
            who,
            expected=f"at least {math.ceil(1 / miscoverage - 1e-9) - 1} examples for a rate of "
            f"{miscoverage:g}",
            got=f"{count}",
            hint="Bring more validation data, or a larger rate.",
        )
    return rank


def _as_column(who: str, name: str, values: Array) -> Tensor:
    column = as_tensor(who, values).to("cpu", torch.float64)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column.squeeze(1)
    if column.ndim != 1 or not len(column):
        raise ShapeError(
            who,
            expected=f"{name} of shape (N,) or (N, 1)",
            got=str(tuple(column.shape)),
            hint="Take one output at a time; it then has its own coverage.",
        )
    require_finite(who, name, column)
    return column


def _as_scale(who: str, scale: Array | None, like: Tensor) -> Tensor:
    if scale is None:
        return torch.ones_like(like)
    values = _as_column(who, "scale", scale)
    if len(values) != len(like) or not bool((values > 0).all()):
        raise DataError(
            who,
            expected=f"{len(like)} scales > 0",
            got=f"{len(values)}, from {float(values.min()):g} up",
            hint="Pass standard deviations, one for each prediction.",
        )
    return values
