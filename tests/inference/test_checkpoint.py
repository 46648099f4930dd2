"""Laws of saved files: whole or absent, exact, and read without running code."""

import errno
import os

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import CheckpointError
from bayesdrop.inference import checkpoint
from tests.forked import run_code
from tests.inference import test_fit


def make_bnn(units=4):
    network = nn.Sequential(bd.BetaBernoulliDropout(units), nn.Linear(units, 3))
    return bd.BayesianNetwork(network, bd.Categorical(), num_data=50)


def test_save_and_load_are_exact(tmp_path):
    saved, loaded = make_bnn(), make_bnn()
    saved.kl_weight = 0.25
    bd.save(saved, tmp_path / "model.pt")
    assert bd.load(loaded, tmp_path / "model.pt") is loaded
    x = torch.randn(5, 4)
    assert torch.equal(saved.eval()(x), loaded.eval()(x))
    assert (loaded.kl_weight, loaded.num_data) == (0.25, 50)


def test_a_fresh_process_predicts_the_same_bits_before_any_call(tmp_path):
    bnn = make_bnn().eval()
    x = torch.randn(5, 4)
    bd.save(bnn, tmp_path / "model.pt")
    torch.save({"x": x, "output": bnn(x)}, tmp_path / "expected.pt")
    code = """
import sys, torch, bayesdrop as bd
from torch import nn
torch.set_default_dtype(torch.float64)
bnn = bd.BayesianNetwork(
    nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3)), bd.Categorical(), num_data=1)
bd.load(bnn, sys.argv[1] + "/model.pt")
expected = torch.load(sys.argv[1] + "/expected.pt", weights_only=True)
assert torch.equal(bnn.eval()(expected["x"]), expected["output"])
"""
    ended = run_code(code, tmp_path, [tmp_path])
    assert ended.error == ""


def test_a_network_of_another_shape_is_refused_unchanged(tmp_path):
    bd.save(make_bnn(4), tmp_path / "model.pt")
    other = make_bnn(5)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"of shape \(5,\), got \(4,\)"):
        bd.load(other, tmp_path / "model.pt")
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole file written by bayesdrop"),
        (b"not a checkpoint at all", "whole file written by bayesdrop"),
    ],
    ids=["empty", "foreign"],
)
def test_foreign_bytes_are_refused(tmp_path, content, message):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        bd.load(make_bnn(), path)
    assert path.read_bytes() == content


def test_truncated_foreign_and_wrong_kind_files_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    bd.save(make_bnn(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated, damaged or foreign"):
        bd.load(make_bnn(), path)
    torch.save(make_bnn().state_dict(), path)
    with pytest.raises(CheckpointError, match="another program's file"):
        bd.load(make_bnn(), path)
    checkpoint.write(path, checkpoint.header("training"))
    with pytest.raises(CheckpointError, match="got a training file"):
        bd.load(make_bnn(), path)
    with pytest.raises(CheckpointError, match="nothing there"):
        bd.load(make_bnn(), tmp_path / "none.pt")


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["BAYESDROP_TEST_TARGET"],)


def test_loading_never_runs_code_from_the_file(tmp_path, monkeypatch):
    target = tmp_path / "was-run"
    monkeypatch.setenv("BAYESDROP_TEST_TARGET", str(target))
    torch.save({"format": "bayesdrop", "state": Malicious()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="left as it is"):
        bd.load(make_bnn(), tmp_path / "model.pt")
    assert not target.exists()


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    bd.save(make_bnn(), path)
    before = path.read_bytes()

    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(CheckpointError, match="No space left on device. An earlier file"):
        bd.save(make_bnn(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="a folder that can be written"):
        bd.save(make_bnn(), tmp_path / "file" / "model.pt")


def test_random_state_comes_back_for_every_generator():
    import random

    import numpy as np

    state = checkpoint.random_state()
    draw = lambda: (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: E731, NPY002
    first = draw()
    checkpoint.set_random_state(state)
    assert draw() == first


def test_a_file_with_a_missing_entry_is_refused_and_changes_nothing(tmp_path):
    path, other = tmp_path / "model.pt", make_bnn()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    checkpoint.write(path, {**checkpoint.header("model"), "state": make_bnn().state_dict()})
    with pytest.raises(CheckpointError, match="the entries that bd.save writes, got none called"):
        bd.load(other, path)
    torch.testing.assert_close(dict(other.state_dict()), before, rtol=0, atol=0)


def test_checkpoints_are_written_after_every_so_many_epochs(tmp_path):
    epochs = []

    def look(bnn, record):
        path = tmp_path / "training.pt"
        epochs.append(checkpoint.read(path, "training")["epoch"] if path.exists() else 0)

    options = {"checkpoint_dir": tmp_path, "checkpoint_every": 2, "callbacks": [look]}
    test_fit.fit(test_fit.make_bnn(), test_fit.make_data(), epochs=5, **options)
    assert epochs == [0, 0, 2, 2, 4]  # before that of the epoch itself
    assert checkpoint.read(tmp_path / "training.pt", "training")["epoch"] == 5
