"""Thresholds keep what they promise, in simulation, and are not needlessly careful."""

import json
import math

import pytest
import torch
from scipy.stats import binom

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import select_ood_threshold, select_threshold
from bayesdrop.testing import TEST_FAILURE_RATE


def example(rows=400, classes=4):
    logits = 2 * torch.randn(rows, classes)
    return logits.softmax(1), torch.distributions.Categorical(logits=logits).sample()


def test_without_a_bound_the_largest_coverage_that_meets_the_target_is_taken():
    probabilities, labels = example()
    chosen = select_threshold(probabilities, labels, target_risk=0.1)
    curve = bd.metrics.risk_coverage(probabilities, labels)
    assert chosen.coverage == curve.coverage_at_risk(0.1)
    accepted = chosen.accept(probabilities)
    wrong = probabilities.argmax(1) != labels
    assert float(accepted.double().mean()) == chosen.coverage
    assert float(wrong[accepted].double().mean()) == pytest.approx(chosen.risk)
    assert chosen.risk <= 0.1 < float(wrong.double().mean())
    assert chosen.risk_bound is None


def test_a_target_above_the_risk_of_all_answers_all():
    probabilities, labels = example()
    chosen = select_threshold(probabilities, labels, target_risk=0.9)
    assert chosen.coverage == 1.0 and chosen.threshold == -math.inf
    assert chosen.accept(probabilities).all()
    assert json.loads(json.dumps(chosen.to_dict(), allow_nan=False))["threshold"] is None


def test_a_bound_costs_coverage_and_lies_above_the_risk():
    probabilities, labels = example(2000)
    loose = select_threshold(probabilities, labels, target_risk=0.15)
    safe = select_threshold(probabilities, labels, target_risk=0.15, failure_probability=0.05)
    assert safe.risk < safe.risk_bound <= 0.15
    assert 0.2 < safe.coverage < loose.coverage


@pytest.mark.parametrize("ties", [False, True])
def test_the_bound_holds_as_often_as_promised(ties):
    # Confidence c uniform, an error with probability (1 - c) / 2: the risk above a threshold t is
    # (1 - t) / 4, or for rounded confidences an average over the values above.
    target, failure, runs, rows = 0.1, 0.2, 300, 200
    exceeded = 0
    for _ in range(runs):
        confidence = torch.rand(rows)
        if ties:
            confidence = (confidence * 10).floor() / 10
        errors = (torch.rand(rows) < (1 - confidence) / 2).long()
        p = torch.tensor([[1.0, 0.0]]).expand(rows, 2)
        try:
            chosen = select_threshold(
                p, errors, target_risk=target, failure_probability=failure, confidence=confidence
            )
        except DataError:
            continue  # nothing promised
        threshold = max(0.0, chosen.threshold)
        above = torch.arange(10) / 10
        above = above[above > chosen.threshold]
        true = float((1 - above).mean() / 2) if ties else (1 - threshold) / 4
        exceeded += true > target
    assert binom.sf(exceeded - 1, runs, failure) > TEST_FAILURE_RATE


def test_without_a_bound_the_target_is_missed_often():
    # What the promise above is worth: the same trial without it.
    exceeded = 0
    for _ in range(100):
        confidence = torch.rand(200)
        errors = (torch.rand(200) < (1 - confidence) / 2).long()
        p = torch.tensor([[1.0, 0.0]]).expand(200, 2)
        chosen = select_threshold(p, errors, target_risk=0.1, confidence=confidence)
        exceeded += (1 - max(0.0, chosen.threshold)) / 4 > 0.1
    assert binom.sf(exceeded - 1, 100, 0.2) < TEST_FAILURE_RATE


def test_samples_probabilities_and_scores_are_accepted_alike():
    samples = torch.randn(5, 60, 3).softmax(-1)
    labels = samples.mean(0).argmax(1)
    labels[samples.mean(0).amax(1).argsort()[:10]] = 0
    chosen = select_threshold(samples, labels, target_risk=0.05)
    mean = samples.mean(0)
    assert torch.equal(chosen.accept(samples), chosen.accept(mean))
    assert torch.equal(chosen.accept(mean.amax(1)), chosen.accept(mean.numpy()))


def choose(errors, confidence, **options):
    """Choose a threshold for errors, 0 or 1, whatever the classes; None if there is none."""
    p = torch.tensor([[1.0, 0.0]]).expand(len(errors), 2)
    try:
        return select_threshold(p, errors.long(), confidence=confidence, **options)
    except DataError:
        return None


@pytest.mark.parametrize("failure", [0.1, 0.3])
def test_where_the_risk_is_the_target_everywhere_answering_at_all_is_as_rare_as_promised(failure):
    # The worst case: no threshold is allowed. Twice the share of each start would answer in twice
    # as many trials, and every coverage tested by itself at the whole of it in far more.
    target, runs, rows = 0.3, 800, 1000
    options = {"target_risk": target - 1e-9, "failure_probability": failure}
    answered = sum(
        choose(torch.rand(rows) < target, torch.rand(rows), **options) is not None
        for _ in range(runs)
    )
    assert binom.sf(answered - 1, runs, failure) > TEST_FAILURE_RATE
    # Both starts are used: the bound is not far above what happens.
    assert binom.cdf(answered, runs, 0.6 * failure) > TEST_FAILURE_RATE


