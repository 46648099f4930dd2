"""The posterior of one data set is the prior of the next."""

import io

import pytest
import torch
from torch import nn
from torch.distributions import Beta, Normal, kl_divergence
from torch.nn.functional import mse_loss

import bayesdrop as bd
from bayesdrop.distributions.kumaraswamy import expected_log1m
from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.ops.stable import EULER_GAMMA
from bayesdrop.testing import assert_mean_close

MASKS = bd.nn.registered(bd.BayesianDropout)
LEARNED = [
    key
    for key, cls in bd.nn.layers.items()
    if cls.__module__.startswith("bayesdrop.") and not cls.fixed_rate and key != "nested"
]
CAN = {
    "beta-bernoulli",
    "concrete",
    "dependent-beta-bernoulli",
    "gaussian-weights",
    "group-horseshoe",
    "hard-concrete",
    "hierarchical-indian-buffet",
    "indian-buffet",
    "normal-jeffreys",
    "sparse-variational",
    "structured-bayesian-pruning",
    "variational-nested",
}
NUM_DATA = 40


def classifier(key, seed=0, **options):
    """Return a network whose posterior is somewhere else than where it starts."""
    torch.manual_seed(seed)
    if key in MASKS:
        layer = bd.nn.make(key, 6, **options)
        network = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3))
    else:
        network = nn.Sequential(bd.nn.make(key, nn.Linear(4, 3), **options))
    for _, owner in bd.nn.named_owners(network):
        for parameter in owner.variational_parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return bd.BayesianNetwork(network, bd.Categorical(), NUM_DATA)


def batch(seed=1, rows=10):
    torch.manual_seed(seed)
    return torch.randn(rows, 4), torch.randint(3, (rows,))


@torch.no_grad()
def divergence(network):
    return float(bd.kl_divergence(network))


def gradients(loss, network):
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def updated(key, **options):
    bnn = classifier(key, **options)
    if key in CAN:
        bd.update_prior(bnn)
        return bnn
    try:
        bd.update_prior(bnn)
    except ConfigError:
        pytest.skip("its posterior cannot be a prior")
    return bnn


@pytest.mark.parametrize("key", LEARNED)
def test_an_update_on_no_data_changes_nothing(key):
    bnn = updated(key).train()
    before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
    kl = bd.kl_divergence(bnn)
    assert abs(float(kl.detach())) < 1e-9
    for name, gradient in gradients(kl, bnn).items():
        assert float(gradient.abs().max()) < 1e-8, name
    bd.update_prior(bnn)
    assert abs(divergence(bnn)) < 1e-9
    assert all(torch.equal(p, before[name]) for name, p in bnn.named_parameters())


@pytest.mark.parametrize("key", LEARNED)
def test_the_updated_divergence_equals_monte_carlo(key):
    bnn = updated(key)
    moved = classifier(key, seed=7)
    for (_, owner), (_, other) in zip(bnn.named_owners(), moved.named_owners(), strict=True):
        for parameter, value in zip(owner.parameters(), other.parameters(), strict=True):
            parameter.data.copy_(value)
        prior = owner.prior()
        for name, q in owner.posterior().items():
            value = q.rsample((20_000,))
            log_ratio = q.log_prob(value) - prior[name].log_prob(value)
            assert_mean_close(log_ratio, kl_divergence(q, prior[name]))


@pytest.mark.parametrize("key", LEARNED)
def test_the_laws_of_the_elbo_hold_after_an_update(key):
    bnn = updated(key)
    for parameter in bnn.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    table = bd.check_elbo(bnn, *batch(), num_samples=100, num_repeats=10)
    assert table.passed, table


@pytest.mark.parametrize("key", LEARNED)
def test_all_layers_at_once_have_the_divergence_of_one_at_a_time(key, same_noise):
    bnn = updated(key)
    for parameter in bnn.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    joint = bnn.train().loss(*batch()).kl
    one = bd.kl_divergence(bnn)
    torch.testing.assert_close(joint, one)
    torch.testing.assert_close(gradients(joint, bnn), gradients(one, bnn))


@pytest.mark.parametrize("key", LEARNED)
def test_state_says_whether_the_prior_was_updated(key, tmp_path):
    bnn, plain = updated(key), classifier(key)
    bd.save(bnn, tmp_path / "after.pt")
    bd.save(plain, tmp_path / "before.pt")
    torch.manual_seed(3)  # the divergence of layers with shared sticks is drawn
    first = divergence(plain)
    loaded = bd.load(plain, tmp_path / "after.pt")
    assert abs(divergence(loaded)) < 1e-9
    assert list(loaded.state_dict()) == list(bnn.state_dict())
    again = bd.load(loaded, tmp_path / "before.pt")
    assert not [name for name in again.state_dict() if "previous" in name]
    torch.manual_seed(3)
    assert divergence(again) == pytest.approx(first)


