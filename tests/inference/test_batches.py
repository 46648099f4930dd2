"""Laws of mini-batches: every example once, whatever holds the data."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bayesdrop.errors import DataError
from bayesdrop.inference.batches import batches, num_examples

X, Y = torch.arange(10.0).reshape(10, 1), torch.arange(10)


class Pairs(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return X[index], Y[index]


SOURCES = {
    "pair": (X, Y),
    "list": [X, Y],
    "dataset": Pairs(),
    "tensor-dataset": TensorDataset(X, Y),
    "loader": DataLoader(Pairs(), batch_size=3),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_example_comes_once_and_in_order(source):
    found = list(batches(source, 3))
    assert [len(x) for x, _ in found] == [3, 3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in found]).to(X.dtype), X)
    assert torch.equal(torch.cat([y for _, y in found]), Y)
    assert num_examples(source) == 10


def test_shuffling_is_a_permutation_by_the_generator():
    def labels(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([y for _, y in batches((X, Y), 3, shuffle=True, generator=generator)])

    assert torch.equal(labels(1), labels(1)) and not torch.equal(labels(1), labels(2))
    assert torch.equal(labels(1).sort().values, Y)


@pytest.mark.parametrize("source", [X, TensorDataset(X)], ids=["tensor", "dataset"])
def test_inputs_alone_have_no_targets(source):
    assert all(y is None for _, y in batches(source))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((X[:0], Y[:0]), "an empty data set"),
        (X[:0], "an empty data set"),
        ((X, Y[:5]), "10 inputs and 5 targets"),
        ((X, Y, Y), r"got 3 items"),
        ((X, [1, 2]), r"got 2 items \(Tensor, list\)"),
        (iter([]), "a Dataset with a length"),
        ([{"x": X}], r"got 1 items \(dict\)"),
    ],
)
def test_other_data_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        list(batches(source))


def test_a_loader_of_dictionaries_is_refused():
    loader = DataLoader([{"x": 1}] * 4, batch_size=2)
    with pytest.raises(DataError, match="expected batches of x or"):
        list(batches(loader))
