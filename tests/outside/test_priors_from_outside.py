"""Two priors that are written outside the package keep its contract and go all the way through."""

from pathlib import Path

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.testing import MaskContract
from tests.outside import horseshoe, logit_normal

PRIORS = [horseshoe.HorseshoeDropout, logit_normal.LogitNormalDropout]


class TestHorseshoe(MaskContract):
    key = "horseshoe"


class TestLogitNormal(MaskContract):
    key = "logit-normal"


@pytest.mark.parametrize("module", [horseshoe, logit_normal], ids=lambda m: m.__name__)
def test_a_prior_takes_less_than_ninety_lines(module):
    assert len(Path(module.__file__).read_text().splitlines()) < 90


@pytest.mark.slow
@pytest.mark.parametrize("cls", PRIORS, ids=lambda cls: cls.key)
def test_it_is_converted_trained_compacted_checked_and_analysed(cls):
    torch.set_default_dtype(torch.float32)
    digits = bd.load_data("digits")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 10))
    net = bd.convert(plain, cls.key, kl_scale=0.1, threshold=0.5)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(digits.train[1]))
    settings = {"learning_rate": 3e-3, "variational_learning_rate": 0.1}
    bd.fit(bnn, digits.train, epochs=10, batch_size=50, seed=0, progress=False, **settings)
    x, y = digits.test
    result = bd.evaluate(bnn, (x, y), num_samples=16, seed=0)
    assert result.error < 10
    layers = [layer for _, layer in bnn.named_dropout_layers()]
    kept = [int(layer.kept().sum()) for layer in layers]
    assert sum(kept) < sum(layer.total() for layer in layers), kept
    small = bd.compact(bnn, x[:1])
    assert [m.in_features for m in small.modules() if isinstance(m, nn.Linear)] == kept
    with torch.no_grad():
        torch.testing.assert_close(small(x), bnn(x), rtol=1e-4, atol=1e-4)
    check = bd.check_elbo(bnn, x[:64], y[:64], num_samples=300, num_repeats=15)
    assert check.passed, check
    data = bd.to_inference_data(bnn, (x[:40], y[:40]), num_samples=20, seed=0)
    sites = {f"{path}.{name}" for path, layer in bnn.named_owners() for name in layer.posterior()}
    assert sites <= set(data.posterior.data_vars)
