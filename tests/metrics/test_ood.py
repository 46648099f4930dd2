import json
import math

import numpy as np
import pytest
import torch

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.inference.predict import Prediction
from bayesdrop.metrics import compare_ood, ood_metrics, uncertainty_scores
from bayesdrop.nn import PosteriorSample


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
    known = ~hits[::-1]
    precision = np.cumsum(known) / np.arange(1, 501)
    assert metrics["aupr_in"] == pytest.approx(precision[known].mean())
    errors = [
        0.5 * float((outside < t).double().mean() + (inside >= t).double().mean())
        for t in torch.cat([inside, outside])
    ]
    assert metrics["detection_error"] == pytest.approx(min(errors))


def test_metrics_agree_with_torchmetrics():
    from torchmetrics.functional.classification import (
        binary_auroc,
        binary_average_precision,
        binary_roc,
    )

    inside, outside = scores()
    # torchmetrics takes probabilities; the order is what counts.
    both = torch.cat([inside, outside]).sigmoid()
    positive = torch.cat([torch.zeros(300), torch.ones(200)]).long()
    metrics = ood_metrics(inside, outside)
    assert metrics["auroc"] == pytest.approx(float(binary_auroc(both, positive)))
    assert metrics["aupr"] == pytest.approx(float(binary_average_precision(both, positive)))
    turned = float(binary_average_precision(1 - both, 1 - positive))
    assert metrics["aupr_in"] == pytest.approx(turned)
    false_rate, true_rate, _ = binary_roc(both, positive)
    assert metrics["fpr95"] == pytest.approx(float(false_rate[true_rate >= 0.95].min()))
    assert metrics["detection_error"] == pytest.approx(
        float((1 - true_rate + false_rate).min() / 2)
    )


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
        perfect = {
            "auroc": 1.0, "aupr": 1.0, "aupr_in": 1.0, "fpr95": 0.0, "detection_error": 0.0
        }  # fmt: skip
        assert ood_metrics(values, outside[name]) == perfect, name
        worst = ood_metrics(outside[name], values)
        assert worst["auroc"] == 0.0, name
        assert worst["fpr95"] == 1.0, name
        assert worst["detection_error"] == 0.5, name


def test_every_score_is_higher_where_the_logits_shrink_to_nothing():
    # Samples that agree and are sure, against samples that disagree about small logits.
    sure = 10 * torch.nn.functional.one_hot(torch.arange(20) % 3, 3).double().expand(5, 20, 3)
    doubtful = torch.randn(5, 30, 3)
    inside = uncertainty_scores(sure.softmax(-1), logits=sure)
    outside = uncertainty_scores(doubtful.softmax(-1), logits=doubtful)
    names = {"entropy", "max_probability", "mutual_information", "energy", "logit_norm"}
    assert set(inside) == names
    for name in names:
        assert inside[name].max() < outside[name].min(), name


def test_scores_of_logits_average_energies_and_take_the_norm_of_the_average():
    logits = torch.randn(4, 6, 3)
    found = uncertainty_scores(logits.softmax(-1), logits=logits)
    torch.testing.assert_close(found["energy"], -logits.logsumexp(-1).mean(0))
    torch.testing.assert_close(found["logit_norm"], -logits.mean(0).norm(dim=-1))


def test_swapped_sets_mirror_auroc():
    inside, outside = scores()
    forward, backward = ood_metrics(inside, outside), ood_metrics(outside, inside)
    assert forward["auroc"] + backward["auroc"] == pytest.approx(1.0)
    assert forward["auroc"] > 0.5


def test_swapped_classes_with_the_sign_turned_swap_the_two_auprs():
    inside, outside = scores()
    forward, swapped = ood_metrics(inside, outside), ood_metrics(-outside, -inside)
    assert forward["aupr"] == pytest.approx(swapped["aupr_in"])
    assert forward["aupr_in"] == pytest.approx(swapped["aupr"])
    assert forward["auroc"] == pytest.approx(swapped["auroc"])
    assert forward["detection_error"] == pytest.approx(swapped["detection_error"])


def test_only_the_order_of_scores_matters():
    inside, outside = scores()
    assert ood_metrics(inside.exp(), outside.exp()) == ood_metrics(inside, outside)


def test_equal_scores_are_chance():
    metrics = ood_metrics(torch.zeros(30), torch.zeros(10))
    assert metrics == {
        "auroc": 0.5, "aupr": 0.25, "aupr_in": 0.75, "fpr95": 1.0, "detection_error": 0.5
    }  # fmt: skip


def test_numpy_and_torch_scores_agree():
    inside, outside = scores()
    assert ood_metrics(inside.numpy(), outside.numpy()) == ood_metrics(inside, outside)


