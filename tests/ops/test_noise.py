import math

import pytest
import torch

from bayesdrop.ops import noise
from bayesdrop.testing import assert_mean_close


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_excludes_both_ends(monkeypatch, dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    monkeypatch.setattr(torch, "rand", lambda shape, **options: ends.clone())
    u = noise.uniform((2,), torch.zeros((), dtype=dtype))
    assert u.dtype == dtype
    assert bool(torch.logit(u).isfinite().all())


@pytest.mark.parametrize("plain", [False, True])
def test_uniform_moves_nothing_but_an_end(monkeypatch, plain):
    """In float32 one of four million numbers is below eps: small ones stay as they are."""
    monkeypatch.setattr(noise, "takes_plain_operations", lambda: plain)
    drawn = torch.tensor([0.0, 1e-30, 2.0**-24, 0.5, 1 - 2.0**-24], dtype=torch.float32)
    monkeypatch.setattr(torch, "rand", lambda shape, **options: drawn.clone())
    u = noise.uniform((5,), torch.zeros((), dtype=torch.float32))
    assert torch.equal(u[1:4], drawn[1:4])
    assert 0.0 < u[0] < 1e-30 and 1 - 2.0**-22 < u[4] < 1.0


def test_logistic_has_the_standard_moments():
    x = noise.logistic((50_000,), torch.zeros(()))
    assert_mean_close(x, 0.0)
    assert_mean_close(x.square(), math.pi**2 / 3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normal_has_the_standard_moments_in_any_layout(memory_format):
    like = torch.zeros(20, 5, 30, 20).to(memory_format=memory_format)
    x = noise.normal(like.shape, like)
    assert x.is_contiguous(memory_format=memory_format)
    assert_mean_close(x.flatten(), 0.0)
    assert_mean_close(x.square().flatten(), 1.0)
    assert noise.normal((3,), like.double()).dtype == torch.float64


def test_normal_of_an_expanded_tensor_is_not_shared():
    like = torch.zeros(1, 3).expand(4, 3)
    assert len(noise.normal(like.shape, like).unique()) == 12
