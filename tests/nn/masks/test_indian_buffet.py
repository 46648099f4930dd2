import math
import warnings

import pytest
import torch
from pyro.distributions import Beta
from torch import nn

import bayesdrop as bd
from bayesdrop import BetaBernoulliDropout, IndianBuffetDropout
from bayesdrop.errors import ConfigError, ShapeError, TruncationWarning
from bayesdrop.nn import IndianBuffetSticks
from bayesdrop.nn.masks.stick_breaking import log_stick_products
from bayesdrop.testing import assert_mean_close, assert_means_equal


def at_prior(num_units, concentration, **options):
    return IndianBuffetDropout(
        num_units, concentration=concentration, init_concentration1=concentration, **options
    )


def scrambled(num_units, **options):
    """A layer whose sticks all differ, so that no law holds by symmetry."""
    layer = IndianBuffetDropout(num_units, **options)
    layer.sticks.set_posterior(*(torch.randn(2, num_units) + torch.tensor([[2.0], [0.0]])).exp())
    return layer


# -- golden values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "concentration", "expected"),
    [
        (3.0, 2.0, 5.0, 0.682322),
        (0.8, 4.0, 10.0, 22.068899),
        (2.0, 0.5, 4.0, 0.227411),
        (5.0, 1.0, 5.0, 0.0),
    ],
)
def test_kl_is_golden(a, b, concentration, expected):
    layer = IndianBuffetDropout(
        3, concentration=concentration, init_concentration1=a, init_concentration0=b
    )
    torch.testing.assert_close(
        layer.kl_divergence(), torch.tensor(3 * expected), rtol=0, atol=2e-6
    )


def test_keep_prob_is_golden():
    # E v = 0.642857 for a = 3, b = 2.
    keep = IndianBuffetDropout(2, init_concentration1=3.0, init_concentration0=2.0).keep_prob()
    torch.testing.assert_close(keep, torch.tensor([9 / 14, (9 / 14) ** 2]))


# -- limit laws -----------------------------------------------------------------------------------


def test_one_stick_is_a_beta_bernoulli_unit():
    options = {"init_concentration1": 2.5, "init_concentration0": 0.7}
    ours = IndianBuffetDropout(1, concentration=3.0, **options)
    theirs = BetaBernoulliDropout(1, prior_concentration1=3.0, **options)
    torch.testing.assert_close(ours.keep_prob(), theirs.keep_prob())
    torch.testing.assert_close(ours.kl_divergence(), theirs.kl_divergence())
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        torch.manual_seed(1)
        mask = ours.draw_mask(ours.draw_latents(), torch.ones(50, 1))
        torch.manual_seed(1)
        torch.testing.assert_close(
            mask, theirs.draw_mask(theirs.draw_latents(), torch.ones(50, 1))
        )


def test_one_stick_starts_like_a_beta_bernoulli_unit():
    torch.testing.assert_close(
        IndianBuffetDropout(1).keep_prob(), BetaBernoulliDropout(1).keep_prob()
    )


@pytest.mark.parametrize(
    ("concentration", "num_units", "expected"),
    [(5.0, 100, 5.0), (10.0, 100, 9.9993), (4.2, 200, 4.2)],
)
def test_the_prior_expects_the_concentration(concentration, num_units, expected):
    keep = at_prior(num_units, concentration).keep_prob()
    torch.testing.assert_close(keep.sum(), torch.tensor(expected), rtol=0, atol=5e-5)
    rate = concentration / (concentration + 1)
    torch.testing.assert_close(keep, rate ** torch.arange(1.0, num_units + 1))


def test_units_used_by_the_prior_tend_to_the_concentration():
    layer = at_prior(60, 3.0).eval()
    v = layer.prior()["v"].sample((20_000,))
    used = layer.mask_distribution({"v": v}).sample().sum(-1)
    assert_mean_close(used, 3.0 * (1 - (3 / 4) ** 60))


def test_temperature_to_zero_is_bernoulli():
    layer = IndianBuffetDropout(3, temperature=1e-7)
    latents = {"v": torch.tensor([0.9, 0.6, 0.5])}
    z = layer.mask_distribution(latents).rsample((20_000,))
    assert bool(((z < 1e-12) | (z > 1 - 1e-12)).double().mean() > 0.999)
    layer.eval()
    for samples in (z.round(), layer.mask_distribution(latents).sample((20_000,))):
        assert_mean_close(samples, torch.tensor([0.9, 0.54, 0.27]))


def test_the_logit_is_that_of_pi_and_not_its_logarithm():
    logits = IndianBuffetDropout(2).keep_logits({"v": torch.tensor([0.9, 0.5 / 0.9])})
    torch.testing.assert_close(torch.sigmoid(logits), torch.tensor([0.9, 0.5]))


