"""A folder of images as a data set: one subfolder for each class, as torchvision's ImageFolder."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from bayesdrop.data.sources import DataSource, Pair, split_off
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.files import first_line

if TYPE_CHECKING:
    from types import ModuleType

PREFIX = "folder:"
_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_HELD_OUT = ("val", "valid", "validation")
_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.1
_MOST_BYTES = 2**34  # of all images as float32
_LARGEST = 1024  # pixels a side


class _Images(NamedTuple):
    """The files of a split and the number of each one's class."""

    paths: list[Path]
    labels: list[int]


def folder_source(name: str) -> DataSource:
    """Return the data set of a name such as ``"folder:pets"`` or ``"folder:pets@64"``.

    See ``load_data`` for what a folder holds. The files are listed, and the first is opened for
    its size where the name gives none; ``read`` opens them all.

    Args:
        name: ``folder:PATH``, or ``folder:PATH@SIZE`` for images of SIZE x SIZE pixels.

    Raises:
        ConfigError: If the name has no path or no such size.
        DataError: If the folder is absent or does not hold classes of images, or an image is
            damaged.
        ImportError: If Pillow is missing.
    """
    path, size = _parse(name)
    splits = _find_splits(path)
    classes = _class_names(next(iter(splits.values())))
    images = {split: _list_images(folder, classes) for split, folder in splits.items()}
    first = images[next(iter(images))]
    shape = (size, size) if size else _size_of(first.paths[0])
    _check_memory(name, sum(len(split.paths) for split in images.values()), shape)
    train = len(first.paths) * (1.0 if "test" in images else 1.0 - _TEST_SHARE)
    read = partial(_read_split, images, shape, bool(size))
    return DataSource(
        name=name,
        title=f"folder {path.name}",
        image_shape=(3, *shape),
        class_names=classes,
        validation=max(len(classes), round(_VALIDATION_SHARE * train)),
        read=partial(_read, read, images, name),
        origin=str(path),
        read_validation=partial(read, "validation") if "validation" in images else None,
    )


def _parse(name: str) -> tuple[Path, int | None]:
    path, size = name.removeprefix(PREFIX), None
    if (match := re.fullmatch(r"(.+)@(\d+)", path)) is not None:
        path, size = match[1], int(match[2])
    if not path.strip() or size is not None and not 1 <= size <= _LARGEST:
        raise ConfigError(
            f"data set {name!r}",
            expected=f"folder:PATH, or folder:PATH@SIZE with a size from 1 to {_LARGEST} pixels",
            got=repr(name.removeprefix(PREFIX)),
            hint="For example folder:pets@64.",
        )
    return Path(path).expanduser(), size


# -- what is in the folder -----------------------------------------------------------------------


def _find_splits(path: Path) -> dict[str, Path]:
    """Return the folders of the splits; of one that is not split, ``{"all": path}``."""
    if not path.is_dir():
        raise DataError(
            f"images of {str(path)!r}",
            expected="a folder",
            got="a file" if path.exists() else "nothing of this name",
            hint="A relative path begins in the working directory.",
        )
    if not (path / "train").is_dir():
        if (path / "test").is_dir():
            raise DataError(
                f"images of {str(path)!r}",
                expected="the folders train and test, or one folder for each class",
                got="test without train",
                hint="Add train, with the same classes.",
            )
        return {"all": path}
    held_out = next((path / name for name in _HELD_OUT if (path / name).is_dir()), None)
    if (path / "test").is_dir():
        splits = {"train": path / "train", "test": path / "test"}
        return splits if held_out is None else {**splits, "validation": held_out}
    if held_out is None:
        raise DataError(
            f"images of {str(path)!r}",
            expected="the folders train and test (or val), or one folder for each class",
            got="train alone",
            hint=f"Pass {str(path / 'train')!r} for a split of it, or add test.",
        )
    return {"train": path / "train", "test": held_out}


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if len(names) < 2:
        loose = any(entry.suffix.lower() in _ENDINGS for entry in folder.iterdir())
        raise DataError(
            f"images of {str(folder)!r}",
            expected="one folder for each of two or more classes",
            got=f"the folder {names[0]!r} alone" if names else "no folder",
            hint="Move the images into folders named after their classes."
            if loose
            else "It holds CLASS/*.jpg, or train/CLASS/*.jpg and test/CLASS/*.jpg.",
        )
    return tuple(names)


