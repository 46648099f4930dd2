"""The state of a training run: what an epoch does to it, and what a checkpoint holds of it."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError, DataError, DivergenceError
from bayesdrop.inference import checkpoint, resume
from bayesdrop.inference.batches import Batch, Data, batches
from bayesdrop.inference.buffers import schedulable_buffers, set_buffers
from bayesdrop.inference.closed_units import ClosedUnits
from bayesdrop.inference.diagnosis import (
    bad_gradient,
    bad_rows,
    diagnose,
)
from bayesdrop.inference.fingerprint import generators
from bayesdrop.inference.modes import frozen_modules, normalizes_batches, train_but
from bayesdrop.inference.monitor import Monitor
from bayesdrop.inference.objectives import Objective
from bayesdrop.inference.ranks import Ranks
from bayesdrop.inference.schedules import Schedule, rates_were_changed, value_of
from bayesdrop.inference.validation import device_of
from bayesdrop.nn import LatentOwner
from bayesdrop.program.explaining import explained
from bayesdrop.program.finite import is_invalid_value
from bayesdrop.program.inputs import Inputs, described, from_description
from bayesdrop.program.program import Program
from bayesdrop.typing import LossTerms

_LOG = logging.getLogger("bayesdrop")

Record: TypeAlias = dict[str, Any]


@runtime_checkable
class StatefulCallback(Protocol):
    """A callback that remembers something, which checkpoints then hold."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers, in plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what a checkpoint holds."""


