"""Laws of what fit minimises: any Pyro ELBO, and any function that returns a loss."""

import math

import pyro
import pytest
import torch
from pyro.infer import (
    JitTraceMeanField_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DivergenceError
from bayesdrop.inference.objectives import PyroObjective, as_objective
from bayesdrop.testing import assert_means_equal
from bayesdrop.typing import LossTerms
from tests.inference.test_fit import assert_same_bits, fit, make_bnn, make_data

ELBOS = {
    "trace": Trace_ELBO(),
    "mean-field": TraceMeanField_ELBO(),
    "graph": TraceGraph_ELBO(),
    "importance-weighted": RenyiELBO(alpha=0, num_particles=4),
    "vectorised": RenyiELBO(alpha=0, num_particles=4, vectorize_particles=True),
}


@pytest.mark.parametrize("elbo", ELBOS.values(), ids=ELBOS)
def test_a_pyro_elbo_can_be_the_objective(elbo):
    bnn, data = make_bnn(200), make_data(200)
    result = fit(bnn, data, epochs=6, learning_rate=4e-2, objective=elbo)
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize("elbo", [Trace_ELBO(), RenyiELBO(alpha=0, num_particles=2)])
def test_a_pyro_elbo_takes_several_masks(elbo):
    bnn, data = make_bnn(600), make_data(600)
    result = fit(bnn, data, epochs=3, learning_rate=1e-2, objective=elbo, num_masks=2)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    torch.manual_seed(5)
    stock = PyroObjective(TraceMeanField_ELBO(), 2)(bnn.train(), *data)
    torch.manual_seed(5)
    torch.testing.assert_close(stock.loss, bnn.loss(*data, num_masks=2).loss)


def test_the_divergence_in_the_loss_of_a_pyro_elbo_is_recorded_under_its_weight():
    bnn, (x, y) = make_bnn(), make_data()
    bnn.kl_weight = 0.25
    found = PyroObjective(Trace_ELBO())(bnn, x, y).kl
    torch.testing.assert_close(found, 0.25 * bd.kl_divergence(bnn.network))


def test_importance_weights_tighten_the_bound():
    """E[-log mean of 16 weights] is below E[-log of one]: the same model, one bound nearer."""
    bnn, (x, y) = make_bnn(600), make_data(600)
    losses = []
    for elbo in (Trace_ELBO(), RenyiELBO(alpha=0, num_particles=16, vectorize_particles=True)):
        objective = PyroObjective(elbo)
        losses.append(torch.stack([objective(bnn, x, y).loss.detach() for _ in range(30)]).mean())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_gradients_of_an_estimator_without_a_differentiable_loss_are_its_own(alpha):
    bnn, (x, y) = make_bnn(), make_data()
    elbo = RenyiELBO(alpha=alpha, num_particles=3)
    parameters = dict(bnn.named_parameters())
    torch.manual_seed(5)
    with pyro.settings.context(module_local_params=True):
        value = elbo.loss_and_grads(bnn.model, bnn.guide, x, y)
    expected = {name: p.grad.clone() for name, p in parameters.items()}
    kept = {name: torch.full_like(p, 7.0) for name, p in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = kept[name].clone()  # what is there already stays
    torch.manual_seed(5)
    loss = PyroObjective(elbo)(bnn, x, y).loss
    for name, parameter in parameters.items():
        assert torch.equal(parameter.grad, kept[name]), name
    gradients = torch.autograd.grad(loss / 2, list(parameters.values()))
    torch.testing.assert_close(loss.detach(), torch.tensor(value))
    for (name, gradient), wanted in zip(
        zip(parameters, gradients, strict=True), expected.values(), strict=True
    ):
        torch.testing.assert_close(gradient, wanted / 2, msg=name)


def by_hand(bnn, x, y):
    nll = F.cross_entropy(bnn.network(x), y, reduction="sum") * bnn.num_data / len(x)
    return LossTerms(nll, bd.kl_divergence(bnn.network))


def test_an_objective_written_by_hand_is_the_closed_form():
    data = make_data()
    ours, theirs = make_bnn(), make_bnn()
    first, second = fit(ours, data, objective=by_hand), fit(theirs, data)
    for mine, other in zip(first.history, second.history, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-12)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def score_function(bnn, x, y):
    """Estimate the gradient for Bernoulli rates by the score of exact masks (REINFORCE)."""
    layer, rest = bnn.network[0], bnn.network[1:]
    latents = layer.draw_latents()
    fn = torch.distributions.Bernoulli(latents["pi"].expand(len(x), -1))
    z = fn.sample()
    each = F.cross_entropy(rest(x * z), y, reduction="none") * bnn.num_data / len(x)
    score = fn.log_prob(z).sum(-1)
    surrogate = (each + each.detach() * score).sum()
    nll = each.sum().detach() + surrogate - surrogate.detach()
    return LossTerms(nll, bd.kl_divergence(bnn.network))


def test_an_estimator_of_ones_own_has_the_gradient_of_its_expectation():
    """Of exact masks, against the sum over all of them."""
    bnn = bd.BayesianNetwork(
        nn.Sequential(bd.BetaBernoulliDropout(2), nn.Linear(2, 2)), bd.Categorical(), num_data=1
    )
    x, y = torch.tensor([[1.0, -2.0]]), torch.tensor([1])
    layer, rest = bnn.network[0], bnn.network[1:]

    def exact():
        pi = layer.draw_latents()["pi"]
        total = 0.0
        for a in (0.0, 1.0):
            for b in (0.0, 1.0):
                z = torch.tensor([a, b])
                prob = (pi * z + (1 - pi) * (1 - z)).prod()
                total = total + prob * F.cross_entropy(rest(x * z), y)
        return total

    parameters = list(layer.parameters())
    ours, theirs = [], []

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    for draw in range(1200):
        ours.append(gradient(score_function(bnn, x, y).nll))
        if draw < 300:  # it varies less
            theirs.append(gradient(exact()))
    assert_means_equal(torch.stack(ours), torch.stack(theirs))


def test_an_estimator_of_ones_own_trains():
    bnn, data = make_bnn(600), make_data(600)
    result = fit(bnn, data, epochs=10, learning_rate=1e-2, objective=score_function)
    assert result.history[-1]["loss"] < 0.9 * result.history[0]["loss"]


@pytest.mark.parametrize(
    "objective", [RenyiELBO(alpha=0, num_particles=2), by_hand], ids=["renyi", "function"]
)
def test_two_and_two_epochs_are_bit_equal_to_four(objective, tmp_path):
    data, constant = make_data(), bd.schedules.constant(1.0)
    options = {"schedule": constant, "objective": objective}
    whole, resumed = make_bnn(), make_bnn(seed=5)
    fit(whole, data, epochs=4, **options)
    fit(make_bnn(), data, epochs=2, checkpoint_dir=tmp_path, **options)
    fit(resumed, data, epochs=4, checkpoint_dir=tmp_path, **options)
    assert_same_bits(whole, resumed)


def test_an_auto_encoder_takes_any_objective():
    x = torch.bernoulli(torch.full((40, 6), 0.4))
    for objective in (None, RenyiELBO(alpha=0, num_particles=3), lambda b, x, y: b.loss(x, y)):
        vae = bd.networks.vae(40, input_shape=6, latent_size=2, hidden=(4,))
        result = fit(vae, (x, x), epochs=2, objective=objective)
        assert math.isfinite(result.history[-1]["loss"])


def test_a_loss_that_is_not_finite_stops_the_run():
    bnn = make_bnn()
    with pytest.raises(DivergenceError, match="at step 1, site 'obs'"):
        fit(bnn, make_data(), objective=lambda b, x, y: LossTerms(x.sum() * math.nan, x.sum()))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Trace_ELBO, r"a Pyro ELBO or a function .*For example Trace_ELBO\(\)"),
        ("elbo", "a Pyro ELBO or a function of"),
        (JitTraceMeanField_ELBO(), "is not traced, got JitTraceMeanField_ELBO"),
        (ReweightedWakeSleep(), "one loss, .*got ReweightedWakeSleep"),
        (lambda bnn, x, y: bnn.loss(x, y).loss, r"returns bayesdrop.typing.LossTerms.*got Tensor"),
    ],
)
def test_what_is_no_objective_is_refused(objective, message):
    with pytest.raises(ConfigError, match=message):
        fit(make_bnn(), make_data(), objective=objective)


def test_no_objective_is_the_closed_form():
    bnn, (x, y) = make_bnn(), make_data()
    torch.manual_seed(0)
    expected = bnn.loss(x, y)
    torch.manual_seed(0)
    assert as_objective(None)(bnn, x, y) == expected
