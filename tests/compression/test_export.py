import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import bayesdrop as bd
from tests.compression.networks import NETWORKS, randomise
from tests.compression.test_input_dependent import EDGES

WITHOUT_BAYESDROP = """
import sys
sys.modules["bayesdrop"] = None
import torch
from pathlib import Path
for folder in Path(sys.argv[1]).iterdir():
    x, expected = torch.load(folder / "x.pt"), torch.load(folder / "expected.pt")
    for net in (
        torch.export.load(folder / "small.pt2").module(),
        torch.load(folder / "small.pickle", weights_only=False),
    ):
        assert torch.equal(net(x), expected)
assert not [name for name in sys.modules if name.startswith(("bayesdrop.", "pyro"))]
"""

RESIDUAL = (lambda: bd.networks.resnet(depth=8, width=4), (3, 8, 8))


@pytest.fixture(scope="module")
def small():
    """A compact network in float32, the one that is deployed, and an input for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build, shape = NETWORKS["user module"]
        net = randomise(bd.convert(build())).float()
        x = torch.randn(5, *shape, dtype=torch.float32)
        return bd.compact(net, x), x


def test_files_run_where_bayesdrop_is_not_installed(small, tmp_path):
    masked, x = EDGES["pooled and flattened"]().eval(), torch.randn(3, 2, 6, 6)
    by_input = [bd.compact(masked, x, per_input=given).float() for given in (False, True)]
    networks = [small, *((net, x.float()) for net in by_input)]
    for number, (net, x) in enumerate(networks):
        folder = tmp_path / str(number)
        folder.mkdir()
        bd.save_plain(net, folder / "small.pt2", x)
        torch.save(net, folder / "small.pickle")
        torch.save(x, folder / "x.pt")
        torch.save(net(x), folder / "expected.pt")
        again = bd.load_plain(folder / "small.pt2")
        for size in (1, 2):
            assert torch.allclose(again(x[:size]), net(x[:size]), rtol=0, atol=1e-6)
    command = [sys.executable, "-c", WITHOUT_BAYESDROP, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example_size", [1, 3])
def test_saved_network_takes_any_batch_size(small, tmp_path, example_size):
    net, x = small
    bd.save_plain(net, tmp_path / "small.pt", x[:example_size])
    again = bd.load_plain(tmp_path / "small.pt")
    for size in (1, 2, 5):
        assert torch.allclose(again(x[:size]), net(x[:size]), rtol=0, atol=1e-6)


def test_onnx_equals_torch_for_any_batch_size(small, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    net, x = small
    path = tmp_path / "small.onnx"
    bd.save_plain(net, path, x[:1])  # by the file's name
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in (1, 2, 5):
        (got,) = session.run(["output"], {"input": x[:size].numpy()})
        assert torch.allclose(torch.from_numpy(got), net(x[:size]), rtol=0, atol=1e-5)


class Sums(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, first, *others):
        return self.layer(first + sum(others))


@pytest.mark.parametrize("file", ["sums.pt2", "sums.onnx"])
def test_inputs_without_names_of_their_own_export(file, tmp_path):
    pytest.importorskip("onnxruntime")
    net, x = Sums().float(), tuple(torch.randn(3, 2, 3, dtype=torch.float32))
    bd.save_plain(net, tmp_path / file, x)
    more = tuple(torch.randn(3, 5, 3, dtype=torch.float32))
    torch.testing.assert_close(bd.load_plain(tmp_path / file)(*more), net(*more))


class SequencesFirst(nn.Module):
    """As its input is, or inside alone."""

    def __init__(self, inside):
        super().__init__()
        self.layer, self.inside = nn.RNN(2, 3), inside

    def forward(self, x):
        return self.layer(x.transpose(0, 1) if self.inside else x)[0][-1]


FIRST = [("net.pt2", False), ("net.onnx", False), ("net.pt2", True)]


@pytest.mark.parametrize(("file", "inside"), FIRST)
def test_files_take_any_number_of_examples_of_sequences_first(file, inside, tmp_path):
    pytest.importorskip("onnxruntime")
    net, x = SequencesFirst(inside).float().eval(), torch.randn(4, 4, 2, dtype=torch.float32)
    bd.save_plain(net, tmp_path / file, x if inside else x[:, :1])
    more = torch.cat([x, x], 0 if inside else 1)
    read, name = bd.load_plain(tmp_path / file), "input" if file == "net.onnx" else "x"
    for outputs in (read(more), read(**{name: more})):
        torch.testing.assert_close(outputs, net(more))


@pytest.mark.parametrize("name", ["lenet-500-300", "resnet"])
def test_indexed_and_padded_units_export(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    build, shape = RESIDUAL if name == "resnet" else NETWORKS[name]
    net = randomise(bd.convert(build())).float()
    x = torch.randn(2, *shape, dtype=torch.float32)
    compact = bd.compact(net, x)
    bd.save_plain(compact, tmp_path / "small.onnx", x, format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (got,) = session.run(None, {"input": x.numpy()})
    assert torch.allclose(torch.from_numpy(got), compact(x), rtol=0, atol=1e-5)


def test_an_onnx_file_with_other_outputs_is_not_written(small, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    network, x = small
    export = torch.onnx.export

    def faulty(exported, *args, **kwargs):
        wrong = copy.deepcopy(exported)
        with torch.no_grad():
            next(wrong.parameters()).add_(0.1)
        return export(wrong, *args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", faulty)
    with pytest.raises(bd.errors.CompactionError, match="outputs of the example that are off by"):
        bd.save_plain(network, tmp_path / "a.onnx", x, format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_for_one_batch_size_is_not_written(small, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    export = torch.onnx.export

    def fixed(*args, dynamic_shapes, **kwargs):
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", fixed)
    with pytest.raises(bd.errors.CompactionError, match="any batch size, got .* of a batch of 6:"):
        bd.save_plain(*small[:1], tmp_path / "a.onnx", small[1], format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_the_file_and_leaves_nothing_else(small, tmp_path):
    net, x = small
    (tmp_path / "small.pt2").write_bytes(b"old")
    bd.save_plain(net, tmp_path / "small.pt2", x)
    bd.load_plain(tmp_path / "small.pt2")
    assert os.listdir(tmp_path) == ["small.pt2"]


def test_saving_keeps_the_mode():
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    net[1].eval()
    with pytest.raises(bd.errors.CheckpointError, match="An earlier file is unchanged"):
        bd.save_plain(net, "/proc/none/small.pt2", torch.randn(2, 3))
    assert [module.training for module in net.modules()] == [True, True, False]


def test_failed_save_keeps_the_old_file(small, tmp_path, monkeypatch):
    net, x = small
    (tmp_path / "small.pt2").write_bytes(b"old")

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(bd.errors.CheckpointError, match="enough space, got no space left"):
        bd.save_plain(net, tmp_path / "small.pt2", x)
    assert (tmp_path / "small.pt2").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["small.pt2"]


def test_masked_network_is_not_exported(tmp_path):
    net = bd.convert(bd.networks.lenet_500_300())
    with pytest.raises(bd.errors.CompactionError, match="fc1_dropout.*Call bd.compact"):
        bd.save_plain(net, tmp_path / "net.pt2", torch.zeros(1, 784))
    with pytest.raises(bd.errors.CompactionError, match="fc1_dropout.*Call bd.compact"):
        bd.save_plain(net, tmp_path / "net.onnx", torch.zeros(1, 784), format="onnx")


class ByValue(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Packed(nn.GRU):
    def forward(self, x):
        lengths = (x[..., 0] != 0).sum(1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return super().forward(packed)[1]


CASES = [(ByValue, "export"), (Packed, "export"), (Packed, "onnx")]


@pytest.mark.parametrize(("kind", "format"), CASES)
def test_network_that_goes_by_values_is_not_exported(kind, format, tmp_path):
    pytest.importorskip("onnxscript")
    net = kind(3, 2) if kind is ByValue else kind(3, 2, batch_first=True, bidirectional=True)
    x = torch.ones(3, 3) if kind is ByValue else torch.ones(3, 4, 3)
    net, x = net.eval().to(torch.get_default_dtype()), x.to(torch.get_default_dtype())
    with pytest.raises(bd.errors.CompactionError, match=f"{kind.__name__}, which.*state_dict"):
        bd.save_plain(net, tmp_path / "net", x, format=format)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"something else", "truncated"])
def test_foreign_and_damaged_files_are_refused(small, tmp_path, content):
    net, x = small
    path = tmp_path / "small.pt2"
    if content == "truncated":
        bd.save_plain(net, path, x)
        content = path.read_bytes()[:-1000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(bd.errors.CheckpointError, match="written by save_plain|cannot be read"):
        bd.load_plain(path)


def test_missing_onnx_names_the_extra(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install bayesdrop\[onnx\]"):
        bd.save_plain(small[0], tmp_path / "small.onnx", small[1], format="onnx")


class Branch(nn.Module):
    """Another function where gradients are off, as they are when a network predicts."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)

    def forward(self, x):
        h = self.first(x)
        return h.relu() if torch.is_grad_enabled() else h.tanh()