@dataclasses.dataclass
class TrainingRun:
    """The state of a run: everything a checkpoint holds, and how an epoch changes it.

    Args:
        bnn: The network.
        source: The training data as the user holds it, in which bad rows are looked up.
        optimizer: Its groups have ``initial_lr``.
        schedule: Of the learning rates.
        buffers: Schedules of buffers, by name.
        kl_weight: Of the KL divergences; None leaves them.
        objective: What a step minimises.
        clip_norm: Largest gradient norm.
        epochs: Epochs of the whole run.
        compact_every: Epochs after which pruned units leave training; None keeps them.
        ranks: The processes of the run, if there are several.
        callbacks: Called after every epoch; a checkpoint holds the state of those that have one.
        settings: What a checkpoint's run must have in common with this one.
        leaves_rates: Whether learning rates are left alone after the run has begun.
        description: The same of data, network and objective, in groups; empty without a
            checkpoint.
    """

    bnn: Program
    source: Data
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    buffers: Mapping[str, Schedule]
    kl_weight: Schedule | None
    objective: Objective
    clip_norm: float | None
    epochs: int
    compact_every: int | None
    ranks: Ranks | None
    callbacks: Sequence[object]
    settings: dict[str, Any]
    leaves_rates: bool = False
    description: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    history: list[Record] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.inf
    best_state: dict[str, Tensor] | None = None
    stopped_early: bool = False

    def __post_init__(self) -> None:
        self._owners = [m for m in self.bnn.modules() if isinstance(m, LatentOwner)]
        self.frozen = frozen_modules(self.bnn)
        self._joins = normalizes_batches(self.bnn, self.frozen)
        self._absent = None if self.compact_every is None else ClosedUnits(self.bnn)
        self._parameters = list(self.bnn.parameters())
        self._rates: list[float] | None = None

    @property
    def closed(self) -> dict[str, Tensor]:
        """Layer name to the units that have left training."""
        return {} if self._absent is None else self._absent.closed

    def train_epoch(self, data: Data, batch_size: int, display: Monitor) -> Record:
        """Train one epoch under its schedules and return its record."""
        started = time.perf_counter()
        values = self._apply_schedules()
        train_but(self.bnn, self.frozen)
        if self._absent is None:
            nll, kl = self._train_batches(data, batch_size, display, 0.0)
        else:
            with self._absent.absent(self.optimizer) as closed_kl:
                nll, kl = self._train_batches(data, batch_size, display, closed_kl)
            if (self.epoch + 1) % (self.compact_every or 1) == 0:
                self._absent.close()
        return {
            "epoch": self.epoch + 1,
            "loss": nll + kl,
            "nll": nll,
            "kl": kl,
            "units": [],
            **self.bnn.kept(),
            **values,
            "seconds": time.perf_counter() - started,
        }

    def _train_batches(
        self, data: Data, batch_size: int, display: Monitor, closed_kl: float
    ) -> tuple[float, float]:
        """Make a step for each batch; return the mean NLL and KL of an example."""
        nll = kl = 0.0
        steps = seen = 0
        closed = self.bnn.kl_weight * closed_kl / self.bnn.num_data
        self._parameters = list(self.bnn.parameters())
        for (x, y), weight in self._weighted_batches(data, batch_size):
            if y is None:
                raise DataError(
                    "fit",
                    expected="inputs and targets",
                    got="inputs only",
                    hint="Pass (x, y), or a mapping with 'labels'.",
                )
            terms = self._train_step(x, y, weight)
            nll += terms[0] * len(x)
            kl += (terms[1] + closed) * len(x)
            seen += len(x)
            steps += 1
            display.advance(len(x), nll / max(1, seen), kl / max(1, seen))
        if steps == 0:
            raise DataError(
                "fit",
                expected="at least one batch",
                got="none",
                hint="Does the data yield batches each time it is iterated over?",
            )
        missing = getattr(self.bnn.likelihood, "ignore_index", None)
        if nll == 0.0 and missing is not None and seen and bool((y == missing).all()):
            raise DataError(
                "fit",
                expected="examples with targets",
                got=f"ignore_index={missing} for all",
                hint="Are the labels those of another split?",
            )
        if self.ranks is not None:
            nll, kl, total = self.ranks.end_epoch(self.bnn, nll, kl, seen)
            return nll / total, kl / total
        return nll / max(1, seen), kl / max(1, seen)  # all may be empty Poisson samples

    def _weighted_batches(self, data: Data, batch_size: int) -> Iterator[tuple[Batch, float]]:
        if self.ranks is not None:
            return self.ranks.batches(data, batch_size, self.epoch, join_single=self._joins)
        found = batches(
            data, batch_size, shuffle=True, device=device_of(self.bnn), join_single=self._joins
        )
        return ((batch, 1.0) for batch in found)

    def _apply_schedules(self) -> dict[str, Any]:
        factor = value_of(self.schedule, "schedule", self.epoch, self.epochs, lower=0.0)
        self._set_rates(factor)
        if self.kl_weight is not None:
            self.bnn.kl_weight = value_of(self.kl_weight, "kl_weight", self.epoch, self.epochs)
        record: Record = {**set_buffers(self.bnn, self.buffers, self.epoch, self.epochs)}
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        record["kl_weight"] = self.bnn.kl_weight
        record["num_masks"] = self.settings.get("num_masks", 1)
        return record

    def _set_rates(self, factor: float) -> None:
        groups = self.optimizer.param_groups
        has_scheduler = hasattr(self.optimizer.step, "_wrapped_by_lr_sched")
        if self.leaves_rates and (self.epoch > 0 or has_scheduler):
            return
        found = [float(group["lr"]) for group in groups]
        if self._rates is not None and found != self._rates:
            raise rates_were_changed(self._rates, found)
        for group in groups:
            group["lr"] = group["initial_lr"] * factor
        self._rates = [float(group["lr"]) for group in groups]

    def _train_step(self, x: Inputs, y: Tensor, weight: float) -> tuple[float, float]:
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with explained("fit", self.bnn.network, x):
                terms = self.objective(self.bnn, x, y)
        except (ValueError, DivergenceError) as error:
            known: Exception | None = bad_rows(
                "fit", self.source, x, y, f"at step {self.step + 1}"
            )
            diverged = isinstance(error, DivergenceError) or is_invalid_value(error)
            if known is None and diverged:
                terms = LossTerms(torch.tensor(math.nan), torch.tensor(math.nan))
                known = diagnose(self.bnn, self.source, x, y, terms, self.step + 1)
            if known is None:
                raise
            raise known from error
        if not isinstance(terms, LossTerms):
            raise ConfigError(
                "fit",
                expected="an objective that returns bayesdrop.typing.LossTerms(nll, kl)",
                got=type(terms).__name__,
                hint="Both are in nats for the whole data set.",
            )
        nll, kl = terms.nll.item(), terms.kl.item()
        if not math.isfinite(nll + kl):
            raise diagnose(self.bnn, self.source, x, y, terms, self.step + 1)
        whole = terms.loss if weight == 1.0 else terms.nll * weight + terms.kl
        (whole / self.bnn.num_data).backward()
        if self.ranks is not None:
            self.ranks.average_gradients(self.bnn)
        self._check_gradients(x, y)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.bnn.parameters(), self.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            for owner in self._owners:
                owner.after_step(self.optimizer)
        self.step += 1
        return nll / self.bnn.num_data, kl / self.bnn.num_data

    def _check_gradients(self, x: Inputs, y: Tensor) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        # One number says whether all are finite; only if it is not does anything look further.
        if all(grad.is_cpu for grad in gradients):
            sums = [float(grad.sum()) for grad in gradients]
            if math.isfinite(sum(sums)):
                return
        elif math.isfinite(float(nn.utils.get_total_norm(gradients))):
            return
        for name, parameter in self.bnn.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise bad_gradient(name, x, y, self.step + 1)

    def finish_epoch(self, record: Record, monitor: str | None, patience: int | None) -> None:
        """Count an epoch, and keep the best weights if patience may want them back."""
        self.epoch += 1
        self.history.append(record)
        _LOG.info("epoch %d of %d: %s", self.epoch, self.epochs, record)
        if monitor is None:
            self.best_epoch = self.epoch
            return
        if monitor not in record:
            raise ConfigError(
                "fit",
                expected=f"monitor to be one of {sorted(k for k in record if 'val_' in k)}",
                got=repr(monitor),
                hint="val_error is for classifiers, val_rmse for regression.",
            )
        if record[monitor] < self.best_value:
            self.best_value, self.best_epoch = record[monitor], self.epoch
            if patience is not None:
                self.best_state = {
                    name: value.detach().clone() for name, value in self.bnn.state_dict().items()
                }
        elif patience is not None and self.epoch - self.best_epoch >= patience:
            self.stopped_early = True

    def _schedules(self, epochs: int) -> dict[str, list[float]]:
        """Return the value of every schedule in each epoch of a run of so many epochs."""
        named = {"schedule": self.schedule, **self.buffers}
        if self.kl_weight is not None:
            named["kl_weight"] = self.kl_weight
        return {
            name: [value_of(schedule, name, epoch, epochs) for epoch in range(epochs)]
            for name, schedule in named.items()
        }

    def save(self, path: Path, data: Data) -> None:
        """Write a checkpoint from which ``restore`` continues to the same bits."""
        state = {
            **checkpoint.header("training"),
            "state": self.bnn.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_data": self.bnn.num_data,
            "kl_weight": self.bnn.kl_weight,
            "random": checkpoint.random_state(),
            "generators": [generator.get_state() for generator in generators(data)],
            "settings": self.settings,
            "description": self.description,
            "epochs": self.epochs,
            "schedules": self._schedules(self.epochs),
            **{name: getattr(self, name) for name in _PROGRESS},
            "closed": self.closed,
            "callbacks": [c.state_dict() for c in self._stateful_callbacks()],
            "inputs": described(self.bnn.inputs_seen()),
        }
        checkpoint.write(path, state)

    def restore(self, path: Path, data: Data) -> None:
        """Continue from a checkpoint, or refuse one of another run and change nothing."""
        payload = checkpoint.read(path, "training")
        checkpoint.check_state(self.bnn, payload["state"], path)
        self._check_same(path, payload)
        self.optimizer.load_state_dict(payload["optimizer"])
        self.bnn.load_state_dict(payload["state"])
        self.bnn.kl_weight = payload["kl_weight"]
        for name in _PROGRESS:
            setattr(self, name, payload[name])
        if self._absent is not None:
            self._absent.load(payload["closed"])
            # Older files have the one input's shape and dtype.
            given = payload["inputs"] if "inputs" in payload else [["", *payload["input"]]]
            if (seen := from_description(given)) is not None:
                self.bnn.remember(seen)
        checkpoint.set_random_state(payload["random"])
        states = payload.get("callbacks", ())
        for callback, state in zip(self._stateful_callbacks(), states, strict=False):
            callback.load_state_dict(state)
        for generator, state in zip(generators(data), payload.get("generators", ()), strict=False):
            generator.set_state(state)

    def _stateful_callbacks(self) -> list[StatefulCallback]:
        return [c for c in self.callbacks if isinstance(c, StatefulCallback)]

    def _check_same(self, path: Path, payload: Mapping[str, Any]) -> None:
        # What is not in an older file was then the only choice, or nobody noted it.
        saved = {
            "num_masks": 1,
            "compact_every": None,
            "processes": 1,
            **payload["settings"],
            "num_data": payload["num_data"],
        }
        resume.check_same(path, saved, {**self.settings, "num_data": self.bnn.num_data})
        for name, values in payload.get("description", {}).items():
            resume.check_same(path, values, self.description.get(name, {}))
        groups = self.optimizer.param_groups
        resume.check_groups(path, payload["optimizer"]["param_groups"], groups)
        resume.check_epochs(path, payload["epoch"], self.epochs)
        if "schedules" not in payload:
            return
        if self.kl_weight is None and "kl_weight" not in payload["schedules"]:
            ours = {"kl_weight": self.bnn.kl_weight}
            resume.check_same(path, {"kl_weight": payload["kl_weight"]}, ours)
        constant = schedulable_buffers(self.bnn).keys() - payload["schedules"].keys()
        for name, buffer in self.bnn.named_buffers():
            if name.rpartition(".")[2] in constant - self.buffers.keys():
                theirs = payload["state"][name].tolist()
                resume.check_same(path, {name: theirs}, {name: buffer.tolist()})
        resume.check_schedules(path, payload, self._schedules, self.epochs)


_PROGRESS = (
    "epoch",
    "step",
    "history",
    "best_epoch",
    "best_value",
    "best_state",
    "stopped_early",
)


def sweep(path: Path) -> None:
    """Remove temporary files that a killed save left beside ``path``."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
