"""A regression of tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.estimators.estimator import NetworkEstimator
from bayesdrop.likelihoods import Gaussian, Likelihood
from bayesdrop.metrics.coverage import predictive_interval


@dataclass(kw_only=True, eq=False, repr=False)
class BayesdropRegressor(RegressorMixin, NetworkEstimator):
    r"""Regression of tables with Bayesian dropout, as an estimator of scikit-learn.

    As ``BayesdropClassifier``; targets, too, are standardised by the training rows, and all that
    is predicted is in their own units again. The predictive distribution is the mixture, over
    masks, of normal distributions.

    Args:
        scale: Noise of a target: ``"heteroscedastic"``, an output of the network beside the mean
            (which then has two outputs for each target, means first), or ``"learned"``, one
            number for each target.

    Attributes:
        n_outputs_: Number of targets :math:`D`.
        n_features_in_: Number of input columns.
        feature_names_in_: As of ``BayesdropClassifier``.
        bnn_: The fitted ``BayesianNetwork``, of standardised inputs and targets.
        history_: The record of each epoch, losses in standardised units.

    All other arguments are those of ``BayesdropClassifier``.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 60).reshape(-1, 1)
        >>> model = BayesdropRegressor(epochs=5, random_state=0).fit(x, 100 + x[:, 0])
        >>> mean, std = model.predict(x, return_std=True)
        >>> lower, upper = model.predict_interval(x, level=0.9)
        >>> mean.shape, bool((std > 0).all()), bool((lower < upper).all())
        ((60,), True, True)
    """

    scale: Literal["heteroscedastic", "learned"] = "heteroscedastic"

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit network and posterior.

        Args:
            X: Numbers ``(N, D)``, as for ``BayesdropClassifier.fit``.
            y: Targets ``(N,)``, or ``(N, D)`` for several; predictions have the same form.
            sample_weight: As for ``BayesdropClassifier.fit``.

        Raises:
            ValueError: If these are no such thing, or an argument makes no sense.
            DivergenceError: If the loss is not finite.
        """
        if self.scale not in ("heteroscedastic", "learned"):
            raise ConfigError(
                type(self).__name__,
                expected="scale to be 'heteroscedastic' or 'learned'",
                got=repr(self.scale),
                hint="'learned' is one noise scale for each target.",
            )
        x, targets = self._rows(X, y, multi_output=True, y_numeric=True)
        weights = self._weights(sample_weight, x)
        self._one_dimensional = targets.ndim == 1
        columns = targets.reshape(len(targets), -1).astype(np.float64)
        self.n_outputs_ = columns.shape[1]
        self._target_scaler = StandardScaler().fit(columns, sample_weight=weights)
        return self._fit(x, torch.from_numpy(self._target_scaler.transform(columns)), weights)

    @override
    def _likelihood(self) -> tuple[Likelihood, int]:
        outputs = self.n_outputs_
        likelihood = Gaussian(self.scale, num_outputs=outputs)
        return likelihood, 2 * outputs if self.scale == "heteroscedastic" else outputs

    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
    ) -> Any:
        """Return the predictive mean, and with ``return_std`` its standard deviation.

        Args:
            X: Numbers ``(N, D)``.
            return_std: Whether to return the standard deviation of a new target as well, noise
                included, as a Gaussian process of scikit-learn with a white kernel does.
        """
        found = self._predict(X)
        mean = self._shaped(self._target_scaler.inverse_transform(found.mean.double().numpy()))
        return (mean, self._in_units(cast(Tensor, found.variance)) ** 0.5) if return_std else mean

    def predict_interval(
        self,
        X: ArrayLike,
        level: float = 0.9,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return both ends of the central interval that holds a new target with ``level``.

        Args:
            X: Numbers ``(N, D)``.
            level: A probability, inside (0, 1).
        """
        found = self._predict(X, keep_samples=True)
        ends = predictive_interval(cast(Tensor, found.samples), level, found.sample_variances)
        lower, upper = (
            self._shaped(self._target_scaler.inverse_transform(end.numpy())) for end in ends
        )
        return lower, upper

    def predict_uncertainty(self, X: ArrayLike) -> dict[str, np.ndarray]:
        """Return what ``bd.predict`` says of each row, by name, in squared units of the target.

        ``variance`` is the sum of ``aleatoric_variance``, the noise, and ``epistemic_variance``,
        how much the masks disagree about the mean.
        """
        found = self._predict(X)
        names = ("variance", "aleatoric_variance", "epistemic_variance")
        return {name: self._in_units(getattr(found, name)) for name in names}

    def _in_units(self, variance: Tensor) -> np.ndarray:
        return self._shaped(variance.double().numpy() * self._target_scaler.scale_**2)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._one_dimensional else values

    def __sklearn_tags__(self) -> Any:
        """Say that there may be several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
