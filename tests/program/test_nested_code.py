"""A code whose features are ordered: the nested auto-encoder."""

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close, assert_means_equal

KEYS = ["nested", "variational-nested"]


def autoencoder(key, latent_size=4, **options):
    return bd.networks.vae(
        60,
        input_shape=10,
        latent_size=latent_size,
        hidden=(8,),
        latent_dropout=key,
        latent_options=options or None,
    )


def batch(rows=6):
    return (torch.rand(rows, 10) > 0.5).double()


def test_divergence_is_that_of_the_mask_plus_each_open_feature_s():
    vae, x = autoencoder("variational-nested"), batch()
    encoding = vae.network.encode(x)
    open_prob = vae.feature_probs(x)
    beta = torch.sigmoid((vae.code.order_logits + encoding.offset[:, 1:]).clamp(-5, 5))
    expected = torch.cat([torch.ones(6, 1), beta.cumprod(-1)], -1)
    torch.testing.assert_close(open_prob, expected)
    pi = torch.full((3,), 0.95)
    reach = expected[:, :-1]
    mask_kl = reach * (beta * (beta / pi).log() + (1 - beta) * ((1 - beta) / (1 - pi)).log())
    mean, scale = encoding.mean, encoding.scale
    normal_kl = 0.5 * (mean.square() + scale.square() - 1) - scale.log()
    total = mask_kl.sum() + (expected * normal_kl).sum()
    torch.testing.assert_close(vae.loss(x).kl, total * 60 / 6)


def test_kl_scale_is_a_factor_on_the_divergence_of_the_order_alone():
    vae, x = autoencoder("variational-nested"), batch()
    scaled = autoencoder("variational-nested", kl_scale=7.0)
    scaled.load_state_dict(vae.state_dict())
    order = vae.code.posterior(vae.network.encode(x), {})["h"].order
    prior = bd.distributions.OrderedMask(logits=vae.code.prior_logits)
    extra = 6.0 * kl_divergence(order, prior.expand(order.batch_shape)).sum() * 60 / 6
    torch.testing.assert_close(scaled.loss(x).kl, vae.loss(x).kl + extra)


def test_the_order_has_the_gradient_of_its_mean_over_all_prefixes():
    vae, x = autoencoder("variational-nested", init_continue_prob=0.6), batch()
    last = vae.network.encoder[-1]
    with torch.no_grad():  # features without noise, so that only the mask is random
        last.weight[8:], last.bias[8:] = 0.0, -60.0
    encoding = vae.network.encode(x)
    q = vae.code.posterior(encoding, {})
    nll = torch.stack(
        [
            -vae.likelihood.distribution(
                vae.network.decoder(encoding.mean * (torch.arange(4) <= t))
            ).log_prob(x)
            for t in range(4)
        ],
        -1,
    )
    exact = (q["h"].order.tail_probs * nll).sum() + vae.code.kl_divergence(
        q, vae.code.prior({}), {}
    )
    (expected,) = torch.autograd.grad(exact * 60 / 6, last.bias)
    grads = [torch.autograd.grad(vae.loss(x).loss, last.bias)[0] for _ in range(150)]
    assert_mean_close(torch.stack(grads)[:, 1:4], expected[1:4])


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_the_examples_of_a_batch_can_share_the_law_out(key, stratified):
    more = {} if key == "nested" else {"shared_by": "example", "init_continue_prob": 0.6}
    vae, x = autoencoder(key, stratified=stratified, **more), batch(8)
    encoding = vae.network.encode(x)
    open_features = torch.stack(
        [vae.code.posterior(encoding, {})["h"].rsample() != 0 for _ in range(500)]
    ).double()
    if key == "nested":  # an interpolated mask is partly open
        assert_mean_close(open_features, vae.feature_probs(x).detach())
    assert bool((open_features.sum((1, 2)).var() < 6.0) == stratified)


