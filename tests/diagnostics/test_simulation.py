"""Simulation-based calibration: it passes the posterior and tells another one from it."""

import copy

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.diagnostics import simulation_based_calibration
from bayesdrop.diagnostics.simulation import _known, _settled, _summary
from bayesdrop.errors import ConfigError


def one_layer(key="beta-bernoulli", **options):
    """A regression on two inputs that may be switched off, its weights known."""
    layer = bd.nn.make(key, 2, **options)
    net = nn.Sequential(layer, nn.Linear(2, 1))
    net[1].weight.data = torch.tensor([[2.0, -2.0]])
    net[1].bias.data.zero_()
    return bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=60)


def log_uniform():
    net = nn.Sequential(bd.nn.SparseVariational(nn.Linear(2, 1)))
    return bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=60)


FLAT = {"prior_concentration1": 1.0, "init_concentration1": 1.0}


def inputs():
    """Each unit matters to half of the inputs, so that their posteriors are independent."""
    return torch.eye(2).repeat(30, 1)


def uniform_ranks(simulations, latents=3, num_draws=199):
    return torch.randint(num_draws + 1, (simulations, latents))


def test_uniform_ranks_raise_no_alarm_and_intervals_hold_what_they_say():
    result = _summary({"a": uniform_ranks(2000)}, 199)
    assert result.p_value > 0.01 and result.verdict.startswith("No sign")
    for level, share in result.coverage.items():
        low, high = result.intervals[level]
        assert low <= share <= high and low <= level <= high
    assert abs(result.shift) < 3 and abs(result.spread) < 3


@pytest.mark.parametrize("num_draws", [9, 25, 50, 199])
def test_ranks_among_few_draws_are_uniform_too(num_draws):
    ranks = torch.arange(num_draws + 1).repeat(20)[:, None]
    assert _summary({"a": ranks}, num_draws).p_value == 1.0
    assert _summary({"a": torch.zeros_like(ranks)}, num_draws).p_value < 1e-6


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda u: 0.5 + 1.4 * (u - 0.5), "Too narrow"),  # ranks pile up at both ends
        (lambda u: 0.5 + 0.6 * (u - 0.5), "Too wide"),
        (lambda u: u**1.6, "Lies too high"),
        (lambda u: 1 - (1 - u) ** 1.6, "Lies too low"),
    ],
)
def test_ranks_that_are_not_uniform_say_in_which_way(change, word):
    ranks = (change(torch.rand(300, 1)) * 200).floor().clamp(0, 199).long()
    result = _summary({"a": ranks}, 199)
    assert result.p_value < 0.01
    assert result.verdict.startswith(word)
    if word == "Too narrow":  # what one mask does is no answer where there were several
        assert "fit with num_masks=8" in result.verdict
        several = _summary({"a": ranks}, 199, num_masks=8).verdict
        assert several.startswith(word) and "num_masks" not in several


def test_all_but_latents_and_means_of_random_weights_is_known():
    net = nn.Sequential(bd.nn.GaussianWeights(nn.Linear(2, 1)), bd.BetaBernoulliDropout(1))
    bnn = bd.BayesianNetwork(net, bd.Gaussian("learned"), num_data=60)
    known = {id(parameter) for parameter in _known(bnn)}
    named = {name for name, p in bnn.named_parameters() if id(p) in known}
    assert named == {"network.0.bias", "likelihood.raw_scale"}


def test_data_are_drawn_under_the_running_statistics_that_the_fit_has():
    bnn = one_layer("dependent-beta-bernoulli")
    settled = _settled(bnn, inputs(), seed=0)
    assert bnn.network[0].running_mean.tolist() == [0.0, 0.0] and settled.training
    before = copy.deepcopy(settled.network[0])
    settled.loss(inputs(), torch.zeros(60, 1))
    after = settled.network[0]
    torch.testing.assert_close(before.running_mean, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(before.running_var, torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(after.running_mean, before.running_mean)
    torch.testing.assert_close(after.running_var, before.running_var)


def test_all_false_alarms_are_as_rare_as_the_p_value_says():
    alarms = [_summary({"a": uniform_ranks(40, 1)}, 199).p_value < 0.05 for _ in range(200)]
    assert sum(alarms) < 22  # 10 expected, standard deviation 3.1


def test_one_mask_is_told_from_the_posterior_and_the_sum_over_masks_is_not():
    options = {"epochs": 40, "variational_learning_rate": 0.4, "progress": False}
    found = {
        num_masks: simulation_based_calibration(
            one_layer("indian-buffet", concentration=3.0),
            inputs(),
            num_simulations=15,
            num_masks=num_masks,
            **options,
        )
        for num_masks in (1, "exact")
    }
    assert found[1].verdict.startswith("Too narrow")
    assert found[1].coverage[0.9] < 0.6
    assert found["exact"].verdict.startswith("No sign")
    assert found["exact"].coverage[0.9] > 0.75
    assert found["exact"].ranks["0.v"].shape == (15, 2)
    figure = bd.reporting.plots.plot_ranks({f"{m} masks": r for m, r in found.items()})
    assert len(figure.axes[0].lines) == 3


def test_the_same_seed_gives_the_same_ranks_and_the_network_stays():
    bnn = one_layer(**FLAT)
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    state = torch.get_rng_state()
    options = {"num_simulations": 10, "epochs": 2, "progress": False}
    first, second = (simulation_based_calibration(bnn, inputs(), **options) for _ in range(2))
    assert torch.equal(first.ranks["0.pi"], second.ranks["0.pi"])
    other = simulation_based_calibration(bnn, inputs(), seed=100, **options)
    assert not torch.equal(first.ranks["0.pi"], other.ranks["0.pi"])
    assert all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())
    assert bnn.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_simulated_set_is_as_large_as_its_inputs_whatever_the_network_was_for():
    bnn, other = one_layer(**FLAT), one_layer(**FLAT)
    other.num_data = 1000
    options = {"num_simulations": 10, "epochs": 2, "progress": False}
    first, second = (simulation_based_calibration(b, inputs(), **options) for b in (bnn, other))
    assert torch.equal(first.ranks["0.pi"], second.ranks["0.pi"])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: one_layer(**FLAT), {"num_simulations": 5}, "at least 10 simulations"),
        (lambda: one_layer(**FLAT), {"num_draws": 3}, "at least 10 simulations and 9 draws"),
        (lambda: one_layer("mc-dropout"), {}, "got no global latents"),
        (lambda: one_layer(**FLAT), {"num_draws": "99"}, "at least 10 simulations and 9 draws"),
        (lambda: one_layer(**FLAT), {"seed": None}, "expected seed to be an int"),
        (lambda: one_layer(**FLAT).network, {}, "expected a BayesianNetwork"),
        (log_uniform, {}, "got a prior that cannot be drawn from"),
    ],
)
def test_what_cannot_be_simulated_is_refused(make, options, message):
    with pytest.raises(ConfigError, match=message):
        simulation_based_calibration(make(), inputs(), progress=False, **options)
