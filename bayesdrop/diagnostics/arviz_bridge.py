"""What ArviZ 0.20 to 0.23 and ArviZ 1.x do differently; every ArviZ call of the package."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np


def import_arviz() -> ModuleType:
    """Import ArviZ without its once-a-day advertisement of version 1.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
            import arviz
    except ImportError as error:
        raise ImportError(
            "InferenceData, loo and the guide's diagnosis need ArviZ: "
            "pip install 'bayesdrop[analysis]'."
        ) from error
    return arviz


def data_from_dict(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, np.ndarray],
    attrs: Mapping[str, Any],
) -> Any:
    """Return an ``InferenceData`` (0.x) or ``DataTree`` (1.x).

    Args:
        groups: Arrays by group and name; those of draws have chain and draw in front.
        dims: Names of an array's other dimensions.
        coords: Coordinates of the dimensions.
        attrs: Attributes of the whole.
    """
    az = import_arviz()
    names = {"dims": dims, "coords": coords}
    if _is_version_1(az):
        return az.from_dict(groups, attrs={"/": dict(attrs)}, **names)
    return az.from_dict(**groups, attrs=dict(attrs), **names)


def pareto_smooth(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Pareto-smoothed log weights, which sum to one, and the Pareto shape k.

    Where the largest ratios are equal there is no tail: k is minus infinity.

    Args:
        log_ratios: Log importance ratios ``(..., S)``, float64.

    Returns:
        Weights ``(..., S)`` and k ``(...)``.
    """
    az = import_arviz()
    # From a largest ratio of one, so that no weight falls below the smallest float.
    log_ratios = log_ratios - log_ratios.max(-1, keepdims=True)
    # No tail to smooth, which ArviZ 1 refuses: any ratios stand in for these.
    count = log_ratios.shape[-1]
    tail = math.ceil(min(count / 5, 3 * math.sqrt(count))) + 1
    largest = np.sort(log_ratios, axis=-1)[..., -tail:]
    equal = np.ptp(largest, axis=-1)[..., np.newaxis] < 1e-8
    given = log_ratios
    log_ratios = np.where(equal, np.linspace(-1.0, 0.0, count), given)
    if _is_version_1(az):
        array_stats = importlib.import_module("arviz_stats.base").array_stats
        # 1.x takes log-likelihoods, for leaving one out, and negates them itself.
        smoothed, k = array_stats.psislw(-log_ratios, axis=-1)
    else:
        smoothed, k = az.psislw(log_ratios)
    smoothed = np.asarray(smoothed, dtype=np.float64)
    smoothed = np.where(equal, given, smoothed)
    smoothed = smoothed - np.logaddexp.reduce(smoothed, axis=-1, keepdims=True)
    return smoothed, np.where(equal[..., 0], -np.inf, k)


def _is_version_1(az: ModuleType) -> bool:
    return int(az.__version__.split(".")[0]) >= 1
