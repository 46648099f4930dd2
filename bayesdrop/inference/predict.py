"""Monte Carlo prediction in bounded memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bayesdrop.errors import (
    ConfigError,
    DataError,
    DataWarning,
    DivergenceError,
    ReliabilityWarning,
)
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import (
    Data,
    batches,
    keeps_order,
    known_examples,
    sampler_of,
)
from bayesdrop.inference.moments import BY_SAMPLE, ClassMoments, ValueMoments
from bayesdrop.inference.open_units import open_passes
from bayesdrop.inference.predict_options import check_options, check_unbiased
from bayesdrop.inference.progress import progress_bar
from bayesdrop.metrics.monte_carlo import SampleGroups
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.nn import ImposedMasks
from bayesdrop.nn.mode import evaluation_mode, uncompiled
from bayesdrop.ops.seeding import draws_noise, seeded
from bayesdrop.program.checks import require_output
from bayesdrop.program.explaining import explained, finite_weights
from bayesdrop.program.finite import check_finite
from bayesdrop.program.inputs import Inputs, outputs_of
from bayesdrop.program.program import Pass, Program
from bayesdrop.typing import SharedBy

# More rows at a time gain nothing on a CPU: the activations then leave its caches.
_MAX_ROWS = 1000

NUM_GROUPS = 16
"""Groups of posterior samples from which the Monte Carlo error is estimated."""

_FEWEST = 8  # Samples that say anything about a spread.


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
    unbiased: bool = False,
    seed: int | None = None,
    progress: bool = True,
) -> Prediction:
    r"""Predict with the posterior: Monte Carlo through the model and guide, or in one pass.

    Each input's prediction has the same distribution as with ``pyro.infer.Predictive``; nothing
    but the requested moments is held in memory. The network runs in evaluation mode, so that masks
    are exact, and every module gets its own mode back afterwards. Calls from several threads take
    turns, with ``bnn.loss``, ``bnn(x)`` and ``fit`` in others too; a loop of one's own that calls
    ``network(x)`` beside it needs a copy of the network. Outputs in 16 bits, as under
    ``torch.autocast``, are taken as float32. Rows are in the order of the data; a DataLoader that
    shuffles without targets, or drops a last batch, is warned of.

    Args:
        bnn: The Bayesian network, or an auto-encoder: it then predicts a replicated input, over
            draws of the global rates and of each example's own latents.
        data: Inputs, a pair ``(x, y)``, a Dataset or a DataLoader; arrays and tables as in
            ``fit``, with the same columns. A network with several inputs takes ``((x1, x2), y)``,
            ``((x1, x2), None)`` without targets, or a mapping of the arguments' names, whose
            ``"labels"`` are the targets.
        num_samples: Posterior samples :math:`S`. A network without Bayesian layers has nothing to
            sample and runs once. With random weights as many copies of them are held in memory.
        sample: Whether to sample; False runs once with the mean masks (and mean weights), an
            approximation.
        shared_by: ``"batch"`` draws one mask per posterior sample for all inputs: the prediction
            of each input has the same distribution, only the correlation between inputs differs,
            and a pass computes the units that its masks leave open, and no others. (So it does
            with ``sample=False``. What no mask comes before is computed once for all samples; a
            network that torch.fx cannot trace, or that has hooks, runs as it is.) The draw does
            not depend on the batch size. ``"example"`` draws a mask for each input, as the model
            does; it is several times slower. Masks that depend on the input are always drawn per
            example.
        batch_size: Rows that pass through the network at a time; None derives it from
            ``memory_limit``.
        memory_limit: Bytes for the activations of one pass, taken as twice the size of all module
            outputs, and as many for ``samples`` (which exist twice while they are joined).
        keep_samples: Whether to return the prediction of each posterior sample.
        unbiased: Whether mutual information and epistemic variance are multiplied by
            :math:`S / (S - 1)`. Without it they are exact for the mixture of the samples, but
            smaller than the posterior's by that factor on average (the mutual information, to
            leading order), so that those of different :math:`S` cannot be compared. It needs two
            samples, and changes nothing where there is nothing to sample.
        seed: Makes the draw reproducible, whatever other threads draw, and leaves torch's global
            generator alone; None draws from the global generator.
        progress: Whether to show a bar on a terminal, after a second, unless another is shown.

    Raises:
        ConfigError: For bad options, if ``samples`` does not fit in ``memory_limit``, or if the
            network takes several inputs or returns no tensor.
        DataError: If an input is not finite; the message names the row. If it has another dtype
            than the network.
        DivergenceError: If a prediction is not finite.
        ShapeError: If there is not one output for each input.

    Warns:
        DataWarning: If the rows are in an unknown order, or some are left out.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> prediction = predict(bnn, torch.zeros(5, 4), num_samples=8)
        >>> prediction.samples.shape, prediction.mutual_information.shape
        (torch.Size([8, 5, 3]), torch.Size([5]))
    """
    prediction, _ = predict_in_groups(
        bnn,
        data,
        num_samples=num_samples,
        sample=sample,
        shared_by=shared_by,
        batch_size=batch_size,
        memory_limit=memory_limit,
        keep_samples=keep_samples,
        unbiased=unbiased,
        seed=seed,
        num_groups=0,
        bar="predict" if progress else "",
    )
    warn_of_order("predict", data, len(prediction.mean), prediction.y)
    return prediction


@torch.no_grad()
def predict_in_groups(  # noqa: C901 - checks, and one loop over rows
    bnn: Program,
    data: Data,
    *,
    num_samples: int = 64,
    sample: bool = True,
    shared_by: SharedBy = "batch",
    batch_size: int | None = None,
    memory_limit: int = 2**30,
    keep_samples: bool = True,
    unbiased: bool = False,
    seed: int | None = None,
    num_groups: int = NUM_GROUPS,
    bar: str = "",
) -> tuple[Prediction, SampleGroups | None]:
    """Return the same, and what groups of its posterior samples say, each for itself.

    From them ``monte_carlo_errors`` of ``bayesdrop.metrics`` tells how much figures of merit
    depend on which samples were drawn. There are none for fewer than eight samples, or if they do
    not fit in ``memory_limit``.

    Args:
        bnn: As in ``predict``, and so all others.
        data: Inputs and targets.
        num_samples: Posterior samples.
        sample: Whether to sample.
        shared_by: Who shares masks.
        batch_size: Rows at a time.
        memory_limit: In bytes.
        keep_samples: Whether samples are returned.
        unbiased: Whether the split of the uncertainty is corrected for the number of samples.
        seed: Of the samples.
        num_groups: Number of groups.
        bar: What stands before the bar of progress; without it there is none.
    """
    check_options(bnn, num_samples, shared_by, batch_size, memory_limit)
    check_unbiased(bnn, unbiased and sample and num_samples == 1)
    data = arrays_of("predict", bnn, data)
    device = next(bnn.parameters(), torch.empty(0)).device
    parts: list[dict[str, Tensor]] = []
    has_classes = True
    finite = finite_weights("predict", bnn.network)
    with finite, evaluation_mode(bnn), seeded(seed), progress_bar(bar, 1.0) as advance:
        # All global latents (and shared masks) come first: chunking cannot change the draw.
        passes: list[Pass] = [partial(outputs_of, bnn.network)]
        if sample:
            if bnn.is_random:  # too many are refused before they are drawn, which takes long
                least = _Kept(keep_samples, unbiased, 0)
                _fitting(least, num_samples, known_examples(data) or 1, 4, memory_limit)
            passes = bnn.posterior_passes(num_samples, shared_by=shared_by)
        groups = min(num_groups, len(passes)) if len(passes) >= _FEWEST else 0
        kept = _Kept(keep_samples, unbiased, groups)
        rows, start, count = batch_size or _MAX_ROWS, 0, known_examples(data)
        for x_batch, y_batch in batches(data, rows):
            if not parts:
                cost = probe(bnn, x_batch[:1].to(device))
                has_classes = cost.has_classes
                _warn_of_own_noise(bnn.network, x_batch[:1].to(device))
                if batch_size is None:
                    rows = max(1, min(_MAX_ROWS, memory_limit // cost.activations))
                expected = count or len(x_batch)
                passes = open_passes(bnn.network, passes, x_batch[:rows].to(device), expected)
            so_far = count or start + len(x_batch)  # a stream does not say how many are to come
            kept = _fitting(kept, len(passes), so_far, cost.result, memory_limit)
            for lower in range(0, len(x_batch), rows):
                x = x_batch[lower : lower + rows]
                y = None if y_batch is None else y_batch[lower : lower + rows]
                check_finite("predict", x, start, DataError, "input")
                counted = _counted(passes, advance, len(x) / (count or math.inf) / len(passes))
                moments = _predict_chunk(bnn, x.to(device), y, counted, kept)
                for name in ("mean", "variance"):
                    if name in moments:
                        values = moments[name]
                        check_finite("predict", values, start, DivergenceError, "prediction")
                parts.append({name: value.cpu() for name, value in moments.items()})
                start += len(x)
    if not parts:
        raise DataError(
            "predict",
            expected="at least one batch",
            got="none",
            hint="Does the DataLoader drop an incomplete last batch?",
        )
    joined = _joined(parts)
    found = None
    if "group_mean" in joined:
        found = SampleGroups(
            sizes=torch.tensor([len(passes[g::groups]) for g in range(groups)]),
            mean=joined["group_mean"],
            log_likelihood=joined.get("group_log_likelihood"),
            pit=joined.get("group_pit"),
        )
    fields: dict[str, Any] = {k: v for k, v in joined.items() if not k.startswith("group_")}
    fields["has_normal_noise"] = bnn.likelihood.has_normal_noise
    fields["has_classes"] = has_classes
    return Prediction(num_samples=len(passes), unbiased=unbiased, **fields), found


class _Kept(NamedTuple):
    """What is kept of each sample, or group of samples."""

    samples: bool
    unbiased: bool
    groups: int


def _fitting(
    kept: _Kept, num_samples: int, rows: int, bytes_per_row: int, memory_limit: int
) -> _Kept:
    """Return what of it fits into memory, or raise ``ConfigError`` if samples do not."""
    needed = num_samples * rows * bytes_per_row
    if kept.samples and needed > memory_limit:
        raise ConfigError(
            "predict",
            expected=f"samples of at most memory_limit={memory_limit} bytes",
            got=f"{num_samples} samples x {rows} inputs, {needed} bytes",
            hint="Pass keep_samples=False for the moments alone, or a larger memory_limit.",
        )
    fits = kept.groups * rows * bytes_per_row <= memory_limit
    return kept if fits else kept._replace(groups=0)


def _counted(passes: list[Pass], advance: Callable[[float], None], share: float) -> Iterator[Pass]:
    for run in passes:
        yield run
        advance(share)


def _predict_chunk(
    bnn: Program, x: Inputs, y: Tensor | None, passes: Iterable[Pass], kept: _Kept
) -> dict[str, Tensor]:
    make = ClassMoments if bnn.likelihood.is_classifier else ValueMoments
    moments = make(
        bnn.likelihood,
        y,
        keep_samples=kept.samples,
        unbiased=kept.unbiased,
        num_groups=kept.groups,
    )
    samples = []
    for run in passes:
        with explained("predict", bnn.network, x):
            output = run(x)
        value = moments.add(_output(output, len(x)))
        if kept.samples:
            samples.append(value.cpu())
    result = moments.result()
    if kept.samples:
        result["samples"] = torch.stack(samples)
    if y is not None:
        result["y"] = y
    return result


def _output(output: object, rows: int) -> Tensor:
    # Moments in 16 bits would not sum to one.
    given = require_output("predict", output, rows)
    return given.float() if torch.finfo(given.dtype).bits < 32 else given


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    # Labels of some rows may be none of the classifier's: then no row has a likelihood.
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {
        name: torch.cat([part.pop(name) for part in parts], dim=1 if name in BY_SAMPLE else 0)
        for name in names
    }


def warn_of_order(
    who: str, data: Data, rows: int, y: Tensor | None, *, stacklevel: int = 3
) -> None:
    """Warn, in the caller's caller, if a DataLoader left rows out or nobody knows their order."""
    if not isinstance(data, DataLoader):
        return
    count = rows if known_examples(data) is None else len(cast(Sized, data.dataset))
    drop = (getattr(part, "drop_last", False) for part in (data, data.batch_sampler, data.sampler))
    if rows < count and any(drop):
        warnings.warn(
            f"{who}: expected all {count} examples, got {rows}, since the DataLoader has "
            "drop_last=True. Pass drop_last=False.",
            DataWarning,
            stacklevel=stacklevel,
        )
    if y is None and not keeps_order(data):
        kind = type(sampler_of(data)).__name__
        what = "that shuffles" if kind == "RandomSampler" else f"whose {kind} chooses rows"
        warnings.warn(
            f"{who}: expected rows in the order of the data, got a DataLoader {what}, and "
            "no targets by which to tell the rows apart. Pass shuffle=False and no sampler.",
            DataWarning,
            stacklevel=stacklevel,
        )


