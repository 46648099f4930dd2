"""Laws of training in bfloat16: products are in it, latents and the KL are not."""

import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.ops.seeding import seeded
from bayesdrop.typing import LossTerms

KEYS = [key for key, cls in bd.nn.layers.items() if cls.__module__.startswith("bayesdrop.")]


@pytest.fixture(autouse=True)
def float32():
    torch.set_default_dtype(torch.float32)


def network(key):
    if issubclass(bd.nn.layers[key], bd.nn.BayesianWeights):
        net = bd.convert(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), key)
    else:
        net = nn.Sequential(
            *(bd.nn.make(key, 6), nn.Linear(6, 8), nn.ReLU()),
            *(bd.nn.make(key, 8), nn.Linear(8, 3)),
        )
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=40)


def data():
    x = torch.randn(40, 6)
    return x, x[:, :3].argmax(1)


@pytest.mark.filterwarnings("ignore::bayesdrop.errors.TruncationWarning")
@pytest.mark.parametrize("key", KEYS)
def test_products_are_bfloat16_and_everything_else_is_float32(key):
    bnn, seen, products = network(key), [], []

    def objective(bnn, x, y):
        seen.append(bnn.loss(x, y))
        return seen[-1]

    options = {"epochs": 1, "batch_size": 20, "objective": objective, "progress": False}
    with bnn.network.register_forward_hook(lambda m, i, out: products.append(out.dtype)):
        result = bd.fit(bnn, data(), autocast=torch.bfloat16, **options)
    assert products[0] == torch.bfloat16
    assert {part.dtype for terms in seen for part in terms} == {torch.float32}
    assert all(p.dtype == torch.float32 for p in bnn.parameters())
    assert math.isfinite(result.history[-1]["loss"])
    drawn = []
    for lowered in (True, False):
        with seeded(0), torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            owners = [owner.draw_latents() for _, owner in bnn.named_owners()]
            drawn.append((bd.kl_divergence(bnn.network), owners))
    torch.testing.assert_close(*drawn, rtol=0, atol=0)


def test_a_run_in_bfloat16_learns_and_other_dtypes_are_refused():
    bnn = network("mc-dropout")
    options = {"epochs": 20, "batch_size": 20, "learning_rate": 0.05, "progress": False}
    history = bd.fit(bnn, data(), autocast=torch.bfloat16, seed=0, **options).history
    assert history[-1]["nll"] < 0.9 * history[0]["nll"]
    with pytest.raises(ConfigError, match="autocast to be torch.bfloat16 or None"):
        bd.fit(bnn, data(), autocast=torch.float16, **options)


def test_without_noise_it_is_the_step_of_float32_to_the_precision_of_bfloat16():
    steps = []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        bnn, before = bd.BayesianNetwork(net, bd.Categorical(), num_data=40), net[0].weight.clone()
        bd.fit(
            bnn,
            data(),
            epochs=1,
            batch_size=40,
            autocast=autocast,
            optimizer=lambda groups: torch.optim.SGD(groups),
            seed=1,
            progress=False,
        )
        steps.append(net[0].weight.detach() - before)
    exact, lowered = steps
    error = (exact - lowered).norm() / exact.norm()
    assert 0 < error < 8 * torch.finfo(torch.bfloat16).eps


def test_an_example_has_as_many_masks_in_bfloat16():
    bnn, rows = network("beta-bernoulli"), []
    bnn.network[1].register_forward_hook(lambda m, inputs, out: rows.append(len(out)))
    options = {"epochs": 1, "batch_size": 20, "progress": False, "num_masks": 3}
    bd.fit(bnn, data(), autocast=torch.bfloat16, **options)
    assert rows[-1] == 3 * 20


def test_terms_of_one_s_own_are_taken_as_they_are():
    bnn = network("beta-bernoulli")

    def objective(bnn, x, y):
        out = bnn.network(x)
        return LossTerms(out.float().square().sum(), bd.kl_divergence(bnn.network))

    bd.fit(bnn, data(), epochs=1, autocast=torch.bfloat16, objective=objective, progress=False)