def test_an_export_with_other_outputs_is_not_written(tmp_path):
    path = tmp_path / "small.pt"
    with pytest.raises(bd.errors.CompactionError, match="outputs of its network"):
        bd.save_plain(Branch().eval(), path, torch.randn(2, 6))
    assert not path.exists()


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass
class Held:
    logits: Tensor
    hidden: Tensor
    note: str = ""


class Both(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.inner, self.outer, self.made = nn.Linear(4, 8), nn.Linear(8, 3), made

    def forward(self, features, shift):
        hidden = torch.relu(self.inner(features)) + shift
        return self.made(self.outer(hidden), hidden)


@dataclass
class Nested:
    logits: Tensor
    hidden: list[dict[str, Tensor]]

    @classmethod
    def of(cls, logits, hidden):
        return cls(logits, [{"last": hidden}])


@pytest.mark.parametrize("made", [Named, Held, Nested.of])
@pytest.mark.parametrize("format", ["export", "onnx"])
def test_outputs_of_a_class_of_ones_own_are_saved_as_a_tuple(format, made, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    network = Both(made).float()
    given = torch.randn(5, 4, dtype=torch.float32), torch.randn(5, 1, dtype=torch.float32)
    bd.save_plain(network, tmp_path / "net", tuple(x[:2] for x in given), format=format)
    read, expected = bd.load_plain(tmp_path / "net"), network(*given)
    hidden = expected.hidden[0]["last"] if made == Nested.of else expected.hidden
    for found, wanted in zip(read(*given), (expected.logits, hidden), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    if format == "onnx":
        assert torch.equal(read(given[0], shift=given[1])[0], read(*given)[0])
        with pytest.raises(bd.errors.ConfigError, match="called features, shift, got 1 .* bias"):
            read(given[0], bias=given[1])
