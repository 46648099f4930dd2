"""Laws of mini-batches: every example once, whatever holds the data."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from bayesdrop.errors import DataError
from bayesdrop.inference.batches import batches, data_set_sizes, known_examples, num_examples

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


def test_a_loader_of_dictionaries_of_text_is_refused():
    loader = DataLoader([{"x": "one"}] * 4, batch_size=2)
    with pytest.raises(DataError, match="expected batches of x or"):
        list(batches(loader))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Loader:
    """Someone else's loader: it yields batches each time it is iterated over."""

    def __iter__(self):
        yield X[:6], Y[:6]
        yield X[6:].numpy(), Y[6:].numpy()


ARRAY = X.numpy()
FORMS = {
    "arrays": (ARRAY, Y.numpy()),
    "array and tensor": (ARRAY, Y),
    "reversed": (ARRAY[::-1].copy()[::-1], Y.numpy()[::-1].copy()[::-1]),
    "big-endian": (ARRAY.astype(">f4"), Y.numpy().astype(">i8")),
    "columns": (np.asfortranarray(ARRAY), Y.numpy()),
    "stream": Stream(),
    "loader of a stream": DataLoader(Stream(), batch_size=3),
    "loader of someone else": Loader(),
}


@pytest.mark.parametrize("source", FORMS.values(), ids=FORMS)
def test_data_may_come_in_any_form_and_more_than_once(source):
    for _ in range(2):
        found = list(batches(source, 3, shuffle=False))
        assert torch.equal(torch.cat([x for x, _ in found]), X)
        assert torch.equal(torch.cat([y for _, y in found]), Y)


def test_read_only_arrays_are_copied_and_stay_as_they_are():
    array = X.numpy().copy()
    array.flags.writeable = False
    (first, _), *_ = batches(array, 10)
    first.fill_(0.0)
    assert array[3] == 3.0


def test_a_stream_has_a_length_only_if_it_says_so():
    assert known_examples(Stream()) is None and data_set_sizes(Stream()) == set()
    with pytest.raises(DataError, match="a Stream of unknown length"):
        num_examples(DataLoader(Stream()))

    class Known(Stream):
        def __len__(self):
            return 10

    assert num_examples(DataLoader(Known())) == 10 and data_set_sizes(Known()) == {10}


def loader(batch_size=3, **options):
    return DataLoader(TensorDataset(X, Y), batch_size, **options)


class Mine(Sampler):
    def __len__(self):
        return 5

    def __iter__(self):
        return iter(range(5))


WEIGHTED = WeightedRandomSampler([1.0] * 6 + [0.0] * 4, 20)
SAMPLED = {
    "shuffled": (loader(shuffle=True), 10, {10}),
    "dropped": (loader(drop_last=True), 9, {10}),
    "subset": (loader(sampler=SubsetRandomSampler(range(8))), 8, {8}),
    "batch sampler": (
        DataLoader(
            TensorDataset(X, Y),
            batch_sampler=BatchSampler(SubsetRandomSampler(range(8)), 3, False),
        ),
        8,
        {8},
    ),
    "indices": (loader(sampler=[1, 2, 2, 3]), 4, {3}),
    "bootstrap": (loader(sampler=RandomSampler(X, replacement=True, num_samples=20)), 20, {10}),
    "weighted": (loader(sampler=WEIGHTED), 20, {6}),
    "shares": (loader(sampler=DistributedSampler(X, num_replicas=2, rank=0)), 5, {10}),
    "someone else's": (loader(sampler=Mine()), 5, {5, 10}),
    "batches unknown": (DataLoader(TensorDataset(X, Y), batch_sampler=[[0, 1], [2]]), None, set()),
    "part": (DataLoader(Subset(TensorDataset(X, Y), range(7)), 3), 7, {7}),
}


@pytest.mark.parametrize("case", SAMPLED)
def test_a_sampler_says_how_many_examples_there_are(case):
    source, count, sizes = SAMPLED[case]
    assert known_examples(source) == count and data_set_sizes(source) == sizes
    if count is not None:
        assert sum(len(x) for x, _ in batches(source)) == count


