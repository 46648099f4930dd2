"""A test's block of ``isolated`` leaves the process as it was."""

import random

import numpy as np
import pyro
import torch

from bayesdrop.testing import isolated


def numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002 - what isolated is to restore


def test_parameters_random_numbers_and_settings_are_as_before():
    pyro.param("kept", torch.ones(2))
    dtype, validates = torch.get_default_dtype(), pyro.settings.get("validate_poutine")
    states = torch.get_rng_state(), random.getstate(), numpy_state()
    with isolated(3):
        assert list(pyro.get_param_store()) == []
        pyro.param("made", torch.zeros(2))
        torch.set_default_dtype(torch.float16)
        pyro.settings.set(validate_poutine=not validates)
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    assert list(pyro.get_param_store()) == ["kept"]
    assert torch.equal(pyro.param("kept"), torch.ones(2))
    assert torch.get_default_dtype() == dtype
    assert pyro.settings.get("validate_poutine") == validates
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), numpy_state()) == states[1:]
