"""A prediction with its uncertainty taken apart, as arrays."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.metrics.coverage import predictive_interval
from bayesdrop.record import ShortRepr

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(ShortRepr):
    r"""What ``predict`` returns; all tensors are on the CPU, rows in the order of the data.

    .. math::
        \bar p_n = \frac1S \sum_s p_{ns}, \qquad
        \underbrace{H[\bar p_n]}_{\text{predictive}} =
        \underbrace{\tfrac1S \textstyle\sum_s H[p_{ns}]}_{\text{expected}} +
        \underbrace{I_n}_{\text{mutual information}}, \qquad
        \underbrace{v_n}_{\text{variance}} =
        \underbrace{\tfrac1S \textstyle\sum_s \sigma^2_{ns}}_{\text{aleatoric}} +
        \underbrace{\tfrac1S \textstyle\sum_s (\mu_{ns} - \bar\mu_n)^2}_{\text{epistemic}}

    Args:
        mean: Class probabilities averaged over posterior samples (never logits), or the predictive
            mean, ``(N, C)``. Of outputs with more dimensions ``(N, C, ...)``, classes in dimension
            1; the fields given as ``(N,)`` below are then ``(N, ...)``, as the labels are.
        num_samples: Posterior samples :math:`S`; 1 for a mean mask and for a network without
            Bayesian layers; mutual information and epistemic variance are then 0.
        unbiased: Whether mutual information and epistemic variance are the averages above times
            :math:`S / (S - 1)`, as estimates of the posterior's. Without it they are those of the
            mixture of the :math:`S` samples, and smaller by that factor on average.
        samples: Probabilities, or means, of each posterior sample, ``(S, N, C)``, if kept.
        y: The targets that came with the data, if any.
        confidence: Probability of the most probable class, ``(N,)``; classifiers only. For several
            Bernoulli outputs it is the average of :math:`\max(\bar p, 1 - \bar p)`, ``(N,)``.
        predictive_entropy: Entropy of ``mean`` in nats, ``(N,)``; classifiers only. For several
            Bernoulli outputs it is the sum of their entropies, ``(N,)``.
        expected_entropy: Average entropy of a sample, in nats, ``(N,)``; classifiers only.
        mutual_information: Their difference, in nats, >= 0, ``(N,)``, times
            :math:`S / (S - 1)` if ``unbiased``; classifiers only.
        energy: :math:`-\frac1S \sum_s \log \sum_c \exp f_{nsc}` of the logits, ``(N,)``;
            ``Categorical`` only, since probabilities do not determine it.
        logit_norm: :math:`\lVert \frac1S \sum_s f_{ns} \rVert_2`, ``(N,)``; ``Categorical`` only.
        variance: ``aleatoric_variance + epistemic_variance``, ``(N, D)``; regression only.
        aleatoric_variance: Average variance of the noise, ``(N, D)``; regression only.
        epistemic_variance: Variance of the samples' means, ``(N, D)``; regression only.
        log_likelihood: :math:`\log \frac1S \sum_s p(y_n \mid x_n, s)` in nats, float64, with
            targets only: ``(N,)`` of a regression, of a classifier one for each label, of the
            labels' shape, 0 where one is missing.
        sample_variances: Variance of each posterior sample's noise, ``(S, N, D)``, kept along with
            ``samples``, if the likelihood has a ``crps``; regression only. The samples' laws are
            normal with these variances only if it ``has_normal_noise``.
        has_normal_noise: Whether the noise of a regression is normal.
        has_classes: Whether a classifier's example is of one of several classes, and has no label
            for each output.
        pit: Predictive distribution function at the targets, ``(N, D)``; regression with targets
            only, and only if the likelihood has a ``cdf``.
    """

    mean: Tensor
    num_samples: int
    unbiased: bool = False
    samples: Tensor | None = None
    y: Tensor | None = None
    confidence: Tensor | None = None
    predictive_entropy: Tensor | None = None
    expected_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    energy: Tensor | None = None
    logit_norm: Tensor | None = None
    variance: Tensor | None = None
    aleatoric_variance: Tensor | None = None
    epistemic_variance: Tensor | None = None
    log_likelihood: Tensor | None = None
    sample_variances: Tensor | None = None
    pit: Tensor | None = None
    has_normal_noise: bool = field(default=False, repr=False)
    has_classes: bool = field(default=True, repr=False)

    def to_frame(
        self, *, classes: Sequence[object] | None = None, level: float = 0.9
    ) -> pandas.DataFrame:
        """Return a pandas DataFrame with a row for each example.

        Of a classifier: ``label``, the most probable class; ``probability_...`` of each class; and
        those of ``confidence``, ``predictive_entropy``, ``expected_entropy``,
        ``mutual_information``, ``energy`` and ``logit_norm`` that there are. Of several yes-or-no
        labels: ``label_0``, ``label_1``, ..., each with its probability. Of a regression:
        ``mean``, ``std``, ``aleatoric_std``, ``epistemic_std`` and, where samples were kept and
        the noise is normal, ``lower`` and ``upper``, the ends of the central interval; of several
        outputs with ``_0``, ``_1``, ... behind. In the end ``y`` and ``log_likelihood``, if the
        data had targets.

        Args:
            classes: Names of the classes, or of the outputs; None numbers them.
            level: Probability of the interval, inside (0, 1).

        Raises:
            ConfigError: If there are other than so many names, or ``level`` makes no sense.
            ImportError: Without pandas, ``pip install bayesdrop[frames]``.
            ShapeError: If an example has outputs of several dimensions, such as pixels.

        Example:
            >>> import torch, bayesdrop as bd
            >>> bnn = bd.BayesianNetwork(torch.nn.Linear(4, 2), bd.Categorical(), num_data=10)
            >>> frame = bd.predict(bnn, torch.zeros(3, 4)).to_frame(classes=["no", "yes"])
            >>> frame.shape, list(frame.columns[:3])
            ((3, 9), ['label', 'probability_no', 'probability_yes'])
        """
        pandas = _import_pandas()
        if self.mean.ndim > 2:
            raise ShapeError(
                "to_frame",
                expected="one row of outputs for each example",
                got=f"predictions of shape {tuple(self.mean.shape)}",
                hint="Pixels or steps? bnn.likelihood.flatten_labels(p, y) makes them rows.",
            )
        count = self.mean[0].numel() if len(self.mean) else self.mean.shape[-1]
        names = list(range(count) if classes is None else classes)
        if len(names) != count:
            raise ConfigError(
                "to_frame",
                expected=f"{count} names of classes or outputs",
                got=f"{len(names)}",
                hint="They are in the order of the network's outputs.",
            )
        ends = [""] if classes is None and count == 1 else [f"_{name}" for name in names]
        if self.confidence is None:
            columns = self._of_regression(ends, level)
        elif self.has_classes and count > 1:
            label = np.asarray(names)[self.mean.argmax(1).numpy()]
            columns = {"label": label} | _side_by_side("probability", ends, self.mean)
        else:
            columns = _side_by_side("label", ends, (self.mean >= 0.5).long())
            columns |= _side_by_side("probability", ends, self.mean)
        for name in _OF_CLASSIFIERS:
            if (value := getattr(self, name)) is not None:
                columns[name] = value.numpy()
        for name in ("y", "log_likelihood"):
            if (value := getattr(self, name)) is not None:
                one = value[:1].numel() == 1
                columns |= _side_by_side(name, [""] if one else ends, value)
        return pandas.DataFrame(columns)

    def _of_regression(self, ends: list[str], level: float) -> dict[str, np.ndarray]:
        columns = _side_by_side("mean", ends, self.mean)
        for name in ("", "aleatoric_", "epistemic_"):
            if (value := getattr(self, f"{name}variance")) is not None:
                columns |= _side_by_side(f"{name}std", ends, value.sqrt())
        # Without normal noise the variances are those of other laws, whose intervals are others.
        variances = self.sample_variances if self.has_normal_noise else None
        if self.samples is not None and variances is not None:
            interval = predictive_interval(self.samples, level, variances)
            for name, value in zip(("lower", "upper"), interval, strict=True):
                columns |= _side_by_side(name, ends, value)
        return columns


_OF_CLASSIFIERS = (
    *("confidence", "predictive_entropy", "expected_entropy", "mutual_information"),
    *("energy", "logit_norm"),
)


def _side_by_side(name: str, ends: list[str], values: Tensor) -> dict[str, np.ndarray]:
    """Return a column for each output, or end of its name."""
    parts = values.reshape(len(values), len(ends)).numpy().T
    return {name + end: part for end, part in zip(ends, parts, strict=True)}


def _import_pandas() -> ModuleType:
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("to_frame needs pandas: pip install 'bayesdrop[frames]'.") from error
