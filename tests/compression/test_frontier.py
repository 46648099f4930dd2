import copy
import json

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import (
    Frontier,
    FrontierRow,
    choose_threshold,
    compact,
    count_flops,
    count_params,
    sweep_thresholds,
)
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.nn import BetaBernoulliDropout


def bayesian(dropout="beta-bernoulli", likelihood=None):
    """Keep probabilities spread over (0, 1)."""
    net = nn.Sequential(
        bd.nn.make(dropout, 8), nn.Linear(8, 6), nn.ReLU(), bd.nn.make(dropout, 6),
        nn.Linear(6, 3),
    )  # fmt: skip
    for layer in (net[0], net[3]):
        if hasattr(layer, "location"):
            layer.location.data = torch.linspace(-6.0, 3.0, layer.num_units)
    return bd.BayesianNetwork(net, likelihood or bd.Categorical(), num_data=100)


def data(rows=60):
    return torch.rand(rows, 8), torch.arange(rows) % 3


@pytest.mark.parametrize("dropout", bd.nn.registered(bd.BayesianDropout))
def test_each_row_is_the_compact_network_at_that_threshold(dropout):
    bnn, (x, y) = bayesian(dropout), data()
    frontier = sweep_thresholds(bnn, (x, y), [0.0, 0.05, 0.5])
    for row in frontier.rows:
        work = copy.deepcopy(bnn)
        for _, layer in work.named_dropout_layers():
            layer.threshold = row.threshold
        small = compact(work, x)
        assert row.units == tuple(work.units())
        assert row.params == count_params(small)
        assert row.flops == count_flops(small, x)
        result = bd.evaluate(work, (x, y), sample=False)
        assert (row.error, row.nll, row.ece) == (result.error, result.nll, result.ece)
        nll = nn.functional.cross_entropy(small(x).detach(), y)
        assert row.nll == pytest.approx(float(nll))
    plain = bd.without_dropout(bnn)
    assert frontier.flops_total == count_flops(plain, x)
    assert frontier.params_total == count_params(plain)
    assert frontier.units_total == (8, 6)


def test_a_higher_threshold_never_costs_more():
    frontier = sweep_thresholds(bayesian(), data())
    thresholds = [row.threshold for row in frontier.rows]
    assert thresholds == sorted(set(thresholds))
    assert thresholds[0] == 0.0
    assert 1e-3 in thresholds  # the layers' own
    for key in ("params", "flops"):
        values = [getattr(row, key) for row in frontier.rows]
        assert values == sorted(values, reverse=True), key
    for lower, higher in zip(frontier.rows, frontier.rows[1:], strict=False):
        assert all(a >= b for a, b in zip(lower.units, higher.units, strict=True))
    # Every step that the defaults take prunes something, but for the layers' own threshold.
    assert len({row.units for row in frontier.rows}) >= len(frontier.rows) - 2


def test_the_network_stays_as_it_is():
    bnn = bayesian()
    bnn.train()
    before = copy.deepcopy(bnn.state_dict())
    sweep_thresholds(bnn, data(), [0.3, 0.7])
    assert [layer.threshold for _, layer in bnn.named_dropout_layers()] == [1e-3, 1e-3]
    assert all(module.training for module in bnn.modules())
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, before[name])


def test_tables_are_plain():
    frontier = sweep_thresholds(bayesian(), data(), [0.0, 0.5])
    assert len(json.loads(json.dumps(frontier.to_dict()))["rows"]) == 2
    assert "| 0 | 8-6 |" in str(frontier)


def row(threshold, flops, error, nll=0.1):
    return FrontierRow(threshold, (1,), flops, flops, error, nll, 0.0)


FRONTIER = Frontier(
    (row(0.0, 100, 2.0), row(0.1, 60, 1.9), row(0.2, 40, 2.1), row(0.3, 40, 2.1, 0.05),
     row(0.4, 20, 2.5), row(0.5, 5, 50.0)),
    100, 100, (1,),
)  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "threshold"),
    [
        ({"max_error_increase": 0.0}, 0.1),
        ({"max_error_increase": 0.1}, 0.3),  # exactly at the limit; of two, the lower NLL
        ({"max_error_increase": 0.5}, 0.4),
        ({"max_error_increase": 99.0}, 0.5),
        ({"max_error_increase": -0.05}, 0.1),
        ({"max_flops": 1000}, 0.1),
        ({"max_flops": 59}, 0.3),
        ({"max_flops": 20}, 0.4),
    ],
)
def test_the_threshold_is_the_best_within_the_limit(limit, threshold):
    assert choose_threshold(FRONTIER, **limit) == threshold
    backwards = Frontier(FRONTIER.rows[::-1], 100, 100, (1,))
    assert choose_threshold(backwards, **limit) == threshold


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({}, "expected a frontier with rows, and max_error_increase or max_flops"),
        ({"max_flops": 5, "max_error_increase": 1.0}, "max_error_increase or max_flops"),
        ({"max_flops": 4}, "expected a threshold within the limit, got .* FLOPs from 5"),
        ({"max_error_increase": -1.0}, "errors from 1.90 %. Relax"),
    ],
)
def test_impossible_limits_are_refused(limit, message):
    with pytest.raises(ConfigError, match=f"choose_threshold: .*{message}"):
        choose_threshold(FRONTIER, **limit)


def test_bad_requests_are_refused():
    bnn, pair = bayesian(), data()
    with pytest.raises(ConfigError, match=r"expected at least one threshold, all in \[0, 1\)"):
        sweep_thresholds(bnn, pair, [0.1, 1.0])
    for thresholds in ([], 0.1):
        with pytest.raises(ConfigError, match="thresholds to be a sequence"):
            sweep_thresholds(bnn, pair, thresholds)
    with pytest.raises(ConfigError, match="BayesianNetwork that classifies.* got .* Gaussian"):
        sweep_thresholds(bayesian(likelihood=bd.Gaussian(0.1)), pair)
    plain = bd.BayesianNetwork(nn.Linear(8, 3), bd.Categorical(), num_data=100)
    with pytest.raises(ConfigError, match="has Bayesian dropout layers"):
        sweep_thresholds(plain, pair)
    with pytest.raises(ConfigError, match="expected a BayesianNetwork .*, got Linear"):
        sweep_thresholds(nn.Linear(8, 3), pair)
    with pytest.raises(DataError, match="expected data with targets"):
        sweep_thresholds(bnn, pair[0])


def test_a_threshold_that_keeps_nothing_leaves_a_constant_network():
    bnn = bd.BayesianNetwork(
        nn.Sequential(BetaBernoulliDropout(8), nn.Linear(8, 3)), bd.Categorical(), num_data=9
    )
    (last,) = sweep_thresholds(bnn, data(), [0.99]).rows
    assert last.units == (0,)
    assert last.error == pytest.approx(200 / 3)
