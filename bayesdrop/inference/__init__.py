"""Training, checkpoints and prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

if not TYPE_CHECKING:  # a module of this room is there whether or not something has asked for it

    def __getattr__(name: str) -> object:
        import importlib
        import importlib.util

        if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")
