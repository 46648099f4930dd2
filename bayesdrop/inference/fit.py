"""The training loop: Pyro's objective at plain torch's speed, resumable to the bit."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import torch
from pyro.infer import ELBO
from torch import nn

from bayesdrop.errors import (
    BayesdropWarning,
    ConfigError,
    unknown_name,
)
from bayesdrop.inference.batches import Data, num_examples
from bayesdrop.inference.monitor import Monitor
from bayesdrop.inference.objectives import Objective, as_objective
from bayesdrop.inference.schedules import Schedule, as_schedule, steps
from bayesdrop.inference.training import (
    Record,
    TrainingRun,
    schedulable_buffers,
    sweep,
    validate,
)
from bayesdrop.nn import LatentOwner, StickBreakingDropout
from bayesdrop.ops.stable import flushed_denormals
from bayesdrop.program.program import Program
from bayesdrop.typing import NumMasks

Callback: TypeAlias = Callable[[Any, Record], object]
OptimizerFactory: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

_TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What ``fit`` did.

    Attributes:
        history: One record per epoch: ``epoch``, ``loss``, ``nll`` and ``kl`` (nats per example),
            ``units``, ``learning_rate``, ``kl_weight``, ``num_masks``, ``seconds``, what layers
            declare as schedulable (``temperature``), with random weights ``weights`` (those kept),
            and with validation data ``val_nll`` and ``val_error`` (percent) or ``val_rmse``.
        best_epoch: Epoch with the lowest monitored value, or the last one without validation.
        stopped_early: Whether patience or a callback ended the run.
        seconds: Training time over all sessions of the run.
    """

    history: list[Record]
    best_epoch: int
    stopped_early: bool
    seconds: float


