import math

import pytest
import torch

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import (
    bootstrap_metrics,
    brier_score,
    error_percent,
    expected_calibration_error,
    negative_log_likelihood,
    ood_metrics,
    risk_coverage,
)
from bayesdrop.metrics.resampling import METRICS, Columns, Pair, draw
from bayesdrop.testing import assert_mean_close

FUNCTIONS = {
    "error": error_percent,
    "nll": negative_log_likelihood,
    "brier": brier_score,
    "ece": expected_calibration_error,
    "aurc": lambda p, y: risk_coverage(p, y).aurc,
}


@pytest.fixture
def data():
    p = torch.randn(80, 4).mul(2).softmax(1)
    p[40:60] = p[:20].flip(1)  # as confident as others
    labels = torch.multinomial(p, 1).squeeze(1)
    return p, labels


def test_the_other_set_is_resampled_independently_of_the_test_set(data):
    # The same scores inside and outside: drawn together, every resample would have an AUROC of
    # exactly one half; drawn apart, its variance is that of two independent sets.
    p, labels = data
    found = bootstrap_metrics({"a": p}, labels, ood={"same": {"a": p}}, num_resamples=2000)
    auroc = found.resamples["a"]["auroc same"]
    scores = p.amax(1)
    first, second = torch.randint(len(p), (2, 2000, len(p)))
    pairs = scores[first].unsqueeze(2) - scores[second].unsqueeze(1)
    apart = 0.5 * (1 + pairs.sign()).mean((1, 2))
    assert float(auroc.std()) == pytest.approx(float(apart.std()), rel=0.15)


def test_values_are_those_of_the_metric_functions(data):
    p, labels = data
    other = torch.randn(30, 4).softmax(1)
    found = bootstrap_metrics({"a": p}, labels, ood={"far": {"a": other}}).values["a"]
    assert list(found) == [*METRICS, "auroc far"]
    for name, function in FUNCTIONS.items():
        assert math.isclose(found[name], function(p, labels), rel_tol=1e-9, abs_tol=1e-12), name
    entropy = [torch.special.entr(values).sum(1) for values in (p, other)]
    assert math.isclose(found["auroc far"], ood_metrics(*entropy)["auroc"], rel_tol=1e-9)


def test_other_sets_of_a_binary_classifier_are_scored_by_entropy():
    p, other, labels = torch.rand(50), 0.4 + 0.2 * torch.rand(30), torch.arange(50) % 2
    of_one = bootstrap_metrics({"a": p}, labels, ood={"far": {"a": other}}).values["a"]
    both = {"a": torch.stack([1 - p, p], 1)}, {"a": torch.stack([1 - other, other], 1)}
    of_both = bootstrap_metrics(both[0], labels, ood={"far": both[1]}).values["a"]
    assert of_one["auroc far"] == pytest.approx(of_both["auroc far"], rel=1e-9)
    outside = (other - 0.5).abs()  # the nearer to one half, the higher the entropy
    by_hand = ood_metrics(-(p - 0.5).abs(), -outside)["auroc"]
    assert of_one["auroc far"] == pytest.approx(by_hand, rel=1e-9)


def test_a_resample_is_the_test_set_with_repeated_examples(data):
    p, labels = data
    counts = draw(3, len(p), torch.Generator().manual_seed(1))
    assert counts.sum(1).tolist() == [80.0] * 3
    found = Columns(p, labels)(counts)
    for row, times in enumerate(counts.long()):
        repeated = p.repeat_interleave(times, 0), labels.repeat_interleave(times)
        for name, function in FUNCTIONS.items():
            expected = function(*repeated)
            assert math.isclose(found[name][row], expected, rel_tol=1e-9, abs_tol=1e-12), name


def test_a_resampled_auroc_is_that_of_repeated_examples_with_ties():
    inside, outside = torch.randint(6, (50,)).double(), torch.randint(3, 9, (40,)).double()
    counts = [draw(3, n, torch.Generator().manual_seed(n)) for n in (50, 40)]
    found = Pair(inside, outside)(*counts)
    for row, (ours, theirs) in enumerate(zip(*(c.long() for c in counts), strict=True)):
        metrics = ood_metrics(inside.repeat_interleave(ours), outside.repeat_interleave(theirs))
        assert math.isclose(found[row], metrics["auroc"], rel_tol=1e-9)


