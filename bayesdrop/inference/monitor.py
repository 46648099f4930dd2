"""What a user sees while ``fit`` runs: a progress bar and TensorBoard scalars."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bayesdrop.errors import CheckpointError
from bayesdrop.files import first_line
from bayesdrop.inference.progress import bar_turn, new_bar

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_UPDATES = 0.2


class Monitor:
    """Shows a run's progress; silent if asked to be.

    Args:
        history: Records of the epochs that an earlier session finished.
        epochs: Epochs of the whole run.
        num_data: Examples an epoch.
        progress: Whether to draw a bar, on standard error where that is a terminal or a notebook
            and no other bar is drawn.
        tensorboard: Folder for TensorBoard scalars, or None.

    Raises:
        ImportError: If ``tensorboard`` is given and TensorBoard is not installed.
    """

    def __init__(
        self,
        history: list[dict[str, Any]],
        epochs: int,
        num_data: int,
        progress: bool,
        tensorboard: str | os.PathLike[str] | None,
    ) -> None:
        self._bar: Progress | None = None
        self._latest = history[-1] if history else {}
        self._pending = 0
        self._drawn = 0.0
        self._writer = None if tensorboard is None else _tensorboard_writer(tensorboard)
        bar = new_bar() if progress else None
        if bar is not None and (bar.console.is_interactive or bar.console.is_jupyter):
            self._bar = bar
            self._epochs = epochs
            self._task = self._bar.add_task(
                f"epoch {len(history) + 1}/{epochs}", total=epochs * num_data, status=""
            )
            self._bar.update(self._task, completed=len(history) * num_data)

    def __enter__(self) -> Self:
        if self._bar is not None:
            if bar_turn.acquire(blocking=False):
                self._bar.start()
            else:
                self._bar = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            bar_turn.release()
        if self._writer is not None:
            with _written(self._writer.log_dir):
                self._writer.close()

    def advance(self, examples: int, nll: float, kl: float) -> None:
        """Count examples of the running epoch; redraw a few times a second."""
        if self._bar is None:
            return
        self._pending += examples
        now = time.monotonic()
        if now - self._drawn > _SECONDS_BETWEEN_UPDATES:
            self._draw(nll, kl)
            self._drawn = now

    def epoch(self, record: dict[str, Any]) -> None:
        """Report a finished epoch."""
        self._latest = record
        if self._bar is not None:
            self._draw(record["nll"], record["kl"])
            following = min(record["epoch"] + 1, self._epochs)
            self._bar.update(self._task, description=f"epoch {following}/{self._epochs}")
        if self._writer is not None:
            with _written(self._writer.log_dir):
                for name, value in scalars(record).items():
                    self._writer.add_scalar(name, value, record["epoch"])

    def _draw(self, nll: float, kl: float) -> None:
        if self._bar is None:
            return
        parts = [f"loss {nll + kl:.4f} (nll {nll:.4f}, kl {kl:.4f})"]
        if "val_error" in self._latest:
            parts.append(f"val error {self._latest['val_error']:.2f} %")
        elif "val_rmse" in self._latest:
            parts.append(f"val RMSE {self._latest['val_rmse']:.4g}")
        if self._latest.get("units"):
            parts.append("units " + "-".join(str(count) for count in self._latest["units"]))
        if self._latest.get("weights"):
            parts.append(f"weights {sum(self._latest['weights']):,}")
        self._bar.update(self._task, advance=self._pending, status=", ".join(parts))
        self._pending = 0


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch, as loggers take them.

    Args:
        record: Of ``FitResult.history``.

    Example:
        >>> scalars({"epoch": 2, "nll": 0.5, "units": [4, 3]})
        {'nll': 0.5, 'units/0': 4, 'units/1': 3}
    """
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list):
            found |= {f"{name}/{index}": item for index, item in enumerate(value)}
        elif name != "epoch" and not isinstance(value, str):
            found[name] = value
    return found


def _tensorboard_writer(folder: str | os.PathLike[str]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "fit(tensorboard=...) needs TensorBoard: pip install bayesdrop[tensorboard]."
        ) from error
    with _written(folder):
        return SummaryWriter(str(folder))


@contextmanager
def _written(folder: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"TensorBoard folder {os.fspath(folder)}",
            expected="a folder that can be written, with enough space",
            got=first_line(error),
            hint="Free space, choose another folder, or leave tensorboard= out.",
        ) from error