class Cost(NamedTuple):
    """Bytes of one example: its activations, twice, and what is kept of its prediction.

    And whether it has one label for several probabilities.
    """

    activations: int
    result: int
    has_classes: bool


def probe(bnn: Program, x: Inputs) -> Cost:
    """Return the bytes that one example needs, from a pass with the mean masks."""
    sizes = [x.nbytes]

    def count(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [module.register_forward_hook(count) for module in bnn.network.modules()]
    try:
        # Of a single example no other dimension can be taken for the examples.
        explain = explained("predict", bnn.network, x)
        with uncompiled(), explain, ImposedMasks({}, num_rows=len(x)):
            output = outputs_of(bnn.network, x)
    finally:
        for handle in handles:
            handle.remove()
    given = _output(output, len(x))
    mean, variance = bnn.likelihood.moments(given)
    kept = mean.nbytes + (0 if variance is None else variance.nbytes)
    has_classes = False
    if bnn.likelihood.is_classifier:  # ones, since a distribution refuses NaN
        law = bnn.likelihood.distribution(torch.ones_like(given))
        has_classes = law.shape().numel() < mean.numel()
    return Cost(max(1, 2 * sum(sizes)), kept, has_classes)


def _warn_of_own_noise(network: nn.Module, x: Inputs) -> None:
    if draws_noise(lambda: outputs_of(network, x)):
        warnings.warn(
            "predict: expected a network whose only noise in evaluation mode is its masks, got "
            "one that draws more of its own in every pass, which samples of masks do not stand "
            "for: F.dropout(..., training=True), or without training=self.training? Write "
            "nn.Dropout, and bd.convert makes masks of it.",
            ReliabilityWarning,
            stacklevel=4,
        )
