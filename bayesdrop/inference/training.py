"""The state of a training run: what an epoch does to it, and what a checkpoint holds of it."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bayesdrop.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
)
from bayesdrop.inference import checkpoint
from bayesdrop.inference.batches import Data, batches
from bayesdrop.inference.monitor import Monitor
from bayesdrop.inference.objectives import Objective
from bayesdrop.inference.schedules import Schedule
from bayesdrop.nn import LatentOwner
from bayesdrop.program.program import Program
from bayesdrop.typing import LossTerms

_LOG = logging.getLogger("bayesdrop")

Record: TypeAlias = dict[str, Any]


@dataclasses.dataclass
class TrainingRun:
    """The state of a run: everything a checkpoint holds, and how an epoch changes it."""

    bnn: Program
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    buffers: Mapping[str, Schedule]
    kl_weight: Schedule | None
    objective: Objective
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

    def __post_init__(self) -> None:
        self._owners = [m for m in self.bnn.modules() if isinstance(m, LatentOwner)]

    def train_epoch(self, data: Data, batch_size: int, display: Monitor) -> Record:
        """Train one epoch under its schedules and return its record."""
        started = time.perf_counter()
        values = self._apply_schedules()
        self.bnn.train()
        nll = kl = 0.0
        seen = 0
        for x, y in batches(data, batch_size, shuffle=True, device=_device(self.bnn)):
            if y is None:
                raise DataError(
                    "fit",
                    expected="inputs and targets",
                    got="inputs only",
                    hint="Pass (x, y).",
                )
            terms = self._train_step(x, y)
            nll += terms[0] * x.shape[0]
            kl += terms[1] * x.shape[0]
            seen += x.shape[0]
            display.advance(x.shape[0], nll / seen, kl / seen)
        return {
            "epoch": self.epoch + 1,
            "loss": (nll + kl) / seen,
            "nll": nll / seen,
            "kl": kl / seen,
            "units": [],
            **self.bnn.kept(),
            **values,
            "seconds": time.perf_counter() - started,
        }

    def _apply_schedules(self) -> dict[str, Any]:
        factor = self._finite("schedule", self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        if self.kl_weight is not None:
            self.bnn.kl_weight = self.kl_weight(self.epoch, self.epochs)
        record: dict[str, Any] = {}
        for name, buffers in schedulable_buffers(self.bnn).items():
            if name in self.buffers:
                for buffer in buffers:
                    buffer.fill_(self._finite(name, self.buffers[name]))
            record[name] = float(buffers[0].reshape(-1)[0])
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        record["kl_weight"] = self.bnn.kl_weight
        record["num_masks"] = self.settings.get("num_masks", 1)
        return record

    def _finite(self, name: str, schedule: Schedule) -> float:
        value = schedule(self.epoch, self.epochs)
        if not math.isfinite(value):
            raise ConfigError(
                "fit",
                expected=f"the schedule {name!r} to give finite numbers",
                got=f"{value} in epoch {self.epoch + 1} of {self.epochs}",
                hint="A schedule is called with the epoch, from 0, and the number of epochs.",
            )
        return value

    def _train_step(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.objective(self.bnn, x, y)
        if not isinstance(terms, LossTerms):
            raise ConfigError(
                "fit",
                expected="an objective that returns bayesdrop.typing.LossTerms(nll, kl)",
                got=type(terms).__name__,
                hint="Both are in nats for the whole data set.",
            )
        loss = terms.loss / self.bnn.num_data
        if not math.isfinite(loss.item()):
            raise diagnose(self.bnn, x, terms, self.step + 1)
        loss.backward()
        self._check_gradients()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.bnn.parameters(), self.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            for owner in self._owners:
                owner.after_step(self.optimizer)
        self.step += 1
        return terms.nll.item() / self.bnn.num_data, terms.kl.item() / self.bnn.num_data

    def _check_gradients(self) -> None:
        # One fused norm; only if it is not finite (or overflows) does anything look further.
        gradients = [p.grad for p in self.bnn.parameters() if p.grad is not None]
        if math.isfinite(float(nn.utils.get_total_norm(gradients))):
            return
        for name, parameter in self.bnn.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise DivergenceError(
                    "fit",
                    expected="finite gradients",
                    got=f"NaN or infinity in that of {name!r} at step {self.step + 1}",
                    hint="The loss is finite: look for a root or quotient of zero in the network. "
                    "The weights are those before this step.",
                )

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

    def save(self, path: Path) -> None:
        """Write a checkpoint from which ``restore`` continues to the same bits."""
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
        checkpoint.write(path, state)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, or refuse one of another run."""
        payload = checkpoint.read(path, "training")
        checkpoint.check_state(self.bnn, payload["state"], path)
        # What is not in an older file was then the only choice.
        theirs = {"num_masks": 1, **payload["settings"], "num_data": payload["num_data"]}
        changed = {
            name: (theirs.get(name), value)
            for name, value in {**self.settings, "num_data": self.bnn.num_data}.items()
            if theirs.get(name) != value
        }
        if changed:
            name, (saved, ours) = next(iter(changed.items()))
            raise CheckpointError(
                f"checkpoint {path}",
                expected=f"a run with {name}={ours}",
                got=f"one with {name}={saved}",
                hint="Pass the same settings, another checkpoint_dir, or resume=False.",
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


@torch.no_grad()
def validate(bnn: Program, data: Data, batch_size: int = 1000) -> dict[str, float]:
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
                "validation data",
                expected="inputs and targets",
                got="inputs only",
                hint="Pass (x, y).",
            )
        output = bnn(x)
        nll += float(bnn.likelihood.nll(output, y))
        mean, _ = bnn.likelihood.moments(output)
        if bnn.likelihood.is_classifier:
            mean, target = bnn.likelihood.flatten_labels(mean, y)
            guess = mean.round() if mean.ndim == 1 else mean.argmax(1)
            wrong += float((guess != target).sum())
        else:
            target = bnn.likelihood.target(output, y)
            square += float((mean - target).square().sum())
        count += x.shape[0]
        values += target.numel()
    bnn.train(training)
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


def diagnose(bnn: Program, x: Tensor, terms: LossTerms, step: int) -> Exception:
    """Return the error for a non-finite loss, naming the first cause found upstream.

    The order is: input, parameters, KL of each dropout layer, then the likelihood.
    """
    if not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x.flatten(1))).any(1).nonzero()[0])
        return DataError(
            "fit",
            expected="finite inputs",
            got=f"NaN or infinity in row {row} of the batch at step {step}",
            hint="Clean the data; the weights are those before this step.",
        )
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
    return DivergenceError(
        "fit",
        expected="a finite loss",
        got=f"nll={terms.nll.item():g}, kl={terms.kl.item():g} at step {step}, site {site!r}",
        hint="Lower the learning rates or pass clip_norm; the last checkpoint is intact.",
    )


def schedulable_buffers(bnn: Program) -> dict[str, list[Tensor]]:
    """Return, by name, the buffers that some layer of ``bnn`` declares as schedulable."""
    found: dict[str, list[Tensor]] = {}
    for module in bnn.modules():
        if isinstance(module, LatentOwner):
            for name in module.schedulable:
                found.setdefault(name, []).append(module.get_buffer(name))
    return found


def sweep(path: Path) -> None:
    """Remove temporary files that a killed save left beside ``path``."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


def _device(bnn: Program) -> torch.device:
    return next(iter(bnn.parameters()), torch.empty(0)).device
