import pytest
import torch

from bayesdrop.nn.weight import local_sample
from bayesdrop.ops import noise


@pytest.mark.parametrize("shape", [(4, 3), (3,)], ids=["local", "shared"])
def test_its_gradient_is_that_of_the_formula(monkeypatch, shape):
    normal = torch.randn(shape, dtype=torch.float64)
    monkeypatch.setattr(noise, "normal", lambda shape, like: normal)
    mean = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    variance = torch.rand(4, 3, dtype=torch.float64).requires_grad_()
    written, plain = local_sample(mean, variance, normal.shape), mean + variance.sqrt() * normal
    torch.testing.assert_close(written, plain)
    weight = torch.randn(4, 3, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad((written * weight).sum(), (mean, variance)),
        torch.autograd.grad((plain * weight).sum(), (mean, variance)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_without_variance_it_is_the_mean_and_its_gradient_is_zero():
    mean = torch.randn(4, 3)
    variance = torch.zeros(4, 3, requires_grad=True)
    sample = local_sample(mean, variance, mean.shape)
    torch.testing.assert_close(sample, mean, atol=1e-8, rtol=0)
    (gradient,) = torch.autograd.grad(sample.sum(), variance)
    assert torch.equal(gradient, torch.zeros(4, 3))
