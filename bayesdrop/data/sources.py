"""The image data sets that have a name: where each comes from and how it is read."""

from __future__ import annotations

import functools
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.files import first_line
from bayesdrop.registry import Registry

if TYPE_CHECKING:
    from types import ModuleType

Pair = tuple[Tensor, Tensor]
"""Images ``(N, C, H, W)`` and labels ``(N,)``."""

_DEFAULT_ROOT = Path("data")
_JPEG_SHAPE, _JPEG_BYTES, _JPEG_IMAGES = (32, 32), 2**16, 60_000
_SPLIT_SEED = 1234  # The data's own: a run's seed never moves an example between splits.


@dataclass(frozen=True)
class DataSource:
    """How a data set is found: an entry of the registry.

    Args:
        name: Its key, such as ``"mnist"``.
        title: What to call it in a report.
        image_shape: Shape of one image, ``(C, H, W)``.
        class_names: One name for each label.
        validation: Default number of validation examples, taken from the training set.
        read: Called as ``read(root, download)``; returns the training and the test pair, images
            uint8 or floating point in [0, 1].
        origin: Where the data come from, for ``bayesdrop list datasets``.
        read_validation: Returns the data set's own validation pair; None takes ``validation``
            examples from the training set.
        folder: Where its files are in the folder of the data files; empty if it needs none.
    """

    name: str
    title: str
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    validation: int
    read: Callable[[Path, bool], tuple[Pair, Pair]]
    origin: str
    read_validation: Callable[[], Pair] | None = None
    folder: str = ""


registry: Registry[DataSource] = Registry("data set")
"""Name to image data set."""


def register(source: DataSource) -> DataSource:
    """Add an image data set to the registry, under its name.

    Raises:
        ConfigError: If another data set has the name already.
    """
    return registry.register(source.name, source)


def data_root(data_dir: str | Path | None = None) -> Path:
    """Return the folder of the data files: the argument, ``$BAYESDROP_DATA`` or ``data``."""
    return Path(data_dir or os.environ.get("BAYESDROP_DATA") or _DEFAULT_ROOT).expanduser()


def split_off(pair: Pair, count: int, *, who: str) -> tuple[Pair, Pair]:
    """Return a pair without ``count`` examples, and those: the same shares of every class.

    Args:
        pair: Images and labels.
        count: Number of examples to hold out.
        who: Who asked, for the message.

    Raises:
        ConfigError: If there are too few or too many for the classes.
    """
    from sklearn.model_selection import train_test_split

    x, y = pair
    num_classes = int(y.max()) + 1
    if not num_classes <= count <= len(y) - num_classes:
        raise ConfigError(
            who,
            expected=f"0 or {num_classes}..{len(y) - num_classes} validation examples",
            got=f"validation={count}",
            hint="A tenth of the training set is usual; 0 leaves it whole.",
        )
    rest, held_out = train_test_split(
        range(len(y)), test_size=count, random_state=_SPLIT_SEED, stratify=y.numpy()
    )
    return (x[rest], y[rest]), (x[held_out], y[held_out])


# -- reading -------------------------------------------------------------------------------------


@functools.cache
def _digits() -> Pair:
    # A text file of a megabyte, which takes longer to read than a small network to train an epoch.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).reshape(-1, 1, 8, 8) / 16.0, torch.from_numpy(labels).long()


def _read_digits(root: Path, download: bool) -> tuple[Pair, Pair]:
    train, test = split_off(_digits(), 600, who="digits")  # copies
    return train, test


def _torchvision() -> ModuleType:
    try:
        import torchvision.datasets
    except ImportError as error:
        raise ImportError(
            "This data set is read by torchvision: pip install 'bayesdrop[vision]'."
        ) from error
    return torchvision.datasets


def _read_torchvision(class_name: str, title: str) -> Callable[[Path, bool], tuple[Pair, Pair]]:
    def read(root: Path, download: bool) -> tuple[Pair, Pair]:
        cls = getattr(_torchvision(), class_name)
        if not root.is_dir() and root != _DEFAULT_ROOT:
            raise DataError(
                title,
                expected="a folder that is there",
                got=f"{str(root)!r}",
                hint="Is --data-dir (data_dir=) or BAYESDROP_DATA mistyped? Make the folder, if "
                "the files are to be downloaded into it.",
            )
        train, test = (_open(cls, title, root, train, download) for train in (True, False))
        return train, test

    return read


