"""The UCI regression sets; no file of them is needed but for the last test."""

import numpy as np
import pytest
import torch

import bayesdrop as bd
from bayesdrop.data import regression_sets
from bayesdrop.errors import ConfigError, DataError


@pytest.fixture
def yacht(tmp_path):
    """A file of the shape of yacht.npz, with a constant column."""
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (308, 6))
    x[:, 2] = 7.0
    order = rng.permutation(308).astype(np.int32)
    arrays = {f"test_index_{i}": order[31 * (i % 9) : 31 * (i % 9) + 31] for i in range(20)}
    (tmp_path / "uci").mkdir()
    return tmp_path, {"x": x, "y": rng.normal(10.0, 5.0, 308), **arrays}


def write(yacht, **changes):
    root, arrays = yacht
    np.savez(root / "uci" / "yacht.npz", **{**arrays, **changes})
    return root, arrays


def test_rows_are_split_as_the_file_says_and_standardised_by_the_training_rows(yacht):
    root, arrays = write(yacht)
    split = bd.load_data("uci/yacht", split=4, data_dir=root)
    assert split.train[0].shape == (277, 6) and split.test[1].shape == (31,)
    assert split.validation is None and split.train[0].dtype == torch.get_default_dtype()
    y = torch.from_numpy(arrays["y"])
    restored = split.test[1] * split.y_scale + split.y_mean
    torch.testing.assert_close(restored, y[torch.from_numpy(arrays["test_index_4"]).long()])
    x, target = split.train
    torch.testing.assert_close(x.mean(0), torch.zeros(6))
    torch.testing.assert_close(x.var(0, correction=0), torch.tensor([1.0, 1, 0, 1, 1, 1]))
    torch.testing.assert_close(target.var(correction=0), torch.ones(()))


def test_validation_rows_come_from_the_training_rows_and_do_not_touch_the_scaling(yacht):
    root, _ = write(yacht)
    torch.manual_seed(7)
    whole = bd.load_data("uci/yacht", split=2, data_dir=root)
    first, again = (
        bd.load_data("uci/yacht", split=2, validation=0.2, data_dir=root) for _ in "ab"
    )
    assert len(first.train[1]) == 222 and len(first.validation[1]) == 55
    torch.testing.assert_close(first.train[0].mean(0), torch.zeros(6))
    assert torch.equal(first.validation[0], again.validation[0])

    def targets(split, *pairs):
        return (
            torch.cat([pair[1] for pair in pairs]).mul(split.y_scale).add(split.y_mean).sort()[0]
        )

    torch.testing.assert_close(
        targets(first, first.train, first.validation), targets(whole, whole.train)
    )
    torch.testing.assert_close(targets(first, first.test), targets(whole, whole.test))


def test_a_missing_file_says_what_is_expected_where(tmp_path):
    with pytest.raises(DataError, match=r"uci.yacht.npz with arrays x, y and test_index_0 to "
                       r"test_index_19, got no such file.*BAYESDROP_DATA"):  # fmt: skip
        bd.load_data("uci/yacht", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": np.zeros((308, 5))},
            r"x of shape \(308, 6\).*got ValueError: x of shape \(308, 5\)",
        ),
        ({"y": np.full(308, np.nan)}, "that are not finite"),
        ({"test_index_1": np.array([3, 3])}, "test_index_1 that are no rows"),
        ({"test_index_1": np.array([308])}, "test_index_1 that are no rows"),
        ({"test_index_1": np.arange(308)}, "or all of them"),
        ({"test_index_1": np.array([0.5])}, "test_index_1 of 1 dimensions and type float64"),
        ({"x": np.ones((308, 6), dtype=complex)}, "x of 2 dimensions and type complex128"),
        ({"y": np.array(["a"] * 308)}, "y of 1 dimensions and type <U1"),
    ],
)
def test_another_file_is_refused(yacht, changes, message):
    root, _ = write(yacht, **changes)
    with pytest.raises(DataError, match=message):
        bd.load_data("uci/yacht", split=1, data_dir=root)


def test_a_damaged_file_is_refused(yacht):
    root, _ = write(yacht)
    (root / "uci" / "yacht.npz").write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(DataError, match="regression set 'uci/yacht': expected.*got BadZipFile"):
        bd.load_data("uci/yacht", data_dir=root)


def test_unknown_names_and_splits_are_refused():
    with pytest.raises(ConfigError, match="'uci/yatch'. Did you mean 'uci/yacht'"):
        bd.load_data("uci/yatch")
    with pytest.raises(ConfigError, match="a split from 0 to 4"):
        bd.load_data("uci/protein", split=5)


def test_the_real_files_fit(data_dir):
    if not (data_dir / "uci").is_dir():
        pytest.skip("needs the uci folder")
    for name, source in regression_sets.items():
        last = bd.load_data(name, split=source.num_splits - 1, data_dir=data_dir)
        assert bool(last.train[0].isfinite().all()) and last.y_scale > 0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_targets_are_shifted_and_stay_finite(yacht, value):
    root, _ = write(yacht, y=np.full(308, value))
    split = bd.load_data("uci/yacht", data_dir=root)
    for _, y in (split.train, split.test):
        assert torch.equal(y, torch.zeros_like(y))
    assert (split.y_mean, split.y_scale) == (value, 1.0)


def test_a_row_is_left_to_train_on(yacht):
    root, _ = write(yacht)
    with pytest.raises(ConfigError, match="at least one training row, got validation=0.999"):
        bd.load_data("uci/yacht", data_dir=root, validation=0.999)


@pytest.mark.parametrize("order", [">f8", "<f4", "F"])
def test_arrays_of_any_order_and_precision_have_their_values(yacht, order):
    root, arrays = write(yacht)
    first = bd.load_data("uci/yacht", data_dir=root)
    x = np.asfortranarray(arrays["x"]) if order == "F" else arrays["x"].astype(order)
    write(yacht, x=x)
    second = bd.load_data("uci/yacht", data_dir=root)
    torch.testing.assert_close(second.train[0], first.train[0], rtol=1e-5, atol=1e-6)