def test_resampled_errors_are_binomial(data):
    p, labels = data
    resamples = bootstrap_metrics({"a": p}, labels, num_resamples=4000).resamples["a"]["error"]
    share = error_percent(p, labels)
    assert_mean_close(resamples, torch.tensor(share))
    assert_mean_close((resamples - share).square(), torch.tensor(share * (100 - share) / 80))


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = {"error": 25.0, "ece": 0.15}
    hits = {"calibrated": [], **{name: [] for name in truth}}
    confidence = 0.5 + 0.5 * torch.rand(100, 300)
    for kind, correct in (("calibrated", confidence), ("shifted", confidence - 0.15)):
        labels = (torch.rand(100, 300) < correct).long()
        for p, y in zip(confidence, labels, strict=True):
            found = bootstrap_metrics({"a": p}, y, num_resamples=100)
            ece = found.interval("a", "ece")
            if kind == "calibrated":
                error = found.interval("a", "error")
                hits["error"].append(error.lower <= truth["error"] <= error.upper)
                hits["calibrated"].append(ece.lower == 0.0)
            else:
                hits["ece"].append(ece.lower <= truth["ece"] <= ece.upper)
    for name, found in hits.items():
        # Percentile intervals of 100 resamples and 300 examples fall a little short of 95 %.
        rate, noise = sum(found) / 100, math.sqrt(0.93 * 0.07 / 100)
        assert rate > 0.93 - 4.26 * noise, (name, rate)


def test_of_equal_classifiers_the_difference_is_exactly_zero(data):
    p, labels = data
    found = bootstrap_metrics({"a": p, "b": p.clone()}, labels)
    for metric in found.metrics:
        difference = found.difference("b", "a", metric)
        assert (difference.value, difference.lower, difference.upper) == (0.0, 0.0, 0.0)
        assert not difference.excludes_zero


def test_pairing_makes_differences_surer_and_antisymmetric(data):
    p, labels = data
    sharper = p.pow(1.2) / p.pow(1.2).sum(1, keepdim=True)
    found = bootstrap_metrics({"a": p, "b": sharper}, labels)
    ours, theirs = found.difference("b", "a", "nll"), found.difference("a", "b", "nll")
    assert ours.upper - ours.lower < 0.5 * (
        found.interval("a", "nll").upper - found.interval("a", "nll").lower
    )
    for one, two in ((ours.value, theirs.value), (ours.lower, theirs.upper)):
        assert math.isclose(one, -two, rel_tol=1e-9)


def test_several_classifiers_are_taken_by_their_median(data):
    p, labels = data
    flat = torch.full_like(p, 0.25)
    found = bootstrap_metrics({"a": p, "b": p.clone(), "c": flat}, labels)
    assert found.interval(["a", "b", "c"], "nll").value == found.interval("a", "nll").value
    assert found.difference(["a", "c", "b"], "b", "brier").upper == 0.0
    assert found.calibrated_ece(["a", "b", "c"]) == found.calibrated_ece("a")


def test_an_interval_of_the_ece_holds_its_resamples_and_these_mirrored(data):
    p, labels = data
    sure = p.pow(4.0) / p.pow(4.0).sum(1, keepdim=True)
    found = bootstrap_metrics({"a": p, "b": sure}, labels, level=0.9)
    low, high = found.resamples["b"]["ece"].quantile(torch.tensor([0.05, 0.95])).tolist()
    ece = found.interval("b", "ece")
    assert ece.value > found.calibrated_ece("b") and low + high > 2 * ece.value
    assert (ece.lower, ece.upper) == pytest.approx((2 * ece.value - high, high))
    own = (found.resamples["b"]["ece"] - found.resamples["a"]["ece"]).quantile(0.95).item()
    difference = found.difference("b", "a", "ece")
    assert difference.lower <= 2 * difference.value - own and difference.upper >= own


def test_without_a_single_error_the_upper_end_is_not_zero():
    p = torch.tensor([[0.9, 0.1]] * 50)
    error = bootstrap_metrics({"a": p}, torch.zeros(50).long()).interval("a", "error")
    assert (error.value, error.lower) == (0.0, 0.0)
    assert 1.0 < error.upper < 10.0


