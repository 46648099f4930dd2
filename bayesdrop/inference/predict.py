"""Monte Carlo prediction in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from bayesdrop.errors import (
    ConfigError,
    DataError,
    DivergenceError,
    ShapeError,
    unknown_name,
)
from bayesdrop.inference.batches import Data, batches, num_examples
from bayesdrop.inference.moments import BY_SAMPLE, ClassMoments, ValueMoments
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.program import Pass, Program
from bayesdrop.typing import SharedBy

# More rows at a time gain nothing on a CPU: the activations then leave its caches.
_MAX_ROWS = 1000


@torch.no_grad()
def predict(
    bnn: Program,
    data: Data,
    *,
    num_samples: int = 64,
    sample: bool = True,
    shared_by: SharedBy = "batch",
    batch_size: int | None = None,
    memory_limit: int = 2**30,
    keep_samples: bool = True,
    seed: int | None = None,
) -> Prediction:
    r"""Predict with the posterior: Monte Carlo through the model and guide, or in one pass.

    Each input's prediction has the same distribution as with ``pyro.infer.Predictive``; nothing
    but the requested moments is held in memory. The network runs in evaluation mode, so that masks
    are exact, and every module gets its own mode back afterwards.

    Args:
        bnn: The Bayesian network, or an auto-encoder: it then predicts a replicated input, over
            draws of the global rates and of each example's own latents.
        data: Inputs, a pair ``(x, y)``, a Dataset or a DataLoader.
        num_samples: Posterior samples :math:`S`. A network without Bayesian layers has nothing to
            sample and runs once. With random weights as many copies of them are held in memory.
        sample: Whether to sample; False runs once with the mean masks (and mean weights), an
            approximation.
        shared_by: ``"batch"`` draws one mask per posterior sample for all inputs: the prediction
            of each input has the same distribution, only the correlation between inputs differs,
            and a pass costs about as much as the plain network's. The draw does not depend on the
            batch size. ``"example"`` draws a mask for each input, as the model does; it is several
            times slower. Masks that depend on the input are always drawn per example.
        batch_size: Rows that pass through the network at a time; None derives it from
            ``memory_limit``.
        memory_limit: Bytes for the activations of one pass, taken as twice the size of all module
            outputs, and as many for ``samples`` (which exist twice while they are joined).
        keep_samples: Whether to return the prediction of each posterior sample.
        seed: Makes the draw reproducible and leaves torch's global generator alone; None draws
            from the global generator.

    Raises:
        ConfigError: For bad options, or if ``samples`` does not fit in ``memory_limit``.
        DataError: If an input is not finite; the message names the row.
        DivergenceError: If a prediction is not finite.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> prediction = predict(bnn, torch.zeros(5, 4), num_samples=8)
        >>> prediction.samples.shape, prediction.mutual_information.shape
        (torch.Size([8, 5, 3]), torch.Size([5]))
    """
    _check_options(bnn, num_samples, shared_by, batch_size, memory_limit)
    device = next(bnn.parameters(), torch.empty(0)).device
    with evaluation_mode(bnn), seeded(seed):
        # All global latents (and shared masks) come first: chunking cannot change the draw.
        passes: list[Pass] = [bnn.network]
        if sample:
            passes = bnn.posterior_passes(num_samples, shared_by=shared_by)
        parts: list[dict[str, Tensor]] = []
        rows, start = batch_size or _MAX_ROWS, 0
        for x_batch, y_batch in batches(data, rows):
            if not parts:
                cost = probe(bnn, x_batch[:1].to(device))
                if keep_samples:
                    _check_fits(len(passes), num_examples(data), cost.result, memory_limit)
                if batch_size is None:
                    rows = max(1, min(_MAX_ROWS, memory_limit // cost.activations))
            for lower in range(0, len(x_batch), rows):
                x = x_batch[lower : lower + rows]
                y = None if y_batch is None else y_batch[lower : lower + rows]
                check_finite(x, start, DataError, "input")
                moments = _predict_chunk(bnn, x.to(device), y, passes, keep_samples)
                for name in ("mean", "variance"):
                    if name in moments:
                        check_finite(moments[name], start, DivergenceError, "prediction")
                parts.append({name: value.cpu() for name, value in moments.items()})
                start += len(x)
    if not parts:
        raise DataError(
            "predict",
            expected="at least one batch",
            got="none",
            hint="Does the DataLoader drop an incomplete last batch?",
        )
    joined = {
        name: torch.cat([part.pop(name) for part in parts], dim=1 if name in BY_SAMPLE else 0)
        for name in list(parts[0])
    }
    return Prediction(num_samples=len(passes), **joined)


def _predict_chunk(
    bnn: Program,
    x: Tensor,
    y: Tensor | None,
    passes: list[Pass],
    keep_samples: bool,
) -> dict[str, Tensor]:
    likelihood = bnn.likelihood
    moments = (
        ClassMoments(likelihood)
        if likelihood.is_classifier
        else ValueMoments(likelihood, y, keep_samples=keep_samples)
    )
    samples = []
    for run in passes:
        output = run(x)
        if output.ndim == 0 or output.shape[0] != x.shape[0]:
            raise ShapeError(
                "predict",
                expected=f"one network output for each of {x.shape[0]} inputs",
                got=f"output of shape {tuple(output.shape)}",
                hint="Does the network keep the first dimension?",
            )
        value = moments.add(output)
        if keep_samples:
            samples.append(value.cpu())
    result = moments.result()
    if keep_samples:
        result["samples"] = torch.stack(samples)
    if y is not None:
        result["y"] = y
    return result


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw random numbers from a seed and restore the generators afterwards; None does nothing."""
    if seed is None:
        yield
        return
    # manual_seed reseeds every accelerator, so all their states are kept too.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