@pytest.mark.parametrize("key", KEYS)
def test_stock_elbos_have_the_same_expectation(key):
    vae, x = autoencoder(key), batch()
    ours = torch.stack([vae.loss(x).loss.detach() for _ in range(100)])
    for elbo in (TraceMeanField_ELBO(), Trace_ELBO()):
        stock = [elbo.loss(vae.model, vae.guide, x) for _ in range(100)]
        assert_means_equal(torch.tensor(stock), ours)


@pytest.mark.parametrize("kl_scale", [1.0, 7.0])
@pytest.mark.parametrize("key", KEYS)
def test_same_noise_gives_the_loss_and_gradient_of_stock_pyro(key, kl_scale):
    vae, x = autoencoder(key, kl_scale=kl_scale), batch()
    results = []
    for compute in (
        lambda: vae.loss(x).loss,
        lambda: TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x),
    ):
        torch.manual_seed(4)
        loss = compute()
        gradients = torch.autograd.grad(loss, list(vae.parameters()))
        results.append((loss.detach(), gradients))
        assert all(bool(g.isfinite().all()) for g in gradients)
    torch.testing.assert_close(results[0], results[1])


def test_fixed_law_pays_nothing_for_the_mask():
    vae, x = autoencoder("nested"), batch()
    assert vae.network.encode(x).offset is None
    torch.testing.assert_close(vae.feature_probs(x), torch.tensor([[1.0, 0.75, 0.5, 0.25]] * 6))
    assert not any("order" in name for name, _ in vae.named_parameters())


@pytest.mark.parametrize("key", KEYS)
def test_only_the_first_features_are_used(key):
    vae, x = autoencoder(key).eval(), batch(3)
    for used in range(5):
        codes = []
        handle = vae.network.decoder.register_forward_pre_hook(
            lambda module, args, codes=codes: codes.append(args[0])
        )
        assert vae.reconstruct(x, num_features=used).shape == (3, 10)
        assert vae.sample(3, num_features=used).shape == (3, 10)
        handle.remove()
        for code in codes:
            assert bool((code[:, used:] == 0).all() and (code[:, :used] != 0).all())
    with pytest.raises(ConfigError, match="num_features=5"):
        vae.reconstruct(x, num_features=5)
    plain = bd.networks.vae(60, input_shape=10, latent_size=4)
    with pytest.raises(ConfigError, match="an ordered code"):
        plain.sample(2, num_features=1)


def test_importance_weights_average_to_the_density_of_an_example():
    """With one always-open and one optional feature, p(x) by brute force."""
    vae = autoencoder("variational-nested", latent_size=2).eval()
    x = batch(3)
    with torch.no_grad():
        codes = vae.code.prior({})["h"].expand([3]).rsample((10_000,))
        output = vae.network.decoder(codes.reshape(-1, 2)).reshape(10_000, 3, 10)
        density = vae.likelihood.distribution(output, batch_ndim=2).log_prob(x).exp()
    bounds = [
        bd.diagnostics.log_likelihood_bound(vae, x, num_samples=20, seed=seed).per_example
        for seed in range(80)
    ]
    assert_means_equal(torch.stack(bounds).exp(), density)


@pytest.mark.parametrize("key", KEYS)
def test_fit_save_and_load(key, tmp_path):
    vae, x = autoencoder(key), batch(60)
    before = vae.eval().loss(x).loss.item()
    bd.fit(vae, (x, x), epochs=30, batch_size=20, learning_rate=1e-2, seed=0, progress=False)
    assert vae.loss(x).loss.item() < before
    bd.save(vae, tmp_path / "vae.pt")
    other = bd.load(autoencoder(key), tmp_path / "vae.pt").eval()
    torch.testing.assert_close(other.feature_probs(x), vae.feature_probs(x))


def test_groups_of_several_features_are_refused():
    with pytest.raises(ConfigError, match="a group for each feature"):
        bd.VariationalAutoencoder(
            nn.Linear(4, 12),
            nn.Linear(4, 4),
            bd.Bernoulli(),
            10,
            latent_dropout=bd.NestedDropout(4, num_groups=2),
        )
