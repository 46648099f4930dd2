"""A prediction as a table of pandas."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.likelihoods import NegativeBinomial, Poisson, StudentT
from bayesdrop.metrics import Prediction, predictive_interval

pandas = pytest.importorskip("pandas")
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def predicted(outputs, likelihood, y=None, x=X, **options):
    network = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, outputs)).to(x.dtype)
    bnn = bd.BayesianNetwork(network, likelihood, num_data=5)
    return bd.predict(bnn, x if y is None else (x, y), num_samples=4, seed=0, **options)


def test_a_classifier_has_its_label_the_probabilities_and_the_doubt():
    found = predicted(3, bd.Categorical(), torch.arange(5) % 3, X.to(torch.get_default_dtype()))
    frame = found.to_frame(classes=["a", "b", "c"])
    probabilities = frame[["probability_a", "probability_b", "probability_c"]]
    assert np.array_equal(probabilities.to_numpy(), found.mean.numpy())
    assert frame["label"].tolist() == ["abc"[i] for i in found.mean.argmax(1)]
    for name in ("confidence", "predictive_entropy", "mutual_information", "energy", "y"):
        assert np.array_equal(frame[name], getattr(found, name).numpy())
    assert frame["log_likelihood"].shape == (5,) and frame.index.tolist() == [0, 1, 2, 3, 4]
    assert found.to_frame()["label"].tolist() == found.mean.argmax(1).tolist()


def test_several_labels_have_a_probability_each():
    found = predicted(2, bd.Bernoulli(), torch.ones(5, 2), X.to(torch.get_default_dtype()))
    frame = found.to_frame()
    assert list(frame.columns[:4]) == ["label_0", "label_1", "probability_0", "probability_1"]
    assert frame["label_1"].tolist() == (found.mean[:, 1] >= 0.5).long().tolist()
    assert {"y_0", "y_1", "log_likelihood_1"} <= {*frame.columns}
    one = predicted(1, bd.Bernoulli(), None, X.to(torch.get_default_dtype())).to_frame()
    assert list(one.columns[:2]) == ["label", "probability"]


def test_labels_whose_probabilities_happen_to_sum_to_one_are_no_classes():
    network = nn.Linear(4, 2, dtype=torch.get_default_dtype())
    with torch.no_grad():
        network.weight[1], network.bias[1] = -network.weight[0], -network.bias[0]
    bnn = bd.BayesianNetwork(network, bd.Bernoulli(), num_data=5)
    found = bd.predict(bnn, X.to(torch.get_default_dtype()))
    assert torch.allclose(found.mean.sum(1), torch.ones(5))
    assert list(found.to_frame().columns[:2]) == ["label_0", "label_1"]


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_regression_has_its_interval_and_both_kinds_of_noise(outputs):
    y, x = torch.zeros(5, outputs), X.to(torch.get_default_dtype())
    found = predicted(2 * outputs, bd.Gaussian("heteroscedastic"), y, x)
    frame = found.to_frame(level=0.5)
    end = "" if outputs == 1 else "_1"
    lower, upper = predictive_interval(found.samples, 0.5, found.sample_variances)
    np.testing.assert_allclose(frame[f"lower{end}"], lower[:, -1])
    np.testing.assert_allclose(frame[f"upper{end}"], upper[:, -1])
    parts = frame[f"aleatoric_std{end}"] ** 2 + frame[f"epistemic_std{end}"] ** 2
    np.testing.assert_allclose(frame[f"std{end}"] ** 2, parts, rtol=1e-5)
    assert f"y{end}" in frame.columns and frame["log_likelihood"].notna().all()
    named = found.to_frame(classes=["first", "second"][:outputs])
    assert "mean_first" in named.columns
    without = predicted(2 * outputs, bd.Gaussian("heteroscedastic"), y, x, keep_samples=False)
    assert f"lower{end}" not in without.to_frame().columns


@pytest.mark.parametrize(
    "likelihood", [Poisson(), NegativeBinomial(0.5), StudentT(1.0, df=3.0)], ids=repr
)
def test_noise_that_is_not_normal_has_no_normal_interval(likelihood):
    found = predicted(1, likelihood, torch.ones(5, 1), X.to(torch.get_default_dtype()))
    assert found.sample_variances is not None
    columns = found.to_frame().columns
    assert "std" in columns and not {"lower", "upper"} & {*columns}


def test_names_that_do_not_fit_and_pixels_are_refused():
    prediction = Prediction(mean=torch.zeros(2, 3), num_samples=1)
    with pytest.raises(ConfigError, match="3 names of classes or outputs, got 2"):
        prediction.to_frame(classes=["a", "b"])
    with pytest.raises(ShapeError, match="flatten_labels"):
        Prediction(mean=torch.zeros(2, 3, 4), num_samples=1).to_frame()


def test_without_pandas_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"bayesdrop\[frames\]"):
        Prediction(mean=torch.zeros(2, 3), num_samples=1).to_frame()