class Cost(NamedTuple):
    """Bytes of one example: its activations, twice, and what is kept of its prediction."""

    activations: int
    result: int


def probe(bnn: Program, x: Tensor) -> Cost:
    """Return the bytes that one example needs, from a pass with the mean masks."""
    sizes = [x.nbytes]

    def count(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [module.register_forward_hook(count) for module in bnn.network.modules()]
    try:
        mean, variance = bnn.likelihood.moments(bnn.network(x))
    finally:
        for handle in handles:
            handle.remove()
    kept = mean.nbytes + (0 if variance is None else variance.nbytes)
    return Cost(activations=max(1, 2 * sum(sizes)), result=kept)


def _check_options(
    bnn: object, num_samples: int, shared_by: str, batch_size: int | None, memory_limit: int
) -> None:
    if not isinstance(bnn, Program):
        raise ConfigError(
            "predict",
            expected="a BayesianNetwork or a VariationalAutoencoder",
            got=type(bnn).__name__,
            hint="Wrap the module: bd.BayesianNetwork(network, likelihood, num_data).",
        )
    if shared_by not in get_args(SharedBy):
        raise unknown_name("shared_by of predict", shared_by, get_args(SharedBy))
    if num_samples < 1 or memory_limit < 1 or (batch_size is not None and batch_size < 1):
        raise ConfigError(
            "predict",
            expected="num_samples, batch_size and memory_limit of at least 1",
            got=f"{num_samples}, {batch_size} and {memory_limit}",
            hint="The defaults are 64, None and 2**30 bytes.",
        )


def _check_fits(num_samples: int, rows: int, bytes_per_row: int, memory_limit: int) -> None:
    needed = num_samples * rows * bytes_per_row
    if needed > memory_limit:
        raise ConfigError(
            "predict",
            expected=f"samples of at most memory_limit={memory_limit} bytes",
            got=f"{num_samples} samples x {rows} inputs, {needed} bytes",
            hint="Pass keep_samples=False for the moments alone, or a larger memory_limit.",
        )


def check_finite(
    values: Tensor, start: int, error: type[DataError] | type[DivergenceError], what: str
) -> None:
    """Raise the error if a row holds NaN or infinity; ``start`` is the number of the first."""
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    row = start + int(bad.nonzero()[0])
    hint = (
        "Clean the data first, for example with torch.nan_to_num."
        if what == "input"
        else "Are the weights finite? Train with a smaller learning rate."
    )
    raise error(
        "predict",
        expected=f"finite {what}s",
        got=f"nan or infinity in {what} row {row}",
        hint=hint,
    )
