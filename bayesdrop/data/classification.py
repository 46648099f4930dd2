"""Data sets of images and of texts by name, as tensors in memory with fixed splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bayesdrop.data.image_folder import PREFIX, folder_source
from bayesdrop.data.sources import DataSource, Pair, data_root, registry, split_off
from bayesdrop.data.text_source import (
    ids,
    is_text,
    read_splits,
    text_source,
    texts_from_elsewhere,
    title_of,
)
from bayesdrop.data.tokenizer import AnyVocabulary, Tokenizer
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.record import ShortRepr


@dataclass(frozen=True, repr=False)
class DataSplits(ShortRepr):
    """A data set in memory: images in [0, 1] of torch's default dtype, labels int64; or texts.

    A text is the numbers of its words, int64 ``(T,)``, padded where it has none any more.

    Args:
        name: The name it was asked for, such as ``"mnist:0-7"``.
        title: What to call it in a report.
        train: Images ``(N, C, H, W)`` or texts ``(N, T)``, and labels ``(N,)`` in
            ``0..num_classes - 1``.
        validation: Held out of the training set for choices; None if no example was asked for.
        test: For the final figures, untouched by any choice.
        num_classes: Number of labels.
        class_names: One name for each label.
        vocabulary: What the numbers of texts stand for; None for images.
    """

    name: str
    title: str
    train: Pair
    validation: Pair | None
    test: Pair
    num_classes: int
    class_names: tuple[str, ...]
    vocabulary: AnyVocabulary | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image, ``(C, H, W)``, or text, ``(T,)``."""
        return tuple(self.test[0].shape[1:])


def parse_name(name: str) -> tuple[DataSource, tuple[int, ...]]:
    """Split a name such as ``"mnist:0-4,7"`` into the source and its classes, sorted.

    Args:
        name: A registered name, optionally with ``:`` and classes or ranges of classes; or
            ``folder:PATH`` or ``text:PATH``, of which all classes are taken.

    Raises:
        ConfigError: If the name is unknown or the classes are not among the data set's.

    Example:
        >>> parse_name("digits:0-3,8")[1]
        (0, 1, 2, 3, 8)
    """
    if name.startswith(PREFIX) or is_text(name):
        source = text_source(name) if is_text(name) else folder_source(name)
        return source, tuple(range(len(source.class_names)))
    base, colon, suffix = name.partition(":")
    source = registry[base]
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
            f"data set {name!r}",
            expected=f"classes from 0-{total - 1} after the colon",
            got=repr(suffix),
            hint=f"Write {base}:0-7 for a range or {base}:0,2,5 for a list.",
        )
    return source, tuple(sorted(chosen))


