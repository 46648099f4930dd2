"""Why a step failed: the data set's row, the site, or what the network's last layer does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bayesdrop.errors import BayesdropWarning, DataError, DivergenceError
from bayesdrop.inference.batches import Data, as_tensors
from bayesdrop.inference.splitting import split
from bayesdrop.ops.transforms import takes_plain_operations
from bayesdrop.program.finite import row_not_finite
from bayesdrop.program.inputs import Inputs, tensors_of
from bayesdrop.program.program import Program
from bayesdrop.typing import LossTerms

# Squares of larger numbers, summed over a data set, leave the range of float32.
_LARGE = 1e15
_MAX_ROWS_SEARCHED = 20_000


def bad_rows(who: str, data: Data, x: Inputs, y: Tensor | None, where: str) -> DataError | None:
    """Return the error for inputs or targets that are not finite; None if all are.

    Args:
        who: Who found them, for the message.
        data: The data set that the batch is from, in which the row is looked up.
        x: A batch of inputs.
        y: Its targets.
        where: When they were found, such as ``"at step 3"``.
    """
    for index, (name, values) in enumerate((("inputs", x), ("targets", y))):
        if values is None or row_not_finite(values) is None:
            continue
        row = _row_in(data, index)
        place = f"row {row} of the data set"
        if row is None:  # such as one that augmentation made
            place = f"row {row_not_finite(values)} of the batch"
        site = ", site 'obs'" if name == "targets" else ""
        hint = "Clean the data, for example with torch.nan_to_num."
        if name == "targets":
            hint = "Leave out rows without a target."
        return DataError(
            who,
            expected=f"finite {name}",
            got=f"NaN or infinity in {place} {where}{site}",
            hint=hint,
        )
    return None


def _row_in(data: Any, index: int) -> int | None:
    """Return the first row of a data set whose inputs (0) or targets (1) are not finite."""
    source = data.dataset if isinstance(data, DataLoader) else data
    if not isinstance(source, list):
        tensors = as_tensors(source)
        if tensors is not None:
            return row_not_finite(tensors[index]) if index < len(tensors) else None
    for row, item in enumerate(islice(_rows(source), _MAX_ROWS_SEARCHED)):
        parts = split(item)
        if index < len(parts) and not _is_finite(parts[index]):
            return row
    return None


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    parts = value if isinstance(value, tuple | list) else [value]
    return all(bool(torch.isfinite(torch.as_tensor(part)).all()) for part in parts)


def _rows(source: Any) -> Iterator[Any]:
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return (source[index] for index in range(len(source)))
    return iter(())


def diagnose(
    bnn: Program, data: Data, x: Inputs, y: Tensor, terms: LossTerms, step: int
) -> Exception:
    """Return the error for a non-finite loss, naming the first cause found upstream.

    The order is: data, parameters, KL of each dropout layer, then the likelihood.

    Args:
        bnn: The network.
        data: The data set that the batch is from.
        x: The batch's inputs.
        y: Its targets.
        terms: The loss.
        step: Number of the step.
    """
    if bad := bad_rows("fit", data, x, y, f"at step {step}"):
        return bad
    site = "obs"
    for name, parameter in bnn.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            site = name
            break
    else:
        for path, owner in bnn.named_owners():
            if not bool(torch.isfinite(owner.kl_divergence())):
                site = f"{path}.{next(iter(owner.posterior()), 'penalty')}"
                break
    got = f"nll={terms.nll.item():g}, kl={terms.kl.item():g} at step {step}, site {site!r}"
    if site == "obs" and (too_large := _too_large(x, y)):
        return DataError(
            "fit",
            expected="a finite loss",
            got=f"{got}, with {too_large}",
            hint="Standardise them first; the weights are those before this step.",
        )
    return DivergenceError(
        "fit",
        expected="a finite loss",
        got=got,
        hint="Lower the learning rates or pass clip_norm; the last checkpoint is intact.",
    )


def bad_gradient(name: str, x: Inputs, y: Tensor, step: int) -> DivergenceError:
    """Return the error for a gradient that is not finite, of the parameter ``name``."""
    too_large = _too_large(x, y)
    hint = "The loss is finite: look for a root or quotient of zero in the network."
    if any(t.is_floating_point() and t.itemsize == 2 for t in tensors_of(x)):
        hint = "Keep the network in float32: its noise needs the digits. See fit's autocast."
    if too_large:
        hint = f"Standardise the data: they have {too_large}."
    return DivergenceError(
        "fit",
        expected="finite gradients",
        got=f"NaN or infinity in that of {name!r} at step {step}",
        hint=f"{hint} The weights are those before this step.",
    )


def _too_large(x: Inputs, y: Tensor) -> str:
    for name, values in (("targets", y), *(("inputs", t) for t in tensors_of(x))):
        if values.is_floating_point() and (size := float(values.abs().max())) > _LARGE:
            return f"{name} of size {size:g}"
    return ""


def bad_validation(data: Data, x: Inputs, y: Tensor, nll: float) -> Exception:
    """Return the error for a batch of validation data whose loss is not finite.

    Args:
        data: The validation data.
        x: A batch of it.
        y: Its targets.
        nll: Negative log-likelihood of the batch.
    """
    if bad := bad_rows("validation data", data, x, y, "in validation"):
        return bad
    too_large = _too_large(x, y)
    kind = DataError if too_large else DivergenceError
    return kind(
        "validation data",
        expected="a finite negative log-likelihood",
        got=f"{nll}, with {too_large or 'finite inputs and targets'}",
        hint="Standardise them first."
        if too_large
        else "Lower the learning rates or pass clip_norm; the last checkpoint is intact.",
    )


@contextmanager
def doubts_reported(bnn: Program, asked: bool) -> Iterator[None]:
    """Warn if the network's first output looks like what its likelihood makes of one.

    Or if it has no gradient though there are weights to be trained: the KL divergence has one, so
    that nothing else would tell.

    Args:
        bnn: The program.
        asked: Whether to look at all.
    """
    if not asked:
        yield
        return

    def look(network: nn.Module, inputs: object, output: object) -> None:
        # A look at the shapes, or a transform, whose values have no gradients of this kind.
        if not torch.is_grad_enabled() or takes_plain_operations():
            return
        handle.remove()
        if not isinstance(output, Tensor):
            return
        doubt = _no_gradient(bnn, output) or bnn.likelihood.doubt(output)
        if doubt is not None:
            warnings.warn(f"fit: {doubt}", BayesdropWarning, stacklevel=2)

    handle = cast(Any, bnn.network.register_forward_hook(look))
    try:
        yield
    finally:
        handle.remove()


def _no_gradient(bnn: Program, output: Tensor) -> str | None:
    # What a layer's own parameters get, such as rates, may come from the KL divergence alone.
    own = {p for _, owner in bnn.named_owners() for p in owner.parameters()}
    weights = [
        name for name, p in bnn.network.named_parameters() if p.requires_grad and p not in own
    ]
    if output.requires_grad or not weights:
        return None
    return (
        f"the network's output has no gradient, so that {weights[0]!r} would not be trained. Does "
        "forward detach it, make it anew or run under torch.no_grad()?"
    )
