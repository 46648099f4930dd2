import math

import pytest
import torch
from sklearn.metrics import mean_squared_error

from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics import root_mean_squared_error


def test_agrees_with_sklearn():
    mean, y = torch.randn(50, 2), torch.randn(50, 2)
    expected = math.sqrt(mean_squared_error(y.numpy(), mean.numpy()))
    assert root_mean_squared_error(mean, y) == pytest.approx(expected)


def test_flat_targets_go_with_one_output_and_do_not_broadcast():
    mean, y = torch.randn(50, 1), torch.randn(50)
    expected = float((mean[:, 0] - y).square().mean().sqrt())
    assert root_mean_squared_error(mean, y) == pytest.approx(expected)
    with pytest.raises(ShapeError, match=r"targets of shape \(50, 2\), got \(50,\)"):
        root_mean_squared_error(mean.expand(50, 2), y)
    with pytest.raises(ShapeError, match=r"targets of shape \(50, 1\), got \(49,\)"):
        root_mean_squared_error(mean, y[1:])


def test_bad_values_are_refused():
    with pytest.raises(DataError, match="got nan or infinity"):
        root_mean_squared_error(torch.tensor([math.nan]), torch.zeros(1))
    with pytest.raises(DataError, match="got none"):
        root_mean_squared_error(torch.zeros(0), torch.zeros(0))
