"""Laws of the importance-weighted objective: its limits, its gradients, what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.inference.objectives import ImportanceWeighted
from bayesdrop.testing import assert_mean_close, assert_means_equal

GRADIENTS = ["doubly-reparameterised", "reparameterised"]


def autoencoder(latent_dropout="indian-buffet", **options):
    options = {"latent_options": {"concentration": 2.0}, **options} if latent_dropout else {}
    return bd.networks.vae(
        60, input_shape=5, latent_size=3, hidden=(6,), latent_dropout=latent_dropout, **options
    )


def batch(rows=6):
    return (torch.rand(rows, 5) > 0.5).double()


def gradient_of(loss, vae):
    found = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def line(gradient, num_samples):
    """x ~ N(w h, 1), h ~ N(0, 1), q(h | x) = N(a x, s^2): all integrals can be done."""
    encoder, decoder = nn.Linear(1, 2), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.3], [0.0]]))
        encoder.bias.copy_(torch.tensor([0.1, -0.4]))
        decoder.weight.fill_(0.8)
    vae = bd.VariationalAutoencoder(encoder, decoder, bd.Gaussian(1.0), num_data=8, latent_size=1)
    return vae, ImportanceWeighted(num_samples, gradient)


def log_weights(vae, x, noise, kl_weight=1.0):
    """Return log w of standard normal noise, any shape, by hand."""
    mean, log_variance = vae.network.encoder(x)[0]
    w = vae.network.decoder.weight[0, 0]
    scale = (0.5 * log_variance).exp()
    h = mean + scale * noise

    def normal(value, loc, scale):
        return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)

    one = torch.ones(())
    ratio = normal(h, 0.0 * one, one) - normal(h, mean, scale)
    return normal(x[0, 0], w * h, one) + kl_weight * ratio


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("kl_weight", [0.01, 0.3, 1.0, 2.0])
def test_value_and_gradient_of_two_samples_are_those_of_the_integral(kl_weight, gradient):
    vae, objective = line(gradient, 2)
    vae.kl_weight = kl_weight
    x = torch.tensor([[1.7]])
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    node, weight = torch.tensor(node), torch.tensor(weight / math.sqrt(2 * math.pi))
    first = log_weights(vae, x, node, kl_weight)
    pairs = torch.logaddexp(first[:, None], first) - math.log(2)
    exact = -(weight[:, None] * weight * pairs).sum()
    parameters = list(vae.network.parameters())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    losses, gradients = [], []
    batch = x.expand(8, 1)
    for _ in range(200):
        loss = objective(vae, batch, batch).loss / 8
        losses.append(loss.detach())
        found = torch.autograd.grad(loss, parameters)
        gradients.append(torch.cat([g.flatten() for g in found]))
    assert_mean_close(torch.stack(losses), exact.detach())
    assert_mean_close(torch.stack(gradients), expected)


def test_many_samples_are_the_log_evidence():
    vae, objective = line("reparameterised", 4000)
    x = torch.tensor([[1.7]])
    variance = 0.8**2 + 1.0
    evidence = -0.5 * 1.7**2 / variance - 0.5 * math.log(2 * math.pi * variance)
    weights = log_weights(vae, x, torch.randn(200_000)).exp().detach()
    assert_mean_close(weights, math.exp(evidence))  # the weights are right
    bounds = torch.stack([-objective(vae, x, x).loss.detach() / 8 for _ in range(20)])
    error = float(weights.std()) / math.exp(evidence) / math.sqrt(4000)
    assert float((bounds - evidence).abs().max()) < 5 * error


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_one_sample_is_the_elbo(gradient):
    vae, x = autoencoder(), batch()
    ours, theirs = [], []
    for compute, found in ((ImportanceWeighted(1, gradient), ours), (None, theirs)):
        for _ in range(70):
            terms = vae.loss(x) if compute is None else compute(vae, x)
            found.append(torch.cat([terms.loss.detach()[None], gradient_of(terms.loss, vae)]))
    assert_means_equal(torch.stack(ours), torch.stack(theirs))


def test_both_gradients_have_the_same_mean():
    vae, x = autoencoder(), batch()
    samples = [
        torch.stack([gradient_of(objective(vae, x).loss, vae) for _ in range(70)])
        for objective in (ImportanceWeighted(4, gradient) for gradient in GRADIENTS)
    ]
    assert_means_equal(*samples)


def test_the_weight_counts_for_the_divergence_of_the_rates_too():
    vae = autoencoder(latent_options={"concentration": 0.2, "init_concentration1": 9.0})
    vae.kl_weight = 0.3
    kl = vae.code.mask.kl_divergence()
    assert kl > 1.0
    torch.testing.assert_close(ImportanceWeighted(2)(vae, batch()).kl, 0.3 * kl)


def test_what_is_reconstructed_may_be_another_target_than_the_input():
    vae, objective = line("reparameterised", 3)
    vae.network.decoder.weight.data.zero_()  # so that y ~ N(0, 1) whatever the code is
    losses = []
    for y in (1.7, -0.4):
        torch.manual_seed(1)
        losses.append(objective(vae, torch.tensor([[1.7]]), torch.tensor([[y]])).loss)
    expected = torch.tensor(8 * 0.5 * (1.7**2 - 0.4**2))
    torch.testing.assert_close(losses[0] - losses[1], expected)


def test_evaluation_mode_is_the_bound_of_exact_masks():
    vae, x = autoencoder().eval(), batch()
    with torch.no_grad():
        ours = [-(ImportanceWeighted(8)(vae, x).nll) / 60 for _ in range(50)]
    theirs = [
        bd.diagnostics.log_likelihood_bound(vae, x, num_samples=8, num_rates=1).given_rates.mean()
        for _ in range(50)
    ]
    assert_means_equal(torch.stack(ours), torch.stack(theirs).to(ours[0]))


def test_a_run_continues_under_the_same_samples_only(tmp_path):
    x = batch(60)
    options = {"batch_size": 20, "seed": 0, "checkpoint_dir": tmp_path, "progress": False}
    vae = autoencoder(None)
    bd.fit(vae, (x, x), epochs=1, objective=ImportanceWeighted(3), **options)
    with pytest.raises(bd.errors.CheckpointError, match="num_samples=3"):
        bd.fit(autoencoder(None), (x, x), epochs=2, objective=ImportanceWeighted(4), **options)
    bd.fit(autoencoder(None), (x, x), epochs=2, objective=ImportanceWeighted(3), **options)


def test_what_has_no_such_bound_is_refused():
    x = batch()
    with pytest.raises(ConfigError, match="num_samples >= 1"):
        ImportanceWeighted(0)
    with pytest.raises(ConfigError, match="unknown gradient 'score'"):
        ImportanceWeighted(2, gradient="score")
    ordered = bd.networks.vae(60, input_shape=5, latent_size=3, latent_dropout="nested")
    with pytest.raises(ConfigError, match="a code without an order"):
        ImportanceWeighted(2)(ordered, x)
    net = bd.BayesianNetwork(nn.Linear(5, 5), bd.Bernoulli(), num_data=60)
    with pytest.raises(ConfigError, match="a VariationalAutoencoder"):
        ImportanceWeighted(2)(net, x, x)
