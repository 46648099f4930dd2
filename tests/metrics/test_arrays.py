"""Numbers in any form that NumPy, pandas and torch hold them in give the same figures."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.metrics import (
    Prediction,
    conformal_intervals,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    ood_metrics,
    reliability,
    risk_coverage,
    risk_coverage_of_losses,
    root_mean_squared_error,
    table_by_class,
)
from bayesdrop.metrics.arrays import as_tensor

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])
Y = np.array([0, 1, 2, 1])


def read_only(values):
    values = values.copy()
    values.flags.writeable = False
    return values


FORMS = {
    "reversed": lambda a: a[::-1].copy()[::-1],
    "columns reversed": lambda a: np.flip(np.flip(a, -1).copy(), -1),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": read_only,
    "every other": lambda a: np.repeat(a, 2, axis=0)[::2],
    "Fortran": np.asfortranarray,
    "list": lambda a: a.tolist(),
    "tuple of tensors": lambda a: tuple(torch.tensor(row) for row in a),
    "list of tensors": lambda a: [torch.tensor(row, requires_grad=a.ndim > 1) for row in a],
    "sparse": lambda a: torch.tensor(a).to_sparse(),
    "requires grad": lambda a: torch.tensor(a, requires_grad=a.ndim > 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_numbers_gives_the_same_figure(form):
    p, y = FORMS[form](P), FORMS[form](Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert negative_log_likelihood(p, y) == negative_log_likelihood(P, Y)
        assert table_by_class(p, y).to_dict() == table_by_class(P, Y).to_dict()
        assert (
            ood_metrics(FORMS[form](P[:, 0]), FORMS[form](P[:2, 1]))["auroc"]
            == (ood_metrics(P[:, 0], P[:2, 1])["auroc"])
        )
        assert root_mean_squared_error(FORMS[form](P[:, 0]), FORMS[form](P[:, 1])) == (
            root_mean_squared_error(P[:, 0], P[:, 1])
        )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8", ">i4", "bool"])
def test_labels_of_every_integer_type_are_labels(dtype):
    p, y = P[:, :2] / P[:, :2].sum(1, keepdims=True), Y % 2
    assert negative_log_likelihood(p, y.astype(dtype)) == negative_log_likelihood(p, y)


def test_frames_and_series_keep_their_rows_and_not_their_index():
    pandas = pytest.importorskip("pandas")
    frame, series = pandas.DataFrame(P, index=[3, 1, 0, 2]), pandas.Series(Y, index=[3, 1, 0, 2])
    assert negative_log_likelihood(frame, series) == negative_log_likelihood(P, Y)
    intervals = partial(conformal_intervals, miscoverage=0.5)
    other = series.set_axis([7, 8, 9, 10])
    assert negative_log_likelihood(frame, other) == negative_log_likelihood(P, Y)
    with pytest.raises(DataError, match="expected real numbers, got a Series of dtype"):
        negative_log_likelihood(frame, series.map(str))
    for metric in (negative_log_likelihood, table_by_class, fit_temperature, risk_coverage):
        with pytest.raises(DataError, match=r"got the same index in another order.*y\.loc"):
            metric(frame, series.sort_index())
    for metric in (root_mean_squared_error, intervals, risk_coverage_of_losses):
        with pytest.raises(DataError, match="got the same index in another order"):
            metric(series, series.sort_index())


def test_frames_may_have_the_dtypes_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame, series = pandas.DataFrame(P).astype("Float64"), pandas.Series(Y).astype("Int64")
    assert negative_log_likelihood(frame, series) == negative_log_likelihood(P, Y)
    with pytest.raises(DataError, match="got a DataFrame of dtype object"):
        negative_log_likelihood(frame.mask(frame > 0.9 * frame.max().max()), Y)


BAD = {
    "strings": (Y.astype(str), "got a ndarray of dtype <U"),
    "objects": (Y.astype(object), "got a ndarray of dtype object"),
    "long double": (Y.astype(np.longdouble), "got a ndarray of dtype float128"),
    "complex": (Y.astype(complex), "got a ndarray of dtype complex128"),
    "complex tensor": (torch.tensor(Y).cfloat(), "got torch.complex64"),
    "dates": (Y.astype("datetime64[D]"), "got a ndarray of dtype datetime64"),
    "dict": ({0: 1}, "got a dict of dtype object"),
    "None": (None, "got a NoneType of dtype object"),
    "ragged": ([[0], [1, 2]], "a list that NumPy cannot read"),
    "ragged tensors": ([torch.zeros(1), torch.zeros(2)], "a list of shapes"),
    "meta": (torch.zeros(4, device="meta"), "on the meta device"),
    "masked": (np.ma.masked_equal(Y, 1), "got a masked array"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_numbers_is_refused_by_name(kind):
    values, message = BAD[kind]
    with pytest.raises(DataError, match=f"negative_log_likelihood: .*{message}"):
        negative_log_likelihood(P, values)


def test_a_prediction_is_told_to_pass_its_mean():
    prediction = Prediction(mean=torch.as_tensor(P), num_samples=1)
    with pytest.raises(
        DataError, match=r"got a Prediction. Pass a tensor of it, such as pred.*mean"
    ):
        fit_temperature(prediction, Y)
    with pytest.raises(DataError, match=r"got a TemperatureScaling. Pass a tensor of it\."):
        expected_calibration_error(fit_temperature(P, Y), Y)


def test_memory_of_a_usable_array_is_not_copied():
    values = np.zeros(4)
    as_tensor("test", values)[0] = 1.0
    assert values[0] == 1.0


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, 10**9, True, "15", None])
def test_bins_that_are_no_whole_number_or_too_many_are_refused(num_bins):
    with pytest.raises(ConfigError, match="expected num_bins >= 1, a whole number"):
        expected_calibration_error(P, Y, num_bins=num_bins)
    assert expected_calibration_error(P, Y, num_bins=np.int64(15)) >= 0


@pytest.mark.parametrize("num_bins", [10, 15, 20, 50, 100])
def test_a_confidence_on_an_edge_is_in_the_bin_above_it_in_every_precision(num_bins):
    k = torch.arange((num_bins + 1) // 2, num_bins)
    for dtype in (torch.float32, torch.float64):
        p = (k.to(dtype) / num_bins).to(dtype)
        for q, expected in zip(p, k.tolist(), strict=True):
            diagram = reliability(torch.stack([q, 1 - q])[None], Y[:1], num_bins=num_bins)
            assert int(diagram.count.argmax()) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_a_rounding_error_outside_are_taken(dtype):
    above = torch.tensor([1.0], dtype=dtype) + torch.finfo(dtype).eps
    p = torch.stack([above, 1 - above], dim=1)
    assert p.max() > 1 and p.min() < 0
    assert negative_log_likelihood(p, torch.zeros(1).long()) == 0.0
    with pytest.raises(DataError, match=r"probabilities in \[0, 1\], got values from .* to 1.1"):
        negative_log_likelihood(torch.tensor([[1.1, -0.1]]), torch.zeros(1).long())
