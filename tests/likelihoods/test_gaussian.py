"""Laws of normal noise: outputs in dimension 1, its distribution function, no missing targets."""

import numpy as np
import pytest
import scipy.stats
import torch

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError


@pytest.mark.parametrize("shape", [(5,), (5, 4)])
def test_halves_of_an_image_are_its_channels(shape):
    output, y = torch.randn(6, 4, *shape), torch.randn(6, 2, *shape)
    likelihood = bd.Gaussian("heteroscedastic")
    scale = np.logaddexp(0.0, output[:, 2:].numpy()) + 1e-4
    expected = -scipy.stats.norm.logpdf(y.numpy(), output[:, :2].numpy(), scale).sum()
    np.testing.assert_allclose(float(likelihood.nll(output, y)), expected, rtol=1e-10)


def test_every_channel_has_its_learned_scale():
    likelihood = bd.Gaussian(num_outputs=2, min_scale=0.0)
    with torch.no_grad():
        likelihood.raw_scale.copy_(torch.tensor([0.0, 3.0]))
    _, variance = likelihood.moments(torch.zeros(6, 2, 5))
    expected = torch.nn.functional.softplus(torch.tensor([0.0, 3.0])).square()
    torch.testing.assert_close(variance, expected[:, None].expand(6, 2, 5))


@pytest.mark.parametrize("mode", [0.7, "heteroscedastic"])
def test_cdf_equals_scipy(mode):
    likelihood = bd.Gaussian(mode)
    output = torch.randn(6, 4)
    mean, variance = likelihood.moments(output)
    y = torch.randn(mean.shape)
    expected = scipy.stats.norm.cdf(y.numpy(), mean.numpy(), variance.sqrt().numpy())
    # Far out in a tail the two round differently.
    np.testing.assert_allclose(likelihood.cdf(output, y).numpy(), expected, rtol=1e-8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_missing_targets_are_refused(value):
    y = torch.zeros(4, 3)
    y[2, 1] = value
    with pytest.raises(DataError, match="row 2 of the batch. Missing targets are not supported"):
        bd.Gaussian(1.0).nll(torch.zeros(4, 3), y)


@pytest.mark.parametrize(
    "options",
    [
        {"num_outputs": 0},
        {"num_outputs": 1.5},
        {"num_outputs": True},
        {"init_scale": float("nan")},
        {"init_scale": "1"},
        {"init_scale": float("inf")},
        {"min_scale": -1.0},
    ],
)
def test_an_argument_without_a_scale_is_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        bd.Gaussian("learned", **options)


def test_learned_noise_has_a_gradient_under_torch_func():
    bnn = bd.BayesianNetwork(torch.nn.Linear(3, 1), bd.Gaussian("learned"), 4)
    x, y = torch.randn(4, 3), torch.randn(4, 1)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bnn = bnn

        def forward(self, x, y):
            return self.bnn.loss(x, y).loss

    module = Loss()
    values = {name: p.detach() for name, p in module.named_parameters()}
    found = torch.func.grad(lambda values: torch.func.functional_call(module, values, (x, y)))
    module(x, y).backward()
    for name, gradient in found(values).items():
        torch.testing.assert_close(gradient, module.get_parameter(name).grad)
