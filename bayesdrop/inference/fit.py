"""The training loop: Pyro's objective at plain torch's speed, resumable to the bit."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from pyro.infer import ELBO

from bayesdrop.errors import BayesdropWarning, ConfigError
from bayesdrop.inference import fingerprint, settings
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import (
    Data,
    as_tensors,
    data_set_sizes,
    known_examples,
    num_examples,
)
from bayesdrop.inference.buffers import buffer_schedules
from bayesdrop.inference.diagnosis import doubts_reported
from bayesdrop.inference.monitor import Monitor
from bayesdrop.inference.objectives import Objective, as_objective
from bayesdrop.inference.optimizers import OptimizerFactory, make_optimizer
from bayesdrop.inference.privacy import Privacy
from bayesdrop.inference.private import Private, private_steps
from bayesdrop.inference.ranks import Ranks
from bayesdrop.inference.schedules import Schedule, as_rate_schedule, as_schedule
from bayesdrop.inference.splitting import take
from bayesdrop.inference.training import (
    Record,
    TrainingRun,
    sweep,
)
from bayesdrop.inference.validation import validate
from bayesdrop.nn import StickBreakingDropout
from bayesdrop.ops.seeding import as_seed
from bayesdrop.ops.stable import flushed_denormals
from bayesdrop.program.checks import check_program
from bayesdrop.program.program import Program
from bayesdrop.typing import NumMasks

Callback: TypeAlias = Callable[[Any, Record], object]

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
        privacy: What a private run promises; None for all others. The promise is about the
            network: the losses in ``history`` come from the data without noise.
    """

    history: list[Record]
    best_epoch: int
    stopped_early: bool
    seconds: float
    privacy: Privacy | None = None


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
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None,
    compact_every: int | None = None,
    autocast: torch.dtype | None = None,
    distributed: bool = False,
    private: Private | None = None,
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
        bnn: The network; trained in place, left in evaluation mode. Modules that are in evaluation
            mode beside others in training mode stay so: a frozen part is neither normalised by its
            batch nor dropped from, in this call and the next. So does batch norm whose parameters
            all are frozen with ``requires_grad_(False)``.
        data: Training data: ``(x, y)`` tensors, arrays or tables (pandas, polars), a Dataset, or a
            DataLoader (which keeps its own batch size); also a stream (``IterableDataset``).
        epochs: Epochs of the whole run, those of earlier sessions included.
        batch_size: Examples a step. Where the network has batch norm a last batch of one example,
            from which it could not train, joins the batch before, also that of a DataLoader.
        validation: Validation data, or the fraction of ``data`` (tensors) to hold out, chosen by
            ``seed``; ``bnn.num_data`` is then set to what remains.
        learning_rate: Of network weights, posterior means of weights and the likelihood's
            parameters.
        variational_learning_rate: Of the dropout layers' parameters, and of the variances of
            random weights.
        weight_decay: L2 penalty on network weights only, a Gaussian prior on them; random weights
            have their own.
        schedule: Factor on both learning rates; a sequence means ``schedules.steps``. The default
            depends on ``epochs``, see below. ``()`` leaves them to what else changes them, such as
            a scheduler of torch's in a callback, which is refused otherwise.
        buffers: Name to value or schedule of buffers that layers declare as ``schedulable``, such
            as ``{"temperature": schedules.linear(1.0, 0.1)}``: all layers that have one of that
            name get it, the others are left.
        kl_weight: Factor on the KL divergences, > 0; None leaves it. ``schedules.warm_up`` is one.
        clip_norm: Largest gradient norm.
        patience: Stop after this many epochs without a better ``monitor``, and return to the best
            weights.
        monitor: ``"val_nll"``, ``"val_error"`` or ``"val_rmse"``.
        objective: What to minimise instead of the closed form ``bnn.loss``: a Pyro ELBO such as
            ``Trace_ELBO(4)`` or ``RenyiELBO(alpha=0, num_particles=8)`` (importance weights of
            whole batches, all masks inside the logarithm), or a function
            ``(bnn, x, y) -> LossTerms(nll, kl)`` in nats for the whole data set. An estimator of
            the gradient of one's own returns ``nll.detach() + surrogate - surrogate.detach()``:
            the value of the loss, with the gradient of the surrogate.
            ``bd.inference.objectives`` has ``ARM``, ``DisARM`` and ``Reinforce``, which train
            Bernoulli masks without a relaxation, and
            ``ImportanceWeighted``, the bound of several samples an example of an auto-encoder.
        num_masks: Masks :math:`M` of each example inside the logarithm, or ``"exact"``, as for
            ``bnn.loss``. 1 is the papers' objective, which prunes well and whose optimum is no
            posterior of the keep probabilities; 4 to 16 come near it, at :math:`M` times the
            network's pass.
        optimizer: Called with parameter groups, each with ``lr`` and ``weight_decay``, such as
            ``torch.optim.SGD``; the default is fused Adam. One with rates of its own, or an
            optimiser that is made already, keeps them; ``schedule`` multiplies them.
        compact_every: After so many epochs, and again and again, units that are pruned leave
            training for good; None lets them stay. See below.
        autocast: ``torch.bfloat16`` runs matrix products and convolutions of training in it, as
            ``torch.autocast`` does; parameters, latents and the KL keep their own dtype. None
            leaves all as it is.
        distributed: Whether the script runs in several processes, started by ``torchrun`` or with
            a process group, which share the work. See below.
        private: How to keep single examples private, such as
            ``bd.inference.private.Private(clip_norm=1.0, epsilon=3.0)``; see below.
        callbacks: Each called as ``callback(bnn, record)`` after every epoch; True stops the run.
            Of one with ``state_dict`` and ``load_state_dict`` checkpoints hold the state.
        seed: Seed of torch's global generator at the start of the run.
        checkpoint_dir: Where ``training.pt`` is written, atomically, to resume from.
        checkpoint_every: Epochs between checkpoints; the last epoch always writes one.
        resume: Whether to continue from ``checkpoint_dir``; False starts anew.
        progress: Whether to show a progress bar with loss, validation error and units kept.
        tensorboard: Folder for TensorBoard scalars.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If the data is empty, has labels out of range or other numbers than the network,
            or makes the loss of training or validation non-finite; names the data set's row.
        DivergenceError: If the loss or a gradient is not finite; names the step and the site or
            parameter. The weights are those before that step.
        CheckpointError: If a checkpoint cannot be written, or one found belongs to another run:
            other data, network, objective, optimiser, schedule or settings, which it names. It is
            left alone, and so is ``bnn``.

    A run killed at any moment continues from its last checkpoint and ends with the same bits (on
    the same machine, with the same number of threads). One that has ended continues with more
    ``epochs``, as if they had been asked for at the start, unless a schedule depends on their
    number, as fractions do: of that it warns, and goes on under the new schedule. Denormal floats
    are flushed to zero during training, since weight decay drives the weights of unused inputs
    into their range; at its end parameters below 1e-30 become zero.

    With ``compact_every`` a unit that its layer prunes (``kept()``), and that nothing behind its
    mask misses, is closed: its mask is 0 from then on, and neither its posterior nor the weights
    to and from it change. During an epoch such units are not there, in layers, batch norm, masks
    and the optimiser's state, so that a step costs what is left; with the same noise for the other
    units the result is that of masking them, to rounding. Between epochs (callbacks, validation,
    checkpoints) and in the end the network is whole, ``kept()`` and saved masks count its own
    units, and their divergence, as it was, stays in ``kl``. Units can leave that go into Linear
    layers and convolutions by way of rectifiers, pooling and the like, under every mask that
    prunes but sticks, orders and group lasso. All others stay. A pruned unit could have come back
    without it: close late, or seldom, where the posterior still moves.

    With ``distributed`` every process calls ``fit`` with the same arguments and data, and gets the
    same network. ``batch_size`` counts a step's examples in all processes together; of tensors
    each takes its share of every batch, a DataLoader needs a ``DistributedSampler``. Gradients are
    averaged, by gloo on CPUs and NCCL on GPUs, so that the KL counts once and a step is that of
    one process in expectation: the order of examples is common, masks are each process's own.
    Batch norm sees a process's share, and its running statistics are those of process 0 after each
    epoch. Process 0 writes checkpoints, from which all resume, TensorBoard and the progress bar;
    callbacks run in all.

    With ``private`` training is differentially private in the trained parameters (DP-SGD): a
    step's batch holds each example with probability ``batch_size / N``, an epoch has
    ``round(N / batch_size)`` steps, the gradient of each example is clipped and noise is added.
    The result's ``privacy``, which is also that of ``bnn``, says what is promised. Data are
    tensors or a Dataset. Batch norm is refused, and so is what would leak beside the noise, such
    as early stopping; running statistics of layers stay as they are. A checkpoint holds the state
    of the noise and is as secret as the data.

    On shared cores run with ``OMP_NUM_THREADS=1`` (or ``torch.set_num_threads(1)``): torch's
    threads wait busily for one another, and small networks then take many times as long.
    """
    check_program("fit", bnn)
    settings.check_trainable(bnn)
    settings.check_counts(epochs=epochs, batch_size=batch_size, checkpoint_every=checkpoint_every)
    settings.check_counts(
        patience=1 if patience is None else patience,
        compact_every=1 if compact_every is None else compact_every,
    )
    settings.check_monitor(monitor, patience, validation)
    settings.check_rates(
        learning_rate=learning_rate,
        variational_learning_rate=variational_learning_rate,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    seed = None if seed is None else as_seed(seed)
    settings.check_folders(checkpoint_dir=checkpoint_dir, tensorboard=tensorboard)
    called = settings.as_callbacks(callbacks)
    bnn.check_num_masks(num_masks)
    epochs, batch_size = int(epochs), int(batch_size)  # as checkpoints have them
    source = data = arrays_of("fit", bnn, data, fitting=True)
    steps = private_steps(
        private,
        bnn,
        data,
        batch_size,
        epochs,
        num_masks,
        patience=patience,
        validation=validation if isinstance(validation, Real) else None,
        objective=objective,
        clip_norm=clip_norm,
        autocast=autocast,
        distributed=distributed or None,
    )
    ranks = Ranks(bnn) if distributed else None
    leads = ranks is None or ranks.rank == 0
    run = TrainingRun(
        bnn=bnn,
        source=source,
        optimizer=make_optimizer(
            bnn,
            optimizer,
            learning_rate=learning_rate,
            variational_learning_rate=variational_learning_rate,
            weight_decay=weight_decay,
        ),
        schedule=as_rate_schedule(schedule),
        leaves_rates=schedule in ((), []),
        buffers=buffer_schedules(bnn, buffers),
        kl_weight=None if kl_weight is None else as_schedule(kl_weight, "kl_weight"),
        objective=steps or as_objective(objective, num_masks, autocast),
        clip_norm=clip_norm,
        epochs=epochs,
        compact_every=None if compact_every is None else int(compact_every),
        ranks=ranks,
        callbacks=called,
        settings={
            "batch_size": batch_size,
            "learning_rate": float(learning_rate),
            "variational_learning_rate": float(variational_learning_rate),
            "weight_decay": float(weight_decay),
            "clip_norm": None if clip_norm is None else float(clip_norm),
            "patience": None if patience is None else int(patience),
            "monitor": monitor,
            "num_masks": num_masks,
            "compact_every": None if compact_every is None else int(compact_every),
            "autocast": None if autocast is None else str(autocast),
            "processes": 1 if ranks is None else ranks.size,
            "seed": seed,
            "private": None if steps is None else steps.description(),
        },
    )
    data, validation = _split(bnn, data, validation, seed)
    _check_num_data(bnn, data)
    if ranks is not None:
        ranks.check(data, batch_size)
    path = None if checkpoint_dir is None else Path(checkpoint_dir) / "training.pt"
    if path is not None:
        run.description = {
            "data": fingerprint.describe_data("training", data),
            "validation": fingerprint.describe_data("validation", validation),
            "network": fingerprint.describe_network(bnn, run.frozen, run.buffers),
            "objective": fingerprint.describe_objective(objective, run.optimizer),
        }
    data = data if steps is None else steps.batches
    if path is not None and resume and path.exists():
        run.restore(path, data)
    elif seed is not None:
        torch.manual_seed(seed)
    if path is not None and leads:
        sweep(path)
    size = known_examples(data) or bnn.num_data
    display = Monitor(
        run.history, epochs, size, progress and leads, tensorboard if leads else None
    )
    with display, flushed_denormals(), doubts_reported(bnn, steps is None):
        while run.epoch < epochs and not run.stopped_early:
            record = run.train_epoch(data, batch_size, display)
            if validation is not None:
                record |= validate(bnn, validation)
            run.finish_epoch(record, monitor if validation is not None else None, patience)
            display.epoch(record)
            if any([settings.is_true(callback(bnn, record)) for callback in called]):
                run.stopped_early = True
            last = run.epoch == epochs or run.stopped_early
            if path is not None and leads and (last or run.epoch % checkpoint_every == 0):
                run.save(path, data)
    _finish(run, patience)
    bnn.privacy = privacy = None if steps is None else steps.privacy(run.step)
    seconds = sum(record["seconds"] for record in run.history)
    return FitResult(run.history, run.best_epoch, run.stopped_early, seconds, privacy)


def _finish(run: TrainingRun, patience: int | None) -> None:
    if patience is not None and run.best_state is not None:
        run.bnn.load_state_dict(run.best_state)
    _zero_tiny(run.bnn)
    run.bnn.eval()
    run.bnn.frozen = run.frozen
    for _, layer in run.bnn.named_dropout_layers():
        if isinstance(layer, StickBreakingDropout):
            layer.check_posterior()


@torch.no_grad()
def _zero_tiny(bnn: Program) -> None:
    # Zero is the same to float32's precision, and a product with such a weight is denormal: the
    # network would predict several times more slowly.
    for parameter in bnn.parameters():
        parameter[parameter.abs() < _TINY] = 0.0


def _check_num_data(bnn: Program, data: Data) -> None:
    sizes = data_set_sizes(data)
    if sizes and bnn.num_data not in sizes:
        count = " or ".join(str(size) for size in sorted(sizes))
        warnings.warn(
            f"fit: bnn.num_data={bnn.num_data}, but there are {count} training "
            "examples, so the KL is weighted for another data set. Set bnn.num_data.",
            BayesdropWarning,
            stacklevel=3,
        )


def _split(
    bnn: Program, data: Data, validation: Data | float | None, seed: int | None
) -> tuple[Data, Data | None]:
    if not isinstance(validation, Real):
        if validation is not None:  # what cannot serve is refused before an epoch is lost
            known_examples(validation := arrays_of("fit", bnn, validation))
        return data, validation
    fraction, tensors = float(validation), as_tensors(data)
    held_out = round(num_examples(data) * fraction) if 0 < fraction < 1 else 0
    if tensors is None or len(tensors) != 2 or not 0 < held_out < len(tensors[0]):
        raise ConfigError(
            "fit",
            expected="a validation fraction in (0, 1) of (x, y) tensors",
            got=f"validation={validation} of {type(data).__name__}",
            hint="Pass validation data instead.",
        )
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    order = torch.randperm(num_examples(data), generator=generator)
    bnn.num_data = len(order) - held_out
    rest = order[held_out:]
    kept, held = take(tensors, rest), take(tensors, order[:held_out])
    return cast(Data, kept), cast(Data, held)
