"""A classifier of tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.estimators.estimator import NetworkEstimator
from bayesdrop.likelihoods import Categorical, Likelihood


@dataclass(kw_only=True, eq=False, repr=False)
class BayesdropClassifier(ClassifierMixin, NetworkEstimator):
    r"""Classifier of tables with Bayesian dropout, as an estimator of scikit-learn.

    Inputs are standardised by the training rows, a multilayer perceptron gets dropout layers by
    ``bd.convert``, and ``bd.fit`` trains it under a cosine of the learning rates. Probabilities
    are averaged over masks drawn from the posterior: the same ones at every call after one
    ``fit``, so that a row's prediction does not depend on the other rows. (Masks that depend on
    the input, as in ``"dependent-beta-bernoulli"``, are drawn for each row anew.)

    Args:
        hidden_layer_sizes: Units of each hidden layer of the perceptron; a number is one layer.
        network: Called with the numbers of inputs and outputs (one logit for each class), returns
            the network to use instead. A function at the top of a module can be pickled.
        dropout: A key of ``bd.nn.layers``, of masks or random weights; None takes the network as
            it is.
        dropout_options: Further arguments of ``bd.convert``, such as ``{"input_dropout": False}``,
            and of the layers, such as ``{"drop_prob": 0.2}``.
        kl_weight: Factor on the KL divergences, or a schedule of it; 1 is the ELBO.
        epochs: Passes over the training rows.
        batch_size: Rows a step.
        learning_rate: Of the weights.
        variational_learning_rate: Of the posterior's parameters.
        weight_decay: L2 penalty on the weights.
        patience: Stop after this many epochs without a lower NLL on held-out rows, and return to
            the best; None trains for all epochs, on all rows.
        validation_fraction: Share of the rows held out for ``patience``, of each class alike.
        num_samples: Masks :math:`S` over which predictions are averaged; None is one pass with
            the mean mask. It may be set after ``fit``.
        random_state: Seed of weights, batches and masks, as everywhere in scikit-learn. Torch's
            global generator is left alone.
        class_weight: ``"balanced"``, by which all classes count alike, or a dictionary of classes
            and how much a row of theirs counts; multiplied with ``sample_weight``. Probabilities
            are then those of data with such shares of the classes.
        device: Where the network is trained and predicts, such as ``"cuda"``.
        verbose: Whether to show a progress bar.

    Attributes:
        classes_: The labels, sorted.
        n_features_in_: Number of input columns.
        feature_names_in_: Their names, if they were those of a DataFrame; others, or another
            order, are then refused.
        bnn_: The fitted ``BayesianNetwork``, of standardised inputs and labels 0, 1, ...
        history_: The record of each epoch, as in ``bd.inference.fit.FitResult``.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 60).reshape(-1, 1)
        >>> y = np.where(x[:, 0] > 0, "plus", "minus")
        >>> model = BayesdropClassifier(epochs=5, random_state=0).fit(x, y)
        >>> model.predict_proba(x).shape, model.classes_.tolist()
        ((60, 2), ['minus', 'plus'])
    """

    class_weight: Mapping[Any, float] | str | None = None

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit network and posterior.

        Args:
            X: Numbers ``(N, D)``, an array, a DataFrame or a sparse matrix (which is made dense),
                without gaps.
            y: Labels ``(N,)`` of at least two classes: integers, strings, booleans.
            sample_weight: How much each row's log-likelihood counts, >= 0, ``(N,)``; scaled so
                that their sum is the number of rows that count at all.

        Raises:
            ValueError: If these are no such thing, or an argument makes no sense.
            DivergenceError: If the loss is not finite.
        """
        x, labels = self._rows(X, y)
        labels = column_or_1d(labels, warn=True)
        self._check_labels(labels)
        check_classification_targets(labels)
        weights = self._weights(sample_weight, x)
        counted = labels if weights is None else labels[weights > 0]
        self.classes_ = np.unique(counted)
        if len(self.classes_) < 2:
            raise DataError(
                type(self).__name__,
                expected="labels of at least two classes",
                got="one class",
                hint="Is the set sorted by class and cut? Shuffle it first.",
            )
        # Those of rows without a weight are no matter.
        indices = np.searchsorted(self.classes_, labels).clip(max=len(self.classes_) - 1)
        if self.class_weight is not None:
            of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=counted)
            self._check_class_weights(of_class)
            weights = of_class[indices] * (1.0 if weights is None else weights)
        return self._fit(x, torch.from_numpy(indices), weights, indices)

    def _check_class_weights(self, of_class: np.ndarray) -> None:
        if not (np.isfinite(of_class).all() and (of_class >= 0).all() and of_class.any()):
            raise ConfigError(
                type(self).__name__,
                expected="class_weight >= 0 and finite, not all 0",
                got=f"class_weight={self.class_weight!r}",
                hint='"balanced" makes all classes count alike.',
            )

    def _check_labels(self, labels: np.ndarray) -> None:
        if labels.dtype.kind != "O":
            return
        kinds = {type(label).__name__ for label in labels}
        if len(kinds) > 1 and not all(isinstance(label, Real) for label in labels):
            raise DataError(
                type(self).__name__,
                expected="labels of one kind",
                got=" and ".join(sorted(kinds)),
                hint="Leave out rows without a label; y.astype(str) makes all of them words.",
            )

    @override
    def _likelihood(self) -> tuple[Likelihood, int]:
        return Categorical(), len(self.classes_)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the most probable class of each row, ``(N,)``."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return the probabilities of ``classes_``, averaged over masks, ``(N, C)``."""
        mean = self._predict(X).mean.double().numpy()
        return mean / mean.sum(1, keepdims=True)

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Return the logarithms of ``predict_proba``, minus infinity where that is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict_uncertainty(self, X: ArrayLike) -> dict[str, np.ndarray]:
        """Return what ``bd.predict`` says of each row, by name, ``(N,)``.

        ``confidence``, and in nats ``predictive_entropy``, of which ``expected_entropy`` is what
        the masks agree about and ``mutual_information`` what they do not.
        """
        found = self._predict(X)
        names = ("confidence", "predictive_entropy", "expected_entropy", "mutual_information")
        return {name: getattr(found, name).double().numpy() for name in names}
