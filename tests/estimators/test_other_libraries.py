"""What docs/estimators.md builds on the estimators with MAPIE and BoTorch."""

import re
import warnings
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "estimators.md"


def run(name):
    """Return the names of the page's example with a library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what they use that is deprecated
        pytest.importorskip(name)
        (code,) = (c for c in re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.S) if name in c)
        torch.set_default_dtype(torch.float32)
        names = {}
        exec(code, names)
    return names


def test_intervals_and_sets_of_mapie_hold_what_they_promise():
    names = run("mapie")
    # The coverage of 300 and the 400 counted ones: 4.26 standard deviations of both.
    margin = 4.26 * (0.9 * 0.1 * (1 / 300 + 1 / 400)) ** 0.5
    assert abs(names["held"] - 0.9) < margin and names["contained"] > 0.9 - margin


def test_an_ensemble_of_botorch_is_a_set_of_functions_with_gradients():
    names = run("botorch")
    model, bnn = names["model"], names["bnn"]
    x = torch.rand(3, 4, 2, dtype=torch.double, requires_grad=True)
    values = model(x)
    assert values.shape == (3, 32, 4, 1) and torch.equal(values, model(x))
    # A function knows one row from another by its inputs only, and keeps its masks.
    assert torch.allclose(model(x[1:2, 2:]), values[1:2, :, 2:])
    assert values.std(1).min() > 0
    (slope,) = torch.autograd.grad(values[1, :, 2].sum(), x)
    assert slope[1, 2].abs().min() > 0 and slope.abs().sum() == slope[1, 2].abs().sum()
    posterior = model.posterior(x)
    assert torch.allclose(posterior.mean, values.mean(1))
    assert torch.allclose(posterior.variance, values.var(1, correction=0), rtol=0.1)
    assert names["next_x"].shape == (1, 2) and not bnn.training
