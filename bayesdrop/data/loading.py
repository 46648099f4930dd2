"""One call for every data set that has a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayesdrop.data.classification import load_images
from bayesdrop.data.regression import load_regression, regression_sets
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real


def load_data(
    name: str,
    *,
    split: int = 0,
    validation: float | None = None,
    data_dir: str | Path | None = None,
    download: bool = True,
) -> Any:
    """Load a data set into memory: ``train``, ``validation`` and ``test``, each ``(x, y)``.

    **Images**, such as ``"digits"`` or ``"mnist:0-7"`` (a subset of the classes, whose labels are
    renumbered from 0): the result is a ``DataSplits``. The splits are fixed, stratified by class,
    and independent of any seed you set.

    **A folder of images**, ``"folder:PATH"``, or ``"folder:PATH@64"`` for 64 x 64 pixels from the
    middle of each: subfolders named after the classes, as torchvision's ``ImageFolder`` has them,
    either ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (and ``val/CLASS/*.jpg``, which is the
    validation set, or the test set where there is no ``test``), or ``CLASS/*.jpg`` alone, of which
    a fifth becomes the test set. Without a validation set of its own a tenth of the training set
    is held out. Images become RGB, turned as their EXIF data say; all are read into memory.

    **Regression**, such as ``"uci/yacht"``: the result is a ``RegressionSplit``, standardised by
    its training rows, with one of the published train/test splits. The file is
    ``{data_dir}/uci/{file}.npz``, for example ``uci/yacht.npz``, made from the files of the splits
    by you: arrays ``x`` (rows, features), ``y`` (rows,) and for each split ``test_index_0``,
    ``test_index_1``, ... with the numbers of its test rows. Nothing is downloaded.

    Args:
        name: A name of ``bayesdrop.data.registry``, optionally with classes, or of
            ``bayesdrop.data.regression_sets``, or ``folder:PATH``.
        split: Number of the published split of a regression set, from 0.
        validation: What is held out of the training set. Images: the number of examples, 0 for
            none; the default depends on the data set. Regression: the fraction of the training
            rows, in [0, 1); none by default.
        data_dir: Folder of the data files; the default is ``$BAYESDROP_DATA``, or ``data``.
        download: Whether to fetch image files that are absent.

    Raises:
        ConfigError: If the name or the split is unknown, or ``validation`` is out of range.
        DataError: If the files are absent and cannot be fetched, or are damaged; of a folder it
            names the image.
        ImportError: If torchvision or Pillow is needed and absent.

    References:
        The splits of regression sets: Hernandez-Lobato, Adams (2015),
        https://arxiv.org/abs/1502.05336; Gal, Ghahramani (2016), https://arxiv.org/abs/1506.02142.

    Example:
        >>> data = load_data("digits:0-7")
        >>> data.image_shape, data.num_classes
        ((1, 8, 8), 8)
    """
    if not isinstance(name, str) or not (validation is None or is_real(validation)):
        raise ConfigError(
            "load_data",
            expected="the name of a data set, and a number for validation",
            got=f"{name!r}, validation={validation!r}",
            hint="For example load_data('digits', validation=100).",
        )
    if name in regression_sets or name.startswith("uci/"):
        held_out = 0.0 if validation is None else validation
        return load_regression(name, split, validation=held_out, data_dir=data_dir)
    if split != 0 or (validation is not None and validation % 1 != 0):
        raise ConfigError(
            f"load_data({name!r})",
            expected="split=0 and a whole number of validation examples for images",
            got=f"split={split}, validation={validation}",
            hint="Fractions and published splits are those of regression sets, as 'uci/yacht'.",
        )
    count = None if validation is None else int(validation)
    return load_images(name, data_dir=data_dir, validation=count, download=download)
