import json
import math

import numpy as np
import pytest
import torch

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import risk_coverage_of_losses


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


P = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
Y = torch.tensor([1, 0, 1])


def test_bad_input_is_refused():
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
