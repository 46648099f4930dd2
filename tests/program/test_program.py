"""Laws of what networks and auto-encoders share, and of predicting with either."""

import copy
import gc
import warnings

import pyro
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.program import BayesianNetwork, Program, VariationalAutoencoder
from bayesdrop.testing import assert_means_equal

PIXELS, SIZE, ROWS = 6, 3, 4
CODES = [None, "indian-buffet", "beta-bernoulli", "nested", "variational-nested"]


def autoencoder(code="indian-buffet", likelihood=None):
    return bd.networks.vae(
        40,
        input_shape=PIXELS,
        latent_size=SIZE,
        hidden=(5,),
        latent_dropout=code,
        likelihood=likelihood,
    )


def images():
    return torch.bernoulli(torch.full((ROWS, PIXELS), 0.4))


def test_network_and_autoencoder_are_two_finals_under_one_abstract_parent():
    assert issubclass(BayesianNetwork, Program) and issubclass(VariationalAutoencoder, Program)
    assert not issubclass(VariationalAutoencoder, BayesianNetwork)
    with pytest.raises(TypeError, match="abstract"):
        Program(nn.Linear(2, 2), bd.Categorical(), 10, kl_weight=1.0, name=None)


@pytest.mark.parametrize("code", CODES)
def test_prediction_is_the_reconstruction_over_draws_of_all_latents(code):
    vae, x = autoencoder(code).eval(), images()
    prediction = bd.predict(vae, x, num_samples=400, seed=0)
    stock = torch.stack([vae.reconstruct(x) for _ in range(400)])
    assert_means_equal(prediction.samples, stock)
    torch.testing.assert_close(prediction.mean, prediction.samples.mean(0))
    assert bool((prediction.mutual_information > 0).all())


@pytest.mark.parametrize("code", CODES)
def test_one_pass_has_the_mean_latents(code):
    vae, x = autoencoder(code).eval(), images()
    prediction = bd.predict(vae, x, sample=False)
    torch.testing.assert_close(prediction.mean, vae(x).sigmoid().detach())
    assert prediction.num_samples == 1


@pytest.mark.parametrize("shared_by", ["batch", "example"])
def test_variance_of_a_reconstruction_is_taken_apart(shared_by):
    vae, x = autoencoder(likelihood=bd.Gaussian(0.5)), images()
    prediction = bd.predict(vae, (x, x), num_samples=50, shared_by=shared_by)
    torch.testing.assert_close(prediction.aleatoric_variance, torch.full((ROWS, PIXELS), 0.25))
    torch.testing.assert_close(
        prediction.epistemic_variance, prediction.samples.var(0, correction=0)
    )
    assert prediction.pit.shape == (ROWS, PIXELS)
    assert bd.evaluate(vae, (x, x), num_samples=5).rmse > 0


def test_examples_have_latents_of_their_own():
    """Equal inputs meet the same rates, but not the same features."""
    vae = autoencoder()
    samples = bd.predict(vae, torch.ones(2, PIXELS), num_samples=4).samples
    assert not torch.equal(samples[:, 0], samples[:, 1])


def test_evaluation_reads_pixels_as_binary_problems():
    vae, x = autoencoder(), images()
    result = bd.evaluate(vae, (x, x), num_samples=20, seed=0)
    guess = bd.predict(vae, x, num_samples=20, seed=0).mean.round()
    assert result.error == pytest.approx(100 * float((guess != x).double().mean()))


def test_a_plain_module_is_told_to_be_wrapped():
    with pytest.raises(ConfigError, match="predict: expected a BayesianNetwork.*got Linear"):
        bd.predict(nn.Linear(2, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("make", [BayesianNetwork, VariationalAutoencoder])
def test_a_likelihood_in_the_wrong_place_is_named(make):
    parts = (nn.Linear(4, 4),) if make is BayesianNetwork else (nn.Linear(4, 4), nn.Linear(2, 4))
    options = {} if make is BayesianNetwork else {"latent_size": 2}
    with pytest.raises(ConfigError, match=f"{make.__name__}: expected a likelihood object"):
        make(*parts, 100, bd.Bernoulli(), **options)


def test_the_store_forgets_networks_that_are_gone_and_keeps_what_has_a_name():
    store = pyro.get_param_store()
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])

    def train(**options):
        net = nn.Sequential(bd.BetaBernoulliDropout(3), nn.Linear(3, 2))
        bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=4, **options)
        optimizer, elbo = pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO()
        pyro.infer.SVI(bnn.model, bnn.guide, optimizer, elbo).step(x, y)
        return bnn

    alive = train()
    keys = set(store.keys())
    for _ in range(3):
        train()
        copy.deepcopy(alive).model(x, y)
    gc.collect()
    assert set(store.keys()) == keys and keys
    alive.model(x, y)
    assert set(store.keys()) == keys
    train(name="mine")
    gc.collect()
    assert {key for key in set(store.keys()) - keys if key.startswith("mine.")}
    del alive
    gc.collect()
    assert all(key.startswith("mine.") for key in store.keys())


def test_a_parameter_that_networks_share_outlives_one_of_them():
    store = pyro.get_param_store()
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    likelihood = bd.Gaussian()  # whose noise is learned
    before = set(store.keys())

    def step(bnn):
        optimizer = pyro.optim.Adam(lambda module, name: {"lr": 0.01})  # asks for names
        svi = pyro.infer.SVI(bnn.model, bnn.guide, optimizer, pyro.infer.Trace_ELBO())
        return svi.step(x, y)

    def network():
        return bd.BayesianNetwork(nn.Linear(3, 1), likelihood, num_data=4)

    first, second, third = network(), network(), network()
    for bnn in (first, second, third):
        step(bnn)
    prefix = second.store_name
    value = next(likelihood.parameters()).detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an error in a finalizer is one
        del first, third, bnn
        gc.collect()
    assert all(key.startswith(f"{prefix}.") for key in set(store.keys()) - before)
    step(second)
    assert not torch.equal(next(likelihood.parameters()), value)
    assert store.param_name(next(likelihood.parameters())).startswith(f"{prefix}.")
