"""What the classifier and the regressor have in common: a network behind scikit-learn's contract.

``fit`` and ``predict`` of this package do the work. They are not put under skorch, whose loop
would have to learn the objective, its schedules and the posterior once more, and whose estimators
leave names of classes, dtypes and checks of the input to the user.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from bayesdrop.abstract import Abstract
from bayesdrop.compression import compact
from bayesdrop.conversion import convert
from bayesdrop.errors import ConfigError
from bayesdrop.inference import schedules
from bayesdrop.inference.fit import fit
from bayesdrop.inference.predict import predict
from bayesdrop.likelihoods import Likelihood
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.nn.arguments import is_whole
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program

NetworkFactory: TypeAlias = Callable[[int, int], nn.Module]
"""Called with the numbers of inputs and outputs; returns the network that is to be converted."""


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkEstimator(Abstract, BaseEstimator):
    """Abstract estimator: a network with dropout layers, of standardised inputs.

    A subclass defines ``fit``, which ends in ``_fit``, and ``_likelihood``. The arguments are
    described at ``BayesdropClassifier``.
    """

    hidden_layer_sizes: Sequence[int] = (100, 100)
    network: NetworkFactory | None = None
    dropout: str | None = "beta-bernoulli"
    dropout_options: Mapping[str, Any] | None = None
    kl_weight: float | schedules.Schedule = 1.0
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-2
    variational_learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    patience: int | None = None
    validation_fraction: float = 0.1
    num_samples: int | None = 64
    random_state: int | np.random.RandomState | None = None
    device: str | torch.device = "cpu"
    verbose: bool = False

    # -- what an estimator defines -------------------------------------------------------------

    @abstractmethod
    def _likelihood(self) -> tuple[Likelihood, int]:
        """Return the likelihood, and how many outputs of the network it takes."""

    # -- fitting -------------------------------------------------------------------------------

    def _fit(self, x: np.ndarray, y: Tensor) -> Self:
        """Fit the network to inputs ``(N, D)`` and targets as the likelihood takes them."""
        self._check()
        self._seed = int(check_random_state(self.random_state).randint(2**31))
        self._scaler = StandardScaler().fit(x)
        device = torch.device(self.device)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self._seed)
            bnn = self._program(len(x)).to(device)
            result = fit(
                bnn,
                (self._inputs(x, bnn), y.to(_dtype(bnn)) if y.is_floating_point() else y),
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                variational_learning_rate=self.variational_learning_rate,
                weight_decay=self.weight_decay,
                schedule=schedules.cosine(),
                kl_weight=self.kl_weight,
                validation=None if self.patience is None else float(self.validation_fraction),
                patience=self.patience,
                seed=self._seed,
                progress=self.verbose,
            )
        self.bnn_ = bnn
        self.history_ = result.history
        return self

    def _program(self, num_data: int) -> Program:
        likelihood, outputs = self._likelihood()
        if self.network is None:
            sizes = (self.n_features_in_, *map(int, self.hidden_layer_sizes))
            layers = [
                layer
                for pair in zip(sizes, sizes[1:], strict=False)
                for layer in (nn.Linear(*pair), nn.ReLU())
            ]
            network: nn.Module = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))
        else:
            network = self.network(self.n_features_in_, outputs)
        if self.dropout is not None:
            # Of a network from elsewhere nobody here knows whether it is trained.
            options: dict[str, Any] = {"trained": False} if self.network is None else {}
            network = convert(network, self.dropout, **options, **(self.dropout_options or {}))
        return BayesianNetwork(network, likelihood, num_data)

    def _check(self) -> None:
        who = type(self).__name__
        sizes = self.hidden_layer_sizes
        if isinstance(sizes, str) or not (
            isinstance(sizes, Sequence | np.ndarray) and all(is_whole(n) and n > 0 for n in sizes)
        ):
            raise ConfigError(
                who,
                expected="hidden_layer_sizes to be whole numbers > 0, one for each hidden layer",
                got=repr(sizes),
                hint="For example (100, 100); () is a linear model.",
            )
        if self.dropout is None and self.dropout_options:
            raise ConfigError(
                who,
                expected="a dropout that takes the options",
                got=f"dropout=None and dropout_options={self.dropout_options!r}",
                hint='For example dropout="beta-bernoulli".',
            )
        fraction = self.validation_fraction
        if self.patience is not None and not (isinstance(fraction, Real) and 0 < fraction < 1):
            raise ConfigError(
                who,
                expected="validation_fraction inside (0, 1)",
                got=repr(fraction),
                hint="The default is 0.1; patience=None trains on all rows.",
            )

    def _inputs(self, x: np.ndarray, bnn: Program) -> Tensor:
        return torch.as_tensor(self._scaler.transform(x), dtype=_dtype(bnn))

    # -- predicting ----------------------------------------------------------------------------

    def _predict(self, X: object, *, keep_samples: bool = False) -> Prediction:  # noqa: N803
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        number = self.num_samples
        if number is not None and not (is_whole(number) and number > 0):
            raise ConfigError(
                type(self).__name__,
                expected="num_samples >= 1, a whole number, or None for the mean mask",
                got=repr(number),
                hint="The default is 64.",
            )
        return predict(
            self.bnn_,
            self._inputs(x, self.bnn_),
            num_samples=number or 1,
            sample=number is not None,
            keep_samples=keep_samples,
            seed=self._seed,
        )

    def compact(self) -> Self:
        """Return a fitted copy with a small plain torch network, of the units that are kept.

        Its predictions are those of this estimator with ``num_samples=None``, the mean mask, and
        it has nothing to sample. ``bnn_.network`` is the plain network, of standardised inputs.
        """
        check_is_fitted(self)
        with seeded(self._seed):
            example = torch.randn(16, self.n_features_in_, dtype=_dtype(self.bnn_))
        small = compact(self.bnn_, example.to(next(self.bnn_.parameters()).device))
        result = copy.copy(self)
        likelihood = copy.deepcopy(self.bnn_.likelihood)
        result.bnn_ = BayesianNetwork(small, likelihood, self.bnn_.num_data).eval()
        return result


def _dtype(bnn: Program) -> torch.dtype:
    return next(bnn.parameters()).dtype
