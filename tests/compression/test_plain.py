"""Files of plain networks: old ones load, each is recognised, foreign ones are named."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import CheckpointError, CompactionError, ConfigError

OLD = Path(__file__).parent.parent / "data" / "plain_files"


@pytest.fixture(scope="module")
def expected():
    return json.loads((OLD / "outputs.json").read_text())


def close(got, expected):
    return torch.allclose(got, torch.tensor(expected, dtype=got.dtype), rtol=0, atol=1e-6)


def wide():
    return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 2)).float()


def test_exported_files_of_before_load(expected):
    net = bd.load_plain(OLD / "compact.pt2")
    x = torch.tensor(expected["input"], dtype=torch.float32)
    assert close(net(x), expected["compact"]) and close(net(x[:1]), expected["compact"][:1])


def test_onnx_files_of_before_load(expected):
    pytest.importorskip("onnxruntime")
    net = bd.load_plain(OLD / "compact.onnx")
    x = torch.tensor(expected["input"], dtype=torch.float32)
    assert close(net(x), expected["compact"]) and not net.training
    with pytest.raises(bd.errors.ShapeError, match=r"expected 1 inputs \(input\), got 2"):
        net(x, x)


def test_sparse_files_of_before_load(expected):
    net = bd.load_plain(OLD / "weights.sparse", wide())
    x = torch.tensor(expected["input"], dtype=torch.float32)
    assert close(net(x), expected["weights"])
    assert int((net[2].weight != 0).sum()) == 6


def test_a_sparse_file_needs_a_network_and_the_others_none():
    with pytest.raises(ConfigError, match=r"pass load_plain\(path, network\)"):
        bd.load_plain(OLD / "weights.sparse")
    with pytest.raises(ConfigError, match="The file holds the architecture"):
        bd.load_plain(OLD / "compact.pt2", wide())


@pytest.mark.parametrize("format", ["export", "sparse", "onnx"])
def test_the_format_is_recognised_by_content(tmp_path, format):
    if format == "onnx":
        pytest.importorskip("onnxscript")
    net, x = wide().eval(), torch.randn(4, 3, dtype=torch.float32)
    bd.save_plain(net, tmp_path / "odd.name", x, format=format)
    again = bd.load_plain(tmp_path / "odd.name", *[wide()] * (format == "sparse"))
    assert torch.allclose(again(x), net(x), rtol=0, atol=1e-6)


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'export'"):
        bd.save_plain(wide(), tmp_path / "a", torch.zeros(1, 3), format="exprt")


def test_a_format_with_architecture_needs_an_example(tmp_path):
    with pytest.raises(ConfigError, match="save_plain: expected an example input"):
        bd.save_plain(wide(), tmp_path / "a")


def test_random_weights_are_no_plain_network(tmp_path):
    net = bd.convert(bd.networks.lenet_300_100(in_features=3), "sparse-variational")
    with pytest.raises(CompactionError, match="or random weights.*Call bd.compact"):
        bd.save_plain(net, tmp_path / "a", torch.zeros(1, 3))


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def tampered(name, content):
    """Return the old exported file with another content of one entry."""
    file = io.BytesIO()
    with zipfile.ZipFile(OLD / "compact.pt2") as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith(name) else old.read(entry))
    return file.getvalue()


FOREIGN = {
    "empty": (lambda _: b"", "got an empty file"),
    "text": (lambda _: b"hello, world", "got something else, which begins with b'hello, w'"),
    "json": (lambda _: b'{"a": 1}', "got JSON"),
    "hdf5": (lambda _: b"\x89HDF\r\n", "got an HDF5 file"),
    "safetensors": (lambda _: (9).to_bytes(8, "little") + b'{"a": {}}', "got a safetensors file"),
    "pickle": (lambda mark: pickle.dumps(Touch(mark)), "got a bare pickle"),
    "pickled module": (lambda mark: saved(Touch(mark)), "pickled objects, which can run code"),
    "state_dict": (lambda _: saved(wide().state_dict()), "got a state_dict"),
    "list": (lambda _: saved([1, 2]), "got a list of another program"),
    "zip": (lambda _: zipped(word__document="x"), "got a zip archive with word/document in it"),
    "torchscript": (lambda _: zipped(**{"a__constants.pkl": ""}), "got a TorchScript file"),
    "half a zip": (lambda _: (OLD / "compact.pt2").read_bytes()[:2000], "damaged or not whole"),
    "model": (None, "got a model file of ours"),
    "damaged export": (lambda _: tampered("model.json", "{}"), "whole file of format 'export'"),
    "damaged onnx": (lambda _: b"\x08\x0a\x12\x07pytorch", "whole file of format 'onnx'"),
    "export with code": (
        lambda mark: tampered("sample_inputs/model.pt", saved((Touch(mark),))),
        "pickled objects in .*model.pt, which can run code",
    ),
    "export with pickled weights": (
        lambda _: tampered("weights_config.json", '{"config": {"w": {"use_pickle": true}}}'),
        "pickled objects in .*weights_config.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_are_named_and_run_nothing(tmp_path, case):
    if "onnx" in case:
        pytest.importorskip("onnxruntime")
    make, match = FOREIGN[case]
    path, mark = tmp_path / "file", tmp_path / "mark"
    if make is None:
        bd.save(bd.BayesianNetwork(wide(), bd.Categorical(), num_data=3), path)
    else:
        path.write_bytes(make(mark))
    with pytest.raises(CheckpointError, match=match):
        bd.load_plain(path)
    assert not mark.exists()


def test_a_missing_file_is_no_format(tmp_path):
    with pytest.raises(CheckpointError, match="got nothing there"):
        bd.load_plain(tmp_path / "none")


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self):
        super().__init__()
        self.mask, self.a, self.b = bd.BetaBernoulliDropout(4), nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, x, z):
        return self.a(self.mask(x)) + self.b(z), self.b(z)


@pytest.mark.parametrize("format", ["export", "onnx"])
def test_networks_of_several_inputs_and_outputs_are_saved(tmp_path, format):
    if format == "onnx":
        pytest.importorskip("onnxscript")
    net = Two().float().eval()
    x, z = torch.randn(3, 4, dtype=torch.float32), torch.randn(3, 2, dtype=torch.float32)
    small = bd.compact(net, (x, z))
    bd.save_plain(small, tmp_path / "a", (x[:1], z[:1]), format=format)
    for got, want in zip(bd.load_plain(tmp_path / "a")(x, z), net(x, z), strict=True):
        assert torch.allclose(got, want, rtol=0, atol=1e-6)
