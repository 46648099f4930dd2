import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.inference.objectives import ARM, DisARM
from bayesdrop.testing import assert_mean_close

X, Y = torch.linspace(-1, 1, 24).reshape(6, 4), torch.arange(6) % 3


def layer(scores=(-0.5, 0.0, 0.1, 3 / 7), **options):
    result = bd.nn.NeuralPlasticityDropout(len(scores), **options)
    with torch.no_grad():
        result.scores.copy_(torch.tensor(scores))
    return result


def pair(**options):
    """Return a plain network and the same with gates before its second layer."""
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    gated = copy.deepcopy(plain)
    gated.insert(2, bd.nn.NeuralPlasticityDropout(5, **options).double())
    return plain, bd.BayesianNetwork(gated, bd.Categorical(), num_data=6).train()


# -- gates ----------------------------------------------------------------------------------------


def test_gates_are_the_golden_values():
    np.testing.assert_allclose(layer().keep_prob().detach()[3], 0.953, atol=5e-4)
    np.testing.assert_allclose(
        bd.nn.NeuralPlasticityDropout(1).keep_prob().item(), 0.9526, atol=5e-5
    )


def test_masks_are_exact_in_both_modes_and_the_test_gate_is_the_gate_above_one_half():
    for mode in (True, False):
        gates = layer().train(mode)
        z = gates.draw_mask({}, torch.ones(2000, 4))
        assert set(z.unique().tolist()) == {0.0, 1.0}
        assert_mean_close(z, gates.keep_prob())
    keep = layer().keep_prob()
    torch.testing.assert_close(layer().mean_mask(), torch.where(keep >= 0.5, keep, 0.0))
    assert layer().kept().tolist() == [False, True, True, True]


def test_gates_of_a_trained_network_begin_where_they_are_told():
    options = bd.nn.NeuralPlasticityDropout.options_for_trained(3, 0.9)
    keep = bd.nn.NeuralPlasticityDropout(3, **options).keep_prob().detach()
    torch.testing.assert_close(keep, torch.full((3,), 0.9))


def test_slope_zero_is_dropout_of_rate_one_half():
    plain, bnn = pair(slope=0.0, cost_per_parameter=0.0)
    x = X.double().repeat(500, 1)
    gates = bnn.network[2]
    assert_mean_close(gates(torch.ones(3000, 5)), 0.5)
    torch.testing.assert_close(gates.eval().mean_mask(), torch.full((5,), 0.5))
    bnn.eval()
    plain[2].weight.data *= 0.5  # torch's dropout, without its factor of 2
    torch.testing.assert_close(bnn(x), plain(x))
    (gradient,) = torch.autograd.grad(
        ARM()(bnn.train(), X.double(), Y).loss, gates.scores, allow_unused=True
    )
    assert bool((gradient == 0).all())


@pytest.mark.parametrize("objective", [ARM(), DisARM(), lambda b, x, y: b.loss(x, y)])
def test_a_steep_slope_is_plain_training(objective):
    plain, bnn = pair(slope=5000.0, cost_per_parameter=0.3)
    x = X.double()
    loss = objective(bnn, x, Y)
    expected = cross_entropy(plain(x), Y, reduction="sum")
    torch.testing.assert_close(loss.nll, expected)
    torch.testing.assert_close(loss.kl.item(), 0.3 * 5)
    loss.loss.backward(), expected.backward()
    for name, parameter in plain.named_parameters():
        own = bnn.network.get_parameter(name.replace("2.", "3."))
        torch.testing.assert_close(own.grad, parameter.grad)
    assert bool((bnn.network[2].scores.grad.abs() < 1e-9).all())


# -- the penalty ----------------------------------------------------------------------------------


def test_the_penalty_is_the_expected_price_of_the_parameters():
    gates = layer(cost_per_parameter=0.3)
    gates.bind_weights(nn.Linear(4, 7), dim=1)
    torch.testing.assert_close(gates.penalty(), 2.1 * gates.keep_prob().sum())
    weights = nn.Linear(3, 4)
    gates = layer(cost_per_parameter=0.3, prior_precision=2.0)
    gates.bind_weights(weights, dim=0)
    size = 1.2 + weights.weight.square().sum(1) + weights.bias.square()
    torch.testing.assert_close(gates.penalty(), (gates.keep_prob() * size).sum())


def test_the_gradient_of_the_price_is_the_published_one():
    gates = layer(cost_per_parameter=0.3)
    (gradient,) = torch.autograd.grad(gates.penalty(), gates.scores)
    g = gates.keep_prob()
    torch.testing.assert_close(gradient, 0.3 * 7 * g * (1 - g))  # lambda |g| k g (1 - g)


