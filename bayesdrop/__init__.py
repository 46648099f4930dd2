"""Bayesian dropout as probabilistic programs.

A dropout layer is a prior and a posterior over a mask. The same posterior gives calibrated
predictions, an account of their uncertainty, and a smaller network.

What most programs need stands here; the rest is in ``bd.nn`` (layers and their registry),
``bd.likelihoods`` (of counts and heavy tails), ``bd.distributions``, ``bd.networks``,
``bd.schedules``, ``bd.metrics`` (of arrays), ``bd.diagnostics`` (of networks), ``bd.compression``
and ``bd.reporting``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayesdrop.renamed import no_such_name

__version__ = "0.1.0"


if TYPE_CHECKING:
    from bayesdrop.surface import *  # noqa: F403
    from bayesdrop.surface import __all__ as __all__
else:
    # Whoever only asks for help, or for an error's class, need not wait for torch.
    def __getattr__(name: str) -> object:
        import importlib
        import importlib.util

        if name.startswith("__") and name != "__all__":
            raise no_such_name(name)
        if importlib.util.find_spec(f"bayesdrop.{name}") is not None:
            return importlib.import_module(f"bayesdrop.{name}")
        surface = importlib.import_module("bayesdrop.surface")
        globals().update({key: getattr(surface, key) for key in surface.__all__})
        globals()["__all__"] = surface.__all__
        if name not in globals():
            raise no_such_name(name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