def test_the_seed_decides_and_the_global_generator_is_left_alone(data):
    p, labels = data
    state = torch.get_rng_state()
    first, same, other = (
        bootstrap_metrics({"a": p}, labels, seed=seed).to_dict() for seed in (1, 1, 2)
    )
    assert first == same != other
    assert torch.equal(state, torch.get_rng_state())


def test_samples_are_averaged_and_scores_can_be_given(data):
    p, labels = data
    samples = torch.stack([p, p.flip(1)])
    scores, outside = p[:, 0], torch.rand(20)
    found = bootstrap_metrics(
        {"a": samples}, labels, scores={"a": scores}, ood={"o": {"a": outside}}
    ).values["a"]
    assert math.isclose(found["nll"], negative_log_likelihood(samples.mean(0), labels))
    assert math.isclose(found["auroc o"], ood_metrics(scores, outside)["auroc"])


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"predictions": {}}, ConfigError, "at least one classifier, got none"),
        ({"predictions": None}, ConfigError, "at least one classifier, got NoneType"),
        ({"log_likelihood": {"b": torch.rand(80)}}, ConfigError, "'b'.* Available: a"),
        ({"scores": {"b": torch.rand(80)}}, ConfigError, "unknown classifier in scores 'b'"),
        ({"scores": torch.rand(80)}, ConfigError, "scores to be a mapping by classifier"),
        ({"ood": torch.rand(80)}, ConfigError, "ood to be a mapping by OOD set, got Tensor"),
        ({"ood": {"o": torch.rand(3)}}, ConfigError, "ood.'o'. to be a mapping by classifier"),
        ({"seed": None}, ConfigError, "seed to be an int, got seed=None"),
        ({"level": [0.9]}, ConfigError, "0 < level < 1, got level=.0.9."),
        ({"num_resamples": 10}, ConfigError, "num_resamples=10"),
        ({"level": 1.0}, ConfigError, "0 < level < 1"),
        ({"ood": {"o": {"b": torch.rand(3)}}}, ConfigError, "nothing of 'a'"),
        ({"labels": torch.zeros(3).long()}, ShapeError, "80 labels"),
        ({"scores": {"a": torch.rand(3)}, "ood": {"o": {"a": torch.rand(3)}}}, ShapeError, "3 of"),
        ({"ood": {"o": {"a": torch.rand(0, 4)}}}, DataError, "at least one example"),
        ({"predictions": {"a": torch.full((80, 4), torch.nan)}}, DataError, "finite"),
        ({"predictions": {"a": torch.full((80, 4), 0.4)}}, DataError, "sum to one"),
    ],
)
def test_bad_input_is_refused(data, change, error, message):
    arguments = {"predictions": {"a": data[0]}, "labels": data[1], **change}
    with pytest.raises(error, match=message):
        bootstrap_metrics(**arguments)


def test_unknown_names_are_refused(data):
    found = bootstrap_metrics({"plain": data[0]}, data[1])
    with pytest.raises(ConfigError, match="unknown classifier 'plan'. Did you mean 'plain'"):
        found.interval("plan", "nll")
    with pytest.raises(ConfigError, match="unknown metric 'nlll'. Did you mean 'nll'"):
        found.interval("plain", "nlll")


def test_different_numbers_of_examples_are_refused(data):
    p, labels = data
    with pytest.raises(ShapeError, match="9 labels, one for each row"):
        bootstrap_metrics({"a": p, "b": p[:9]}, labels)


def test_nll_comes_from_log_probabilities_where_they_are_given():
    labels = torch.arange(200) % 2
    p = {"net": torch.where(labels == 1, 0.9, 0.1)}
    terms = torch.where(torch.arange(200) == 7, -300.0, -0.1)
    found = bootstrap_metrics(p, labels, log_likelihood={"net": terms})
    assert found.interval("net", "nll").value == pytest.approx(float(-terms.mean()))
    with pytest.raises(ShapeError, match="expected 200 values of log-likelihood.* got 199"):
        bootstrap_metrics(p, labels, log_likelihood={"net": terms[1:]})
