import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import risk_coverage_of_losses
from bayesdrop.testing import TEST_FAILURE_RATE


def example(rows=400, classes=4):
    logits = 2 * torch.randn(rows, classes)
    return logits.softmax(1), torch.distributions.Categorical(logits=logits).sample()


def test_areas_agree_with_their_definition():
    probabilities, labels = example()
    p, y = probabilities.numpy(), labels.numpy()
    losses = (p.argmax(1) != y)[np.argsort(-p.max(1))]
    risks = [losses[:k].mean() for k in range(1, len(y) + 1)]
    best = [np.sort(losses)[:k].mean() for k in range(1, len(y) + 1)]
    curve = bd.metrics.risk_coverage(probabilities, labels)
    assert curve.aurc == pytest.approx(np.mean(risks), rel=1e-12)
    assert curve.excess_aurc == pytest.approx(np.mean(risks) - np.mean(best), rel=1e-10)
    joint = [losses[:k].sum() / len(y) for k in range(1, len(y) + 1)]
    assert curve.augrc == pytest.approx(np.mean(joint), rel=1e-12)
    np.testing.assert_allclose(curve.risk, risks)
    np.testing.assert_allclose(curve.coverage, np.arange(1, len(y) + 1) / len(y))


def test_the_best_order_approaches_its_approximation():
    # Geifman et al.: r + (1 - r) log(1 - r); the sum differs from the integral by O(1 / N).
    losses = (torch.arange(10_000) < 2000).double()
    curve = risk_coverage_of_losses(losses, -losses)
    assert curve.excess_aurc == 0.0
    assert curve.aurc == pytest.approx(0.2 + 0.8 * math.log(0.8), abs=1e-4)


def test_random_confidence_has_the_risk_of_all():
    losses, confidence = (torch.rand(20_000) < 0.3).double(), torch.zeros(20_000)
    curve = risk_coverage_of_losses(losses, confidence)
    # One value alone: a random order, and one point.
    assert curve.aurc == pytest.approx(float(losses.mean()))
    assert curve.coverage.tolist() == [1.0]


def test_ties_are_the_average_over_random_orders():
    confidence = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0])
    losses = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    curve = risk_coverage_of_losses(losses, confidence)
    areas = []
    for place in (1, 2, 3):  # of the tied error
        order = np.zeros(5)
        order[[place, 4]] = 1.0
        areas.append(np.mean(np.cumsum(order) / np.arange(1, 6)))
    assert curve.aurc == pytest.approx(np.mean(areas))
    assert curve.coverage.tolist() == [0.2, 0.8, 1.0]
    torch.testing.assert_close(curve.risk, torch.tensor([0.0, 0.25, 0.4]))
    reverse = risk_coverage_of_losses(losses.flip(0), confidence.flip(0))
    assert reverse.to_dict() == curve.to_dict()


def test_only_the_order_of_confidence_matters():
    probabilities, labels = example()
    plain = bd.metrics.risk_coverage(probabilities, labels)
    other = bd.metrics.risk_coverage(
        probabilities, labels, confidence=probabilities.amax(1).exp().numpy()
    )
    assert other.aurc == plain.aurc and torch.equal(other.risk, plain.risk)
    worse = bd.metrics.risk_coverage(probabilities, labels, confidence=-probabilities.amax(1))
    assert worse.aurc > plain.aurc


def test_reading_the_curve():
    losses = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0])
    curve = risk_coverage_of_losses(losses, -torch.arange(5.0))
    assert curve.coverage_at_risk(0.0) == 0.4
    assert curve.coverage_at_risk(0.25) == 0.8
    assert curve.coverage_at_risk(1.0) == 1.0
    assert curve.risk_at_coverage(0.5) == pytest.approx(1 / 3)
    assert curve.risk_at_coverage(1.0) == 0.4
    assert risk_coverage_of_losses(torch.ones(3), torch.arange(3.0)).coverage_at_risk(0.5) == 0.0
    with pytest.raises(ConfigError, match="expected 0 < coverage <= 1, got coverage=80"):
        curve.risk_at_coverage(80)


def test_the_curve_as_a_dictionary_is_plain_json_and_short():
    values = json.loads(json.dumps(bd.metrics.risk_coverage(*example()).to_dict()))
    assert len(values["curve"]["risk"]) == 101
    assert values["curve"]["coverage"][-1] == 1.0
    assert values["curve"]["risk"][-1] == values["risk"]


