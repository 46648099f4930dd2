"""What the account says agrees with what can be computed without it."""

import math

import pytest
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from bayesdrop.errors import ConfigError
from bayesdrop.inference.privacy import Privacy, combined, noise_for, spent

DELTA = 1e-5
# Of the bound by privacy loss random variables: two errors of 0.01 above the exact value.
SLACK = 0.021


def gaussian_epsilon(noise, steps=1):
    """Return the exact epsilon of Gaussian mechanisms of sensitivity 1 (Balle, Wang 2018)."""
    mu = math.sqrt(steps) / noise

    def excess(epsilon):
        second = math.exp(epsilon + log_ndtr(-epsilon / mu - mu / 2))
        return ndtr(mu / 2 - epsilon / mu) - second - DELTA

    return brentq(excess, 0.0, 200.0)


def sampled_epsilon(noise, rate):
    """Return the exact epsilon of one Gaussian mechanism on a Poisson sample, in both directions.

    The set where the densities' ratio exceeds ``exp(epsilon)`` is a half line, so that both
    hockey-stick divergences are normal probabilities.
    """

    def deltas(epsilon):
        # Outputs above t have (1 - q) + q exp((2 z - 1) / 2 noise^2) > exp(epsilon) for z = t.
        def threshold(ratio):
            return noise**2 * math.log((ratio - 1 + rate) / rate) + 0.5

        t = threshold(math.exp(epsilon))
        absent, present = ndtr(-t / noise), ndtr((1 - t) / noise)
        removed = (1 - rate) * absent + rate * present - math.exp(epsilon) * absent
        added = 0.0
        if math.exp(-epsilon) > 1 - rate:
            t = threshold(math.exp(-epsilon))
            absent, present = ndtr(t / noise), ndtr((t - 1) / noise)
            added = absent - math.exp(epsilon) * ((1 - rate) * absent + rate * present)
        return max(removed, added)

    return brentq(lambda epsilon: deltas(epsilon) - DELTA, 1e-6, 100.0)


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 1), (3.0, 10)])
def test_full_batches_are_a_gaussian_mechanism(noise, steps):
    exact = gaussian_epsilon(noise, steps)
    prv, rdp = spent([(noise, 1.0, steps)], DELTA)
    assert exact <= prv <= exact + SLACK
    assert exact <= rdp <= 1.15 * exact


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.1), (0.7, 0.01)])
def test_one_sampled_step_has_the_exact_hockey_stick_divergence(noise, rate):
    exact = sampled_epsilon(noise, rate)
    prv, rdp = spent([(noise, rate, 1)], DELTA)
    assert exact <= prv <= exact + SLACK
    assert exact <= rdp


def test_sampling_rate_one_is_the_limit_of_sampling():
    assert sampled_epsilon(2.0, 1.0 - 1e-9) == pytest.approx(gaussian_epsilon(2.0), rel=1e-6)


def test_runs_add_up_as_their_steps_do():
    one = Privacy(1.0, DELTA, 1.0, 1.0, 1.0, 1.5, 0.02, 60, True)
    together = combined([one, one])
    assert together == pytest.approx(min(spent([(1.5, 0.02, 120)], DELTA)), abs=0.02)
    assert together > combined([one])
    assert combined([]) == 0.0


def test_runs_are_counted_at_the_largest_of_their_deltas_unless_told_another():
    tight, loose = (Privacy(1.0, d, 1.0, 1.0, 1.0, 20.0, 1.0, 1, True) for d in (1e-6, 1e-4))
    assert combined([tight, loose]) == combined([loose, tight]) == combined([loose, loose])
    assert combined([tight, loose], delta=1e-6) == combined([tight, tight])
    assert combined([tight, tight]) > combined([loose, loose])


def test_no_noise_promises_nothing():
    assert spent([(0.0, 0.1, 5)], DELTA) == (math.inf, math.inf)
    privacy = Privacy(math.inf, DELTA, math.inf, math.inf, 1.0, 0.0, 0.1, 5, True)
    assert privacy.promise.startswith("no differential privacy")
    assert Privacy.from_dict(privacy.to_dict()) == privacy


def test_an_empty_promise_is_counted_roughly():
    prv, rdp = spent([(0.05, 0.5, 1000)], DELTA)
    assert prv == math.inf
    assert 1000 < rdp < math.inf


def test_no_steps_spend_nothing():
    assert spent([(1.0, 0.1, 0)], DELTA) == (0.0, 0.0)


def test_the_noise_for_an_epsilon_spends_just_that():
    noise = noise_for(2.0, DELTA, 0.05, 40)
    assert 0.99 * 2.0 <= spent([(noise, 0.05, 40)], DELTA)[0] <= 2.0


def test_an_epsilon_that_no_noise_keeps_is_refused():
    with pytest.raises(ConfigError, match="an epsilon that some noise can keep"):
        noise_for(1e-9, 1e-12, 1.0, 10)


@pytest.mark.parametrize(
    "numbers",
    [(-1.0, DELTA, 0.1, 5), (1.0, 0.0, 0.1, 5), (1.0, DELTA, 1.5, 5), (1.0, DELTA, 0.1, 0)],
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ConfigError, match="noise_for: expected"):
        noise_for(*numbers)
    with pytest.raises(ConfigError, match="spent: expected 0 < delta < 1, got delta=2.5"):
        combined([], delta=2.5)