def test_unused_sticks_return_to_the_prior():
    layer = scrambled(3, concentration=4.0)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(500):
        optimiser.zero_grad()
        layer.kl_divergence().backward()
        optimiser.step()
    q = layer.posterior()["v"].base_dist
    torch.testing.assert_close(q.concentration1, torch.full((3,), 4.0), rtol=0, atol=4e-3)
    torch.testing.assert_close(q.concentration0, torch.ones(3), rtol=0, atol=1e-3)


# -- expectations and order -----------------------------------------------------------------------


def test_keep_prob_is_the_expected_product_of_sticks():
    layer = scrambled(6)
    layer.rank_units(torch.randn(6))
    v = layer.posterior()["v"].rsample((50_000,))
    pi = torch.sigmoid(layer.keep_logits({"v": v}))
    assert_mean_close(pi, layer.keep_prob())
    layer.eval()
    assert_mean_close(layer.mask_distribution({"v": v}).sample(), layer.keep_prob())


def test_kl_equals_monte_carlo():
    layer = scrambled(4, concentration=3.0)
    q, prior = layer.posterior()["v"], Beta(3.0, 1.0).expand([4]).to_event(1)
    v = q.rsample((100_000,))
    assert_mean_close(q.log_prob(v) - prior.log_prob(v), layer.kl_divergence())


def test_keep_probabilities_fall_from_stick_to_stick():
    layer = scrambled(30)
    assert bool((layer.keep_prob().diff() < 0).all())
    v = layer.posterior()["v"].rsample((10,))
    assert bool((layer.keep_logits({"v": v}).diff() <= 0).all())


def test_masks_need_not_be_prefixes():
    layer = at_prior(10, 5.0).eval()
    masks = layer.draw_mask(layer.draw_latents(), torch.ones(200, 10))
    assert bool((masks.diff() > 0).any())


def test_rank_units_gives_the_first_sticks_to_the_most_important_units():
    layer = scrambled(4)
    by_stick = layer.keep_prob()
    layer.rank_units([0.5, 3.0, 0.5, 7.0])
    assert layer.rank.tolist() == [2, 1, 3, 0]
    torch.testing.assert_close(layer.keep_prob(), by_stick[[2, 1, 3, 0]])
    v = torch.tensor([0.9, 0.8, 0.7, 0.6])
    torch.testing.assert_close(
        torch.sigmoid(layer.keep_logits({"v": v})),
        torch.tensor([0.9 * 0.8 * 0.7, 0.9 * 0.8, 0.9 * 0.8 * 0.7 * 0.6, 0.9]),
    )


def test_the_order_is_saved_and_costs_nothing():
    layer, other = scrambled(5), IndianBuffetDropout(5)
    before = layer.kl_divergence()
    layer.rank_units(torch.randn(5))
    torch.testing.assert_close(layer.kl_divergence(), before)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.keep_prob(), layer.keep_prob(), rtol=0, atol=0)


def test_layers_without_an_order_ignore_one():
    layer = BetaBernoulliDropout(3)
    before = layer.keep_prob()
    layer.rank_units(torch.arange(3.0))
    torch.testing.assert_close(layer.keep_prob(), before)


# -- masks and numbers ----------------------------------------------------------------------------


def test_units_start_open_and_the_last_is_kept_like_a_beta_bernoulli_unit():
    keep = IndianBuffetDropout(784).keep_prob()
    torch.testing.assert_close(keep[-1], torch.tensor(5 / 6))
    assert bool((keep >= 5 / 6 - 1e-12).all())


def test_threshold_zeroes_the_mean_mask():
    layer = at_prior(8, 2.0, threshold=0.2).eval()
    keep = layer.keep_prob()
    assert layer.kept().tolist() == [True] * 3 + [False] * 5
    expected = torch.where(torch.arange(8) < 3, keep, 0.0)
    torch.testing.assert_close(layer.mean_mask(), expected)
    torch.testing.assert_close(layer(torch.ones(2, 8)), expected.expand(2, 8))


def test_straight_through_masks_are_zero_or_one_and_learn():
    layer = IndianBuffetDropout(50, relaxation="straight-through", init_concentration1=20.0)
    y = layer(torch.ones(20, 50))
    assert bool(((y == 0) | (y == 1)).all())
    assert 0 < y.mean() < 1
    y.sum().backward()
    assert bool((layer.sticks.location.grad != 0).all())


@pytest.mark.parametrize("init", [None, 0.01, 1.0, 20.0, 1e6])
def test_784_sticks_are_finite_in_float32(init):
    torch.set_default_dtype(torch.float32)
    layer = IndianBuffetDropout(784, concentration=20.0, init_concentration1=init)
    y = layer(torch.ones(100, 784))
    loss = 6e4 * y.sum() + layer.kl_divergence() + layer.keep_prob().sum()
    loss.backward()
    assert bool(y.isfinite().all())
    assert loss.dtype == torch.float32
    for parameter in layer.parameters():
        assert bool(parameter.grad.isfinite().all())
    exact = IndianBuffetDropout(784, concentration=20.0, init_concentration1=init).double()
    torch.testing.assert_close(
        layer.keep_prob().double(), exact.keep_prob(), rtol=1e-4, atol=1e-30
    )


