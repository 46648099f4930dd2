import io
import tarfile
from urllib.error import URLError

import numpy as np
import pytest
import torch

from bayesdrop.data import (
    DataSource,
    data_root,
    load_data,
    load_ood,
    parse_name,
    register,
    registry,
)
from bayesdrop.errors import ConfigError, DataError


def test_digits_splits_are_disjoint_complete_and_stratified():
    data = load_data("digits")
    pairs = (data.train, data.validation, data.test)
    assert [len(y) for _, y in pairs] == [897, 300, 600]
    rows = torch.cat([torch.cat([x.flatten(1), y[:, None]], 1) for x, y in pairs])
    # scikit-learn's digits have no duplicates.
    assert len(torch.unique(rows, dim=0)) == 1797
    total = torch.bincount(torch.cat([y for _, y in pairs]))
    for _, y in pairs:
        share = torch.bincount(y) / total
        assert (share - len(y) / 1797).abs().max() <= 1.0 / total.min() + 1e-3


def test_images_are_channels_first_in_the_unit_interval_of_the_default_dtype():
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        x, y = load_data("digits").train
        assert x.shape[1:] == (1, 8, 8) and x.dtype == dtype and y.dtype == torch.int64
        assert x.min() == 0.0 and x.max() == 1.0


def test_splits_do_not_depend_on_the_seed_and_leave_generators_alone():
    first = load_data("digits")
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    second = load_data("digits")
    assert torch.equal(first.test[0], second.test[0])
    assert torch.equal(first.train[1], second.train[1])
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_digits_that_are_changed_in_place_are_whole_when_loaded_again():
    expected = load_data("digits").train[0].clone()
    load_data("digits").train[0].zero_()
    assert torch.equal(load_data("digits").train[0], expected)


def test_the_test_split_does_not_depend_on_the_validation_split():
    whole, split = load_data("digits", validation=0), load_data("digits", validation=100)
    assert whole.validation is None and len(whole.train[1]) == 1197
    assert len(split.validation[1]) == 100 and len(split.train[1]) == 1097
    assert torch.equal(whole.test[0], split.test[0])


def test_a_class_subset_is_the_whole_sets_split_with_labels_from_zero():
    whole, part = load_data("digits"), load_data("digits:3-4,8")
    keep = torch.isin(whole.test[1], torch.tensor([3, 4, 8]))
    assert torch.equal(part.test[0], whole.test[0][keep])
    assert torch.equal(torch.tensor([3, 4, 8])[part.test[1]], whole.test[1][keep])
    assert part.num_classes == 3 and part.class_names == ("3", "4", "8")
    assert part.title == "Digits (3-4,8)" and part.name == "digits:3-4,8"


@pytest.mark.parametrize("suffix", ["", "8-12", "5-2", "a", "1,", "-1", "10"])
def test_bad_classes_raise(suffix):
    with pytest.raises(ConfigError, match="expected classes from 0-9 .* Write digits:0-7"):
        parse_name(f"digits:{suffix}")


def test_an_unknown_name_raises_with_a_suggestion():
    with pytest.raises(ConfigError, match="unknown data set 'mnst'. Did you mean 'mnist'"):
        load_data("mnst")


@pytest.mark.parametrize("validation", [-1, 3, 1195])
def test_an_impossible_validation_split_raises(validation):
    with pytest.raises(ConfigError, match=r"0 or 10..1187 validation examples"):
        load_data("digits", validation=validation)


def test_ood_is_the_test_split_of_the_other_classes():
    assert torch.equal(load_ood("digits:8-9", "digits:0-7"), load_data("digits:8-9").test[0])


def test_ood_of_another_shape_raises():
    with pytest.raises(DataError, match=r"'fashion-mnist': expected images of shape \(1, 8, 8\)"):
        load_ood("fashion-mnist", "digits")


def test_ood_with_shared_classes_raises():
    with pytest.raises(ConfigError, match=r"shared classes \[7\]"):
        load_ood("digits:7-9", "digits:0-7")


