"""What must never be stored or loaded: weights of a non-finite step, and damaged files."""

import random

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import CheckpointError, ConfigError, DivergenceError


class _RootOfZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, fails):
        ctx.fails = fails
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (float("nan") if ctx.fails else 1.0), None


class _BadGradient(nn.Module):
    """Finite forward; the gradient is NaN in one training step."""

    def __init__(self, step):
        super().__init__()
        self.bad_step, self.calls = step, 0

    def forward(self, x):
        self.calls += int(self.training)
        return _RootOfZero.apply(x, self.calls == self.bad_step)


def _network(bad_step=0):
    torch.manual_seed(0)
    layers = (nn.Linear(3, 4), bd.BetaBernoulliDropout(4), _BadGradient(bad_step), nn.Linear(4, 2))
    return bd.BayesianNetwork(nn.Sequential(*layers), bd.Categorical(), num_data=20)


def _data():
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2


@pytest.mark.parametrize("bad_step", [1, 3, 4, 8])  # the first, a middle, an epoch's and the last
def test_a_nan_gradient_never_reaches_weights_or_a_checkpoint(tmp_path, bad_step):
    bnn = _network(bad_step)
    with pytest.raises(DivergenceError, match=rf"'network\.0\.\w+' at step {bad_step}\b"):
        bd.fit(bnn, _data(), epochs=2, batch_size=5, progress=False, checkpoint_dir=tmp_path)
    assert all(bool(torch.isfinite(value).all()) for value in bnn.state_dict().values())
    path = tmp_path / "training.pt"
    assert path.exists() == (bad_step > 4)
    if path.exists():
        state = torch.load(path, weights_only=True)["state"]
        assert all(bool(torch.isfinite(value).all()) for value in state.values())


def test_no_flipped_bit_of_a_checkpoint_changes_a_weight_silently(tmp_path):
    path = tmp_path / "model.pt"
    bnn = _network()
    bd.save(bnn, path)
    whole = path.read_bytes()
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    refused, source = 0, random.Random(0)
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        try:
            bd.load(bnn, path)
        except CheckpointError:
            refused += 1
        assert all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())
    assert refused > 0


def test_a_flipped_bit_of_a_weight_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    bnn = _network()
    bd.save(bnn, path)
    whole = path.read_bytes()
    at = whole.index(bnn.state_dict()["network.0.weight"].numpy().tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match="checksum"):
        bd.load(bnn, path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 1.5},
        {"epochs": True},
        {"batch_size": 2.5},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"variational_learning_rate": float("inf")},
        {"weight_decay": -1.0},
        {"clip_norm": 0.0},
        {"clip_norm": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        bd.fit(_network(), _data(), **{"epochs": 1, "progress": False, **wrong})


def test_a_schedule_that_is_not_finite_ends_training_before_its_epoch():
    bnn = _network()
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    for options in ({"schedule": lambda epoch, epochs: float("nan")},
                    {"buffers": {"temperature": lambda epoch, epochs: float("inf")}}):  # fmt: skip
        with pytest.raises(ConfigError, match="to give finite numbers, got (nan|inf) in epoch 1"):
            bd.fit(bnn, _data(), epochs=2, batch_size=5, progress=False, **options)
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_whole_numbers_of_numpy_are_whole_and_fractions_are_not(tmp_path):
    import numpy as np

    settings = {"progress": False, "checkpoint_dir": tmp_path}
    bd.fit(_network(), _data(), epochs=np.int64(1), batch_size=np.int64(5), **settings)
    again = bd.fit(_network(), _data(), epochs=1, batch_size=5, **settings)
    assert len(again.history) == 1
    for wrong in (60.7, float("nan"), 0):
        with pytest.raises(ConfigError, match="a whole num_data >= 1"):
            bd.BayesianNetwork(nn.Linear(2, 2), bd.Categorical(), num_data=wrong)


def test_no_flipped_bit_of_a_plain_network_passes(tmp_path):
    torch.manual_seed(0)
    net, x, path = nn.Linear(3, 2), torch.ones(2, 3), tmp_path / "plain.pt2"
    bd.save_plain(net, path, x)
    whole, expected = path.read_bytes(), net(x)
    generator = random.Random(0)
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            loaded = bd.load_plain(path)
        except CheckpointError:
            continue
        torch.testing.assert_close(loaded(x), expected, rtol=0, atol=0)
