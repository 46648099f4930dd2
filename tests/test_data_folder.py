"""Laws of a folder of images as a data set."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import bayesdrop as bd
from bayesdrop.cli import app
from bayesdrop.data import load_ood
from bayesdrop.errors import ConfigError, DataError


def save(path, value=0, size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)


def fill(folder, classes=("ant", "bee"), count=10, **options):
    """Images whose first channel is 20 times their class plus their number."""
    for label, name in enumerate(classes):
        for number in range(count):
            save(folder / name / f"{number:02d}.png", (20 * label + number, 7, 200), **options)
    return folder


def values(pair):
    return sorted((pair[0][:, 0, 0, 0] * 255).round().int().tolist())


def test_a_single_folder_is_split_by_class_the_same_way_at_every_call(tmp_path):
    name = f"folder:{fill(tmp_path)}"
    torch.manual_seed(1)
    data, again = bd.load_data(name), bd.load_data(name)
    assert data.class_names == ("ant", "bee") and data.image_shape == (3, 8, 8)
    counts = [torch.bincount(y).tolist() for _, y in (data.train, data.validation, data.test)]
    assert counts == [[7, 7], [1, 1], [2, 2]]
    shown = [v for pair in (data.train, data.validation, data.test) for v in values(pair)]
    assert sorted(shown) == [*range(10), *range(20, 30)]
    for x, y in (data.train, data.validation, data.test):
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long() // 20, y)
        torch.testing.assert_close(x[:, 2], torch.full_like(x[:, 2], 200 / 255))
    assert torch.equal(data.test[0], again.test[0]) and torch.equal(data.train[0], again.train[0])
    without = bd.load_data(name, validation=0)
    assert without.validation is None and values(without.test) == values(data.test)


def test_folders_of_splits_are_kept(tmp_path):
    fill(tmp_path / "train", count=6)
    fill(tmp_path / "test", count=3)
    data = bd.load_data(f"folder:{tmp_path}", validation=2)
    assert values(data.test) == [0, 1, 2, 20, 21, 22]
    assert len(data.train[1]) == 10 and len(data.validation[1]) == 2
    fill(tmp_path / "val", count=2)
    own = bd.load_data(f"folder:{tmp_path}")
    assert len(own.train[1]) == 12 and values(own.validation) == [0, 1, 20, 21]
    with pytest.raises(ConfigError, match="no number of validation examples"):
        bd.load_data(f"folder:{tmp_path}", validation=2)
    assert bd.load_data(f"folder:{tmp_path}", validation=0).validation is None


def test_a_validation_folder_is_the_test_set_where_there_is_none(tmp_path):
    fill(tmp_path / "train", count=6)
    fill(tmp_path / "val", count=3)
    data = bd.load_data(f"folder:{tmp_path}")
    assert values(data.test) == [0, 1, 2, 20, 21, 22] and len(data.validation[1]) == 2


def test_a_size_takes_the_middle_of_each_image(tmp_path):
    for label in ("a", "b"):
        for number in range(4):
            pixels = np.zeros((8, 12, 3), dtype=np.uint8)
            pixels[:, 1:11] = 100
            (tmp_path / label).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    data = bd.load_data(f"folder:{tmp_path}@4", validation=0)
    assert data.image_shape == (3, 4, 4)
    assert (data.train[0] * 255).round().unique().tolist() == [100.0]


def test_grey_and_turned_images_are_rgb_the_right_way_up(tmp_path):
    fill(tmp_path, count=4, size=(4, 8))
    turned = Image.new("L", (8, 4), 9)
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "ant" / "turned.jpg", exif=exif)
    data = bd.load_data(f"folder:{tmp_path}", validation=0)
    assert data.image_shape == (3, 8, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:", "expected folder:PATH"),
        ("folder:x@0", "a size from 1 to 1024 pixels"),
        ("folder:x@4096", "a size from 1 to 1024 pixels"),
    ],
)
def test_a_name_without_a_folder_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        bd.load_data(name)


def cut_off(folder):
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    whole = fill(folder) / "bee" / "zz.jpg"
    Image.fromarray(noise).save(whole)
    whole.write_bytes(whole.read_bytes()[:-60])


def without_images(folder):
    (fill(folder) / "cow").mkdir()
    (folder / "cow" / "notes.txt").write_text("moo")


def another_class(folder):
    fill(folder / "train")
    fill(folder / "test", classes=["ant", "cow"])


BAD = {
    "nothing": lambda folder: None,
    "loose images": lambda folder: save(folder / "x.png"),
    "one class": lambda folder: fill(folder, classes=["ant"]),
    "an empty class": without_images,
    "train alone": lambda folder: fill(folder / "train"),
    "test alone": lambda folder: fill(folder / "test"),
    "an unknown class": another_class,
    "few": lambda folder: fill(folder, count=2),
    "sizes": lambda folder: save(fill(folder) / "bee" / "large.png", size=(9, 9)),
    "damaged": lambda folder: (fill(folder) / "bee" / "zz.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
    "16 bits": lambda folder: Image.new("I;16", (8, 8), 999).save(fill(folder) / "ant" / "zz.png"),
    "cut off": cut_off,
}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "one folder for each of two or more classes, got no folder"),
        ("loose images", "got no folder. Move the images into folders named after"),
        ("one class", "got the folder 'ant' alone"),
        ("an empty class", "images of the class 'cow', got none"),
        ("train alone", r"got train alone. Pass '.*train' for a split of it"),
        ("test alone", "got test without train"),
        ("an unknown class", "classes ant, bee, got the class 'cow'"),
        ("few", "three images or more of each class"),
        ("sizes", r"image '.*large.png': expected 8 x 8 pixels.*got 9 x 9. .*folder:PATH@64"),
        ("damaged", r"image '.*zz.png': expected an image that Pillow can read"),
        ("16 bits", r"image '.*zz.png': expected 8 bits a channel, got Pillow's mode 'I;16'"),
        ("cut off", r"image '.*zz.jpg': expected an image that Pillow can read"),
    ],
)
def test_a_folder_that_is_no_data_set_says_why(tmp_path, kind, message):
    BAD[kind](tmp_path)
    with pytest.raises(DataError, match=message):
        bd.load_data(f"folder:{tmp_path}")


def test_an_absent_folder_says_where_paths_begin(tmp_path):
    save(tmp_path / "x.png")
    with pytest.raises(DataError, match="expected a folder, got a file"):
        bd.load_data(f"folder:{tmp_path / 'x.png'}")
    with pytest.raises(DataError, match="nothing of this name. A relative path begins in the"):
        bd.load_data("folder:no/such/place")


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("bayesdrop.data.image_folder._MOST_BYTES", 12 * 20 * 9)
    with pytest.raises(DataError, match=r"20 of 8 x 8 pixels.*Ask for smaller ones.*@3"):
        bd.load_data(f"folder:{fill(tmp_path)}")


def test_other_data_may_be_a_folder_of_the_same_size(tmp_path):
    fill(tmp_path / "own")
    fill(tmp_path / "other", classes=["cow", "dog"], size=(12, 12))
    own, other = f"folder:{tmp_path}/own", f"folder:{tmp_path}/other"
    assert load_ood(f"{other}@8", own).shape[1:] == (3, 8, 8)
    with pytest.raises(DataError, match=r"images of shape \(3, 8, 8\).*Write folder:PATH@8"):
        load_ood(other, own)
    with pytest.raises(ConfigError, match="the shared classes.*Name a folder of other images"):
        load_ood(f"{own}@8", own)


def test_a_recipe_trains_on_a_folder_from_the_command_line(tmp_path):
    torch.set_default_dtype(torch.float32)
    fill(tmp_path / "images", size=(8, 8))
    fill(tmp_path / "other", classes=["cow", "dog"])
    out = tmp_path / "run"
    options = ["--data", f"folder:{tmp_path}/images@8", "--out", str(out), "--epochs", "1"]
    runner = CliRunner()
    done = runner.invoke(app, ["train", "resnet8-bb", *options, "--pretrain-epochs", "1"])
    assert done.exit_code == 0, done.output
    shown = runner.invoke(
        app, ["evaluate", str(out), "--ood", f"folder:{tmp_path}/other@8", "--num-samples", "2"]
    )
    assert shown.exit_code == 0, shown.output
    small = tmp_path / "small.pt2"
    done = runner.invoke(app, ["compact", str(out), "--out", str(small)])
    assert done.exit_code == 0, done.output
    assert bd.load_plain(small)(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
