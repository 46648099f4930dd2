"""The training loop: Pyro's objective at plain torch's speed, resumable to the bit."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from bayesdrop.bayesian import BayesianNetwork
from bayesdrop.dropout import BayesianDropout
from bayesdrop.errors import (
    BayesdropWarning,
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    describe,
)
from bayesdrop.inference import checkpoint
from bayesdrop.inference.batches import Data, batches, num_examples
from bayesdrop.inference.monitor import Monitor
from bayesdrop.inference.schedules import Schedule, as_schedule, steps
from bayesdrop.typing import LossTerms

_LOG = logging.getLogger("bayesdrop")

Record: TypeAlias = dict[str, Any]
Callback: TypeAlias = Callable[[BayesianNetwork, Record], object]
OptimizerFactory: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What ``fit`` did.

    Attributes:
        history: One record per epoch: ``epoch``, ``loss``, ``nll`` and ``kl`` (nats per example),
            ``units``, ``learning_rate``, ``temperature``, ``kl_weight``, ``seconds``, and with
            validation data ``val_nll`` and ``val_error`` (percent) or ``val_rmse``.
        best_epoch: Epoch with the lowest monitored value, or the last one without validation.
        stopped_early: Whether patience or a callback ended the run.
        seconds: Training time over all sessions of the run.
    """

    history: list[Record]
    best_epoch: int
    stopped_early: bool
    seconds: float


