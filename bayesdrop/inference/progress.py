"""Bars for what takes long: one at a time, on terminals alone."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE = 1.0  # Seconds: what is over by then needs no bar.

bar_turn = threading.Lock()
"""Who holds it may draw: bars of ``fit`` and of its callbacks would overwrite each other."""


@contextmanager
def progress_bar(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """Yield a function that counts work, and draw a bar on standard error when it takes long.

    It is drawn where standard error is a terminal and no other bar is drawn, from the second
    second on, and leaves nothing behind.

    Args:
        what: What stands before the bar; without it there is none.
        total: The work there is.

    Example:
        >>> with progress_bar("sum", total=3) as advance:
        ...     for _ in range(3):
        ...         advance(1)
    """
    if not what or not sys.stderr.isatty() or not bar_turn.acquire(blocking=False):
        yield lambda amount: None
        return
    start, done, bar = time.monotonic(), 0.0, None

    def advance(amount: float) -> None:
        nonlocal done, bar
        done += amount
        if bar is None and time.monotonic() - start >= _PATIENCE:
            bar = new_bar(transient=True)
            bar.add_task(what, total=total, status="")
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
        bar_turn.release()


def new_bar(*, transient: bool = False) -> Progress:
    """Return a bar that was not started, on standard error, with a field ``status``.

    Args:
        transient: Whether it goes when it stops.
    """
    state = random.getstate()  # rich draws from Python's global generator on import
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    random.setstate(state)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
        transient=transient,
    )
