"""Image data sets by name, as tensors in memory with fixed splits."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, DataError, describe, unknown_name

if TYPE_CHECKING:
    from types import ModuleType

Pair = tuple[Tensor, Tensor]
"""Images ``(N, C, H, W)`` and labels ``(N,)``."""

_SPLIT_SEED = 1234  # The data's own: a run's seed never moves an example between splits.


@dataclass(frozen=True)
class DataSplits:
    """A data set in memory: images in [0, 1] of torch's default dtype, labels int64.

    Args:
        name: The name it was asked for, such as ``"mnist:0-7"``.
        title: What to call it in a report.
        train: Images ``(N, C, H, W)`` and labels ``(N,)`` in ``0..num_classes - 1``.
        validation: Held out of the training set for choices; None if no example was asked for.
        test: For the final figures, untouched by any choice.
        num_classes: Number of labels.
        class_names: One name for each label.
    """

    name: str
    title: str
    train: Pair
    validation: Pair | None
    test: Pair
    num_classes: int
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image, ``(C, H, W)``."""
        return tuple(self.test[0].shape[1:])


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
    """

    name: str
    title: str
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    validation: int
    read: Callable[[Path, bool], tuple[Pair, Pair]]
    origin: str


_REGISTRY: dict[str, DataSource] = {}


def register_data(source: DataSource) -> DataSource:
    """Add a data set to the registry.

    Raises:
        ConfigError: If another data set has the name already.
    """
    if _REGISTRY.get(source.name, source) != source:
        raise ConfigError(
            describe(
                "register_data",
                expected="a new name",
                got=f"{source.name!r}, which is taken",
                hint="Choose another name.",
            )
        )
    _REGISTRY[source.name] = source
    return source


def registered_data() -> dict[str, DataSource]:
    """Return a copy of the registry: name to source, in order of registration."""
    return dict(_REGISTRY)


def data_root(data_dir: str | Path | None = None) -> Path:
    """Return the folder of the data files: the argument, ``$BAYESDROP_DATA`` or ``data``."""
    return Path(data_dir or os.environ.get("BAYESDROP_DATA") or "data").expanduser()


def parse_name(name: str) -> tuple[DataSource, tuple[int, ...]]:
    """Split a name such as ``"mnist:0-4,7"`` into the source and its classes, sorted.

    Args:
        name: A registered name, optionally with ``:`` and classes or ranges of classes.

    Raises:
        ConfigError: If the name is unknown or the classes are not among the data set's.

    Example:
        >>> parse_name("digits:0-3,8")[1]
        (0, 1, 2, 3, 8)
    """
    base, colon, suffix = name.partition(":")
    if base not in _REGISTRY:
        raise unknown_name("data set", base, _REGISTRY)
    source = _REGISTRY[base]
    total = len(source.class_names)
    if not colon:
        return source, tuple(range(total))
    chosen: set[int] = set()
    valid = bool(suffix)
    for part in suffix.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            valid = False
            break
        first, last = int(match[1]), int(match[2] or match[1])
        valid = valid and first <= last < total
        chosen.update(range(first, min(last, total) + 1))
    if not valid:
        raise ConfigError(
            describe(
                f"data set {name!r}",
                expected=f"classes from 0-{total - 1} after the colon",
                got=repr(suffix),
                hint=f"Write {base}:0-7 for a range or {base}:0,2,5 for a list.",
            )
        )
    return source, tuple(sorted(chosen))


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation: int | None = None,
    download: bool = True,
) -> DataSplits:
    """Load a data set into memory.

    The splits are fixed, stratified by class, and independent of any seed you set. A class subset
    such as ``"digits:0-7"`` is taken after splitting, and its labels are renumbered from 0.

    Args:
        name: A name of ``registered_data()``, optionally with classes: ``"mnist:0-7"``.
        data_dir: Folder of the data files; the default is ``$BAYESDROP_DATA``, or ``data``.
        validation: Number of examples held out of the (whole) training set; 0 for none. The
            default depends on the data set.
        download: Whether to fetch files that are absent.

    Raises:
        ConfigError: If the name is unknown, or ``validation`` leaves too few training examples.
        DataError: If the files are absent and cannot be fetched, or are damaged.
        ImportError: If torchvision is needed and absent.

    Example:
        >>> data = load_data("digits:0-7")
        >>> data.image_shape, data.num_classes
        ((1, 8, 8), 8)
    """
    source, classes = parse_name(name)
    train, test = source.read(data_root(data_dir), download)
    count = source.validation if validation is None else validation
    held_out: Pair | None = None
    if count != 0:
        train, held_out = _split(train, count, who=f"load_data({name!r})")
    return DataSplits(
        name=name,
        title=source.title if ":" not in name else f"{source.title} ({name.split(':')[1]})",
        train=_select(train, classes),
        validation=None if held_out is None else _select(held_out, classes),
        test=_select(test, classes),
        num_classes=len(classes),
        class_names=tuple(source.class_names[index] for index in classes),
    )


def load_ood(
    name: str,
    trained_on: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
) -> Tensor:
    """Load the test images of a data set that a network was not trained on.

    Args:
        name: The out-of-distribution data set, such as ``"fashion-mnist"`` or ``"digits:8-9"``.
        trained_on: The network's data set, such as ``"mnist"`` or ``"digits:0-7"``.
        data_dir: Folder of the data files.
        download: Whether to fetch files that are absent.

    Returns:
        Images ``(N, C, H, W)``.

    Raises:
        ConfigError: If a name is unknown, or the two share classes.
        DataError: If the images have another shape than the network's.

    Example:
        >>> load_ood("digits:8-9", "digits:0-7").shape[1:]
        torch.Size([1, 8, 8])
    """
    source, classes = parse_name(name)
    trained, trained_classes = parse_name(trained_on)
    if source.image_shape != trained.image_shape:
        same = [s.name for s in _REGISTRY.values() if s.image_shape == trained.image_shape]
        raise DataError(
            describe(
                f"out-of-distribution data {name!r}",
                expected=f"images of shape {trained.image_shape}, as in {trained_on!r}",
                got=f"images of shape {source.image_shape}",
                hint=f"Data sets with that shape: {', '.join(same)}; hold out classes of one of "
                f"them, as in {trained.name}:0-7 for training and {trained.name}:8-9 here.",
            )
        )
    shared = sorted(set(classes) & set(trained_classes)) if source is trained else []
    if shared:
        raise ConfigError(
            describe(
                f"out-of-distribution data {name!r}",
                expected=f"classes that {trained_on!r} does not have",
                got=f"the shared classes {shared}",
                hint=f"Train on {trained.name}:0-7 and test on {trained.name}:8-9, say.",
            )
        )
    return load_data(name, data_dir=data_dir, validation=0, download=download).test[0]


# -- splitting -----------------------------------------------------------------------------------


def _split(pair: Pair, count: int, *, who: str) -> tuple[Pair, Pair]:
    from sklearn.model_selection import train_test_split

    x, y = pair
    num_classes = int(y.max()) + 1
    if not num_classes <= count <= len(y) - num_classes:
        raise ConfigError(
            describe(
                who,
                expected=f"0 or {num_classes}..{len(y) - num_classes} validation examples",
                got=f"validation={count}",
                hint="A tenth of the training set is usual; 0 leaves it whole.",
            )
        )
    rest, held_out = train_test_split(
        range(len(y)), test_size=count, random_state=_SPLIT_SEED, stratify=y.numpy()
    )
    return (x[rest], y[rest]), (x[held_out], y[held_out])


def _select(pair: Pair, classes: Sequence[int]) -> Pair:
    x, y = pair
    keep = torch.isin(y, torch.tensor(classes))
    x, y = x[keep], torch.searchsorted(torch.tensor(classes), y[keep])
    if not x.is_floating_point():
        return x.to(torch.get_default_dtype()).div_(255.0), y
    return x.to(torch.get_default_dtype()), y


# -- reading -------------------------------------------------------------------------------------


def _read_digits(root: Path, download: bool) -> tuple[Pair, Pair]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).reshape(-1, 1, 8, 8) / 16.0
    train, test = _split((x, torch.from_numpy(labels).long()), 600, who="digits")
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
            describe(
                title,
                expected=f"its files under {str(root)!r}, or a network to fetch them from",
                got=f"{type(error).__name__}: {error}",
                hint="Pass --data-dir (data_dir=) or set BAYESDROP_DATA to a folder that has "
                "them, delete damaged files, or use the embedded data set 'digits'.",
            )
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
            describe(
                "CIFAR-10 (JPEG q75)",
                expected=f"the archive {name} in {str(root)!r}",
                got="no such file",
                hint="It cannot be downloaded. Pass --data-dir (data_dir=) or set BAYESDROP_DATA "
                "to the folder that has it, or use 'cifar10'.",
            )
        )
    try:
        with tarfile.open(path, "r:xz") as archive:
            splits = _unpack(archive)
        return _stack(splits["train"]), _stack(splits["test"])
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            describe(
                "CIFAR-10 (JPEG q75)",
                expected=f"images as {{train,test}}/{{class}}/*.jpg in {str(path)!r}",
                got=f"{type(error).__name__}: {error}",
                hint="Is the archive complete? Copy it again.",
            )
        ) from error


def _unpack(archive: tarfile.TarFile) -> dict[str, list[tuple[str, Tensor, int]]]:
    import io

    import numpy as np
    from PIL import Image

    splits: dict[str, list[tuple[str, Tensor, int]]] = {}
    for member in archive:
        parts = Path(member.name).parts
        file = archive.extractfile(member) if member.name.endswith(".jpg") else None
        if file is None:
            continue
        pixels = np.array(Image.open(io.BytesIO(file.read())).convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        label = _CIFAR_CLASSES.index(parts[-2])
        splits.setdefault(parts[-3], []).append((member.name, image, label))
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
        "torchvision",
    ),
    DataSource(
        "fashion-mnist", "Fashion-MNIST", (1, 28, 28), _FASHION_CLASSES, 5000,
        _read_torchvision("FashionMNIST", "Fashion-MNIST"), "torchvision",
    ),
    DataSource(
        "cifar10", "CIFAR-10", (3, 32, 32), _CIFAR_CLASSES, 5000,
        _read_torchvision("CIFAR10", "CIFAR-10"), "torchvision",
    ),
    DataSource(
        "cifar10-jpeg75", "CIFAR-10 (JPEG q75)", (3, 32, 32), _CIFAR_CLASSES, 5000,
        _read_jpeg_archive, "a local archive; not comparable with CIFAR-10",
    ),
):  # fmt: skip
    register_data(_source)
