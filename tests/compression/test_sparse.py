import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import load_plain, measure_sparsity, save_plain
from bayesdrop.errors import CheckpointError, CompactionError
from bayesdrop.inference import checkpoint


def sparse_linear(shape, share, dtype=torch.float64):
    layer = nn.Linear(shape[1], shape[0]).to(dtype)
    with torch.no_grad():
        layer.weight[torch.rand(shape) < share] = 0.0
    return layer


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(7, 5), (3, 300), (1, 70_000)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_loaded_is_what_was_saved(tmp_path, share, shape, dtype):
    layer = sparse_linear(shape, share, dtype)
    table = measure_sparsity(layer)
    save_plain(layer, tmp_path / "net.pt", format="sparse")
    other = load_plain(tmp_path / "net.pt", sparse_linear(shape, 0.0, dtype))
    assert torch.equal(other.weight, layer.weight) and torch.equal(other.bias, layer.bias)
    assert (tmp_path / "net.pt").stat().st_size == table.file_bytes
    assert table.weights == int((layer.weight != 0).sum())


def test_the_smallest_storage_is_chosen_and_its_bytes_are_counted():
    # 40 x 100 float32: 16,000 bytes dense, 500 of bits, 40 counts and one byte a column.
    expected = {
        0.0: ("dense", 16_000),
        0.8: ("bitmask", 500 + 4 * 800),
        0.99: ("csr", 40 + 5 * 40),
    }
    for share, (storage, size) in expected.items():
        layer = nn.Linear(100, 40, bias=False).float()
        with torch.no_grad():
            layer.weight.view(-1)[torch.randperm(4000)[: int(share * 4000)]] = 0.0
        (entry,) = measure_sparsity(layer).tensors
        assert (entry.storage, entry.bytes, entry.bytes_dense) == (storage, size, 16_000)


def test_a_row_of_as_many_values_as_a_byte_cannot_count_is_whole(tmp_path):
    layer = nn.Linear(256, 40, bias=False)
    with torch.no_grad():
        layer.weight[torch.arange(40) != 3] = 0.0
    assert measure_sparsity(layer).tensors[0].storage == "csr"
    save_plain(layer, tmp_path / "net.pt", format="sparse")
    other = load_plain(tmp_path / "net.pt", nn.Linear(256, 40, bias=False))
    assert torch.equal(other.weight, layer.weight)


def test_the_figures_are_those_of_the_literature():
    net = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Conv2d(1, 1, 3))
    with torch.no_grad():
        net[0].weight[:3] = 0.0
    table = measure_sparsity(net)
    assert (table.weights, table.weights_total) == (19, 49)
    assert table.compression == 49 / 19
    assert table.zeros() == {"0.weight": 75.0, "2.weight": 0.0}
    assert table.to_dict()["weights"] == 19
    assert "| 0.weight | 40 | 10 | 75.0 % |" in str(table)


def test_random_weights_are_stored_as_their_pruned_means(tmp_path):
    net = bd.convert(bd.networks.lenet_300_100(in_features=30), "sparse-variational")
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 10).eval()
    for _, layer in bnn.named_weight_layers():
        layer.log_variance.data[torch.rand_like(layer.weight) < 0.97] = 20.0
    table = measure_sparsity(bnn)
    save_plain(bnn, tmp_path / "net.pt", format="sparse")
    assert table.weights == sum(bnn.kept()["weights"])
    assert table.file_bytes < table.file_bytes_dense / 10
    plain = load_plain(tmp_path / "net.pt", bd.networks.lenet_300_100(in_features=30))
    x = torch.randn(3, 30)
    assert torch.equal(plain(x), bnn(x))
    cost = bd.compression.measure_compression(bnn, bd.compact(bnn, x), x, repeats=1)
    assert cost.to_dict()["sparsity"] == table.to_dict()
    assert "bytes on disk, stored sparsely" in str(cost)


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path, net = tmp_path / "net.pt", sparse_linear((20, 30), 0.95)
    save_plain(net, path, format="sparse")
    before = net.weight.clone()
    payload = torch.load(path, weights_only=True)
    name, *rest = payload["tensors"][0]
    start, stop = rest[-2:]
    broken = [
        {**payload, "data": payload["data"][: stop - 8]},
        {**payload, "tensors": [[name, *rest[:-3], rest[-3] + 1, start, stop]]},
        {**payload, "tensors": [[name, "no_dtype", *rest[1:]]]},
        {**payload, "tensors": [[name, rest[0], rest[1], "runs", *rest[3:]]]},
        {key: value for key, value in payload.items() if key != "data"},
    ]
    for content in broken:
        checkpoint.write(path, content)
        with pytest.raises(CheckpointError, match="damaged|entries of format"):
            load_plain(path, net)
    save_plain(nn.Linear(2, 2), path, format="sparse")
    with pytest.raises(CheckpointError, match="same architecture"):
        load_plain(path, net)
    assert torch.equal(net.weight, before)


def test_masks_must_be_compacted_first(tmp_path):
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
    for call in (measure_sparsity, lambda n: save_plain(n, tmp_path / "net.pt", format="sparse")):
        with pytest.raises(CompactionError, match="Call bd.compact"):
            call(net)
    assert not list(tmp_path.iterdir())
