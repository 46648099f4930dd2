import itertools

import numpy as np
import pytest
import torch
from pyro.distributions.testing import gof
from scipy.integrate import quad
from scipy.stats import chisquare
from torch.distributions import kl_divergence

from bayesdrop.distributions import BinaryConcrete, HardConcrete
from bayesdrop.testing import TEST_FAILURE_RATE, assert_goodness_of_fit, assert_mean_close
from tests.distributions import laws

LOGITS = torch.tensor([-4.0, -2.0, -1.0, 0.0, 1.0, 2.197, 4.0], dtype=torch.float64)
# Golden values of the specification.
TABLE = {
    "prob_nonzero": [0.0831, 0.4010, 0.6453, 0.8318, 0.9308, 0.9780, 0.9963],
    "prob_one": [0.0037, 0.0266, 0.0692, 0.1682, 0.3547, 0.6453, 0.9169],
    "test_value": [0.0, 0.0430, 0.2227, 0.5, 0.7773, 0.9800, 1.0],
}
MEANS = [0.0236, 0.1427, 0.2930, 0.5001, 0.7071, 0.8784, 0.9763]  # Monte Carlo
PARAMETERS = [(0.0, 2 / 3), (-2.5, 0.5), (3.0, 1.0), (0.7, 0.2), (1.0, 2.5)]


def make(logits, temperature):
    return HardConcrete(logits, temperature)


def fixed(logits, temperature=2 / 3):
    return make(torch.tensor(logits), torch.tensor(temperature))


def integral(function):
    return quad(function, 0.0, 1.0, epsabs=1e-13, epsrel=1e-11, limit=500)[0]


# -- laws of every distribution -------------------------------------------------------------------


def test_shapes_expand_and_mask():
    laws.check_shapes(make)
    laws.check_expand(make)
    laws.check_mask_silences(make)
    assert fixed([0.0, 1.0]).expand([3, 2]).mean.shape == (3, 2)


def test_dtype_is_that_of_the_parameters():
    laws.check_keeps_dtype(make, ["prob_nonzero", "prob_one", "test_value", "mean"])


def test_pathwise_gradient_equals_finite_differences():
    laws.check_pathwise_gradient(make, [0.8, 0.7])


@pytest.mark.parametrize(("logits", "temperature"), PARAMETERS)
def test_mean_equals_samples(logits, temperature):
    laws.check_mean_equals_samples(fixed(logits, temperature))


def test_cdf_and_icdf_are_inverse_in_the_interior():
    fn = fixed(0.3)
    u = torch.linspace(1 - fn.prob_nonzero.item(), 1 - fn.prob_one.item(), 25)[1:-1]
    torch.testing.assert_close(fn.cdf(fn.icdf(u)), u, rtol=1e-9, atol=1e-12)
    ends = fn.cdf(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.stack([1 - fn.prob_nonzero, torch.tensor(1.0)]))


# -- golden values --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_closed_forms_are_the_golden_values(name):
    np.testing.assert_allclose(getattr(HardConcrete(LOGITS), name), TABLE[name], atol=6e-5)


def test_mean_is_the_golden_value():
    np.testing.assert_allclose(HardConcrete(LOGITS).mean, MEANS, atol=2e-4)


def test_the_test_value_reaches_both_ends_at_2_398():
    fn = HardConcrete(torch.tensor([-2.399, -2.397, 2.397, 2.399]))
    assert (fn.test_value == 0).tolist() == [True, False, False, False]
    assert (fn.test_value == 1).tolist() == [False, False, False, True]
    np.testing.assert_allclose(fn.prob_nonzero[0], 0.31, atol=5e-3)


# -- atoms and density ----------------------------------------------------------------------------


@pytest.mark.parametrize(("logits", "temperature"), PARAMETERS)
def test_samples_have_the_atoms_and_inside_the_density(logits, temperature):
    fn = fixed(logits, temperature)
    z = fn.rsample((50_000,))
    inside = (z > 0) & (z < 1)
    counts = [int((z == 0).sum()), int(inside.sum()), int((z == 1).sum())]
    zero, one = 1 - fn.prob_nonzero.item(), fn.prob_one.item()
    expected = np.array([zero, 1 - zero - one, one]) * len(z)
    assert chisquare(counts, expected).pvalue > TEST_FAILURE_RATE
    share = np.log(1 - zero - one)
    assert_goodness_of_fit(z[inside], fn.log_prob(z[inside]) - share)


def test_the_split_test_is_needed_and_can_fail():
    fn = fixed(0.0)
    z = fn.rsample((50_000,))
    assert gof.auto_goodness_of_fit(z, fn.log_prob(z).exp()) < TEST_FAILURE_RATE  # atoms
    inside = z[(z > 0) & (z < 1)]
    wrong = fixed(1.5)
    share = (wrong.prob_nonzero - wrong.prob_one).log()
    with pytest.raises(AssertionError, match="p ="):
        assert_goodness_of_fit(inside, wrong.log_prob(inside) - share)


