"""Layers in 16 bits, and parameters far out: finite values and gradients."""

import pytest
import torch
from torch import nn

import bayesdrop as bd

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "convolution": (lambda: nn.Conv2d(2, 4, 3, padding=1), (5, 2, 6, 6)),
}


@pytest.mark.parametrize("noise", ["local", "weights"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("key", bd.nn.registered(bd.nn.BayesianWeights))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_random_weights_under_autocast_have_finite_gradients(dtype, key, layer, noise):
    """A blank example, inputs whose squares leave float16's range, and variances of e^-18."""
    make, shape = LAYERS[layer]
    module, x = bd.nn.make(key, make(), noise=noise).float(), 300 * torch.randn(shape).float()
    x[0] = 0
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "log_variance":
                parameter.fill_(-18.0)
    with torch.autocast("cpu", dtype=dtype):
        output = module(x)
    assert output.dtype == dtype and output.isfinite().all()
    output.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_local_noise_in_float16_has_the_variance_of_float32():
    module = bd.nn.SparseVariational(nn.Linear(6, 4), init_log_variance=-12.0).float()
    x = (0.1 * torch.randn(1, 6)).float().expand(20_000, -1)
    with torch.autocast("cpu", dtype=torch.float16):
        half = module(x).float()
    # The sum of squares times e^-12 is below float16's smallest number.
    assert 0.01 * float(torch.tensor(-12.0).exp()) < 1e-7
    spread = (module(x).std(0) / half.std(0)).log().abs()
    assert spread.max() < 0.1


@pytest.mark.parametrize("value", [-1e4, -60.0, 60.0, 1e4])
@pytest.mark.parametrize(
    "key", ["indian-buffet", "hierarchical-indian-buffet", "dependent-beta-bernoulli"]
)
def test_parameters_far_out_have_a_finite_loss_and_gradient(key, value):
    network = nn.Sequential(bd.nn.make(key, 4), nn.Linear(4, 3)).float()
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter.fill_(value)
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=10).train()
    x, y = torch.randn(6, 4).float(), torch.zeros(6).long()
    terms = bnn.loss(x, y)
    terms.loss.backward()
    assert terms.kl.isfinite() and terms.nll.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert bd.predict(bnn, x, num_samples=3).mean.isfinite().all()