def test_a_risk_that_rises_in_steps_is_bounded_too():
    # Two levels of confidence and ties: 60 % of the examples have a risk below the target.
    target, failure, runs = 0.2, 0.2, 400
    violated = 0
    for _ in range(runs):
        confident = torch.rand(300) < 0.6
        errors = torch.rand(300) < torch.where(confident, 0.19, 0.22)
        chosen = choose(
            errors, confident.double(), target_risk=target, failure_probability=failure
        )
        violated += chosen is not None and chosen.threshold < 0.0  # all: 0.202
    assert binom.sf(violated - 1, runs, failure) > TEST_FAILURE_RATE


def test_most_sets_that_should_be_served_are():
    # 25 % errors, answering half of the examples has a risk of 10 %: 300 of them suffice.
    runs, refused, coverage = 200, 0, 0.0
    for _ in range(runs):
        confidence = torch.rand(300)
        errors = torch.rand(300) < 0.75 * (1 - confidence).square()
        chosen = choose(errors, confidence, target_risk=0.1, failure_probability=0.1)
        refused += chosen is None
        coverage += 0.0 if chosen is None else chosen.coverage
    assert refused / runs < 0.05
    assert coverage / runs > 0.4


def test_few_examples_without_errors_are_enough_and_no_fewer():
    # log(0.025) / log(0.9) = 35.01 examples without an error.
    options = {"target_risk": 0.1, "failure_probability": 0.05}
    for rows, found in ((35, False), (36, True)):
        chosen = choose(torch.zeros(rows), torch.rand(rows), **options)
        assert (chosen is not None) == found
    assert chosen.coverage == 1.0 and chosen.risk == 0.0 and 0.09 < chosen.risk_bound <= 0.1


def test_many_examples_of_the_same_confidence_do_not_end_the_search():
    # A saturated softmax: 60 % have a confidence of one, and are right.
    sure = torch.rand(500) < 0.6
    errors = ~sure & (torch.rand(500) < 0.8)
    confidence = torch.where(sure, 1.0, 0.9 * torch.rand(500))
    chosen = choose(errors, confidence, target_risk=0.1, failure_probability=0.05)
    assert 0.5 < chosen.coverage < 0.75 and chosen.threshold < 1.0


# -- out of distribution -------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [None, 0.1])
@pytest.mark.parametrize("ties", [False, True])
def test_false_alarms_are_as_rare_as_promised(failure, ties):
    rate, runs, rows = 0.1, 1500, 99
    exceeded, total = 0, 0.0
    for _ in range(runs):
        scores = torch.rand(rows, dtype=torch.float64)
        if ties:
            scores = (scores * 50).floor() / 50
        chosen = select_ood_threshold(scores, false_alarm_rate=rate, failure_probability=failure)
        true = 1 - chosen.threshold - (0.02 if ties else 0.0)
        exceeded += true > rate
        total += true
    if failure is None:  # on average, and hardly less
        assert total / runs <= rate + 4.3 * 0.03 / math.sqrt(runs)
        assert ties or total / runs >= rate - 4.3 * 0.03 / math.sqrt(runs)
    else:
        assert binom.sf(exceeded - 1, runs, failure) > TEST_FAILURE_RATE
        assert ties or binom.cdf(exceeded, runs, 0.4 * failure) > TEST_FAILURE_RATE


def test_scores_above_the_threshold_are_flagged():
    scores = torch.arange(1000.0)
    chosen = select_ood_threshold(scores, false_alarm_rate=0.05, failure_probability=0.05)
    assert float(chosen.flag(scores).double().mean()) == chosen.flagged < 0.05
    assert 0.045 < chosen.rate_bound <= 0.05 and chosen.num_examples == 1000
    assert chosen.flag([1e9, -1.0]).tolist() == [True, False]
    assert json.loads(json.dumps(chosen.to_dict()))["failure_probability"] == 0.05


def test_too_few_examples_for_a_rate_are_refused():
    with pytest.raises(DataError, match="at least 99 examples for a rate of 0.01, got 98"):
        select_ood_threshold(torch.rand(98), false_alarm_rate=0.01)
    assert select_ood_threshold(torch.arange(99.0), false_alarm_rate=0.01).threshold == 98.0
    with pytest.raises(DataError, match="at least 59 examples for a rate of 0.05 with"):
        select_ood_threshold(torch.rand(58), false_alarm_rate=0.05, failure_probability=0.05)
    allowed = select_ood_threshold(
        torch.arange(59.0), false_alarm_rate=0.05, failure_probability=0.05
    )
    assert allowed.threshold == 58.0 and allowed.flagged == 0.0
    with pytest.raises(ConfigError, match="0 < false_alarm_rate < 1"):
        select_ood_threshold(torch.rand(9), false_alarm_rate=5)
    with pytest.raises(ShapeError, match=r"OOD scores of shape \(N,\)"):
        select_ood_threshold(torch.rand(9, 3), false_alarm_rate=0.5)


P = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
Y = torch.tensor([1, 0, 1])


def test_bad_input_is_refused():
    with pytest.raises(
        DataError, match="some coverage with a risk of at most 0.1, got a risk from"
    ):
        select_threshold(P, Y, target_risk=0.1)
    with pytest.raises(DataError, match="got bounds from 1 up. Allow more risk"):
        select_threshold(P, Y, target_risk=0.1, failure_probability=0.05)
    with pytest.raises(
        ConfigError, match="0 < target_risk < 1, got target_risk=5. Give a fraction"
    ):
        select_threshold(P, Y, target_risk=5)
    with pytest.raises(
        ConfigError, match="0 < failure_probability < 1, got failure_probability=0"
    ):
        select_threshold(P, Y, target_risk=0.1, failure_probability=0)
