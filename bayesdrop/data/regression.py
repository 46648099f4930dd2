"""The UCI regression sets on the splits that the literature on Bayesian networks shares."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bayesdrop.data.sources import data_root
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.files import first_line
from bayesdrop.record import ShortRepr
from bayesdrop.registry import Registry

_LONGEST_INDEX = 2**20


class RegressionSource(NamedTuple):
    """A regression set: its file, its size, and how many splits the literature shares."""

    file: str
    num_rows: int
    num_features: int
    num_splits: int


regression_sets: Registry[RegressionSource] = Registry("regression set")
"""Name, such as ``"uci/yacht"``, to set."""
for _name, _source in {
    "boston": RegressionSource("bostonHousing", 506, 13, 20),
    "concrete": RegressionSource("concrete", 1030, 8, 20),
    "energy": RegressionSource("energy", 768, 8, 20),
    "kin8nm": RegressionSource("kin8nm", 8192, 8, 20),
    "naval": RegressionSource("naval-propulsion-plant", 11934, 16, 20),
    "power": RegressionSource("power-plant", 9568, 4, 20),
    "protein": RegressionSource("protein-tertiary-structure", 45730, 9, 5),
    "wine": RegressionSource("wine-quality-red", 1599, 11, 20),
    "yacht": RegressionSource("yacht", 308, 6, 20),
}.items():
    regression_sets.register(f"uci/{_name}", _source)


@dataclass(frozen=True, repr=False)
class RegressionSplit(ShortRepr):
    r"""One split of a regression set, standardised by its training rows.

    Inputs and targets are of torch's default dtype, shifted and divided by the mean and standard
    deviation of the training rows (what is constant is only shifted). An error in standardised
    targets times ``y_scale`` is one in their own units, and a log-likelihood there is lower by
    :math:`\log` ``y_scale``.

    Args:
        name: The name it was asked for.
        index: Number of the split, from 0.
        train: Inputs ``(N, D)`` and targets ``(N,)``.
        validation: Held out of the training rows for choices; None if none was asked for.
        test: Untouched by any choice.
        y_mean: Mean of the training targets, in their own units.
        y_scale: Their standard deviation, > 0; 1 if they are constant.
    """

    name: str
    index: int
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None
    test: tuple[Tensor, Tensor]
    y_mean: float
    y_scale: float


def load_regression(
    name: str,
    split: int = 0,
    *,
    validation: float = 0.0,
    data_dir: str | Path | None = None,
) -> RegressionSplit:
    """Load one of the published train/test splits of a UCI regression set.

    The file is ``{data_dir}/uci/{file}.npz``, for example ``uci/yacht.npz``, made from the files
    of the splits by you: arrays ``x`` (rows, features), ``y`` (rows,) and for each split
    ``test_index_0``, ``test_index_1``, ... with the numbers of its test rows; all other rows are
    training rows. Nothing is downloaded. The splits are those of Hernandez-Lobato and Adams
    (2015), https://arxiv.org/abs/1502.05336, and Gal and Ghahramani (2016),
    https://arxiv.org/abs/1506.02142.

    Args:
        name: A name of ``regression_sets``.
        split: Number of the split, from 0.
        validation: Fraction of the training rows, in [0, 1), to hold out: the same rows at every
            call. Standardisation is by the rows that remain.
        data_dir: Folder of the data files; the default is ``$BAYESDROP_DATA``, or ``data``.

    Raises:
        ConfigError: If the name or the split is unknown, or ``validation`` is out of range.
        DataError: If the file is absent, damaged, or of something else.

    Example:
        >>> load_regression("uci/yacht", 3, validation=0.2).train[0].shape  # doctest: +SKIP
        torch.Size([222, 6])
    """
    source = regression_sets[name]
    if not 0 <= split < source.num_splits or not 0.0 <= validation < 1.0:
        raise ConfigError(
            f"load_data({name!r})",
            expected=f"a split from 0 to {source.num_splits - 1} and 0 <= validation < 1",
            got=f"split={split}, validation={validation}",
            hint="The test rows of every split are given by the file.",
        )
    path = data_root(data_dir) / "uci" / f"{source.file}.npz"
    x, y, test = _read(path, name, source, split)
    is_test = torch.zeros(len(y), dtype=torch.bool)
    is_test[test] = True
    rows = (~is_test).nonzero().flatten()
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(split))]
    held_out = round(validation * len(rows))
    if held_out == len(rows):
        raise ConfigError(
            f"load_data({name!r})",
            expected="at least one training row",
            got=f"validation={validation} of {len(rows)} rows",
            hint="A tenth of them is usual.",
        )
    chosen, train = order[:held_out], order[held_out:]
    x_mean, x_scale = _location_and_scale(x[train])
    y_mean, y_scale = _location_and_scale(y[train])
    x, y = (x - x_mean) / x_scale, (y - y_mean) / y_scale
    dtype = torch.get_default_dtype()

    def take(index: Tensor) -> tuple[Tensor, Tensor]:
        return x[index].to(dtype), y[index].to(dtype)

    return RegressionSplit(
        name=name,
        index=split,
        train=take(train),
        validation=take(chosen) if held_out else None,
        test=take(test),
        y_mean=float(y_mean),
        y_scale=float(y_scale),
    )


def _read(
    path: Path, name: str, source: RegressionSource, split: int
) -> tuple[Tensor, Tensor, Tensor]:
    if not path.exists():
        raise DataError(
            f"regression set {name!r}",
            expected=f"the file {path} with arrays x, y and test_index_0 to "
            f"test_index_{source.num_splits - 1}",
            got="no such file",
            hint="Nothing is downloaded: see load_data for the format, and pass "
            "data_dir= or set BAYESDROP_DATA to the folder that has uci/.",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            x = _array(archive, "x", (source.num_rows, source.num_features))
            y = _array(archive, "y", (source.num_rows,))
            test = _array(archive, f"test_index_{split}", None, kinds="iu").long()
    except MemoryError:
        raise
    except Exception as error:  # whatever zipfile, zlib and NumPy make of damaged bytes
        raise _damaged(path, name, f"{type(error).__name__}: {first_line(error)}") from error
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise _damaged(path, name, "x or y that are not finite")
    if (
        not 0 < len(test) < len(y)
        or len(test.unique()) != len(test)
        or not 0 <= test.min() <= test.max() < len(y)
    ):
        raise _damaged(path, name, f"test_index_{split} that are no rows of x, or all of them")
    return x, y, test


def _array(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...] | None, kinds: str = "fiu"
) -> Tensor:
    """Return an array of a ``.npz`` file, whose header is looked at before it is made."""
    import numpy as np

    with archive.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        found, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
            file
        )
        size = archive.getinfo(f"{key}.npy").file_size
        if shape is not None and found != shape:
            raise ValueError(f"{key} of shape {found}")
        if dtype.kind not in kinds or len(found) != len(shape or (1,)):
            raise ValueError(f"{key} of {len(found)} dimensions and type {dtype}")
        if not 0 <= math.prod(found) * dtype.itemsize <= size:
            raise ValueError(f"{key} of shape {found} in {size:,} bytes")
    if shape is None and archive.getinfo(f"{key}.npy").file_size > _LONGEST_INDEX:
        raise ValueError(f"{key} of {found[0]:,} rows")
    with archive.open(f"{key}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, where the checksum is compared
    return torch.from_numpy(array.astype(np.float64 if "f" in kinds else np.int64))


def _location_and_scale(values: Tensor) -> tuple[Tensor, Tensor]:
    # By its range: the deviation of a constant is not zero where its mean is rounded.
    constant = values.amax(0) == values.amin(0)
    scale = torch.where(constant, 1.0, values.std(0, correction=0))
    return torch.where(constant, values[0], values.mean(0)), scale


def _damaged(path: Path, name: str, got: str) -> DataError:
    source = regression_sets[name]
    return DataError(
        f"regression set {name!r}",
        expected=f"in {path}, x of shape ({source.num_rows}, {source.num_features}), y of shape "
        f"({source.num_rows},), both finite, and distinct rows test_index_0 to "
        f"test_index_{source.num_splits - 1}",
        got=got,
        hint="Was the file made from another version of the data? See load_data.",
    )