def fit(  # noqa: PLR0913 - one keyword for each thing users ask a training loop for
    bnn: Program,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 100,
    validation: Data | float | None = None,
    learning_rate: float = 1e-3,
    variational_learning_rate: float = 1e-2,
    weight_decay: float = 1e-4,
    schedule: Schedule | Sequence[float] = (0.5, 0.8),
    buffers: Mapping[str, float | Schedule] | None = None,
    kl_weight: float | Schedule | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    monitor: str = "val_nll",
    objective: ELBO | Objective | None = None,
    num_masks: NumMasks = 1,
    optimizer: OptimizerFactory | None = None,
    callbacks: Iterable[Callback] = (),
    seed: int | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    resume: bool = True,
    progress: bool = True,
    tensorboard: str | os.PathLike[str] | None = None,
) -> FitResult:
    r"""Fit the posterior (and the weights) of ``bnn`` by minimising minus the ELBO.

    .. math::
        \frac1N \Bigl(-\frac{N}{B} \sum_n \log \frac1M \sum_m p(y_n \mid x_n, z_{nm})
        + w\,\mathrm{KL}\Bigr)

    Args:
        bnn: The network; trained in place, left in evaluation mode.
        data: Training data: ``(x, y)`` tensors, a Dataset, or a DataLoader (which keeps its own
            batch size).
        epochs: Epochs of the whole run, those of earlier sessions included.
        batch_size: Examples a step.
        validation: Validation data, or the fraction of ``data`` (tensors) to hold out, chosen by
            ``seed``; ``bnn.num_data`` is then set to what remains.
        learning_rate: Of network weights, posterior means of weights and the likelihood's
            parameters.
        variational_learning_rate: Of the dropout layers' parameters, and of the variances of
            random weights.
        weight_decay: L2 penalty on network weights only, a Gaussian prior on them; random weights
            have their own.
        schedule: Factor on both learning rates; a sequence means ``schedules.steps``.
        buffers: Name to value or schedule of buffers that layers declare as ``schedulable``, such
            as ``{"temperature": schedules.linear(1.0, 0.1)}``: all layers that have one of that
            name get it, the others are left.
        kl_weight: Factor on the KL divergences, > 0; None leaves it. ``schedules.warm_up`` is one.
        clip_norm: Largest gradient norm.
        patience: Stop after this many epochs without a better ``monitor``, and return to the best
            weights.
        monitor: ``"val_nll"``, ``"val_error"`` or ``"val_rmse"``.
        objective: What to minimise instead of the closed form ``bnn.loss``: a Pyro ELBO such as
            ``Trace_ELBO(4)`` or ``RenyiELBO(alpha=0, num_particles=8)`` (importance weights, with
            all masks inside the logarithm), or a function ``(bnn, x, y) -> LossTerms(nll, kl)`` in
            nats for the whole data set. An estimator of the gradient of one's own returns
            ``nll.detach() + surrogate - surrogate.detach()``: the value of the loss, with the
            gradient of the surrogate.
        num_masks: Masks :math:`M` of each example inside the logarithm, or ``"exact"``, as for
            ``bnn.loss``. 1 is the papers' objective, which prunes well and whose optimum is no
            posterior of the keep probabilities; 4 to 16 come near it, at :math:`M` times the
            network's pass.
        optimizer: Called with parameter groups, each with ``lr`` and ``weight_decay``; the
            default is fused Adam.
        callbacks: Each called as ``callback(bnn, record)`` after every epoch; True stops the run.
        seed: Seed of torch's global generator at the start of the run.
        checkpoint_dir: Where ``training.pt`` is written, atomically, to resume from.
        checkpoint_every: Epochs between checkpoints; the last epoch always writes one.
        resume: Whether to continue from ``checkpoint_dir``; False starts anew.
        progress: Whether to show a progress bar with loss, validation error and units kept.
        tensorboard: Folder for TensorBoard scalars.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If the data is empty, non-finite or has labels out of range.
        DivergenceError: If the loss or a gradient is not finite; names the step and the site or
            parameter. The weights are those before that step.
        CheckpointError: If a checkpoint cannot be written, or one found does not belong to this
            run; it is left alone.

    A run killed at any moment continues from its last checkpoint and ends with the same bits (on
    the same machine, with the same number of threads). Denormal floats are flushed to zero during
    training, since weight decay drives the weights of unused inputs into their range; at its end
    parameters below 1e-30 become zero.

    On shared cores run with ``OMP_NUM_THREADS=1`` (or ``torch.set_num_threads(1)``): torch's
    threads wait busily for one another, and small networks then take many times as long.
    """
    _check_settings(epochs, batch_size, patience, validation, monitor, checkpoint_every)
    epochs, batch_size = int(epochs), int(batch_size)  # as checkpoints have them
    patience = None if patience is None else int(patience)
    _check_rates(
        learning_rate=learning_rate,
        variational_learning_rate=variational_learning_rate,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    bnn.check_num_masks(num_masks)
    data, validation = _split(bnn, data, validation, seed)
    if num_examples(data) != bnn.num_data:
        warnings.warn(
            f"fit: bnn.num_data={bnn.num_data}, but there are {num_examples(data)} training "
            "examples, so the KL is weighted for another data set. Set bnn.num_data.",
            BayesdropWarning,
            stacklevel=2,
        )
    run = TrainingRun(
        bnn=bnn,
        optimizer=_make_optimizer(
            bnn, optimizer, learning_rate, variational_learning_rate, weight_decay
        ),
        schedule=schedule if callable(schedule) else steps(*schedule),
        buffers=_buffer_schedules(bnn, buffers or {}),
        kl_weight=None if kl_weight is None else as_schedule(kl_weight),
        objective=as_objective(objective, num_masks),
        clip_norm=clip_norm,
        epochs=epochs,
        settings={
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "variational_learning_rate": variational_learning_rate,
            "weight_decay": weight_decay,
            "clip_norm": clip_norm,
            "patience": patience,
            "monitor": monitor,
            "num_masks": num_masks,
            "seed": seed,
        },
    )
    path = None if checkpoint_dir is None else Path(checkpoint_dir) / "training.pt"
    resumed = path is not None and resume and path.exists()
    if resumed and path is not None:
        run.restore(path)
    elif seed is not None:
        torch.manual_seed(seed)
    if path is not None:
        sweep(path)
    display = Monitor(run.history, epochs, num_examples(data), progress, tensorboard)
    with display, flushed_denormals():
        while run.epoch < epochs and not run.stopped_early:
            record = run.train_epoch(data, batch_size, display)
            if validation is not None:
                record |= validate(bnn, validation)
            run.finish_epoch(record, monitor if validation is not None else None, patience)
            display.epoch(record)
            if any([callback(bnn, record) is True for callback in callbacks]):
                run.stopped_early = True
            last = run.epoch == epochs or run.stopped_early
            if path is not None and (last or run.epoch % checkpoint_every == 0):
                run.save(path)
    if patience is not None and run.best_state is not None:
        bnn.load_state_dict(run.best_state)
    _zero_tiny(bnn)
    bnn.eval()
    _check_posteriors(bnn)
    seconds = sum(record["seconds"] for record in run.history)
    return FitResult(run.history, run.best_epoch, run.stopped_early, seconds)


@torch.no_grad()
def _zero_tiny(bnn: Program) -> None:
    # Zero is the same to float32's precision, and a product with such a weight is denormal: the
    # network would predict several times more slowly.
    for parameter in bnn.parameters():
        parameter[parameter.abs() < _TINY] = 0.0


def _check_posteriors(bnn: Program) -> None:
    for _, layer in bnn.named_dropout_layers():
        if isinstance(layer, StickBreakingDropout):
            layer.check_posterior()


def _buffer_schedules(
    bnn: Program, buffers: Mapping[str, float | Schedule]
) -> dict[str, Schedule]:
    for name in buffers:
        if name not in (available := schedulable_buffers(bnn)):
            raise unknown_name("schedulable buffer", name, available or ("none",))
    return {name: as_schedule(value) for name, value in buffers.items()}


def _check_settings(
    epochs: int,
    batch_size: int,
    patience: int | None,
    validation: Data | float | None,
    monitor: str,
    checkpoint_every: int,
) -> None:
    for name, value in (
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("checkpoint_every", checkpoint_every),
        ("patience", 1 if patience is None else patience),
    ):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ConfigError(
                "fit",
                expected=f"{name} >= 1, an int",
                got=f"{name}={value!r}",
                hint="Pass a whole number of at least 1.",
            )
    if patience is not None and validation is None:
        raise ConfigError(
            "fit",
            expected="validation data for early stopping",
            got=f"patience={patience} and validation=None",
            hint="Pass validation=(x, y) or a fraction such as validation=0.1.",
        )
    if monitor not in ("val_nll", "val_error", "val_rmse"):
        raise ConfigError(
            "fit",
            expected="monitor to be val_nll, val_error or val_rmse",
            got=repr(monitor),
            hint="The default is val_nll.",
        )


def _check_rates(clip_norm: float | None, **rates: float) -> None:
    for name, value in rates.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(
                "fit",
                expected=f"{name} to be finite and >= 0",
                got=f"{name}={value}",
                hint="0 leaves it out.",
            )
    if clip_norm is not None and not clip_norm > 0:
        raise ConfigError(
            "fit",
            expected="clip_norm > 0",
            got=f"clip_norm={clip_norm}",
            hint="None does not clip.",
        )


def _split(
    bnn: Program, data: Data, validation: Data | float | None, seed: int | None
) -> tuple[Data, Data | None]:
    if not isinstance(validation, float):
        return data, validation
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors  # type: ignore[assignment]
    held_out = round(num_examples(data) * validation)
    if not isinstance(data, tuple | list) or not 0 < held_out < num_examples(data):
        raise ConfigError(
            "fit",
            expected="a validation fraction in (0, 1) of (x, y) tensors",
            got=f"validation={validation} of {type(data).__name__}",
            hint="Pass validation data instead.",
        )
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    order = torch.randperm(num_examples(data), generator=generator)
    x, y = data
    bnn.num_data = len(order) - held_out
    rest = order[held_out:]
    return (x[rest], y[rest]), (x[order[:held_out]], y[order[:held_out]])


def _make_optimizer(
    bnn: Program,
    factory: OptimizerFactory | None,
    learning_rate: float,
    variational_learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    owners = [m for m in bnn.modules() if isinstance(m, LatentOwner)]
    variational = {id(p) for owner in owners for p in owner.variational_parameters()}
    means = {id(p) for owner in owners for p in owner.mean_parameters()}
    likelihood = {id(parameter) for parameter in bnn.likelihood.parameters()}
    members: Mapping[str, list[nn.Parameter]] = {
        "weights": [],
        "means": [],
        "likelihood": [],
        "variational": [],
    }
    for parameter in bnn.parameters():
        if parameter.requires_grad:
            kind = "variational" if id(parameter) in variational else "weights"
            kind = "means" if id(parameter) in means else kind
            members["likelihood" if id(parameter) in likelihood else kind].append(parameter)
    rates = {
        "weights": (learning_rate, weight_decay),
        "means": (learning_rate, 0.0),  # their prior is in the KL
        "likelihood": (learning_rate, 0.0),
        "variational": (variational_learning_rate, 0.0),
    }
    groups = [
        {"params": members[kind], "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for kind, (rate, decay) in rates.items()
        if members[kind]
    ]
    if not groups:
        raise ConfigError(
            "fit",
            expected="parameters to train",
            got="none that require a gradient",
            hint="Were they frozen with requires_grad_(False)?",
        )
    if factory is not None:
        return factory(groups)
    return torch.optim.Adam(groups, fused=_can_fuse(bnn))


def _can_fuse(bnn: Program) -> bool:
    return all(
        parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()
        for parameter in bnn.parameters()
    )
