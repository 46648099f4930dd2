import json
import math
import struct
import zlib

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import quantise
from bayesdrop.compression.grid import Grid, grid_of, on_grid, pack, unpack
from bayesdrop.compression.quantised_file import MAGIC
from bayesdrop.errors import CheckpointError, CompactionError, ConfigError

SCALES = ("normal-jeffreys", "group-horseshoe")


def plain(width=7):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, width),
        nn.ReLU(), nn.Linear(width, 3),
    )  # fmt: skip


def network(key="normal-jeffreys", **options):
    """Return a network with random weights, some units of which are pruned."""
    torch.manual_seed(0)
    net = bd.convert(plain(**options), key, weights="gaussian-weights").eval()
    for _, mask in bd.nn.named_dropout_layers(net):
        width = mask.log_variance if key == "normal-jeffreys" else mask.log_variance_a
        width.data.fill_(-4.0)
        width.data[::3] = 4.0
    for _, layer in bd.nn.named_weight_layers(net):
        layer.log_variance.data.normal_(-6.0)
    return net


def images(rows=5):
    return torch.rand(rows, 1, 8, 8)


@pytest.mark.parametrize("group", ["layer", "output", "input"])
@pytest.mark.parametrize("key", SCALES)
def test_limit_of_many_bits_changes_nothing(key, group):
    net, x = network(key), images()
    small = quantise(net, x, coarseness=1e-9, group=group)
    torch.testing.assert_close(small.network(x), net(x), rtol=0, atol=1e-7)
    assert all(t.bits > 20 for t in small.tensors if t.is_weight)


def test_limit_of_a_posterior_without_variance_changes_nothing():
    net, x = network(), images()
    for module in net.modules():
        if hasattr(module, "log_variance"):
            module.log_variance.data.fill_(-80.0)
    torch.testing.assert_close(quantise(net, x).network(x), plain_of(net)(x), rtol=0, atol=1e-7)
    torch.testing.assert_close(quantise(net, x).network(x), net(x), rtol=0, atol=1e-7)


def plain_of(net):
    return bd.without_dropout(net).eval()


def test_a_step_is_the_harmonic_mean_of_the_weights_variances():
    net = bd.convert(nn.Sequential(nn.Linear(3, 2)), "normal-jeffreys", weights="gaussian-weights")
    (scales,) = (layer for _, layer in bd.nn.named_dropout_layers(net))
    (weights,) = (layer for _, layer in bd.nn.named_weight_layers(net))
    scales.loc.data, scales.log_variance.data = (
        torch.tensor([1.0, 0.5, 2.0]),
        torch.full((3,), -2.0),
    )
    weights.log_variance.data.normal_(-1.0)
    z = scales.posterior()["scale"].rsample((200_000,)).detach()
    w = weights.posterior()["weight"].rsample((200_000,)).detach()
    variance = (z[:, None] * w).var(0)
    grids = quantise(net, torch.rand(2, 3), coarseness=0.5).network._grids
    step = 0.5 * (1 / (1 / variance).mean()).sqrt()
    torch.testing.assert_close(grids["0.weight"][1][0], step.item(), rtol=0.01, atol=0)
    grids = quantise(net, torch.rand(2, 3), coarseness=0.5, group="input").network._grids
    steps = 0.5 * (1 / (1 / variance).mean(0)).sqrt()
    torch.testing.assert_close(torch.tensor(grids["0.weight"][1]), steps, rtol=0.01, atol=0)


def test_every_weight_moves_by_half_a_step_at_most():
    net, x = network(), images()
    exact, coarse = quantise(net, x, coarseness=1e-9).network, quantise(net, x, coarseness=3.0)
    for name, (_, steps) in coarse.network._grids.items():
        moved = coarse.network.state_dict()[name] - exact.state_dict()[name]
        assert 0 < float(moved.abs().max()) <= steps[0] / 2 * (1 + 1e-6)
    for name, value in exact.state_dict().items():
        if name.endswith("bias"):
            assert torch.equal(coarse.network.state_dict()[name], value)


