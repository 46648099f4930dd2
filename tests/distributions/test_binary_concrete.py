import itertools
import math

import pytest
import torch
from pyro.distributions import RelaxedBernoulli
from scipy.special import expit

from bayesdrop.distributions import BinaryConcrete, BinaryConcreteStraightThrough
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close
from tests.distributions import laws

FAMILIES = [BinaryConcrete, BinaryConcreteStraightThrough]
PARAMETERS = [(0.5, -1.3), (0.7, 0.0), (1.0, 2.0), (2.5, -3.0)]


def make(temperature, logits):
    return BinaryConcrete(temperature, logits=logits)


def relaxed(temperature, logits):
    return make(torch.tensor(temperature), torch.tensor(logits))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("argument", ["probs", "logits"])
def test_shapes(family, argument):
    laws.check_shapes(lambda t, p: family(t, **{argument: p}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("argument", ["probs", "logits"])
def test_expand(family, argument):
    laws.check_expand(lambda p, t: family(t, **{argument: p / 2}))


def test_expand_keeps_probs_after_logits_were_used():
    fn = BinaryConcrete(0.5, probs=torch.tensor([0.2, 0.7]))
    torch.testing.assert_close(fn.logits, torch.logit(fn.probs))
    wide = fn.expand([3, 2])
    torch.testing.assert_close(wide.probs, fn.probs.expand(3, 2))
    torch.testing.assert_close(wide.logits, fn.logits.expand(3, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_mask_silences_the_density(family):
    laws.check_mask_silences(lambda t, logits: family(t, logits=logits))


@pytest.mark.parametrize("argument", ["probs", "logits"])
def test_dtype_is_that_of_the_parameters(argument):
    laws.check_keeps_dtype(
        lambda p, t: BinaryConcrete(t, **{argument: p / 2}), ["probs", "logits"]
    )


@pytest.mark.parametrize(("temperature", "logits"), PARAMETERS)
def test_log_prob_equals_that_of_pyro(temperature, logits):
    x = torch.linspace(0.01, 0.99, 21)
    reference = RelaxedBernoulli(torch.tensor(temperature), logits=torch.tensor(logits))
    actual = relaxed(temperature, logits).log_prob(x)
    torch.testing.assert_close(actual, reference.log_prob(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("temperature", "logits"), [(0.7, 0.0), (1.0, 2.0), (2.5, -3.0)])
def test_density_integrates_to_one(temperature, logits):
    fn = relaxed(temperature, logits)
    points = [float(fn.icdf(torch.tensor(u))) for u in (1e-3, 0.1, 0.5, 0.9, 0.999)]
    laws.check_density_integrates_to_one(fn, points)


@pytest.mark.parametrize(("temperature", "logits"), PARAMETERS)
def test_samples_fit_the_density(temperature, logits):
    laws.check_fits_its_density(relaxed(temperature, logits))


@pytest.mark.parametrize(("temperature", "logits"), PARAMETERS)
def test_cdf_and_icdf_are_inverse(temperature, logits):
    laws.check_cdf_inverse(relaxed(temperature, logits))


@pytest.mark.parametrize(("temperature", "logits"), [(0.7, 0.0), (1.0, 2.0), (2.5, -3.0)])
def test_cdf_is_the_integral_of_the_density(temperature, logits):
    laws.check_cdf_is_the_integral(relaxed(temperature, logits), 0.4)


def test_probs_is_the_probability_of_more_than_one_half():
    fn = BinaryConcrete(0.3, probs=torch.tensor([0.1, 0.6]))
    torch.testing.assert_close(1 - fn.cdf(torch.tensor(0.5)), fn.probs)
    assert_mean_close((fn.rsample((20_000,)) > 0.5).double(), fn.probs)


def test_temperature_to_zero_is_bernoulli():
    probs = torch.tensor([0.05, 0.5, 0.9])
    z = BinaryConcrete(1e-6, probs=probs).rsample((20_000,))
    eps = torch.finfo(z.dtype).eps
    assert bool(((z <= 2 * eps) | (z >= 1 - 2 * eps)).double().mean() > 0.999)
    assert_mean_close(z.round(), probs)


def test_pathwise_gradient_equals_finite_differences():
    laws.check_pathwise_gradient(make, [0.8, -1.2])


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_corners_are_finite(family):
    temperatures, logits = [1e-3, 0.1, 1.0, 1e3], [-100.0, -10.0, 0.0, 10.0, 100.0]
    corners = torch.tensor(list(itertools.product(temperatures, logits))).T.float()
    leaves = [p.clone().requires_grad_() for p in corners]
    fn = family(leaves[0], logits=leaves[1])
    z = fn.rsample((200,))
    log_prob = fn.log_prob(z)
    assert bool(log_prob.isfinite().all())
    assert bool((z.detach().where(z.detach() > 0, 1.0) >= torch.finfo(torch.float32).tiny).all())
    for output in (z, log_prob):
        for gradient in torch.autograd.grad(output.sum(), leaves, retain_graph=True):
            assert bool(gradient.isfinite().all())


def test_probabilities_of_zero_and_one_are_finite():
    fn = BinaryConcrete(0.1, probs=torch.tensor([0.0, 1.0]))
    z = fn.rsample((100,))
    assert bool((z.round() == fn.probs).all())
    assert bool(fn.log_prob(z).isfinite().all())


def test_float32_samples_hold_no_denormal_numbers():
    logits = torch.full((10_000,), -20.0, dtype=torch.float32)
    z = BinaryConcrete(0.1, logits=logits).rsample()
    assert bool((z >= torch.finfo(torch.float32).eps / 2).all())


@pytest.mark.parametrize("values", [{}, {"probs": 0.5, "logits": 0.0}], ids=["neither", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_one_of_probs_and_logits_is_required(family, values):
    with pytest.raises(ConfigError, match=f"{family.__name__}: expected exactly one of probs and"):
        family(0.1, **values)


@pytest.mark.parametrize(
    ("temperature", "values"),
    [(0.0, {"probs": 0.5}), (1.0, {"probs": 1.5}), (1.0, {"logits": math.nan})],
    ids=["temperature", "probs", "logits"],
)
def test_bad_parameters_raise(temperature, values):
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        BinaryConcrete(temperature, **{k: torch.tensor(v) for k, v in values.items()})


def test_values_outside_the_support_raise():
    with pytest.raises(ValueError, match="support"):
        relaxed(1.0, 0.0).log_prob(torch.tensor(1.5))


# -- straight-through -----------------------------------------------------------------------------


def same_noise(family, temperature, logits):
    torch.manual_seed(3)
    leaves = [torch.tensor(temperature, requires_grad=True), logits.clone().requires_grad_()]
    fn = family(leaves[0], logits=leaves[1])
    return fn, fn.rsample((100,)), leaves


def test_straight_through_samples_are_zero_or_one_with_the_relaxed_gradient():
    logits = torch.linspace(-3, 3, 7)
    _, soft, soft_leaves = same_noise(BinaryConcrete, 0.5, logits)
    _, hard, hard_leaves = same_noise(BinaryConcreteStraightThrough, 0.5, logits)
    assert torch.equal(hard, soft.round())
    expected = torch.autograd.grad(soft.sum(), soft_leaves)
    actual = torch.autograd.grad(hard.sum(), hard_leaves)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_straight_through_log_prob_is_that_of_the_relaxed_value():
    logits = torch.linspace(-3, 3, 7)
    soft_fn, soft, _ = same_noise(BinaryConcrete, 0.5, logits)
    hard_fn, hard, _ = same_noise(BinaryConcreteStraightThrough, 0.5, logits)
    torch.testing.assert_close(hard_fn.log_prob(hard), soft_fn.log_prob(soft))


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 3.0])
def test_straight_through_is_bernoulli_at_every_temperature(temperature):
    probs = torch.tensor(expit([-3.0, 0.0, 1.5]))
    z = BinaryConcreteStraightThrough(temperature, probs=probs).rsample((20_000,))
    assert_mean_close(z, probs)
