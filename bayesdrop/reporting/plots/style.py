"""How the package's figures look and are saved; never by pyplot's global state."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bayesdrop.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4c566a", "#d08700", "#0b7a75", "#b0306a", "#3b6fb6", "#7a4fa3")
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


_Draw = TypeVar("_Draw", bound=Callable[..., "Figure"])


def styled(draw: _Draw) -> _Draw:
    """Give a drawing function the package's style, without touching matplotlib's own settings."""

    @functools.wraps(draw)
    def drawn(*args: Any, **options: Any) -> Figure:
        try:
            import matplotlib
        except ImportError as error:
            raise ImportError(
                "Figures need matplotlib: pip install 'bayesdrop[plots]'."
            ) from error
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return cast(_Draw, drawn)


def stacked_axes(
    width: float,
    height: float,
    *,
    rows: int = 1,
    height_ratios: Sequence[float] | None = None,
    sharex: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its axes, from top to bottom; sizes are in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, height_ratios=height_ratios, sharex=sharex, squeeze=False)
    return figure, list(axes[:, 0])


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG, at 150 dots an inch."""
    file = io.BytesIO()
    figure.savefig(file, dpi=150, format="png")
    return file.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and return its path.

    Raises:
        CheckpointError: If the file cannot be written; an old file at ``path`` is kept.
    """
    content = to_png(figure)
    return write_file(path, lambda file: file.write(content))
