"""Laws of the classifier and the regressor."""

import pickle

import numpy as np
import pytest
import torch
from joblib import parallel_config
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_friedman1, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.estimators import BayesdropClassifier, BayesdropRegressor, estimator

MOONS = make_moons(80, noise=0.2, random_state=0)
FRIEDMAN = make_friedman1(60, n_features=5, random_state=0)
QUICK = {"hidden_layer_sizes": (12,), "epochs": 15, "learning_rate": 0.05, "random_state": 0}
QUICK |= {"num_samples": 8}
NULLABLE = {"i": "Int64", "b": "boolean"}


def classifier(**options):
    return BayesdropClassifier(**QUICK | options)


def regressor(**options):
    return BayesdropRegressor(**QUICK | options)


@pytest.fixture(scope="module")
def fitted():
    torch.set_default_dtype(torch.float32)
    return classifier().fit(*MOONS), regressor().fit(*FRIEDMAN)


def wide(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 9), nn.Tanh(), nn.Linear(9, outputs))


def test_probabilities_are_those_of_predict_on_standardised_inputs(fitted):
    model, x = fitted[0], StandardScaler().fit_transform(MOONS[0])
    found = bd.predict(model.bnn_, torch.tensor(x).float(), num_samples=8, seed=model._seed)
    np.testing.assert_allclose(model.predict_proba(MOONS[0]), found.mean, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(MOONS[0]).sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        np.exp(model.predict_log_proba(MOONS[0])), model.predict_proba(MOONS[0])
    )
    uncertainty = model.predict_uncertainty(MOONS[0])
    np.testing.assert_allclose(
        uncertainty["predictive_entropy"],
        uncertainty["expected_entropy"] + uncertainty["mutual_information"],
        atol=1e-5,
    )
    assert model.score(*MOONS) > 0.75


def test_a_regression_has_the_units_of_its_targets():
    x, y = FRIEDMAN
    small, large = regressor().fit(x, y), regressor().fit(x, 1000.0 * y - 7e4)
    for one, other, offset in zip(
        (*small.predict(x, return_std=True), *small.predict_interval(x)),
        (*large.predict(x, return_std=True), *large.predict_interval(x)),
        (7e4, 0.0, 7e4, 7e4),
        strict=True,
    ):
        np.testing.assert_allclose(other, 1000.0 * one - offset, rtol=1e-3, atol=20.0)
    parts = large.predict_uncertainty(x)
    std = large.predict(x, return_std=True)[1]
    np.testing.assert_allclose(std**2, parts["variance"])
    np.testing.assert_allclose(
        parts["variance"], parts["aleatoric_variance"] + parts["epistemic_variance"], rtol=1e-5
    )


def test_an_interval_of_one_pass_is_that_of_a_normal_distribution(fitted):
    model = clone(fitted[1]).set_params(dropout=None).fit(*FRIEDMAN)
    mean, std = model.predict(FRIEDMAN[0], return_std=True)
    lower, upper = model.predict_interval(FRIEDMAN[0], level=0.95)
    np.testing.assert_allclose(lower, mean - 1.959964 * std, rtol=1e-4)
    np.testing.assert_allclose(upper, mean + 1.959964 * std, rtol=1e-4)


@pytest.mark.parametrize("scale", ["heteroscedastic", "learned"])
def test_several_targets_are_predicted_at_once_each_in_its_units(scale):
    x, y = FRIEDMAN
    model = regressor(scale=scale, epochs=40).fit(x, np.stack([y, -100 * y], 1))
    mean, std = model.predict(x, return_std=True)
    assert mean.shape == std.shape == model.predict_interval(x)[0].shape == (60, 2)
    assert model.n_outputs_ == 2 and np.corrcoef(mean[:, 0], mean[:, 1])[0, 1] < -0.8
    assert 30 < std[:, 1].mean() / std[:, 0].mean() < 300


@pytest.mark.parametrize("labels", [["no", "yes"], [7, 3], [False, True], [2.0, -1.0]])
def test_classes_may_have_any_name(labels):
    pandas = pytest.importorskip("pandas")
    y = np.array(labels)[MOONS[1]]
    given = pandas.Series(y, dtype=NULLABLE.get(y.dtype.kind))
    model = classifier(epochs=8).fit(MOONS[0], given)
    assert model.classes_.tolist() == sorted(labels)
    assert model.classes_.dtype.kind == ("O" if y.dtype.kind == "U" else y.dtype.kind)
    assert (model.predict(MOONS[0]) == y).mean() > 0.7