def test_a_previous_posterior_of_another_size_is_refused(tmp_path):
    bnn = classifier("beta-bernoulli")
    bd.update_prior(bnn)
    bnn.network[1].previous_concentration1 = torch.ones(7)
    bd.save(bnn, tmp_path / "wrong.pt")
    with pytest.raises(CheckpointError, match="previous_concentration1"):
        bd.load(classifier("beta-bernoulli"), tmp_path / "wrong.pt")


def test_an_updated_network_is_copied_and_takes_another_dtype():
    bnn = classifier("indian-buffet")
    bd.update_prior(bnn)
    file = io.BytesIO()
    torch.save(bnn.float().state_dict(), file)
    file.seek(0)
    other = classifier("indian-buffet").float()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert {v.dtype for v in other.state_dict().values() if v.is_floating_point()} == {
        torch.float32
    }
    assert abs(divergence(other)) < 1e-4


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(2, 2), "got none in Linear"),
        (bd.MonteCarloDropout(3), "fixed rate learn nothing"),
        (bd.nn.Dropconnect(nn.Linear(2, 2)), "fixed rate learn nothing"),
        (bd.ConcreteDropout(3, length_scale=0.1), "masks and weights together"),
    ],
    ids=["plain", "fixed", "weights", "concrete"],
)
def test_what_has_no_posterior_to_carry_is_refused(network, message):
    with pytest.raises(ConfigError, match=message):
        bd.update_prior(network)


def test_a_refusal_changes_no_layer():
    layers = bd.BetaBernoulliDropout(3), bd.ConcreteDropout(3, length_scale=0.1)
    with pytest.raises(ConfigError):
        bd.update_prior(nn.Sequential(*layers))
    assert layers[0].previous("concentration1") is None


def minimise(loss, parameters):
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    @torch.enable_grad()
    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def test_halves_of_a_gaussian_data_set_give_the_exact_posterior_of_the_whole():
    # y = x w + noise of variance 1 with orthogonal inputs: the posterior factorises.
    x = torch.cat([torch.eye(3)] * 8) * torch.linspace(0.5, 2.0, 24).unsqueeze(1)
    y = x @ torch.tensor([[1.0], [-0.4], [0.2]]) + torch.randn(24, 1)
    precision = 1 + x.square().sum(0)
    layer = bd.nn.GaussianWeights(nn.Linear(3, 1, bias=False))
    for part in (slice(0, 12), slice(12, 24)):

        def loss(part=part):
            mean, variance = layer.weight_moments()
            error = mse_loss(x[part] @ mean.T, y[part], reduction="sum")
            spread = (x[part].square() @ variance.T).sum()
            return 0.5 * (error + spread) + layer.kl_divergence()

        minimise(loss, list(layer.parameters()))
        bd.update_prior(layer)
    exact = Normal((x * y).sum(0) / precision, precision.rsqrt())
    q = layer.posterior()["weight"].base_dist
    torch.testing.assert_close(q.mean[0], exact.mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(q.stddev[0], exact.stddev, rtol=1e-6, atol=0.0)


def test_halves_of_coin_flips_give_the_posterior_of_the_whole():
    ones, zeros = torch.tensor([4.0, 15.0, 19.0]), torch.tensor([16.0, 5.0, 1.0])  # of each half

    def fitted(counts):
        layer = bd.BetaBernoulliDropout(3, prior_concentration1=1.0, init_concentration1=1.0)
        for share in counts:

            def loss(share=share):
                q = layer.posterior()["pi"].base_dist
                a, b = q.concentration1, q.concentration0
                log_pi = -(EULER_GAMMA + torch.digamma(b + 1)) / a
                nll = -(ones * log_pi + zeros * expected_log1m(a, b)).sum() * share
                return nll + layer.kl_divergence()

            minimise(loss, list(layer.parameters()))
            bd.update_prior(layer)
        return layer.posterior()["pi"].base_dist

    with torch.no_grad():
        one, two = fitted([2.0]), fitted([1.0, 1.0])
    exact = Beta(1 + 2 * ones, 1 + 2 * zeros)
    # A Kumaraswamy is no Beta: each fit leaves a part of a standard deviation.
    for q, share in ((one, 0.02), (two, 0.1)):
        assert bool(((q.mean - exact.mean).abs() < share * exact.stddev).all())
        torch.testing.assert_close(q.stddev, exact.stddev, rtol=0.05, atol=0.0)
