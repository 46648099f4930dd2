"""No file runs code, leaves its folder, or takes ten times its size, whoever made it."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.archives import check_entries, check_tensors
from bayesdrop.errors import CheckpointError
from tests import hostile
from tests.forked import Started

SLACK = 2**24
"""Bytes of a process's own that come and go; the smallest attack asks for four times as much."""
LOADS = {"a constant of 16 GiB"}
"""What is harmless until it is called, which is then up to the caller."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which says how much memory a process has taken")
    pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("hostile") / "inside"
    folder.mkdir()
    root = Path(__file__).parent.parent
    done = Started(hostile.__file__, root, arguments=[folder]).wait()
    assert done.error == "" and list(folder.parent.iterdir()) == [folder]  # nothing outside
    return json.loads(done.output)


@pytest.mark.parametrize("name", hostile.KINDS)
def test_a_hostile_file_is_refused_in_one_sentence_and_takes_no_memory(results, name):
    if hostile.KINDS[name] == "onnx":
        pytest.importorskip("onnxruntime")
    found = results[name]
    assert not found["ran"]
    assert found["grown"] <= 10 * found["size"] + SLACK, found
    if name in LOADS:
        return
    assert found["error"] and not found["error"].startswith("raw"), found
    assert found["error"].isprintable() and len(found["error"]) < 700
    assert "weights_only=False" not in found["error"]


def test_there_are_at_least_twenty_of_them():
    assert len(hostile.KINDS) >= 20 and len(set(hostile.KINDS.values())) == 7


def test_what_torch_save_writes_of_tensors_and_plain_values_passes():
    weight = nn.Parameter(torch.ones(2, 3))
    weight.of_mine = 3
    values = [
        {"a": 1.5, "b": [None, True, "x", 2**70, b"bytes"], "c": (torch.float16, torch.Size([2]))},
        weight,
        torch.arange(12.0).reshape(3, 4)[::2, 1:],
        torch.zeros(0, 4),
        torch.eye(3).to_sparse(),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.uint16),
        {1, 2},
        1j,
    ]
    for value in values:
        file = io.BytesIO()
        torch.save(value, file)
        check_tensors(file)


def test_classes_that_a_user_allows_pass():
    file = io.BytesIO()
    torch.save({"a": Mine()}, file)
    with pytest.raises(pickle.UnpicklingError, match="Mine in it, which is no tensor"):
        check_tensors(file)
    with torch.serialization.safe_globals([Mine]):
        check_tensors(file)


class Mine:
    """A class that no file of tensors holds."""


def test_an_archive_says_what_is_wrong_with_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 10_000)
    with pytest.raises(zipfile.BadZipFile, match="entries of 10,000 bytes in a file of"):
        check_entries(tmp_path / "a")


@pytest.mark.parametrize(("before", "behind"), [(b"", b"x"), (b"", b"\0" * 99), (b"x", b"")])
def test_an_archive_is_all_of_its_file(tmp_path, before, behind):
    path = tmp_path / "model.pt"
    bd.save(hostile.bnn(), path)
    bd.load(hostile.bnn(), path)
    path.write_bytes(before + path.read_bytes() + behind)
    with pytest.raises(CheckpointError):
        bd.load(hostile.bnn(), path)


def test_no_memory_is_not_called_damage(tmp_path, monkeypatch):
    path, network = tmp_path / "model.pt", hostile.bnn()
    bd.save(network, path)
    bd.save_plain(hostile.network(), tmp_path / "net.pt2", torch.zeros(2, 3, dtype=torch.float32))

    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    monkeypatch.setattr(torch.export, "load", full)
    with pytest.raises(MemoryError):
        bd.load(network, path)
    with pytest.raises(MemoryError):
        bd.load_plain(tmp_path / "net.pt2")


class Reshaped(nn.Module):
    """Sizes of the batch in sums, products and quotients, and a dict as output."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        h = self.linear(x).reshape(-1, 2, 3)
        h = torch.cat([h, h]).reshape(x.shape[0], -1)[:, :6]
        pairs = (h @ h.mT).flatten()[: x.shape[0] ** 2 // 2 + 1]
        h = self.attention(h[:, None], h[:, None], h[:, None])[0].squeeze(1)
        return {"h": h.softmax(-1), "pairs": (pairs, torch.einsum("ni,nj->nij", h, h))}


def test_honest_networks_of_many_kinds_pass(tmp_path):
    images = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.GELU("tanh"),
        nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    named = nn.Sequential()
    named.add_module("a layer-of mine", nn.Linear(4, 3))
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    for number, (net, x) in enumerate(
        [(images, torch.randn(3, 1, 8, 8)), (Reshaped(), torch.randn(3, 4)),
         (named, torch.randn(3, 4)), (layer, torch.randn(3, 5, 4))]
    ):  # fmt: skip
        path = tmp_path / f"{number}.pt2"
        bd.save_plain(net.eval(), path, x)
        torch.testing.assert_close(bd.load_plain(path)(x), net(x))


def test_torchs_advice_to_run_the_file_is_not_passed_on(tmp_path):
    torch.save({"format": "bayesdrop", "state": Mine()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as found:
        bd.load(hostile.bnn(), tmp_path / "model.pt")
    assert "weights_only" not in str(found.value) and str(found.value).isprintable()
