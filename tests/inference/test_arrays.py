"""Arrays and tables of other libraries as data."""

import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError

pandas = pytest.importorskip("pandas")
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((12, 3))
Y = np.arange(12) % 2
SETTINGS = {"epochs": 2, "seed": 0, "progress": False, "batch_size": 4}


def network(dtype=torch.float32):
    torch.manual_seed(0)
    net = nn.Sequential(bd.BetaBernoulliDropout(3), nn.Linear(3, 2)).to(dtype)
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=12)


def fitted(x, y, dtype=torch.float32, **options):
    bnn = network(dtype)
    bd.fit(bnn, (x, y), **SETTINGS, **options)
    return bnn


def frame(x=X):
    return pandas.DataFrame(x, columns=["a", "b", "c"])


def forms():
    yield "float64 array", X, Y
    yield "transposed, int32", np.asfortranarray(X), Y.astype(np.int32)
    yield "DataFrame, Series", frame(), pandas.Series(Y)
    yield "DataFrame with an index", frame().set_index(np.arange(12)[::-1]), Y
    if find_spec("polars") is not None:
        polars = import_module("polars")
        yield "polars", polars.DataFrame(X, schema=["a", "b", "c"]), polars.Series(Y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_arrays_and_tables_are_fitted_and_predicted_as_tensors_are(dtype):
    x, y = torch.tensor(X, dtype=dtype), torch.tensor(Y)
    bnn = fitted(x, y, dtype)
    expected = bd.predict(bnn, x, num_samples=4, seed=0).mean
    error = bd.evaluate(bnn, (x, y), num_samples=4, seed=0).nll
    for name, inputs, labels in forms():
        given = fitted(inputs, labels, dtype, validation=(inputs, labels))
        assert torch.equal(bd.predict(given, inputs, num_samples=4, seed=0).mean, expected), name
        assert bd.evaluate(given, (inputs, labels), num_samples=4, seed=0).nll == error, name


def test_columns_of_integers_and_truth_are_inputs_like_others():
    table = pandas.DataFrame({"a": X[:, 0], "b": Y == 0, "c": Y.astype(np.int8)})
    whole = table.astype({"a": int})
    nullable = pandas.DataFrame({"a": pandas.array(Y, dtype="Int64"), "b": Y == 1, "c": X[:, 0]})
    for one in (table, whole, whole[["b", "b", "b"]], nullable):
        bnn = fitted(one, Y)
        expected = bd.predict(bnn, torch.tensor(one.to_numpy().astype("float32")), seed=0).mean
        assert torch.equal(bd.predict(bnn, one, seed=0).mean, expected)


def test_a_table_of_targets_serves_a_regression():
    bnn = bd.BayesianNetwork(nn.Linear(3, 2).float(), bd.Gaussian(num_outputs=2), num_data=12)
    targets = pandas.DataFrame({"one": X[:, 0], "two": X[:, 1]})
    bd.fit(bnn, (frame(), targets), **SETTINGS)
    assert bd.evaluate(bnn, (frame(), targets)).rmse > 0


def with_cell(cell):
    table = frame().astype(object)
    table.iloc[7, 1] = cell
    return table


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (with_cell("red"), Y, "got 'red', a str, in column 'b', row 7.*get_dummies"),
        (with_cell(None), Y, "got None, a NoneType, in column 'b', row 7"),
        (frame().replace(X[3, 2], np.nan), Y, "got NaN, a gap, in column 'c', row 3"),
        (frame(), pandas.Series(["no", "yes"] * 6), "y to be .*got 'no', a str, in row 0"),
        (frame(), pandas.Series([0.0, np.nan] * 6), "y to be .*got NaN, a gap, in row 1"),
        (frame().assign(b=pandas.Timestamp("2026-01-01")), Y, "in column 'b', row 0"),
        (frame(), pandas.Series(Y).iloc[::-1], "the same index in another order"),
        (frame(), Y[:5], "12 inputs and 5 targets"),
    ],
)
def test_what_is_no_number_or_in_no_order_is_refused_where_it_is(x, y, message):
    with pytest.raises(DataError, match=message):
        fitted(x, y)


def test_labels_in_a_column_are_refused_with_what_to_do():
    for labels in (Y[:, None], pandas.DataFrame({"label": Y})):
        with pytest.raises(ValueError, match=r"A column of labels\? Use y.squeeze\(1\)"):
            fitted(frame(), labels)