def fit(  # noqa: PLR0913 - one keyword for each thing users ask a training loop for
    bnn: BayesianNetwork,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 100,
    validation: Data | float | None = None,
    learning_rate: float = 1e-3,
    variational_learning_rate: float = 1e-2,
    weight_decay: float = 1e-4,
    schedule: Schedule | Sequence[float] = (0.5, 0.8),
    temperature: float | Schedule | None = None,
    kl_weight: float | Schedule | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    monitor: str = "val_nll",
    elbo: ELBO | None = None,
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

    .. math:: \frac1N \Bigl(\frac{N}{B} \sum_n -\log p(y_n \mid x_n, z_n) + w\,\mathrm{KL}\Bigr)

    Args:
        bnn: The network; trained in place, left in evaluation mode.
        data: Training data: ``(x, y)`` tensors, a Dataset, or a DataLoader (which keeps its own
            batch size).
        epochs: Epochs of the whole run, those of earlier sessions included.
        batch_size: Examples a step.
        validation: Validation data, or the fraction of ``data`` (tensors) to hold out, chosen by
            ``seed``; ``bnn.num_data`` is then set to what remains.
        learning_rate: Of network weights and the likelihood's parameters.
        variational_learning_rate: Of the dropout layers' parameters.
        weight_decay: L2 penalty on network weights only: a Gaussian prior on them.
        schedule: Factor on both learning rates; a sequence means ``schedules.steps``.
        temperature: Temperature of relaxed masks; None leaves it.
        kl_weight: Factor on the KL divergences, > 0; None leaves it. ``schedules.warm_up`` is one.
        clip_norm: Largest gradient norm.
        patience: Stop after this many epochs without a better ``monitor``, and return to the best
            weights.
        monitor: ``"val_nll"``, ``"val_error"`` or ``"val_rmse"``.
        elbo: A Pyro ELBO to use instead of the closed-form objective, such as ``Trace_ELBO(4)``.
        optimizer: Called with parameter groups (each with ``lr`` and ``weight_decay``); the default
            is fused Adam.
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
        DivergenceError: If the loss is not finite; names the step and the site. The weights are
            those before that step.
        CheckpointError: If a checkpoint cannot be written, or one found does not belong to this
            run; it is left alone.

    A run killed at any moment continues from its last checkpoint and ends with the same bits.
    """
    _check_settings(epochs, batch_size, patience, validation, monitor, checkpoint_every)
    data, validation = _split(bnn, data, validation, seed)
    if num_examples(data) != bnn.num_data:
        import warnings

        warnings.warn(
            f"fit: bnn.num_data={bnn.num_data}, but there are {num_examples(data)} training "
            "examples, so the KL is weighted for another data set. Set bnn.num_data.",
            BayesdropWarning,
            stacklevel=2,
        )
    run = _Run(
        bnn=bnn,
        optimizer=_make_optimizer(
            bnn, optimizer, learning_rate, variational_learning_rate, weight_decay
        ),
        schedule=schedule if callable(schedule) else steps(*schedule),
        temperature=None if temperature is None else as_schedule(temperature),
        kl_weight=None if kl_weight is None else as_schedule(kl_weight),
        objective=bnn.loss if elbo is None else _PyroObjective(bnn, elbo),
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
        _sweep(path)
    with Monitor(run.history, epochs, num_examples(data), progress, tensorboard) as display:
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
    bnn.eval()
    seconds = sum(record["seconds"] for record in run.history)
    return FitResult(run.history, run.best_epoch, run.stopped_early, seconds)


@torch.no_grad()
def validate(bnn: BayesianNetwork, data: Data, batch_size: int = 1000) -> dict[str, float]:
    """Return ``val_nll`` (nats per example) and ``val_error`` (percent) or ``val_rmse``.

    One pass with the mean mask; the mode of ``bnn`` is restored.
    """
    training, device = bnn.training, _device(bnn)
    bnn.eval()
    nll = wrong = square = 0.0
    count = values = 0
    for x, y in batches(data, batch_size, device=device):
        if y is None:
            raise DataError(
                describe(
                    "validation data",
                    expected="inputs and targets",
                    got="inputs only",
                    hint="Pass (x, y).",
                )
            )
        output = bnn(x)
        nll += float(bnn.likelihood.nll(output, y))
        target = bnn.likelihood.target(output, y)
        mean, _ = bnn.likelihood.moments(output)
        if bnn.likelihood.is_classifier:
            guess = mean.round() if mean.shape == target.shape else mean.argmax(-1)
            wrong += float((guess != target).sum())
        else:
            square += float((mean - target).square().sum())
        count += x.shape[0]
        values += target.numel()
    bnn.train(training)
    if bnn.likelihood.is_classifier:
        return {"val_nll": nll / count, "val_error": 100.0 * wrong / values}
    return {"val_nll": nll / count, "val_rmse": math.sqrt(square / values)}


@dataclasses.dataclass
class _Run:
    """The state of a run: everything a checkpoint holds, and how an epoch changes it."""

    bnn: BayesianNetwork
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    temperature: Schedule | None
    kl_weight: Schedule | None
    objective: Callable[[Tensor, Tensor], LossTerms]
    clip_norm: float | None
    epochs: int
    settings: dict[str, Any]
    epoch: int = 0
    step: int = 0
    history: list[Record] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.inf
    best_state: dict[str, Tensor] | None = None
    stopped_early: bool = False

    def train_epoch(self, data: Data, batch_size: int, display: Monitor) -> Record:
        started = time.perf_counter()
        values = self._apply_schedules()
        self.bnn.train()
        nll = kl = 0.0
        seen = 0
        for x, y in batches(data, batch_size, shuffle=True, device=_device(self.bnn)):
            if y is None:
                raise DataError(
                    describe(
                        "fit",
                        expected="inputs and targets",
                        got="inputs only",
                        hint="Pass (x, y).",
                    )
                )
            terms = self._train_step(x, y)
            nll += terms[0] * x.shape[0]
            kl += terms[1] * x.shape[0]
            seen += x.shape[0]
            display.advance(x.shape[0], nll / seen, kl / seen)
        units = self.bnn.units()
        return {
            "epoch": self.epoch + 1,
            "loss": (nll + kl) / seen,
            "nll": nll / seen,
            "kl": kl / seen,
            "units": units,
            **values,
            "seconds": time.perf_counter() - started,
        }

    def _apply_schedules(self) -> dict[str, float]:
        factor = self.schedule(self.epoch, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        if self.kl_weight is not None:
            self.bnn.kl_weight = self.kl_weight(self.epoch, self.epochs)
        layers = [layer for _, layer in self.bnn.named_dropout_layers()]
        relaxed = [layer for layer in layers if hasattr(layer, "temperature")]
        if self.temperature is not None:
            for layer in relaxed:
                layer.temperature.fill_(self.temperature(self.epoch, self.epochs))
        record = {
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "kl_weight": self.bnn.kl_weight,
        }
        if relaxed:
            record["temperature"] = float(relaxed[0].temperature)
        return record

    def _train_step(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.objective(x, y)
        loss = terms.loss / self.bnn.num_data
        if not math.isfinite(loss.item()):
            raise diagnose(self.bnn, x, terms, self.step + 1)
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.bnn.parameters(), self.clip_norm)
        self.optimizer.step()
        self.step += 1
        return terms.nll.item() / self.bnn.num_data, terms.kl.item() / self.bnn.num_data

    def finish_epoch(self, record: Record, monitor: str | None, patience: int | None) -> None:
        self.epoch += 1
        self.history.append(record)
        _LOG.info("epoch %d of %d: %s", self.epoch, self.epochs, record)
        if monitor is None:
            self.best_epoch = self.epoch
            return
        if monitor not in record:
            raise ConfigError(
                describe(
                    "fit",
                    expected=f"monitor to be one of {sorted(k for k in record if 'val_' in k)}",
                    got=repr(monitor),
                    hint="val_error is for classifiers, val_rmse for regression.",
                )
            )
        if record[monitor] < self.best_value:
            self.best_value, self.best_epoch = record[monitor], self.epoch
            if patience is not None:
                self.best_state = {
                    name: value.detach().clone() for name, value in self.bnn.state_dict().items()
                }
        elif patience is not None and self.epoch - self.best_epoch >= patience:
            self.stopped_early = True

    def save(self, path: Path) -> None:
        state = {
            **checkpoint.header("training"),
            "state": self.bnn.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_data": self.bnn.num_data,
            "kl_weight": self.bnn.kl_weight,
            "random": checkpoint.random_state(),
            "settings": self.settings,
            **{name: getattr(self, name) for name in _PROGRESS},
        }
        checkpoint.write_atomically(path, state)

    def restore(self, path: Path) -> None:
        payload = checkpoint.read(path, "training")
        checkpoint.check_state(self.bnn, payload["state"], path)
        changed = {
            name: (payload["settings"].get(name), value)
            for name, value in {**self.settings, "num_data": self.bnn.num_data}.items()
            if {**payload["settings"], "num_data": payload["num_data"]}.get(name) != value
        }
        if changed:
            name, (theirs, ours) = next(iter(changed.items()))
            raise CheckpointError(
                describe(
                    f"checkpoint {path}",
                    expected=f"a run with {name}={ours}",
                    got=f"one with {name}={theirs}",
                    hint="Pass the same settings, another checkpoint_dir, or resume=False.",
                )
            )
        self.bnn.load_state_dict(payload["state"])
        self.optimizer.load_state_dict(payload["optimizer"])
        self.bnn.kl_weight = payload["kl_weight"]
        for name in _PROGRESS:
            setattr(self, name, payload[name])
        checkpoint.set_random_state(payload["random"])


_PROGRESS = (
    "epoch",
    "step",
    "history",
    "best_epoch",
    "best_value",
    "best_state",
    "stopped_early",
)


class _PyroObjective:
    """A Pyro ELBO as an objective; its parameters stay out of the global store."""

    def __init__(self, bnn: BayesianNetwork, elbo: ELBO) -> None:
        self.bnn, self.elbo = bnn, elbo

    def __call__(self, x: Tensor, y: Tensor) -> LossTerms:
        with pyro.settings.context(module_local_params=True):
            loss = self.elbo.differentiable_loss(self.bnn.model, self.bnn.guide, x, y)
        layers = [layer for _, layer in self.bnn.named_dropout_layers()]
        # The split is for the record only; the gradient is the estimator's.
        with torch.no_grad():
            kl = self.bnn.kl_weight * sum(
                (layer.kl_divergence() for layer in layers), start=torch.zeros_like(loss)
            )
        return LossTerms(loss - kl, kl)


def diagnose(bnn: BayesianNetwork, x: Tensor, terms: LossTerms, step: int) -> Exception:
    """Return the error for a non-finite loss, naming the first cause found upstream.

    The order is: input, parameters, KL of each dropout layer, then the likelihood.
    """
    if not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x.flatten(1))).any(1).nonzero()[0])
        return DataError(
            describe(
                "fit",
                expected="finite inputs",
                got=f"NaN or infinity in row {row} of the batch at step {step}",
                hint="Clean the data; the weights are those before this step.",
            )
        )
    site = "obs"
    for name, parameter in bnn.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            site = name
            break
    else:
        for path, layer in bnn.named_dropout_layers():
            if not bool(torch.isfinite(layer.kl_divergence())):
                site = f"{path}.{next(iter(layer.posterior()))}"
                break
    return DivergenceError(
        describe(
            "fit",
            expected="a finite loss",
            got=f"nll={terms.nll.item():g}, kl={terms.kl.item():g} at step {step}, site {site!r}",
            hint="Lower the learning rates or pass clip_norm; the last checkpoint is intact.",
        )
    )


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
        if value < 1:
            raise ConfigError(
                describe("fit", expected=f"{name} >= 1", got=f"{name}={value}", hint="Raise it.")
            )
    if patience is not None and validation is None:
        raise ConfigError(
            describe(
                "fit",
                expected="validation data for early stopping",
                got=f"patience={patience} and validation=None",
                hint="Pass validation=(x, y) or a fraction such as validation=0.1.",
            )
        )
    if monitor not in ("val_nll", "val_error", "val_rmse"):
        raise ConfigError(
            describe(
                "fit",
                expected="monitor to be val_nll, val_error or val_rmse",
                got=repr(monitor),
                hint="The default is val_nll.",
            )
        )


def _split(
    bnn: BayesianNetwork, data: Data, validation: Data | float | None, seed: int | None
) -> tuple[Data, Data | None]:
    if not isinstance(validation, float):
        return data, validation
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors  # type: ignore[assignment]
    held_out = round(num_examples(data) * validation)
    if not isinstance(data, tuple | list) or not 0 < held_out < num_examples(data):
        raise ConfigError(
            describe(
                "fit",
                expected="a validation fraction in (0, 1) of (x, y) tensors",
                got=f"validation={validation} of {type(data).__name__}",
                hint="Pass validation data instead.",
            )
        )
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    order = torch.randperm(num_examples(data), generator=generator)
    x, y = data
    bnn.num_data = len(order) - held_out
    rest = order[held_out:]
    return (x[rest], y[rest]), (x[order[:held_out]], y[order[:held_out]])


def _make_optimizer(
    bnn: BayesianNetwork,
    factory: OptimizerFactory | None,
    learning_rate: float,
    variational_learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    variational = {
        id(parameter)
        for module in bnn.modules()
        if isinstance(module, BayesianDropout)
        for parameter in module.parameters()
    }
    likelihood = {id(parameter) for parameter in bnn.likelihood.parameters()}
    members: Mapping[str, list[nn.Parameter]] = {
        "weights": [],
        "likelihood": [],
        "variational": [],
    }
    for parameter in bnn.parameters():
        if parameter.requires_grad:
            kind = "variational" if id(parameter) in variational else "weights"
            members["likelihood" if id(parameter) in likelihood else kind].append(parameter)
    rates = {
        "weights": (learning_rate, weight_decay),
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
            describe(
                "fit",
                expected="parameters to train",
                got="none that require a gradient",
                hint="Were they frozen with requires_grad_(False)?",
            )
        )
    if factory is not None:
        return factory(groups)
    return torch.optim.Adam(groups, fused=_can_fuse(bnn))


def _can_fuse(bnn: BayesianNetwork) -> bool:
    return all(
        parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()
        for parameter in bnn.parameters()
    )


def _sweep(path: Path) -> None:
    """Remove temporary files that a killed save left beside ``path``."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


def _device(bnn: BayesianNetwork) -> torch.device:
    return next(iter(bnn.parameters()), torch.empty(0)).device