@pytest.mark.parametrize("source", [(X, Y), Pairs(), loader(3), loader(9)])
def test_a_single_last_example_joins_the_batch_before(source):
    size = 9 if isinstance(source, DataLoader) and source.batch_size == 9 else 3
    found = list(batches(source, size, join_single=True))
    assert [len(x) for x, _ in found] == [size] * (10 // size - 1) + [size + 1]
    assert torch.equal(torch.cat([y for _, y in found]), Y)
    assert len(list(batches(source, size))) == len(found) + 1


def test_batches_of_one_by_request_or_of_other_shapes_are_not_joined():
    assert [len(x) for x, _ in batches((X, Y), 1, join_single=True)] == [1] * 10
    ragged = DataLoader(
        [torch.zeros(4), torch.zeros(4), torch.zeros(5)], batch_sampler=[[0, 1], [2]]
    )
    assert [len(x) for x, _ in batches(ragged, join_single=True)] == [2, 1]


REFUSED = {
    "dictionary": ({"x": X, "y": [1]}, r"got a dict with 'x' \(Tensor\), 'y' \(list\)"),
    "dictionaries": (
        DataLoader([{"image": 1, "text": "a"}] * 4),
        r"'text' \(list\). All but 'labels'.*Give the DataLoader a collate_fn",
    ),
    "three": (DataLoader(TensorDataset(X, Y, Y)), r"3 items \(Tensor, Tensor, Tensor\)"),
    "generator": (((x, y) for x, y in [(X, Y)]), "used up after one epoch"),
    "iterator": (iter(loader()), "used up after one epoch"),
    "none": (None, "got None"),
    "number": (5, "got a int"),
    "path": ("data/train", "got a str"),
    "class": (Pairs, "got a type"),
    "sparse": ((X.to_sparse(), Y), "x to be a dense tensor"),
    "complex": ((X + 0j, Y), "x to be real"),
    "complex targets": ((X, Y + 0j), "y to be real"),
    "complex arrays": ((ARRAY + 0j, Y), "x to be real"),
    "meta": ((X.to("meta"), Y), "x to be a tensor with values"),
    "strings": ((np.array(["a"] * 10), Y), "x to be an array of numbers"),
    "objects": ((X, np.array([None] * 10)), "y to be an array of numbers"),
    "class names": ((X, np.array(["a"] * 10)), "return_inverse"),
    "masked": ((np.ma.masked_greater(ARRAY, 3), Y), "got a masked array"),
    "sparse of SciPy": ((scipy.sparse.csr_matrix(ARRAY), Y), "toarray"),
    "scalar": ((torch.tensor(1.0), Y), "x to be .* got a single number"),
    "dropped": (loader(11, drop_last=True), "none: 10 examples, batches of 11 and drop_last=True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_in_no_form_of_ours_is_refused_with_a_way_out(case):
    source, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        list(batches(source, 3))


def test_unsigned_integers_that_torch_hardly_knows_become_int64():
    labels = torch.arange(10)
    for source in ((X, labels.to(torch.uint16)), (X, labels.numpy().astype("uint32"))):
        (_, y), *_ = batches(source, 10)
        assert torch.equal(y, labels) and y.dtype == torch.int64


def test_tables_of_pandas_are_refused_with_a_way_out():
    pandas = pytest.importorskip("pandas")
    for source in (pandas.DataFrame({"a": [1.0]}), (pandas.DataFrame({"a": [1.0]}), Y[:1])):
        with pytest.raises(DataError, match="DataFrame"):
            list(batches(source))


def test_a_sampler_of_whole_batches_draws_the_examples_in_them():
    data = TensorDataset(torch.randn(11, 2), torch.zeros(11))
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(data), 3, False)
    loader = torch.utils.data.DataLoader(data, sampler=sampler, batch_size=None)
    assert num_examples(loader) == 11 and data_set_sizes(loader) == {11}


def test_more_than_a_pair_is_refused_with_where_several_inputs_go():
    x, y = (torch.zeros(4, 3), torch.zeros(4, 2)), torch.zeros(4)
    for data in ((*x, y), DataLoader(TensorDataset(*x, y))):
        with pytest.raises(DataError, match=r"go into a tuple: \(\(x1, x2\), y\)"):
            next(iter(batches(data, 2)))