def bayesian(likelihood=None):
    net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
    return bd.BayesianNetwork(net, likelihood or bd.Categorical(), num_data=100)


def test_single_sample_has_no_mutual_information_score():
    prediction = bd.predict(bayesian(), torch.zeros(5, 4), sample=False)
    names = ["entropy", "max_probability", "energy", "logit_norm"]
    assert list(uncertainty_scores(prediction)) == names


def test_scores_of_logits_are_averages_over_posterior_samples():
    bnn, x = bayesian(), torch.randn(6, 4)
    prediction = bd.predict(bnn.eval(), x, num_samples=7, seed=1)
    torch.manual_seed(1)
    contexts = [PosteriorSample(bnn.draw_latents(), shared=True) for _ in range(7)]
    logits = []
    for context in contexts:
        with context:
            logits.append(bnn.network(x).detach())
    logits = torch.stack(logits)
    torch.testing.assert_close(logits.softmax(-1), prediction.samples)
    torch.testing.assert_close(prediction.energy, -logits.exp().sum(-1).log().mean(0))
    norm = logits.mean(0).square().sum(-1).sqrt()
    torch.testing.assert_close(prediction.logit_norm, norm)
    torch.testing.assert_close(uncertainty_scores(prediction)["logit_norm"], -norm)


def test_arrays_give_the_scores_of_the_prediction():
    bnn, x = bayesian(), torch.randn(6, 4)
    prediction = bd.predict(bnn, x, num_samples=7, seed=1)
    from_prediction = uncertainty_scores(prediction)
    for samples in (prediction.samples, prediction.samples.numpy()):
        for name, values in uncertainty_scores(samples).items():
            torch.testing.assert_close(values, from_prediction[name])
    assert "mutual_information" not in uncertainty_scores(prediction.mean)


def test_only_categorical_predictions_have_logit_scores():
    prediction = bd.predict(bayesian(bd.Bernoulli()), torch.zeros(5, 4), num_samples=3)
    assert prediction.energy is None
    assert set(uncertainty_scores(prediction)) == {
        "entropy", "max_probability", "mutual_information"
    }  # fmt: skip
    assert bd.predict(bayesian(bd.Gaussian(0.1)), torch.zeros(5, 4)).logit_norm is None


@pytest.mark.parametrize(
    ("probabilities", "logits", "error", "message"),
    [
        (torch.ones(4), None, ShapeError, r"shape \(N, classes\) or \(samples, N, classes\)"),
        (torch.ones(4, 3), None, DataError, "sum to one"),
        (torch.full((2, 4, 2), math.nan), None, DataError, "finite probabilities"),
        (torch.full((4, 2), 0.5), torch.zeros(4, 3), ShapeError, r"logits of shape \(4, 2\)"),
    ],
)
def test_bad_arrays_are_refused(probabilities, logits, error, message):
    with pytest.raises(error, match=f"uncertainty_scores.*: expected .*{message}"):
        uncertainty_scores(probabilities, logits=logits)


# -- several sets ---------------------------------------------------------------------------------


def test_a_table_has_the_metrics_of_each_set_and_averages_of_groups():
    inside, near = scores()
    far = near + 2
    table = compare_ood(
        {"a": inside, "b": 2 * inside},
        {"near": {"a": near, "b": -near}, "far": {"a": far, "b": far}},
        groups={"all": ["near", "far"], "one": "far"},
    )
    assert table.metrics["near"]["a"] == ood_metrics(inside, near)
    assert table.metrics["far"]["b"] == ood_metrics(2 * inside, far)
    for key, value in table.metrics["all"]["a"].items():
        both = table.metrics["near"]["a"][key], table.metrics["far"]["a"][key]
        assert value == pytest.approx(sum(both) / 2), key
    assert "| all (mean of 2) | a |" in str(table)
    assert str(table).count("\n") == 2 + 4 * 2 - 1
    assert json.loads(json.dumps(table.to_dict()))["groups"] == {
        "all": ["near", "far"],
        "one": ["far"],
    }
    assert table.metrics["one"] == table.metrics["far"]


def test_tables_take_predictions_probabilities_and_single_scores():
    bnn, x = bayesian(), torch.randn(30, 4)
    inside = bd.predict(bnn, x, num_samples=5, seed=0)
    outside = bd.predict(bnn, 3 * x, num_samples=5, seed=0)
    table = compare_ood(inside, {"scaled": outside}).metrics["scaled"]
    assert len(table) == 5
    arrays = compare_ood(inside.samples, {"scaled": outside.samples.numpy()}).metrics["scaled"]
    assert arrays["entropy"]["auroc"] == pytest.approx(table["entropy"]["auroc"])
    score = compare_ood(inside.predictive_entropy, {"scaled": outside.predictive_entropy})
    assert score.metrics["scaled"]["score"] == table["entropy"]


