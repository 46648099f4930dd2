"""What the classifier and the regressor have in common: a network behind scikit-learn's contract.

``fit`` and ``predict`` of this package do the work. They are not put under skorch, whose loop
would have to learn the objective, its schedules and the posterior once more, and whose estimators
leave names of classes, dtypes and checks of the input to the user.
"""

from __future__ import annotations

import copy
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from bayesdrop.abstract import Abstract
from bayesdrop.compression import compact
from bayesdrop.conversion import convert
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.estimators.weighted import Weighted
from bayesdrop.files import first_line
from bayesdrop.inference import schedules
from bayesdrop.inference.fit import fit
from bayesdrop.inference.predict import predict
from bayesdrop.likelihoods import Likelihood
from bayesdrop.metrics.arrays import check_index
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.nn import BayesianWeights, registered
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program

# Training draws from torch's global generator: fits in several threads take turns.
_TURN = threading.RLock()

NetworkFactory: TypeAlias = Callable[[int, int], nn.Module]
"""Called with the numbers of inputs and outputs; returns the network that is to be converted."""


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkEstimator(Abstract, BaseEstimator):
    """Abstract estimator: a network with dropout layers, of standardised inputs.

    A subclass defines ``fit``, which ends in ``_fit``, and ``_likelihood``. The arguments are
    described at ``BayesdropClassifier``.
    """

    hidden_layer_sizes: Sequence[int] | int = (100, 100)
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

    def _fit(
        self,
        x: np.ndarray,
        y: Tensor,
        weights: np.ndarray | None,
        groups: np.ndarray | None = None,
    ) -> Self:
        """Fit the network.

        Args:
            x: Inputs ``(N, D)``.
            y: Targets as the likelihood takes them.
            weights: Of the rows, ``(N,)``, of which some are > 0; None are equal ones.
            groups: Integers ``(N,)``, of which held-out rows have about the same share each.
        """
        self._check()
        random = check_random_state(self.random_state)
        self._seed = int(random.randint(2**31))
        if weights is not None:
            rows = weights > 0  # what has no weight has no say in means, num_data and batches
            x, y, weights = x[rows], y[torch.from_numpy(rows)], weights[rows]
            groups = None if groups is None else groups[rows]
        with np.errstate(over="ignore", invalid="ignore"):  # _inputs names the row
            self._scaler = StandardScaler().fit(x, sample_weight=weights)
        device = self._device()
        with _TURN, torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self._seed)
            bnn = self._program(len(x)).to(device)
            targets = y.to(_dtype(bnn)) if y.is_floating_point() else y
            likelihood = bnn.likelihood
            if weights is not None:
                bnn.likelihood = Weighted(likelihood)
                targets = Weighted.pack(y, torch.from_numpy(weights / weights.mean()))
            data = (self._inputs(x, bnn), targets)
            self._check_outputs(bnn, data[0][:1].to(device))
            validation: tuple[Tensor, Tensor] | None = None
            if self.patience is not None:
                held_out = torch.from_numpy(self._held_out(len(x), groups))
                validation = (data[0][held_out], data[1][held_out])
                data = (data[0][~held_out], data[1][~held_out])
                bnn.num_data = len(data[0])
            result = fit(
                bnn,
                data,
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                variational_learning_rate=self.variational_learning_rate,
                weight_decay=self.weight_decay,
                schedule=schedules.cosine(),
                kl_weight=self.kl_weight,
                validation=validation,
                patience=self.patience,
                seed=self._seed,
                progress=bool(self.verbose),
            )
            bnn.likelihood = likelihood
        self.bnn_ = bnn
        self.history_ = result.history
        return self

    def _held_out(self, count: int, groups: np.ndarray | None) -> np.ndarray:
        """Return which rows are for ``patience``: as large a share of each group as can be."""
        number = round(count * float(self.validation_fraction))
        if not 0 < number < count:
            raise DataError(
                type(self).__name__,
                expected="rows enough to hold some out for patience",
                got=f"{count} rows and validation_fraction={self.validation_fraction}",
                hint="patience=None trains for all epochs, on all rows.",
            )
        order = np.random.default_rng(self._seed).permutation(count)
        if groups is not None:
            order = order[np.argsort(groups[order], kind="stable")]
        held_out = np.zeros(count, dtype=bool)
        held_out[order[((np.arange(number) + 0.5) * count / number).astype(int)]] = True
        return held_out

    def _rows(self, X: object, y: object, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets as scikit-learn checks them, inputs as doubles."""
        who = type(self).__name__
        check_index(who, X, y)
        _check_unmasked(who, X, y)
        X, y = _array_of(X), _without_nulls(_array_of(y))
        x, targets = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, **options)
        return dense(x), targets

    def _weights(self, sample_weight: ArrayLike | None, x: np.ndarray) -> np.ndarray | None:
        if sample_weight is None:
            return None
        return _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)

    def _program(self, num_data: int) -> Program:
        likelihood, outputs = self._likelihood()
        if self.network is None:
            sizes = (self.n_features_in_, *map(int, self._hidden_sizes()))
            layers = [
                layer
                for pair in zip(sizes, sizes[1:], strict=False)
                for layer in (nn.Linear(*pair), nn.ReLU())
            ]
            network: nn.Module = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))
        else:
            network = self.network(self.n_features_in_, outputs)
        if self.dropout is not None:
            # Of a network from elsewhere nobody here knows whether it is trained. Masks on the few
            # columns of a table cost more than they gain: docs/estimators.md.
            ours = {"trained": False, "input_dropout": self._masks_inputs()}
            options: dict[str, Any] = ours if self.network is None else {}
            network = convert(network, self.dropout, **options | dict(self.dropout_options or {}))
        return BayesianNetwork(network, likelihood, num_data)

    def _check_outputs(self, bnn: Program, row: Tensor) -> None:
        # Classes too many would train, and be predicted.
        expected = self._likelihood()[1]
        with evaluation_mode(bnn), torch.no_grad():
            shape = tuple(bnn(row).shape)
        if shape != (1, expected) and (expected > 1 or shape != (1,)):
            raise ConfigError(
                type(self).__name__,
                expected=f"a network with {expected} outputs, one column each",
                got=f"an output of shape {shape} for one row",
                hint="The function network is called with the numbers of inputs and outputs.",
            )

    def _hidden_sizes(self) -> Sequence[int]:
        sizes: Any = self.hidden_layer_sizes
        return (sizes,) if is_whole(sizes) else sizes

    def _masks_inputs(self) -> bool:
        weights = isinstance(self.dropout, str) and self.dropout in registered(BayesianWeights)
        return weights or not np.size(self.hidden_layer_sizes)

    def _device(self) -> torch.device:
        """Return the device, if torch has it."""
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ConfigError(
                type(self).__name__,
                expected="a device that torch finds on this machine",
                got=f"device={self.device!r}: {first_line(error)}",
                hint="'cpu' is always there; 'cuda' needs a GPU and a torch built for it.",
            ) from error

    def _check(self) -> None:
        who = type(self).__name__
        if self.network is not None and (
            isinstance(self.network, nn.Module) or not callable(self.network)
        ):
            raise ConfigError(
                who,
                expected="network to be a function of the numbers of inputs and outputs",
                got=f"a {type(self.network).__name__}",
                hint="For example a function that returns nn.Sequential(nn.Linear(inputs, 50), "
                "nn.ReLU(), nn.Linear(50, outputs)): each fit makes a new one.",
            )
        sizes = self._hidden_sizes()
        if isinstance(sizes, str) or not (
            isinstance(sizes, Sequence | np.ndarray) and all(is_whole(n) and n > 0 for n in sizes)
        ):
            raise ConfigError(
                who,
                expected="hidden_layer_sizes to be whole numbers > 0, one for each hidden layer",
                got=repr(self.hidden_layer_sizes),
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
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = torch.as_tensor(self._scaler.transform(x), dtype=_dtype(bnn))
        if not bool((finite := scaled.isfinite()).all()):
            row, column = (int(i) for i in (~finite).nonzero()[0])
            raise DataError(
                type(self).__name__,
                expected=f"columns that {scaled.dtype} holds once they are standardised",
                got=f"{x[row, column]:g} in row {row}, column {column}, of a column with mean "
                f"{self._scaler.mean_[column]:g} and scale {self._scaler.scale_[column]:g}",
                hint="Give the column another unit, its logarithm say, in fit and in predict.",
            )
        return scaled

    def __sklearn_tags__(self) -> Any:
        """Say that sparse matrices are taken; they are made dense."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # -- predicting ----------------------------------------------------------------------------

    def _predict(self, X: object, *, keep_samples: bool = False) -> Prediction:
        check_is_fitted(self)
        _check_unmasked(type(self).__name__, X)
        given = _array_of(X)
        x = dense(validate_data(self, given, reset=False, accept_sparse="csr", dtype=np.float64))
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


def _check_unmasked(who: str, *arrays: object) -> None:
    if any(np.ma.is_masked(array) for array in arrays):
        raise DataError(
            who,
            expected="values for all rows",
            got="a masked array",
            hint="Leave out the rows with masked values, or fill them: values.filled(0.0).",
        )


def _array_of(values: Any) -> Any:
    """Return a tensor as an array, also one with a gradient, on a GPU or in bfloat16."""
    if not isinstance(values, Tensor):
        return values
    plain = values.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def _without_nulls(y: Any) -> Any:
    """Return labels of a nullable dtype of pandas, without gaps, in NumPy's of the same kind."""
    plain = getattr(getattr(y, "dtype", None), "numpy_dtype", None)
    return y if plain is None or y.isna().any() else y.to_numpy(dtype=plain)


def dense(x: Any) -> np.ndarray:
    """Return a matrix, which may be one of SciPy's sparse ones, as an array."""
    return x.toarray() if sparse.issparse(x) else x


def _dtype(bnn: Program) -> torch.dtype:
    return next(bnn.parameters()).dtype
