import math

import pytest
import torch

from bayesdrop.ops import noise
from tests.statistics import assert_mean_close


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_excludes_both_ends(monkeypatch, dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    monkeypatch.setattr(torch, "rand", lambda shape, **options: ends.clone())
    u = noise.uniform((2,), torch.zeros((), dtype=dtype))
    assert u.dtype == dtype
    assert bool(torch.logit(u).isfinite().all())


def test_logistic_has_the_standard_moments():
    x = noise.logistic((50_000,), torch.zeros(()))
    assert_mean_close(x, 0.0)
    assert_mean_close(x.square(), math.pi**2 / 3)