def test_bad_tables_are_refused():
    inside, outside = scores()
    with pytest.raises(ConfigError, match="compare_ood: expected at least one OOD set"):
        compare_ood(inside, {})
    with pytest.raises(ConfigError, match="outside to be a mapping by OOD set, got Tensor"):
        compare_ood(inside, outside)
    with pytest.raises(ConfigError, match="unknown OOD set 1.0"):
        compare_ood(inside, {"far": outside}, groups={"all": 1.0})
    with pytest.raises(ConfigError, match="unknown OOD set 'farr'. Did you mean 'far'"):
        compare_ood(inside, {"far": outside}, groups={"all": ["farr"]})
    with pytest.raises(ConfigError, match="names of their own"):
        compare_ood(inside, {"far": outside}, groups={"far": ["far"]})
    with pytest.raises(DataError, match="expected the scores .*'score'.* got .*'a'.* for 'far'"):
        compare_ood(inside, {"far": {"a": outside}})
    with pytest.raises(DataError, match="OOD scores of at least one example"):
        compare_ood(inside, {"far": outside[:0]})


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


def votes(count, seed=0):
    """Shares of ten votes over five classes."""
    generator = torch.Generator().manual_seed(seed)
    choices = torch.randint(5, (count, 10), generator=generator)
    return torch.nn.functional.one_hot(choices, 5).double().mean(1)


def test_scores_that_differ_by_rounding_are_ties():
    shares = torch.tensor([0.1, 0.3, 0.2, 0.4]).double().expand(50, 4)
    table = bd.metrics.compare_ood(shares, {"other classes": shares.flip(1)})
    for scores in table.metrics["other classes"].values():
        assert scores["auroc"] == 0.5
        assert scores["fpr95"] == 1.0


def test_the_order_of_classes_or_samples_changes_nothing():
    inside, outside = votes(300), votes(400, seed=1) ** 2 + 0.1
    outside = outside / outside.sum(1, keepdim=True)
    expected = bd.metrics.compare_ood(inside, {"o": outside}).metrics
    for order in torch.stack([torch.randperm(5) for _ in range(5)]):
        assert bd.metrics.compare_ood(inside, {"o": outside[:, order]}).metrics == expected
    samples = torch.stack([votes(200, seed) for seed in range(7)])
    table = bd.metrics.compare_ood(samples, {"o": samples.flip(0)})
    for scores in table.metrics["o"].values():
        assert scores["auroc"] == pytest.approx(0.5, abs=1e-12)


def test_ties_of_votes_are_those_of_exact_shares():
    shares, labels = votes(1000), torch.arange(1000) % 5
    entropy = bd.metrics.uncertainty_scores(shares)["entropy"]
    exact = (entropy * 1e9).round() / 1e9
    metrics = bd.metrics.ood_metrics(entropy[:500], entropy[500:])
    assert metrics == bd.metrics.ood_metrics(exact[:500], exact[500:])
    curve = bd.metrics.risk_coverage(shares, labels, confidence=-entropy)
    rounded = bd.metrics.risk_coverage(shares, labels, confidence=-exact)
    assert len(curve.risk) == len(rounded.risk) < len(entropy.unique())
    assert curve.aurc == pytest.approx(rounded.aurc, abs=1e-12)


def test_sets_of_two_dtypes_are_compared_in_the_coarser_one():
    inside, outside = votes(500)[:, 0], votes(500, seed=1)[:, 0]
    expected = bd.metrics.ood_metrics(inside, outside)
    assert bd.metrics.ood_metrics(inside, outside.float()) == expected
    assert bd.metrics.ood_metrics(inside.float(), outside.half()) == expected
    arrays = votes(500), votes(500, seed=1)
    mixed = bd.metrics.compare_ood(arrays[0], {"o": arrays[1].float()}).metrics["o"]
    alike = bd.metrics.compare_ood(arrays[0].float(), {"o": arrays[1].float()}).metrics["o"]
    assert mixed == alike


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e6])
def test_scores_that_differ_by_more_than_rounding_are_no_ties(scale):
    inside, outside = torch.zeros(20), torch.arange(20) * scale * 1e-3 + scale
    assert bd.metrics.ood_metrics(inside, outside)["auroc"] == 1.0
    assert bd.metrics.ood_metrics(outside[:-1], outside[-1:])["auroc"] == 1.0