def test_a_prior_on_the_gates_is_a_divergence_of_bernoullis():
    gates = layer(cost_per_parameter=0.0, prior_keep_prob=0.3)
    g = gates.keep_prob().detach()
    q, p = torch.distributions.Bernoulli(g), torch.distributions.Bernoulli(torch.tensor(0.3))
    expected = torch.distributions.kl_divergence(q, p).sum()
    torch.testing.assert_close(gates.penalty(), expected)


# -- units that sleep -----------------------------------------------------------------------------


def test_a_sleeping_unit_is_closed_for_certain_and_costs_nothing():
    gates = layer(init_awake=2, cost_per_parameter=1.0)
    assert bool((gates(torch.ones(4000, 4))[:, 2:] == 0).all())
    assert bool((gates.keep_prob()[2:] < 1e-40).all())
    torch.testing.assert_close(gates.penalty(), gates.keep_prob()[:2].sum())


def test_nothing_of_a_sleeping_unit_is_trained_until_it_is_woken():
    _, bnn = pair(init_awake=2)
    before = {name: p.detach().clone() for name, p in bnn.network.named_parameters()}
    options = {"objective": DisARM(), "weight_decay": 0.0, "progress": False, "schedule": ()}
    optimizer = torch.optim.Adam(bnn.parameters(), 0.1)
    bd.fit(bnn, (X.double(), Y), epochs=3, optimizer=optimizer, **options)
    moved = {name: p.detach() != before[name] for name, p in bnn.network.named_parameters()}
    assert moved["0.weight"].any(1).tolist() == [True, True, False, False, False]
    assert moved["3.weight"].any(0).tolist() == [True, True, False, False, False]
    assert moved["2.scores"].tolist() == [True, True, False, False, False]
    gates = bnn.network[2]
    assert gates.wake(2, score=0.4) == 2
    bd.fit(bnn, (X.double(), Y), epochs=3, optimizer=optimizer, **options)
    assert (gates.scores != before["2.scores"]).tolist() == [True] * 4 + [False]
    assert gates.wake(9) == 1 and gates.wake() == 0


def test_units_wake_when_validation_is_the_best_and_all_that_wake_are_kept():
    gates, rule = layer((0.1,) * 4, init_awake=1), bd.nn.WakeUnits()
    network = nn.Sequential(gates)
    counts = []
    for nll in (0.9, 0.8, 0.85, 0.8, 0.7):
        rule(network, {"val_nll": nll})
        counts.append(int(gates.awake.sum()))
    assert counts == [2, 3, 3, 3, 4]
    gates = layer((0.1, -0.1, 0.1, 0.1), init_awake=2)
    bd.nn.WakeUnits()(nn.Sequential(gates), {"val_nll": 0.5})
    assert int(gates.awake.sum()) == 2
    with pytest.raises(ConfigError, match="'val_nll' in the record"):
        rule(network, {"loss": 1.0})


def test_a_run_that_wakes_units_resumes_to_the_bit(tmp_path):
    data = X.double(), Y

    def run(epochs, **options):
        torch.manual_seed(0)
        _, bnn = pair(init_awake=1)
        rule = bd.nn.WakeUnits(monitor="val_nll")
        options |= {"schedule": (), "progress": False, "weight_decay": 0.0, "seed": 1}
        bd.fit(bnn, data, epochs=epochs, validation=data, callbacks=[rule], **options)
        return bnn, rule

    whole, rule = run(6)
    run(3, checkpoint_dir=tmp_path)
    part, again = run(6, checkpoint_dir=tmp_path)
    assert again.lowest == rule.lowest
    assert int(part.network[2].awake.sum()) > 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, part.state_dict()[name]), name


def test_bad_arguments_raise():
    for options in ({"slope": -1.0}, {"init_score": float("inf")}):
        with pytest.raises(ConfigError, match="a finite slope >= 0"):
            layer(**options)
    with pytest.raises(ConfigError, match="0 < prior_keep_prob < 1"):
        layer(prior_keep_prob=1.0)
    with pytest.raises(ConfigError, match="init_awake >= 0"):
        layer(init_awake=-1)
    with pytest.raises(ConfigError, match="cost_per_parameter >= 0"):
        layer(cost_per_parameter=-1.0)
    with pytest.raises(ConfigError, match="num_units >= 1"):
        bd.nn.WakeUnits(0)