@pytest.mark.parametrize("v", [0.0, 1e-38, 1e-20, 0.5, 1.0])
def test_log_products_of_extreme_sticks_are_finite_in_float32(v):
    sticks = torch.full((784,), v, dtype=torch.float32, requires_grad=True)
    log_pi = log_stick_products(sticks)
    assert bool((log_pi < 0).all())
    (1e6 * log_pi.sum()).backward()
    assert bool(log_pi.isfinite().all())
    assert bool(sticks.grad.isfinite().all())


# -- truncation -----------------------------------------------------------------------------------


def test_open_last_sticks_warn():
    layer = IndianBuffetDropout(20)
    layer.rank_units(torch.arange(20.0))  # the last stick is the first unit's
    message = "IndianBuffetDropout: expected the last of its 20 units .*threshold=0.1.*got 0.83. "
    with pytest.warns(TruncationWarning, match=message):
        layer.check_posterior()


def test_closed_last_sticks_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at_prior(20, 2.0).check_posterior()


def test_fit_warns_of_open_last_sticks():
    net = nn.Sequential(nn.Linear(2, 4), IndianBuffetDropout(4), nn.Linear(4, 2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    data = torch.randn(20, 2), torch.randint(2, (20,))
    with pytest.warns(TruncationWarning, match="IndianBuffetDropout '1': expected the last of"):
        bd.fit(bnn, data, epochs=1, progress=False)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_units": 0}, "IndianBuffetDropout: expected at least 1 unit, got num_units=0"),
        ({"threshold": 1.0}, "expected 0 <= threshold < 1"),
        (
            {"concentration": 0.0},
            "expected concentration > 0 and finite, got concentration=0.0. T",
        ),
        ({"concentration": math.nan}, "expected concentration > 0 and finite"),
        ({"init_concentration1": -1.0}, "expected init_concentration1 > 0"),
        ({"init_concentration0": math.inf}, "expected init_concentration0 > 0 and finite"),
        ({"temperature": 0.0}, "IndianBuffetDropout: expected temperature > 0"),
        ({"relaxation": "conrete"}, "unknown relaxation 'conrete'. Did you mean 'concrete'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_raise(options, message):
    with pytest.raises(ConfigError, match=message):
        IndianBuffetDropout(**{"num_units": 3, **options})


def test_bad_sticks_raise():
    with pytest.raises(
        ConfigError, match="IndianBuffetSticks: expected at least 1 stick, got num"
    ):
        IndianBuffetSticks(0)
    with pytest.raises(ConfigError, match="at least 1 stick, got num_sticks=2.5"):
        IndianBuffetSticks(2.5)
    with pytest.raises(ConfigError, match="IndianBuffetSticks: expected kl_scale > 0"):
        IndianBuffetSticks(3, kl_scale=0.0)


def test_bad_orders_raise():
    layer = IndianBuffetDropout(3)
    with pytest.raises(ShapeError, match=r"rank_units: expected one .* 3 units, got shape \(2,\)"):
        layer.rank_units([1.0, 2.0])
    with pytest.raises(ConfigError, match="rank_units: expected numbers .*, got NaN. Are the we"):
        layer.rank_units([1.0, math.nan, 2.0])


# -- learning -------------------------------------------------------------------------------------


def test_the_data_decide_how_many_units_it_takes():
    """Two inputs of ten carry the label; their order is told, the number is learned."""
    x = torch.randn(500, 10)
    y = (x[:, [3, 7]].sum(1) > 0).long()
    layer = IndianBuffetDropout(10, concentration=1.0)
    layer.rank_units(x.mul(2.0 * y[:, None] - 1).mean(0).abs())
    net = nn.Sequential(layer, nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    groups = [{"params": layer.parameters(), "lr": 0.05}, {"params": list(net[1:].parameters())}]
    optimiser = torch.optim.Adam(groups, lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y) + bd.kl_divergence(net) / len(x)
        loss.backward()
        optimiser.step()
    keep = layer.keep_prob().detach()
    assert bool((keep[[3, 7]] > 0.9).all())
    assert float(keep.sum()) < 5 < 8 < float(IndianBuffetDropout(10).keep_prob().detach().sum())


def test_masks_of_one_example_share_their_sticks():
    """Units are dependent through the sticks: the first one's mask tells of the second's."""
    layer = at_prior(2, 1.0).eval()
    v = layer.prior()["v"].sample((20_000,))
    z = layer.mask_distribution({"v": v}).sample()
    # E z1 z2 = E v1^2 v2 = 1/3 1/2, against E z1 E z2 = 1/2 1/4.
    assert_mean_close(z.prod(-1), 1 / 6)
    assert_means_equal(z[:, 1], v.prod(-1))
