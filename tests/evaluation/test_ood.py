import math

import numpy as np
import pytest
import torch

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.evaluation import ood_metrics, uncertainty_scores
from bayesdrop.inference.predict import Prediction


def scores():
    return torch.randn(300), torch.randn(200) + 1.0


def test_metrics_agree_with_their_definitions():
    inside, outside = scores()
    metrics = ood_metrics(inside, outside)
    wins = (outside[:, None] > inside).double().mean()
    assert metrics["auroc"] == pytest.approx(float(wins))
    threshold = np.sort(outside.numpy())[::-1][math.ceil(0.95 * 200) - 1]
    assert metrics["fpr95"] == pytest.approx(float((inside >= threshold).double().mean()))
    ranked = np.argsort(-torch.cat([inside, outside]).numpy())
    hits = ranked >= 300
    precision = np.cumsum(hits) / np.arange(1, 501)
    assert metrics["aupr"] == pytest.approx(precision[hits].mean())


def test_certain_inside_and_uncertain_outside_is_perfect():
    sure = torch.tensor([[0.98, 0.01, 0.01]]).expand(5, 20, 3)
    certain = Prediction(
        mean=sure.mean(0),
        num_samples=5,
        confidence=sure.mean(0).amax(1),
        predictive_entropy=torch.full((20,), 0.1),
        mutual_information=torch.full((20,), 0.01),
    )
    uncertain = Prediction(
        mean=torch.full((30, 3), 1 / 3),
        num_samples=5,
        confidence=torch.full((30,), 1 / 3),
        predictive_entropy=torch.full((30,), math.log(3)),
        mutual_information=torch.full((30,), 0.5),
    )
    inside, outside = uncertainty_scores(certain), uncertainty_scores(uncertain)
    assert list(inside) == ["entropy", "max_probability", "mutual_information"]
    for name, values in inside.items():
        perfect = {"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0}
        assert ood_metrics(values, outside[name]) == perfect, name
        worst = ood_metrics(outside[name], values)
        assert worst["auroc"] == 0.0, name
        assert worst["fpr95"] == 1.0, name


def test_swapped_sets_mirror_auroc():
    inside, outside = scores()
    forward, backward = ood_metrics(inside, outside), ood_metrics(outside, inside)
    assert forward["auroc"] + backward["auroc"] == pytest.approx(1.0)
    assert forward["auroc"] > 0.5


def test_only_the_order_of_scores_matters():
    inside, outside = scores()
    assert ood_metrics(inside.exp(), outside.exp()) == ood_metrics(inside, outside)


def test_equal_scores_are_chance():
    metrics = ood_metrics(torch.zeros(30), torch.zeros(10))
    assert metrics == {"auroc": 0.5, "aupr": 0.25, "fpr95": 1.0}


def test_numpy_and_torch_scores_agree():
    inside, outside = scores()
    assert ood_metrics(inside.numpy(), outside.numpy()) == ood_metrics(inside, outside)


def test_single_sample_has_no_mutual_information_score():
    net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
    prediction = bd.predict(bnn, torch.zeros(5, 4), mean_mask=True)
    assert list(uncertainty_scores(prediction)) == ["entropy", "max_probability"]


def test_regression_has_no_uncertainty_scores():
    prediction = Prediction(mean=torch.zeros(3, 1), num_samples=1)
    with pytest.raises(ConfigError, match="expected a classifier's prediction"):
        uncertainty_scores(prediction)


@pytest.mark.parametrize(
    ("inside", "outside", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(0), DataError, "OOD scores of at least one example"),
        (torch.zeros(0), torch.zeros(3), DataError, "in-distribution scores of at least one"),
        (torch.zeros(3, 1), torch.zeros(3), ShapeError, r"in-distribution scores of shape \(N,\)"),
        (torch.zeros(2), torch.tensor([0, math.nan]), DataError, "finite OOD .* in row 1"),
        (torch.tensor([math.inf]), torch.zeros(2), DataError, "finite in-distribution .* row 0"),
    ],
)
def test_bad_scores_are_refused(inside, outside, error, message):
    with pytest.raises(error, match=f"ood_metrics: expected {message}"):
        ood_metrics(inside, outside)