@pytest.mark.parametrize("which", [0, 1], ids=["classifier", "regressor"])
def test_compact_predicts_what_the_mean_mask_does_with_a_smaller_plain_network(fitted, which):
    model, x = fitted[which], (MOONS, FRIEDMAN)[which][0]
    closed = pickle.loads(pickle.dumps(model))
    hidden = [layer for _, layer in closed.bnn_.named_dropout_layers()][-1]
    hidden.set_posterior(torch.tensor([1e-4] * 6 + [3.0] * 6))  # half of its units are pruned
    small = closed.compact()
    sizes = [m.out_features for m in small.bnn_.modules() if isinstance(m, nn.Linear)]
    assert sizes[0] == 6 and not list(small.bnn_.named_dropout_layers())
    predict = "predict_proba" if which == 0 else "predict"
    expected = getattr(closed.set_params(num_samples=None), predict)(x)
    np.testing.assert_allclose(getattr(small, predict)(x), expected, rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(small))
    np.testing.assert_array_equal(getattr(again, predict)(x), getattr(small, predict)(x))
    assert clone(small).get_params() == small.get_params()


def test_one_seed_gives_one_result_and_leaves_torch_alone():
    before = torch.get_rng_state()
    one, same, other = (
        classifier(random_state=seed, epochs=3).fit(*MOONS).predict_proba(MOONS[0])
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_patience_stops_early_on_rows_held_out():
    model = classifier(epochs=200, patience=2, validation_fraction=0.3).fit(*MOONS)
    assert len(model.history_) < 200 and "val_nll" in model.history_[0]
    assert model.bnn_.num_data == 56
    few = np.arange(80) % 8 == 0  # of ten rows of a class three are held out
    assert few[model._held_out(80, few.astype(int))].sum() == 3
    with pytest.raises(DataError, match="got 2 rows and validation_fraction=0.1"):
        classifier(patience=2).fit(MOONS[0][:2], [0, 1])


def test_weights_count_rows_and_classes():
    x, y = MOONS
    plain = classifier(epochs=3).fit(x, y).predict_proba(x)
    equal = classifier(epochs=3).fit(x, y, np.full(80, 3.0)).predict_proba(x)
    np.testing.assert_allclose(equal, plain, rtol=1e-6)
    without = np.arange(80) >= 20
    zero = classifier(epochs=3).fit(x, y, 2.0 * without)
    rest = classifier(epochs=3).fit(x[without], y[without])
    np.testing.assert_allclose(zero.predict_proba(x), rest.predict_proba(x), rtol=1e-6)
    assert isinstance(zero.bnn_.likelihood, bd.Categorical) and zero.bnn_.num_data == 60
    balanced = classifier(epochs=2, class_weight="balanced")
    some = clone(balanced).fit(x, y, 2.0 * (without | (y == 0))).predict_proba(x)
    own = balanced.fit(x[without | (y == 0)], y[without | (y == 0)]).predict_proba(x)
    np.testing.assert_allclose(some, own, rtol=1e-6)
    rare = (np.arange(80) % 16 == 0).astype(int)
    shares = [
        classifier(class_weight=weight, patience=20).fit(x, rare).predict_proba(x)[:, 1].mean()
        for weight in (None, "balanced", {0: 1.0, 1: 200.0})
    ]
    assert shares[0] < 0.3 < shares[1] < 0.7 < shares[2]


def test_weights_of_rows_and_of_classes_are_multiplied():
    x, y = MOONS
    rows = np.linspace(0.5, 1.5, 80)
    both = classifier(epochs=2, class_weight={0: 1.0, 1: 3.0}).fit(x, y, rows)
    once = classifier(epochs=2).fit(x, y, rows * np.where(y == 1, 3.0, 1.0))
    np.testing.assert_allclose(both.predict_proba(x), once.predict_proba(x), rtol=1e-6)


def test_what_training_takes_is_what_fit_gets(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        estimator, "fit", lambda *args, **given: seen.update(given) or bd.fit(*args, **given)
    )
    options = {"batch_size": 7, "learning_rate": 0.02, "variational_learning_rate": 0.3}
    options |= {"weight_decay": 0.1, "kl_weight": 0.5, "epochs": 3, "patience": 2}
    classifier(**options).fit(*MOONS)
    assert {name: seen[name] for name in options} == options
    assert not seen["progress"] and seen["schedule"](1, 2) == pytest.approx(0.5)


@pytest.mark.parametrize("weight", [{0: -1.0, 1: 1.0}, {0: 0.0, 1: 0.0}, {0: np.nan, 1: 1.0}])
def test_weights_of_classes_are_no_less_than_zero(weight):
    # Rows of a class with a negative weight were left out.
    with pytest.raises(ConfigError, match=r"class_weight >= 0 and finite.* got class_weight=\{0"):
        classifier(class_weight=weight).fit(*MOONS)


def test_weights_of_a_regression_move_its_mean():
    x, y = np.zeros((60, 1)), np.repeat([0.0, 10.0], 30)
    weights = np.repeat([9.0, 1.0], 30)
    mean = regressor(epochs=60).fit(x, y, sample_weight=weights).predict(x[:1])
    assert abs(mean[0] - 1.0) < 0.5
    with pytest.raises(ValueError, match="at least one non-zero"):
        regressor().fit(x, y, sample_weight=np.zeros(60))


def test_rows_are_standardised_as_they_are_weighted():
    x, y = np.repeat([[0.0], [4.0]], 30, 0), np.repeat([0.0, 10.0], 30)
    model = regressor(epochs=1).fit(x, y, sample_weight=np.repeat([9.0, 1.0], 30))
    np.testing.assert_allclose(model._scaler.mean_, [0.4])
    np.testing.assert_allclose(model._target_scaler.mean_, [1.0])
    np.testing.assert_allclose(model._target_scaler.scale_, [3.0])


def test_sparse_inputs_are_those_they_stand_for():
    x = np.where(np.abs(MOONS[0]) > 0.5, MOONS[0], 0.0)
    model = classifier(epochs=2).fit(csr_array(x), MOONS[1])
    same = classifier(epochs=2).fit(x, MOONS[1])
    np.testing.assert_array_equal(model.predict_proba(csr_array(x)), same.predict_proba(x))


def test_masks_are_behind_the_first_layer_unless_asked_for_or_alone():
    def masked(**options):
        return len(regressor(epochs=1, **options).fit(*FRIEDMAN).bnn_.named_dropout_layers())

    asked = {"dropout_options": {"input_dropout": True}}
    assert [masked(), masked(**asked), masked(hidden_layer_sizes=())] == [1, 2, 1]
    assert masked(hidden_layer_sizes=7) == 1


def test_fits_in_several_threads_are_those_of_one():
    def scores(jobs):
        with parallel_config("threading", n_jobs=jobs):
            return cross_val_score(classifier(epochs=2), *MOONS, cv=4, scoring="neg_log_loss")

    np.testing.assert_array_equal(scores(2), scores(1))


def test_a_constant_target_has_one_unit_of_noise_everywhere():
    model = regressor(epochs=1).fit(FRIEDMAN[0], np.full(60, 5.0))
    mean, std = model.predict(FRIEDMAN[0], return_std=True)
    lower, upper = model.predict_interval(FRIEDMAN[0], level=0.9)
    np.testing.assert_allclose((upper - lower) / std, 2 * 1.645, rtol=0.05)


@pytest.mark.parametrize(
    ("dropout", "options"),
    [(None, None), ("mc-dropout", {"drop_prob": 0.2}), ("sparse-variational", None)],
)
def test_any_dropout_of_the_registry_serves_and_any_network(dropout, options):
    model = classifier(dropout=dropout, dropout_options=options, network=wide, epochs=2)
    model.fit(*MOONS)
    assert any(isinstance(module, nn.Tanh) for module in model.bnn_.modules())
    information = model.predict_uncertainty(MOONS[0])["mutual_information"]
    assert (information.max() > 0) == (dropout is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": "10"}, "hidden_layer_sizes"),
        ({"network": nn.Linear(2, 2)}, "a function of the numbers of inputs and outputs, got a L"),
        ({"device": "gpu"}, "a device that torch finds.*device='gpu'"),
        ({"dropout": "beta"}, "beta-bernoulli"),
        ({"dropout": None, "dropout_options": {"a": 1}}, "takes the options"),
        ({"patience": 3, "validation_fraction": 1}, "validation_fraction"),
        ({"epochs": 0}, "epochs"),
        ({"kl_weight": -1.0}, "kl_weight"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        classifier(**options).fit(*MOONS)


def test_what_cannot_be_fitted_or_predicted_is_refused(fitted):
    with pytest.raises(DataError, match="two classes"):
        classifier().fit(MOONS[0], np.zeros(80))
    with pytest.raises(DataError, match="labels of one kind, got NoneType and str"):
        classifier().fit(MOONS[0], np.array(["a", None] * 40, dtype=object))
    with pytest.raises(ConfigError, match="scale"):
        regressor(scale=1.0).fit(*FRIEDMAN)
    with pytest.raises(ConfigError, match="num_samples"):
        clone(fitted[0]).set_params(num_samples=0, epochs=1).fit(*MOONS).predict(MOONS[0])
    with pytest.raises(NotFittedError):
        classifier().compact()
    with pytest.raises(DataError, match=r"1e\+200 in row 0, column 1.*another unit"):
        fitted[0].predict([[0.0, 1e200]])
    with pytest.raises(DataError, match="got a masked array"):
        classifier().fit(np.ma.masked_less(MOONS[0], 0), MOONS[1])


def test_grids_calibration_and_importance_of_scikit_learn_work(fitted):
    x, y = MOONS
    grid = GridSearchCV(classifier(epochs=2), {"kl_weight": [0.1, 1.0]}, cv=2).fit(x, y)
    assert grid.best_params_["kl_weight"] in (0.1, 1.0)
    assert cross_val_score(regressor(epochs=2), *FRIEDMAN, cv=2).shape == (2,)
    frozen = CalibratedClassifierCV(FrozenEstimator(fitted[0]), method="temperature").fit(x, y)
    share, confidence = calibration_curve(y, frozen.predict_proba(x)[:, 1], n_bins=3)
    assert share.shape == confidence.shape
    noise = np.random.default_rng(0).standard_normal((80, 1))
    model = classifier(epochs=15).fit(np.hstack([x, noise]), y)
    importance = permutation_importance(model, np.hstack([x, noise]), y, n_repeats=2)
    assert importance.importances_mean.argmin() == 2


def test_a_pipeline_takes_a_data_frame_with_a_column_of_categories():
    pandas = pytest.importorskip("pandas")
    color = np.where(MOONS[1] == 1, "red", "blue")
    frame = pandas.DataFrame({"a": MOONS[0][:, 0], "color": color, "b": MOONS[0][:, 1]})
    columns = make_column_transformer((OneHotEncoder(), ["color"]), remainder="passthrough")
    model = make_pipeline(columns, classifier(epochs=8)).fit(frame, pandas.Series(MOONS[1]))
    assert model.score(frame, MOONS[1]) > 0.9
    alone = classifier(epochs=1).fit(frame[["a", "b"]], MOONS[1])
    assert alone.feature_names_in_.tolist() == ["a", "b"]
    shuffled = pandas.Series(MOONS[1]).iloc[::-1]
    with pytest.raises(DataError, match="the same index in another order"):
        classifier().fit(frame[["a", "b"]], shuffled)
    with pytest.raises(ValueError, match="same order"):
        alone.predict(frame[["b", "a"]])
    with pytest.raises(ValueError, match="could not convert string"):
        classifier().fit(frame, MOONS[1])


@pytest.mark.parametrize("dropout", ["beta-bernoulli", "sparse-variational"])
def test_a_linear_layer_alone_is_a_network(dropout):
    options = {"network": nn.Linear, "dropout": dropout, "epochs": 2}
    assert classifier(**options).fit(*MOONS).predict_proba(MOONS[0]).shape == (80, 2)
    assert regressor(scale="learned", **options).fit(*FRIEDMAN).predict(FRIEDMAN[0]).shape == (60,)


def test_a_network_with_other_outputs_than_asked_for_is_refused():
    with pytest.raises(ConfigError, match=r"2 outputs.*\(1, 3\) for one row"):
        classifier(network=lambda i, k: wide(i, k + 1)).fit(*MOONS)
    with pytest.raises(ConfigError, match=r"2 outputs.*\(1, 1\) for one row"):
        regressor(network=lambda i, k: wide(i, 1)).fit(*FRIEDMAN)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tensors_are_taken_with_a_gradient_and_in_any_dtype(dtype):
    x, y = (torch.tensor(part).to(dtype).requires_grad_() for part in FRIEDMAN)
    model = regressor(epochs=1).fit(x, y)
    plain = regressor(epochs=1).fit(*(part.detach().double().numpy() for part in (x, y)))
    np.testing.assert_array_equal(model.predict(x), plain.predict(x.detach().double().numpy()))
