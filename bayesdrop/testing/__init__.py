"""Tools for tests of probabilistic programs: statistical assertions, isolation, traces.

A statistical assertion (``assert_mean_close``, ...) fails on correct code with the probability
``TEST_FAILURE_RATE``. It needs pytest: ``pip install bayesdrop[testing]``.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("bayesdrop.testing needs pytest: pip install bayesdrop[testing]") from error

pytest.register_assert_rewrite(*(f"bayesdrop.testing.{name}" for name in ("statistics",)))

from bayesdrop.testing.isolation import isolated, noise_by_shape  # noqa: E402
from bayesdrop.testing.programs import global_sites, gradients, sites  # noqa: E402
from bayesdrop.testing.statistics import (  # noqa: E402
    TEST_FAILURE_RATE,
    assert_follows_cdf,
    assert_goodness_of_fit,
    assert_mean_close,
    assert_means_equal,
)

__all__ = [
    "TEST_FAILURE_RATE",
    "assert_follows_cdf",
    "assert_goodness_of_fit",
    "assert_mean_close",
    "assert_means_equal",
    "global_sites",
    "gradients",
    "isolated",
    "noise_by_shape",
    "sites",
]