@pytest.mark.parametrize(("logits", "temperature"), PARAMETERS)
def test_total_mass_is_one(logits, temperature):
    fn = fixed(logits, temperature)
    atoms = fn.log_prob(torch.tensor([0.0, 1.0])).exp()
    torch.testing.assert_close(atoms, torch.stack([1 - fn.prob_nonzero, fn.prob_one]))
    np.testing.assert_allclose(integral(laws.density(fn)) + atoms.sum().item(), 1.0, rtol=1e-9)


def test_little_stretching_is_the_binary_concrete():
    z = torch.linspace(0.05, 0.95, 10)
    fn = HardConcrete(torch.tensor(0.4), 0.7, lower=-1e-9, upper=1 + 1e-9)
    reference = BinaryConcrete(0.7, logits=torch.tensor(0.4))
    torch.testing.assert_close(fn.log_prob(z), reference.log_prob(z), rtol=1e-6, atol=1e-6)


def test_temperature_to_zero_is_bernoulli():
    fn = fixed([-2.0, 0.5], 1e-4)
    z = fn.rsample((20_000,))
    assert bool(((z == 0) | (z == 1)).double().mean() > 0.999)
    assert_mean_close(z.round(), torch.sigmoid(fn.logits))


# -- KL -------------------------------------------------------------------------------------------

PAIRS = [
    (0.0, 0.0), (1.0, -2.0), (-4.0, 4.6), (4.6, -4.6), (0.005, 0.0), (0.0, 0.011), (0.0, 0.009),
    (3.0, 3.0001), (-30.0, 30.0), (30.0, -30.0),
]  # fmt: skip


@pytest.mark.parametrize(("q_logits", "p_logits"), PAIRS)
@pytest.mark.parametrize("temperature", [2 / 3, 2.0])
def test_kl_equals_quadrature(q_logits, p_logits, temperature):
    q, p = fixed(q_logits, temperature), fixed(p_logits, temperature)

    def integrand(v):
        v = torch.tensor(v)
        return float(q.log_prob(v).exp() * (q.log_prob(v) - p.log_prob(v)))

    expected = integral(integrand) + integrand(0.0) + integrand(1.0)
    np.testing.assert_allclose(kl_divergence(q, p).item(), expected, rtol=1e-7, atol=1e-12)


def test_kl_is_registered_under_to_event_and_equals_monte_carlo():
    q, p = HardConcrete(LOGITS), HardConcrete(LOGITS.flip(0) / 2)
    kl = kl_divergence(q, p)
    torch.testing.assert_close(kl_divergence(q.to_event(1), p.to_event(1)), kl.sum())
    z = q.rsample((40_000,))
    assert_mean_close(q.log_prob(z) - p.log_prob(z), kl)


def test_kl_gradients_equal_finite_differences():
    q_logits = torch.tensor([-4.0, 0.0, 1.0, 0.5, 4.0], requires_grad=True)
    p_logits = torch.tensor([2.0, 0.0, 1.004, 0.5, -1.0], requires_grad=True)

    def kl(a, b):
        return kl_divergence(HardConcrete(a), HardConcrete(b))

    gradients = torch.autograd.grad(kl(q_logits, p_logits).sum(), (q_logits, p_logits))
    step = 1e-5
    with torch.no_grad():
        expected = (
            (kl(q_logits + step, p_logits) - kl(q_logits - step, p_logits)) / (2 * step),
            (kl(q_logits, p_logits + step) - kl(q_logits, p_logits - step)) / (2 * step),
        )
    for actual, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-8)


def test_kl_of_unequal_temperatures_is_left_to_sampling():
    with pytest.raises(NotImplementedError, match="unequal temperature or limits"):
        kl_divergence(fixed(0.0, 0.5), fixed(0.0, 0.6))


# -- corners --------------------------------------------------------------------------------------


def test_float32_corners_are_finite():
    corners = list(itertools.product([-100.0, -10.0, 0.0, 10.0, 100.0], [1e-2, 0.1, 1.0, 10.0]))
    leaves = [p.float().clone().requires_grad_() for p in torch.tensor(corners).T]
    fn = make(*leaves)
    z = fn.rsample((200,))
    assert z.dtype == torch.float32
    assert bool(((z >= 0) & (z <= 1)).all())
    kl = kl_divergence(fn, make(torch.zeros_like(leaves[0]), leaves[1].detach()))
    for output in (z, fn.log_prob(z.detach()), fn.mean, kl):
        assert bool(output.isfinite().all())
        grads = torch.autograd.grad(output.sum(), leaves, retain_graph=True, allow_unused=True)
        assert all(bool(g.isfinite().all()) for g in grads if g is not None)


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"lower": 0.0}, {"upper": 1.0}])
def test_bad_parameters_raise(values):
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        HardConcrete(torch.zeros(2), **values)


def test_values_outside_the_support_raise():
    with pytest.raises(ValueError, match="support"):
        fixed(0.0).log_prob(torch.tensor(1.5))
