"""What a test of a probabilistic program is run in: a clean, seeded, validated process."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from bayesdrop.ops import noise
from bayesdrop.typing import Shape


@contextmanager
def isolated(seed: int = 0) -> Iterator[None]:
    """Clean the parameter store, validate, compute in float64, seed; restore all afterwards.

    Args:
        seed: Of Pyro, torch, NumPy and Python.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    store, settings = pyro.get_param_store().get_state(), pyro.settings.get()
    pyro.clear_param_store()
    with torch.random.fork_rng(), pyro.validation_enabled(True):
        _seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            pyro.settings.set(**settings)
            pyro.clear_param_store()  # what was made meanwhile; set_state adds to it
            pyro.get_param_store().set_state(store)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _seed(seed: int) -> None:
    # torch.manual_seed keeps a stack trace for each kind of device that is not there, which takes
    # longer than most tests.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def noise_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the noise of all layers depend on its shape alone, not on order or number of draws."""

    def uniform(shape: Shape, like: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(hash(tuple(shape)) % 2**32)
        u = torch.rand(tuple(shape), dtype=like.dtype, generator=generator)
        return u.clamp(1e-12, 1 - 1e-12)

    def uniforms(shapes: Sequence[Shape], like: Tensor) -> Tensor:
        return torch.cat([uniform(shape, like).flatten() for shape in shapes])

    def normal(shape: Shape, like: Tensor) -> Tensor:
        return torch.special.ndtri(uniform(shape, like))

    monkeypatch.setattr(noise, "uniform", uniform)
    monkeypatch.setattr(noise, "uniforms", uniforms)
    monkeypatch.setattr(noise, "normal", normal)
