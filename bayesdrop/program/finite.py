"""Which row of a batch is not finite, where a distribution refuses what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bayesdrop.errors import BayesdropError, DataError, DivergenceError
from bayesdrop.program.inputs import Inputs, SeveralInputs, named_inputs, tensors_of


def is_invalid_value(error: Exception) -> bool:
    """Return whether a distribution has refused a parameter or a value, such as NaN."""
    return "satisfy the constraint" in str(error) or "within the support" in str(error)


def row_not_finite(values: object) -> int | None:
    """Return the first row of inputs or targets that has NaN or infinity; None if none has."""
    if not isinstance(values, Tensor | SeveralInputs):
        return None
    found = [row for part in tensors_of(values) if (row := _row_of(part)) is not None]
    return min(found, default=None)


def _row_of(values: Tensor) -> int | None:
    if not (values.is_floating_point() or values.is_complex()) or values.ndim == 0:
        return None
    finite = torch.isfinite(values).reshape(len(values), -1).all(1)
    return None if bool(finite.all()) else int((~finite).nonzero()[0])


def check_finite(
    who: str,
    values: Inputs,
    start: int,
    error: type[DataError] | type[DivergenceError],
    what: str,
) -> None:
    """Raise the error if a row holds NaN or infinity.

    Args:
        who: Who runs the network, for the message.
        values: Some rows.
        start: The number of the first.
        error: What is raised.
        what: What they are, ``"input"`` or what a network made of it.
    """
    if (row := row_not_finite(values)) is None:
        return
    hint = (
        "Clean the data first, for example with torch.nan_to_num."
        if what == "input"
        else "Are the weights finite? Train with a smaller learning rate."
    )
    raise error(
        who,
        expected=f"finite {what}s",
        got=f"nan or infinity in {what} row {start + row}",
        hint=hint,
    )


@contextmanager
def finite_rows(
    who: str, x: Inputs, y: Tensor | None, output: Tensor | None = None
) -> Iterator[None]:
    """Say which row is not finite where a distribution, within the context, refuses a value.

    Args:
        who: Who runs the network, for the message.
        x: A batch of inputs.
        y: Its targets, if there are any.
        output: What the network made of the batch, if it has.

    Raises:
        DataError: If inputs or targets hold NaN or infinity, in the place of torch's error.
        DivergenceError: If the output alone does.
    """
    try:
        yield
    except BayesdropError:
        raise
    except ValueError as error:  # torch's validation names a whole tensor
        if not is_invalid_value(error):
            raise
        known = _not_finite(who, x, y, output)
        if known is None:
            raise
        raise known from None


def _not_finite(
    who: str, x: Inputs, y: Tensor | None, output: Tensor | None
) -> BayesdropError | None:
    for name, values in named_inputs(x):
        if (row := _row_of(values)) is not None:
            return DataError(
                who,
                expected=f"finite inputs{'' if name == 'x' else f' in {name}'}",
                got=f"NaN or infinity in row {row} of the batch",
                hint="Clean the data, for example with torch.nan_to_num.",
            )
    if y is not None and (row := _row_of(y)) is not None:
        return DataError(
            who,
            expected="finite targets",
            got=f"NaN or infinity in row {row} of the batch",
            hint="Leave out rows without a target.",
        )
    if output is not None and output.ndim and (row := _row_of(output)) is not None:
        return DivergenceError(
            who,
            expected="finite outputs of the network",
            got=f"NaN or infinity in {int((~torch.isfinite(output)).sum())} of {output.numel()}",
            hint="The inputs are finite. Are the weights?",
        )
    return None
