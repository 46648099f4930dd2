"""The contract of a prior over masks, and of a posterior of weights, as tests to inherit.

Somebody who writes a layer in a repository of their own registers it and writes two lines in a
file that pytest collects::

    from bayesdrop.testing import MaskContract

    class TestHorseshoe(MaskContract):
        key = "horseshoe"

Every law that the package's own layers are held to then runs for it: stock Pyro trains it, both
ELBOs agree, its KL divergence is the Monte Carlo one, plain torch and ``SVI`` take the same step,
its compact network equals the masked one, and nothing outside is changed. ``WeightContract`` does
the same for random weights. The layer's noise must come from ``bayesdrop.distributions`` (or
``bayesdrop.ops.noise``): some laws replace it.

The statistical assertions (``assert_mean_close``, ...) fail on correct code with one probability
for each, ``TEST_FAILURE_RATE``. It needs pytest: ``pip install bayesdrop[testing]``.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("bayesdrop.testing needs pytest: pip install bayesdrop[testing]") from error

pytest.register_assert_rewrite(
    *(f"bayesdrop.testing.{name}" for name in ("mask", "owner", "statistics", "weight"))
)

from bayesdrop.testing.isolation import isolated, noise_by_shape  # noqa: E402
from bayesdrop.testing.mask import MaskContract  # noqa: E402
from bayesdrop.testing.owner import OwnerContract  # noqa: E402
from bayesdrop.testing.programs import global_sites, gradients, sites  # noqa: E402
from bayesdrop.testing.statistics import (  # noqa: E402
    TEST_FAILURE_RATE,
    assert_follows_cdf,
    assert_goodness_of_fit,
    assert_mean_close,
    assert_means_equal,
)
from bayesdrop.testing.weight import WeightContract  # noqa: E402

__all__ = [
    "TEST_FAILURE_RATE",
    "MaskContract",
    "OwnerContract",
    "WeightContract",
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
