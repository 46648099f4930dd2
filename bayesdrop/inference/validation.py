"""What an epoch reports of validation data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesdrop.errors import DataError
from bayesdrop.inference.batches import Data, batches
from bayesdrop.inference.diagnosis import bad_rows, bad_validation
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.checks import require_output
from bayesdrop.program.explaining import explained
from bayesdrop.program.finite import is_invalid_value
from bayesdrop.program.inputs import Inputs
from bayesdrop.program.program import Program


def device_of(bnn: Program) -> torch.device:
    """Return the device of a network's parameters."""
    return next(iter(bnn.parameters()), torch.empty(0)).device


@torch.no_grad()
def validate(bnn: Program, data: Data, batch_size: int = 1000) -> dict[str, float]:
    """Return ``val_nll`` (nats per example) and ``val_error`` (percent) or ``val_rmse``.

    One pass with the mean mask; every module gets its mode back.

    Raises:
        DataError: If inputs or targets are missing or not finite; it names the row.
        DivergenceError: If the loss is not finite though they are.
    """
    device = device_of(bnn)
    nll = wrong = square = 0.0
    count = values = 0
    with evaluation_mode(bnn):
        for x, y in batches(data, batch_size, device=device):
            if y is None:
                raise DataError(
                    "validation data",
                    expected="inputs and targets",
                    got="inputs only",
                    hint="Pass (x, y), or a mapping with 'labels'.",
                )
            with explained("validation data", bnn.network, x):
                output = require_output("validation data", bnn(x), len(x))
            nll += _validation_nll(bnn, data, output, x, y)
            mean, _ = bnn.likelihood.moments(output)
            if bnn.likelihood.is_classifier:
                mean, target = bnn.likelihood.flatten_labels(mean, y)
                guess = mean.round() if mean.ndim == 1 else mean.argmax(1)
                wrong += float((guess != target).sum())
            else:
                target = bnn.likelihood.target(output, y)
                square += float((mean - target).square().sum())
            count += len(x)
            values += target.numel()
    if values == 0:
        raise DataError(
            "validation data",
            expected="at least one label",
            got=f"{count} examples, all labels missing",
            hint="Leave them out, or pass no validation data.",
        )
    if bnn.likelihood.is_classifier:
        return {"val_nll": nll / count, "val_error": 100.0 * wrong / values}
    return {"val_nll": nll / count, "val_rmse": math.sqrt(square / values)}


def _validation_nll(bnn: Program, data: Data, output: Tensor, x: Inputs, y: Tensor) -> float:
    try:
        nll = -float(bnn.likelihood.log_density(output, y).sum())
    except ValueError as error:
        if is_invalid_value(error):
            raise bad_validation(data, x, y, math.nan) from error
        if bad := bad_rows("validation data", data, x, y, "in validation"):
            raise bad from error
        raise
    if not math.isfinite(nll):
        raise bad_validation(data, x, y, nll)
    return nll