@pytest.mark.parametrize("key", SCALES)
def test_pruned_units_take_no_bytes_and_compact_takes_them_out(key):
    net, x = network(key), images()
    small = quantise(net, x, coarseness=0.1)
    # 2 of 4 channels, 4 of 7 units of the hidden layer, 24 of 36 positions.
    kept = [mask.kept() for _, mask in bd.nn.named_dropout_layers(net)]
    channels, positions, hidden = (int(units.sum()) for units in kept)
    assert (channels, positions, hidden) == (2, 24, 4)
    used = positions_used(net)
    counts = {t.name: t.weights for t in small.tensors if t.is_weight}
    assert counts == {"0.weight": 9 * channels, "4.weight": used * hidden, "6.weight": 3 * hidden}
    assert small.weights_total == 9 * 4 + 36 * 7 + 7 * 3
    assert torch.equal(small.network.get_submodule("4").bias != 0, kept[2])
    cut = bd.compact(small.network, x)
    torch.testing.assert_close(cut(x), small.network(x))
    assert cut.get_submodule("0").out_channels == channels
    assert cut.get_submodule("6").in_features == hidden


def positions_used(net):
    masks = [mask for _, mask in bd.nn.named_dropout_layers(net)]
    return int((masks[0].kept().repeat_interleave(9) & masks[1].kept()).sum())