def load_images(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation: int | None = None,
    download: bool = True,
    tokenizer: Tokenizer | None = None,
) -> DataSplits:
    """Load a data set of images, or of texts, into memory.

    The splits are fixed, stratified by class, and independent of any seed you set. A class subset
    such as ``"digits:0-7"`` is taken after splitting, and its labels are renumbered from 0.

    Args:
        name: A name of ``bayesdrop.data.registry``, optionally with classes: ``"mnist:0-7"``; or
            ``folder:PATH`` or ``text:PATH``.
        data_dir: Folder of the data files; the default is ``$BAYESDROP_DATA``, or ``data``.
        validation: Number of examples held out of the (whole) training set; 0 for none. The
            default depends on the data set.
        download: Whether to fetch files that are absent.
        tokenizer: Of a pretrained encoder, for texts: in place of a vocabulary of their own.

    Raises:
        ConfigError: If the name is unknown, or ``validation`` leaves too few training examples.
        DataError: If the files are absent and cannot be fetched, or are damaged.
        ImportError: If torchvision is needed and absent.

    Example:
        >>> data = load_images("digits:0-7")
        >>> data.image_shape, data.num_classes
        ((1, 8, 8), 8)
    """
    if is_text(name):
        return _load_texts(name, validation, tokenizer)
    source, classes = parse_name(name)
    own = source.read_validation
    if own is not None and validation:
        raise ConfigError(
            f"load_data({name!r})",
            expected="no number of validation examples, since the data set has its own",
            got=f"validation={validation}",
            hint="Leave it out, or pass 0 for none.",
        )
    train, test = source.read(data_root(data_dir), download)
    held_out: Pair | None = own() if own is not None and validation is None else None
    count = source.validation if validation is None else validation
    if own is None and count != 0:
        train, held_out = split_off(train, count, who=f"load_data({name!r})")
    return DataSplits(
        name=name,
        title=_title(source, name),
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
    vocabulary: AnyVocabulary | None = None,
) -> Tensor:
    """Load the test images of a data set that a network was not trained on.

    Args:
        name: The out-of-distribution data set, such as ``"fashion-mnist"`` or ``"digits:8-9"``.
        trained_on: The network's data set, such as ``"mnist"`` or ``"digits:0-7"``.
        data_dir: Folder of the data files.
        download: Whether to fetch files that are absent.
        vocabulary: Of a network of texts; None makes it of ``trained_on`` again.

    Returns:
        Images ``(N, C, H, W)``; or texts ``(N, T)``, of a set that is not divided all.

    Raises:
        ConfigError: If a name is unknown, or the two share classes.
        DataError: If the images have another shape than the network's.

    Example:
        >>> load_ood("digits:8-9", "digits:0-7").shape[1:]
        torch.Size([1, 8, 8])
    """
    source, classes = parse_name(name)
    trained, trained_classes = parse_name(trained_on)
    if is_text(name) and is_text(trained_on) and name.split("@")[0] != trained_on.split("@")[0]:
        vocabulary = read_splits(trained_on).vocabulary if vocabulary is None else vocabulary
        return texts_from_elsewhere(name, vocabulary, trained.image_shape[0])
    if is_text(name) != is_text(trained_on):
        raise DataError(
            f"out-of-distribution data {name!r}",
            expected=f"{'texts' if is_text(trained_on) else 'images'}, as in {trained_on!r}",
            got="texts" if is_text(name) else "images",
            hint="Write text:PATH for texts, folder:PATH for images.",
        )
    if source.image_shape != trained.image_shape and name.startswith(PREFIX):
        height, width = trained.image_shape[1:]
        raise DataError(
            f"out-of-distribution data {name!r}",
            expected=f"images of shape {trained.image_shape}, as in {trained_on!r}",
            got=f"images of shape {source.image_shape}",
            hint=f"Write folder:PATH@{height}."
            if trained.image_shape[0] == 3 and height == width
            else "Images in folders have three channels and are square if resized.",
        )
    if source.image_shape != trained.image_shape:
        same = [s.name for s in registry.values() if s.image_shape == trained.image_shape]
        raise DataError(
            f"out-of-distribution data {name!r}",
            expected=f"images of shape {trained.image_shape}, as in {trained_on!r}",
            got=f"images of shape {source.image_shape}",
            hint=f"Data sets with that shape: {', '.join(same)}; hold out classes of one of "
            f"them, as in {trained.name}:0-7 for training and {trained.name}:8-9 here.",
        )
    same_source = source.name.split("@")[0] == trained.name.split("@")[0]
    shared = sorted(set(classes) & set(trained_classes)) if same_source else []
    if shared:
        raise ConfigError(
            f"out-of-distribution data {name!r}",
            expected=f"classes that {trained_on!r} does not have",
            got=f"the shared classes {shared}",
            hint="Name a folder of other images."
            if name.startswith(PREFIX)
            else "Name other texts, text:PATH."
            if is_text(name)
            else f"Train on {trained.name}:0-7 and test on {trained.name}:8-9, say.",
        )
    return load_images(name, data_dir=data_dir, validation=0, download=download).test[0]


def _load_texts(name: str, validation: int | None, tokenizer: Tokenizer | None) -> DataSplits:
    found = read_splits(name, validation, tokenizer)
    return DataSplits(
        name=name,
        title=title_of(name),
        train=ids(found.train),
        validation=None if found.validation is None else ids(found.validation),
        test=ids(found.test),
        num_classes=found.num_classes,
        class_names=found.class_names,
        vocabulary=found.vocabulary,
    )


def _title(source: DataSource, name: str) -> str:
    classes = name.removeprefix(source.name).removeprefix(":")
    return f"{source.title} ({classes})" if classes else source.title


# -- splitting -----------------------------------------------------------------------------------


def _select(pair: Pair, classes: Sequence[int]) -> Pair:
    x, y = pair
    keep = torch.isin(y, torch.tensor(classes))
    x, y = x[keep], torch.searchsorted(torch.tensor(classes), y[keep])
    if not x.is_floating_point():
        return x.to(torch.get_default_dtype()).div_(255.0), y
    return x.to(torch.get_default_dtype()), y