def test_a_name_is_registered_once():
    digits = registry["digits"]
    assert register(digits) is digits
    other = DataSource("digits", "x", (1, 1, 1), ("a", "b"), 0, digits.read, "")
    with pytest.raises(ConfigError, match="expected a new name, got 'digits'"):
        register(other)


def test_data_root_prefers_argument_then_environment(monkeypatch):
    monkeypatch.setenv("BAYESDROP_DATA", "/somewhere")
    assert str(data_root("/here")) == "/here" and str(data_root()) == "/somewhere"
    monkeypatch.delenv("BAYESDROP_DATA")
    assert str(data_root()) == "data"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_absent_files_raise_without_download(name, tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(DataError, match="expected its files under .* BAYESDROP_DATA"):
        load_data(name, data_dir=tmp_path, download=False)


def test_a_failed_download_raises(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def fail(self):
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(DataError, match="or a network to fetch them from.*no route to host"):
        load_data("mnist", data_dir=tmp_path)


def test_a_mistyped_folder_is_not_made(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    missing = tmp_path / "mistyped"
    with pytest.raises(DataError, match="a folder that is there, got .*mistyped.*Make the folder"):
        load_data("mnist", data_dir=missing)
    monkeypatch.setenv("BAYESDROP_DATA", str(missing))
    with pytest.raises(DataError, match="a folder that is there"):
        load_data("fashion-mnist")
    assert not missing.exists()


def test_pillow_is_named_where_it_is_missing(tmp_path, monkeypatch):
    _archive(tmp_path / "CIFAR10-jpeg75" / "cifar10-jpeg75.tar.xz")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"bayesdrop\[vision\]"):
        load_data("cifar10-jpeg75", data_dir=tmp_path)


def test_damaged_files_raise(tmp_path):
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{split}-{kind}-ubyte").write_bytes(b"damaged")
    with pytest.raises(DataError, match="delete damaged files"):
        load_data("mnist", data_dir=tmp_path, download=False)


def test_torchvision_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r"bayesdrop\[vision\]"):
        load_data("mnist")


def _archive(path, classes=("cat", "ship"), per_class=3):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:xz") as archive:
        for split in ("train", "test"):
            for index, name in enumerate(classes):
                for number in range(per_class):
                    file = io.BytesIO()
                    pixels = np.full((32, 32, 3), 40 * index + number, np.uint8)
                    image.fromarray(pixels).save(file, "JPEG")
                    info = tarfile.TarInfo(f"top/{split}/{name}/{number:04}.jpg")
                    info.size = file.tell()
                    file.seek(0)
                    archive.addfile(info, file)


def test_jpeg_archive_is_read_in_order_and_labelled(tmp_path):
    _archive(tmp_path / "CIFAR10-jpeg75" / "cifar10-jpeg75.tar.xz")
    data = load_data("cifar10-jpeg75", data_dir=tmp_path, validation=0)
    x, y = data.train
    assert x.shape == (6, 3, 32, 32) and data.title == "CIFAR-10 (JPEG q75)"
    assert y.tolist() == [3, 3, 3, 8, 8, 8]
    assert (255 * x[:, 0, 0, 0]).round().tolist() == [0, 1, 2, 40, 41, 42]


def test_a_missing_or_damaged_jpeg_archive_raises(tmp_path):
    with pytest.raises(DataError, match="It cannot be downloaded"):
        load_data("cifar10-jpeg75", data_dir=tmp_path)
    path = tmp_path / "cifar10-jpeg75.tar.xz"
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="Is the archive complete"):
        load_data("cifar10-jpeg75", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_data_have_their_published_sizes(name, data_dir):
    torch.set_default_dtype(torch.float32)
    data = load_data(name, data_dir=data_dir, download=False)
    assert [len(y) for _, y in (data.train, data.validation, data.test)] == [55000, 5000, 10000]
    assert data.image_shape == (1, 28, 28) and float(data.train[0].max()) == 1.0


@pytest.mark.parametrize("validation", [10.5, float("nan"), float("inf")])
def test_images_are_held_out_in_whole_numbers(validation):
    with pytest.raises(ConfigError, match="a whole number of validation examples"):
        load_data("digits", validation=validation)