@pytest.mark.parametrize("group", ["layer", "output", "input"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_loaded_is_what_was_saved(tmp_path, group, dtype):
    net, x = network().to(dtype), images().to(dtype)
    small = quantise(net, x, group=group)
    path = tmp_path / "net.q"
    bd.save_plain(small.network, path, format="quantised")
    assert path.stat().st_size == small.file_bytes
    again = bd.load_plain(path, plain().to(dtype)).eval()
    for name, value in small.network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    bd.save_plain(again, tmp_path / "again.q", format="quantised")
    assert (tmp_path / "again.q").read_bytes() == path.read_bytes()
    torch.testing.assert_close(again(x), small.network(x))


def test_the_figures_are_those_of_the_literature_and_of_the_file():
    small = quantise(network(), images(), coarseness=0.5)
    weights = [t for t in small.tensors if t.is_weight]
    bits = sum(t.weights * t.bits for t in weights)
    assert small.pruned == small.weights_total / sum(t.weights for t in weights)
    assert small.pruned_and_rounded == pytest.approx(64 * small.weights_total / bits)
    total = small.weights_total + 4 + 7 + 3
    assert small.compression == 8 * total / small.file_bytes
    assert "| 4.weight | 252 |" in str(small)
    assert small.to_dict()["compression"] == small.compression


def test_a_weight_is_packed_as_the_format_says():
    weight = torch.tensor([[0.0, 0.5, -1.0], [0.0, 0.0, 0.0], [0.0, 1.5, 0.0]])
    packed = pack(weight, Grid(None, (0.5,)))
    # Outputs 0 and 2, inputs 1 and 2; 3 bits hold -2 to 3: 1, -2, 3, 0 with 4 added.
    bits = 5 | (2 << 3) | (7 << 6) | (4 << 9)
    expected = bytes([0b101, 0b110]) + struct.pack("<fB", 0.5, 3) + bits.to_bytes(2, "little")
    assert packed.content == expected
    assert (packed.weights, packed.bits, packed.bits_total) == (4, (3,), 12)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_packing_loses_nothing(axis, share):
    weight = torch.randn(5, 9, 2, 3) * (torch.rand(5, 9, 1, 1) >= share)
    units = 1 if axis is None else weight.shape[axis]
    grid = grid_of(weight, 10 ** -torch.rand(units).mul(6), axis)
    rounded = on_grid(weight, grid)
    content = torch.frombuffer(bytearray(pack(rounded, grid).content), dtype=torch.uint8)
    value, again = unpack(content.numpy(), tuple(weight.shape), axis, weight.dtype)
    assert torch.equal(value, rounded)
    assert pack(value, again).content == pack(rounded, grid).content


def test_scales_below_zero_go_into_the_weights_behind_them():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    net = bd.convert(net, "normal-jeffreys", weights="gaussian-weights").eval()
    for _, mask in bd.nn.named_dropout_layers(net):
        mask.loc.data[0] = -0.5
    x = torch.rand(5, 4)
    torch.testing.assert_close(bd.compact(net, x)(x), net(x), rtol=0, atol=1e-7)
    small = quantise(net, x, coarseness=1e-9)
    torch.testing.assert_close(small.network(x), net(x), rtol=0, atol=1e-7)


def sealed(header, data=b""):
    text = json.dumps(header).encode()
    rest = struct.pack("<I", len(text)) + text + data
    return MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


def test_a_damaged_or_foreign_file_is_refused_and_the_network_left_alone(tmp_path):
    small, path, fill = quantise(network(), images()), tmp_path / "net.q", plain()
    bd.save_plain(small.network, path, format="quantised")
    good, before = path.read_bytes(), {n: v.clone() for n, v in fill.state_dict().items()}
    header, data = json.loads(good[21 : good.index(b"]]") + 2]), good[good.index(b"]]") + 2 :]
    assert sealed(header, data)[:13] == good[:13]

    def changed(index, value):
        entry = list(header[0])
        entry[index] = value
        return sealed([entry, *header[1:]], data)

    broken = [
        good[:40],
        good[:-1],
        good + b"\0",
        sealed([]),
        sealed("x"),
        sealed(header, data + b"1"),
    ]
    broken += [
        good[:k] + bytes([good[k] ^ 1]) + good[k + 1 :] for k in (14, 18, 60, len(good) - 2)
    ]
    broken += [changed(1, "load"), changed(3, "runs"), changed(4, 7), changed(5, -1)]
    broken += [changed(5, 2**62), changed(2, [2**40, 2**40, 3, 3]), changed(0, "other")]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            bd.load_plain(path, fill)
    path.write_bytes(good)
    with pytest.raises(CheckpointError, match="same architecture"):
        bd.load_plain(path, plain(width=8))
    with pytest.raises(ConfigError, match="a network to fill"):
        bd.load_plain(path)
    for name, value in fill.state_dict().items():
        assert torch.equal(value, before[name])


def test_weights_that_left_their_grid_are_not_saved(tmp_path):
    small, path = quantise(network(), images()), tmp_path / "net.q"
    with pytest.raises(ConfigError, match="was not quantised"):
        bd.save_plain(plain(), path, format="quantised")
    small.network.get_submodule("4").weight.data.add_(1e-4)
    with pytest.raises(ConfigError, match="quantise the network again"):
        bd.save_plain(small.network, path, format="quantised")
    assert not path.exists()


def test_sparse_variational_weights_are_quantised_too(tmp_path):
    net = bd.convert(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), "sparse-variational"
    )
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 10).eval()
    x = torch.rand(4, 6)
    for _, layer in bnn.named_weight_layers():
        layer.log_variance.data[torch.rand_like(layer.weight) < 0.5] = 20.0
    small = quantise(bnn, x, coarseness=1e-9)
    torch.testing.assert_close(small.network(x), bnn(x), rtol=0, atol=1e-7)


def test_what_cannot_be_quantised_is_refused():
    x = images()
    with pytest.raises(ConfigError, match="quantise: expected a network with random weights"):
        quantise(bd.convert(plain(), "beta-bernoulli"), x)
    for value in (0.0, math.inf, "1"):
        with pytest.raises(ConfigError, match="coarseness"):
            quantise(network(), x, coarseness=value)
    with pytest.raises(ConfigError, match="unknown group"):
        quantise(network(), x, group="tile")
    dependent = bd.convert(plain(), "dependent-beta-bernoulli", weights="gaussian-weights")
    with pytest.raises(CompactionError, match="the same for every input"):
        quantise(dependent, x)
    closed = network()
    for _, mask in bd.nn.named_dropout_layers(closed):
        mask.log_variance.data.fill_(9.0)
    with pytest.raises(CompactionError, match="keeps no unit"):
        quantise(closed, x)