def test_other_columns_than_those_fitted_are_refused():
    bnn = fitted(frame(), Y)
    assert bnn.feature_names == ("a", "b", "c")
    with pytest.raises(DataError, match="'a', 'b', 'c', got the same in another order: 'c'"):
        bd.predict(bnn, frame()[["c", "a", "b"]])
    with pytest.raises(DataError, match="without 'b'"):
        bd.evaluate(bnn, (frame().rename(columns={"b": "x"}), Y))
    with pytest.raises(DataError, match="others too: 'x'"):
        bd.predict(bnn, frame().assign(x=0.0))
    assert len(bd.predict(bnn, X).mean) == 12  # an array has no names
    bd.fit(bnn, (X, Y), **SETTINGS)
    assert bnn.feature_names is None


def test_integer_arrays_stay_integers():
    bnn = bd.BayesianNetwork(
        nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)), bd.Categorical(), 12
    )
    bd.fit(bnn, (RANDOM.integers(5, size=(12, 3)), Y), **SETTINGS)


@pytest.mark.parametrize("form", ["float64 array", "DataFrame, Series"])
def test_diagnoses_of_the_posterior_take_what_fit_takes(form):
    pytest.importorskip("arviz")
    x, y = next((x, y) for name, x, y in forms() if name == form)
    bnn = fitted(x, y)
    tensors = torch.from_numpy(X).float(), torch.from_numpy(Y)
    options = {"num_samples": 100, "seed": 0}
    for diagnose in (bd.loo, bd.guide_diagnostic):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unreliable k
            given, expected = (diagnose(bnn, data, **options) for data in ((x, y), tensors))
        assert given.pareto_k == expected.pareto_k
    given, expected = (bd.to_inference_data(bnn, *d, **options) for d in ((x, y), tensors))
    assert given.log_likelihood.equals(expected.log_likelihood)
    if form == "DataFrame, Series":
        with pytest.raises(DataError, match="the same in another order"):
            bd.loo(bnn, (x[["b", "a", "c"]], y))


def sweeps():
    compression, diagnostics = bd.compression, bd.diagnostics
    return {
        "measure_per_input": compression.measure_per_input,
        "sweep_thresholds": compression.sweep_thresholds,
        "class_averaged_masks": diagnostics.class_averaged_masks,
        "check_elbo": lambda bnn, data: bd.check_elbo(
            bnn, *data, num_samples=100, num_repeats=10
        ).table(),
    }


@pytest.mark.parametrize("name", sweeps())
@pytest.mark.parametrize("form", ["float64 array", "DataFrame, Series"])
def test_what_measures_a_network_takes_what_fit_takes(form, name):
    x, y = next((x, y) for name, x, y in forms() if name == form)
    bnn, measure = fitted(x, y), sweeps()[name]
    tensors = torch.from_numpy(X).float(), torch.from_numpy(Y)
    given, expected = measure(bnn, (x, y)), measure(bnn, tensors)
    assert str(given) == str(expected)
    if form == "DataFrame, Series":
        with pytest.raises(DataError, match=f"{name}: .*the same in another order"):
            measure(bnn, (x[["b", "a", "c"]], y))


def test_sweeps_of_sizes_take_tables():
    def rows(sweep, key, data):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        net = (net if key is None else bd.convert(net, key)).float()
        return [row.nll for row in sweep(bd.BayesianNetwork(net, bd.Categorical(), 12), data).rows]

    tensors = torch.from_numpy(X).float(), torch.from_numpy(Y)
    widths = partial(bd.compression.sweep_widths, widths=[0.5, 1.0], repeats=1)
    for sweep, key in ((bd.compression.sweep_magnitudes, None), (widths, "variational-nested")):
        assert rows(sweep, key, (frame(), pandas.Series(Y))) == rows(sweep, key, tensors)


def test_shift_takes_arrays_of_images():
    images = RANDOM.uniform(size=(12, 1, 8, 8))
    net = nn.Sequential(nn.Flatten(), bd.BetaBernoulliDropout(64), nn.Linear(64, 2)).float()
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 12)
    options = {"kinds": ["rotation"], "severities": [1], "num_samples": 2}
    tensors = torch.from_numpy(images).float(), torch.from_numpy(Y)
    given, expected = (
        bd.diagnostics.measure_shift(bnn, data, **options) for data in ((images, Y), tensors)
    )
    assert given == expected


def test_one_input_of_a_table_is_refused_with_what_to_do():
    x = pandas.DataFrame(X)
    bnn = fitted(X, Y)
    with pytest.raises(DataError, match=r"got a DataFrame. .* what its to_numpy\(\) returns"):
        bnn.loss(x, torch.from_numpy(Y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inference_data_of_a_network_in_sixteen_bits_is_refused(dtype):
    pytest.importorskip("arviz")
    with pytest.raises(ConfigError, match="a network in float32 .*'network.0.location'"):
        bd.to_inference_data(network(dtype), torch.from_numpy(X).to(dtype))