def _list_images(folder: Path, classes: Sequence[str]) -> _Images:
    paths: list[Path] = []
    labels: list[int] = []
    unknown = [name for name in _class_names(folder) if name not in classes]
    if unknown:
        raise DataError(
            f"images of {str(folder)!r}",
            expected=f"the classes {', '.join(classes)}",
            got=f"the class {unknown[0]!r}, which training images do not have",
            hint="All splits have the same folders of classes.",
        )
    for label, name in enumerate(classes):
        found = sorted(
            path
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in _ENDINGS and path.name[0] != "." and path.is_file()
        )
        if not found:
            raise DataError(
                f"images of {str(folder)!r}",
                expected=f"images of the class {name!r}",
                got="none" if (folder / name).is_dir() else "no folder of this name",
                hint=f"Files that end in {', '.join(_ENDINGS)} are images.",
            )
        paths += found
        labels += [label] * len(found)
    return _Images(paths, labels)


def _check_memory(name: str, count: int, shape: Sequence[int]) -> None:
    needed = 4 * 3 * math.prod(shape) * count
    if needed > _MOST_BYTES:
        fits = max(1, int(math.sqrt(_MOST_BYTES / (12 * count))))
        raise DataError(
            f"data set {name!r}",
            expected=f"images of at most {_MOST_BYTES / 2**30:.0f} GiB in memory",
            got=f"{count:,} of {shape[0]} x {shape[1]} pixels, {needed / 2**30:.1f} GiB",
            hint=f"Ask for smaller ones, such as {name.split('@')[0]}@{fits}, or train on a "
            "DataLoader with bd.fit.",
        )


# -- reading -------------------------------------------------------------------------------------


def _pillow() -> ModuleType:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError(
            "Images in folders are read by Pillow: pip install 'bayesdrop[vision]'."
        ) from error
    return PIL


def _size_of(path: Path) -> tuple[int, int]:
    pillow = _pillow()
    try:
        with pillow.Image.open(path) as opened:
            return pillow.ImageOps.exif_transpose(opened).size[::-1]
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises for damaged bytes has no common parent
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"image {str(path)!r}",
        expected="an image that Pillow can read",
        got=f"{type(error).__name__}: {first_line(error)}",
        hint="Remove or replace the file.",
    )


def _read(
    read: partial[Pair], images: dict[str, _Images], name: str, root: Path, download: bool
) -> tuple[Pair, Pair]:
    if "test" in images:
        return read("train"), read("test")
    x, y = read("all")
    per_class = torch.bincount(y)
    if int(per_class.min()) < 3:
        raise DataError(
            f"data set {name!r}",
            expected="three images or more of each class, to split them",
            got=f"{int(per_class.min())} in one of them",
            hint="Or make the folders train and test yourself.",
        )
    count = max(len(per_class), round(_TEST_SHARE * len(y)))
    return split_off((x, y), count, who=f"data set {name!r}")


def _read_split(
    images: dict[str, _Images], shape: tuple[int, int], resize: bool, split: str
) -> Pair:
    paths, labels = images[split]
    x = torch.empty(len(paths), 3, *shape, dtype=torch.uint8)
    for row, path in enumerate(paths):
        x[row] = _read_image(path, shape, resize)
    return x, torch.tensor(labels)


def _read_image(path: Path, shape: tuple[int, int], resize: bool) -> torch.Tensor:
    import numpy as np

    pillow: Any = _pillow()
    try:
        with pillow.Image.open(path) as opened:
            mode, image = opened.mode, pillow.ImageOps.exif_transpose(opened).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    if mode.startswith(("I", "F")):  # of which Pillow cuts off what is above 255
        raise DataError(
            f"image {str(path)!r}",
            expected="8 bits a channel",
            got=f"Pillow's mode {mode!r}",
            hint="Convert such images to 8 bits first, in the range that matters to you.",
        )
    if resize and image.size != shape[::-1]:
        # The largest middle part of this form, averaged down, as torchvision's Resize and
        # CenterCrop.
        image = pillow.ImageOps.fit(image, shape[::-1], pillow.Image.Resampling.BILINEAR)
    if image.size != shape[::-1]:
        raise DataError(
            f"image {str(path)!r}",
            expected=f"{shape[1]} x {shape[0]} pixels, as the first image has",
            got=f"{image.size[0]} x {image.size[1]}",
            hint="Give all one size: folder:PATH@64 takes 64 x 64 pixels from the middle of each.",
        )
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