def test_without_a_bound_the_largest_coverage_that_meets_the_target_is_taken():
    probabilities, labels = example()
    chosen = bd.metrics.select_threshold(probabilities, labels, target_risk=0.1)
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
    chosen = bd.metrics.select_threshold(probabilities, labels, target_risk=0.9)
    assert chosen.coverage == 1.0 and chosen.threshold == -math.inf
    assert chosen.accept(probabilities).all()
    assert json.loads(json.dumps(chosen.to_dict(), allow_nan=False))["threshold"] is None


def test_a_bound_costs_coverage_and_lies_above_the_risk():
    probabilities, labels = example(2000)
    loose = bd.metrics.select_threshold(probabilities, labels, target_risk=0.15)
    safe = bd.metrics.select_threshold(
        probabilities, labels, target_risk=0.15, failure_probability=0.05
    )
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
            chosen = bd.metrics.select_threshold(
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


def test_the_bound_holds_where_every_choice_would_be_wrong():
    # Errors are independent of the confidence and a little more frequent than the target, so that
    # whatever is chosen breaks the promise: many looks at the data must not find a lucky one.
    target, failure, runs, rows = 0.1, 0.2, 300, 200
    chosen = 0
    for _ in range(runs):
        confidence, errors = torch.rand(rows), (torch.rand(rows) < target + 1e-3).long()
        p = torch.tensor([[1.0, 0.0]]).expand(rows, 2)
        try:
            bd.metrics.select_threshold(
                p, errors, target_risk=target, failure_probability=failure, confidence=confidence
            )
        except DataError:
            continue
        chosen += 1
    assert binom.sf(chosen - 1, runs, failure) > TEST_FAILURE_RATE


def test_without_a_bound_the_target_is_missed_often():
    # What the promise above is worth: the same trial without it.
    exceeded = 0
    for _ in range(100):
        confidence = torch.rand(200)
        errors = (torch.rand(200) < (1 - confidence) / 2).long()
        p = torch.tensor([[1.0, 0.0]]).expand(200, 2)
        chosen = bd.metrics.select_threshold(p, errors, target_risk=0.1, confidence=confidence)
        exceeded += (1 - max(0.0, chosen.threshold)) / 4 > 0.1
    assert binom.sf(exceeded - 1, 100, 0.2) < TEST_FAILURE_RATE


def test_samples_probabilities_and_scores_are_accepted_alike():
    samples = torch.randn(5, 60, 3).softmax(-1)
    labels = samples.mean(0).argmax(1)
    labels[samples.mean(0).amax(1).argsort()[:10]] = 0
    chosen = bd.metrics.select_threshold(samples, labels, target_risk=0.05)
    mean = samples.mean(0)
    assert torch.equal(chosen.accept(samples), chosen.accept(mean))
    assert torch.equal(chosen.accept(mean.amax(1)), chosen.accept(mean.numpy()))


P = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
Y = torch.tensor([1, 0, 1])


def test_bad_input_is_refused():
    with pytest.raises(
        DataError, match="some coverage with a risk of at most 0.1, got a risk from"
    ):
        bd.metrics.select_threshold(P, Y, target_risk=0.1)
    with pytest.raises(DataError, match="got bounds from 1 up. Allow more risk"):
        bd.metrics.select_threshold(P, Y, target_risk=0.1, failure_probability=0.05)
    with pytest.raises(
        ConfigError, match="0 < target_risk < 1, got target_risk=5. Give a fraction"
    ):
        bd.metrics.select_threshold(P, Y, target_risk=5)
    with pytest.raises(
        ConfigError, match="0 < failure_probability < 1, got failure_probability=0"
    ):
        bd.metrics.select_threshold(P, Y, target_risk=0.1, failure_probability=0)
    with pytest.raises(ShapeError, match="risk_coverage: expected 3 confidences, .* got 2"):
        bd.metrics.risk_coverage(P, Y, confidence=torch.zeros(2))
    with pytest.raises(DataError, match="risk_coverage: expected finite confidence scores"):
        bd.metrics.risk_coverage(P, Y, confidence=torch.tensor([0, math.nan, 1]))
    with pytest.raises(DataError, match="risk_coverage: .*sum to one"):
        bd.metrics.risk_coverage(0.5 * P, Y)
    with pytest.raises(ShapeError, match="risk_coverage: expected 3 labels"):
        bd.metrics.risk_coverage(P, Y[:1])
    with pytest.raises(DataError, match="expected losses >= 0, got -1"):
        risk_coverage_of_losses(-torch.ones(2), torch.zeros(2))
    with pytest.raises(ShapeError, match="risk_coverage_of_losses: expected 2 confidences"):
        risk_coverage_of_losses(torch.ones(2), torch.zeros(3))
