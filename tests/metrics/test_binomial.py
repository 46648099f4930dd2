import pytest
import torch
from scipy.stats import binom, binomtest

from bayesdrop.errors import ConfigError
from bayesdrop.metrics.binomial import binomial_interval, upper_bound

CASES = [(0, 1), (0, 10), (3, 10), (10, 10), (1, 200), (150, 200), (1, 1)]


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize(("method", "name"), [("wilson", "wilson"), ("clopper-pearson", "exact")])
def test_intervals_agree_with_scipy(method, name, level):
    k, n = torch.tensor(CASES).T
    lower, upper = binomial_interval(k, n, level, method)
    for index, (hits, count) in enumerate(CASES):
        theirs = binomtest(hits, count).proportion_ci(level, method=name)
        assert float(lower[index]) == pytest.approx(theirs.low, abs=1e-9)
        assert float(upper[index]) == pytest.approx(theirs.high, abs=1e-9)


@pytest.mark.parametrize("method", ["wilson", "clopper-pearson"])
def test_nothing_observed_leaves_everything_possible(method):
    lower, upper = binomial_interval(torch.zeros(1), torch.zeros(1), 0.95, method)
    assert lower.tolist() == [0.0] and upper.tolist() == [1.0]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_upper_bound_fails_no_more_often_than_allowed(share):
    # Exact coverage: the probability of all outcomes whose bound is below the true share.
    outcomes = torch.arange(41)
    bound = upper_bound(outcomes, torch.tensor(40), 0.1)
    failing = outcomes[bound < share].numpy()
    assert binom.pmf(failing, 40, share).sum() <= 0.1
    assert float(upper_bound(torch.tensor(0), torch.tensor(40), 0.1)) == pytest.approx(
        1 - 0.1 ** (1 / 40)
    )


def test_unknown_interval_is_refused():
    with pytest.raises(ConfigError, match="unknown interval 'wald'.*Available: clopper-pearson"):
        binomial_interval(torch.zeros(1), torch.ones(1), method="wald")
