import math

import pytest
import torch
from scipy import stats

from bayesdrop.ops import noise
from bayesdrop.testing import assert_mean_close


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


MANY = torch.zeros((), dtype=torch.float32)


def test_many_numbers_are_uniform_in_the_middle_and_in_the_tails():
    u = noise.uniform((400, 1000), MANY).flatten().double()
    assert 0.0 < float(u.min()) and float(u.max()) < 1.0
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    for end in (u, 1 - u):
        expected = [1e-4, 1e-3, 1e-2]
        assert_mean_close((end[:, None] < torch.tensor(expected)).double(), torch.tensor(expected))
    top, low = (u * 256).long(), (u * 2**23).long() % 256  # bits of both ends of the mantissa
    assert all(
        stats.chisquare(torch.bincount(bits, minlength=256)).pvalue > 1e-5 for bits in (top, low)
    )


def test_many_numbers_are_independent_of_their_neighbours_and_of_other_draws():
    first, second = (noise.uniform((400, 1000), MANY).double() - 0.5 for _ in range(2))
    for lag in (1, 2, 3, 1000):
        a, b = first.flatten()[:-lag], first.flatten()[lag:]
        assert_mean_close(a * b, 0.0)
    assert_mean_close(first.flatten() * second.flatten(), 0.0)
    pairs = (first.flatten()[0::2] * 16 + 8).long() * 16 + (first.flatten()[1::2] * 16 + 8).long()
    assert stats.chisquare(torch.bincount(pairs, minlength=256)).pvalue > 1e-5


def test_many_numbers_follow_the_seed_and_the_state_of_torch():
    torch.manual_seed(3)
    first, state = noise.uniform((20, 1001), MANY), torch.get_rng_state()
    second = noise.uniform((20, 1001), MANY)
    torch.manual_seed(3)
    assert torch.equal(noise.uniform((20, 1001), MANY), first)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(noise.uniform((20, 1001), MANY), second)
    torch.manual_seed(4)
    assert not torch.equal(noise.uniform((20, 1001), MANY), first)


def test_each_row_under_vmap_has_noise_of_its_own():
    def draw(x):
        return noise.uniform((20_000,), x)

    x = torch.zeros(3, dtype=torch.float32)
    rows = torch.func.vmap(draw, randomness="different")(x)
    assert len(rows[:, :5].flatten().unique()) == 15
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(draw)(x)