def _open(cls: Any, title: str, root: Path, train: bool, download: bool) -> Pair:
    try:
        data = _present(cls, root, train)
        if data is None:
            data = cls(str(root), train=train, download=download)
    # What torchvision raises for damaged files depends on the file: anything from EOFError up.
    except Exception as error:
        raise DataError(
            title,
            expected=f"its files under {str(root)!r}, or a network to fetch them from",
            got=f"{type(error).__name__}: {error}",
            hint="Pass --data-dir (data_dir=) or set BAYESDROP_DATA to a folder that has "
            "them, delete damaged files, or use the embedded data set 'digits'.",
        ) from error
    x = torch.as_tensor(data.data)
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return x, torch.as_tensor(data.targets).long()


def _present(cls: Any, root: Path, train: bool) -> Any:
    # Without this a read-only folder with the unpacked files only would be downloaded into.
    try:
        return cls(str(root), train=train, download=False)
    except RuntimeError:
        return None


def _read_jpeg_archive(root: Path, download: bool) -> tuple[Pair, Pair]:
    name = "cifar10-jpeg75.tar.xz"
    places = [root / "CIFAR10-jpeg75" / name, root / name]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise DataError(
            "CIFAR-10 (JPEG q75)",
            expected=f"the archive {name} in {str(root)!r}",
            got="no such file",
            hint="It cannot be downloaded. Pass --data-dir (data_dir=) or set BAYESDROP_DATA "
            "to the folder that has it, or use 'cifar10'.",
        )
    try:
        with tarfile.open(path, "r:xz") as archive:
            splits = _unpack(archive)
        return _stack(splits["train"]), _stack(splits["test"])
    except (ImportError, MemoryError):
        raise
    # What lzma, tarfile and Pillow raise for damaged bytes has no common parent but this.
    except Exception as error:
        raise DataError(
            "CIFAR-10 (JPEG q75)",
            expected=f"images of 32 x 32 as {{train,test}}/{{class}}/*.jpg in {str(path)!r}",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="Is the archive complete? Copy it again.",
        ) from error


def _unpack(archive: tarfile.TarFile) -> dict[str, list[tuple[str, Tensor, int]]]:
    import io

    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "This data set is read by Pillow: pip install 'bayesdrop[vision]'."
        ) from error

    splits: dict[str, list[tuple[str, Tensor, int]]] = {}
    for number, member in enumerate(m for m in archive if m.isfile() and m.name.endswith(".jpg")):
        where = re.search(r"(train|test)/(\w+)/[^/]+$", member.name)
        if where is None or where[2] not in _CIFAR_CLASSES:
            raise ValueError(f"an image {member.name!r}")
        # Before anything is unpacked: a small archive may hold gigabytes of zeros.
        if member.size > _JPEG_BYTES or number >= _JPEG_IMAGES:
            raise ValueError(f"{member.size:,} bytes of {member.name!r}, image {number + 1:,}")
        content = cast("IO[bytes]", archive.extractfile(member)).read()
        opened = Image.open(io.BytesIO(content))
        if opened.size != _JPEG_SHAPE:
            raise ValueError(f"{opened.size} pixels of {member.name!r}")
        image = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
        splits.setdefault(where[1], []).append(
            (member.name, image, _CIFAR_CLASSES.index(where[2]))
        )
    return splits


def _stack(items: list[tuple[str, Tensor, int]]) -> Pair:
    items = sorted(items, key=lambda item: item[0])
    return torch.stack([image for _, image, _ in items]), torch.tensor([y for _, _, y in items])


_DIGITS = tuple("0123456789")
_FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat") + (
    ("sandal", "shirt", "sneaker", "bag", "ankle boot")
)
_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer") + (
    ("dog", "frog", "horse", "ship", "truck")
)

for _source in (
    DataSource("digits", "Digits", (1, 8, 8), _DIGITS, 300, _read_digits, "in scikit-learn"),
    DataSource(
        "mnist", "MNIST", (1, 28, 28), _DIGITS, 5000, _read_torchvision("MNIST", "MNIST"),
        "torchvision", folder="MNIST",
    ),
    DataSource(
        "fashion-mnist", "Fashion-MNIST", (1, 28, 28), _FASHION_CLASSES, 5000,
        _read_torchvision("FashionMNIST", "Fashion-MNIST"), "torchvision", folder="FashionMNIST",
    ),
    DataSource(
        "cifar10", "CIFAR-10", (3, 32, 32), _CIFAR_CLASSES, 5000,
        _read_torchvision("CIFAR10", "CIFAR-10"), "torchvision", folder="cifar-10-batches-py",
    ),
    DataSource(
        "cifar10-jpeg75", "CIFAR-10 (JPEG q75)", (3, 32, 32), _CIFAR_CLASSES, 5000,
        _read_jpeg_archive, "a local archive; not comparable with CIFAR-10",
        folder="CIFAR10-jpeg75",
    ),
):  # fmt: skip
    register(_source)
