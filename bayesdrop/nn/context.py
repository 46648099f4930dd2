"""How a dropout layer knows where it runs: an explicit context, never a guess.

Outside any context a layer is plain torch: it draws its mask from the posterior in training mode
and multiplies by the mean mask in evaluation mode. Inside ``with context:`` the layer asks the
context for its mask instead. ``BayesianNetwork`` opens one for the Pyro model, ``predict`` opens
one for a posterior sample, and ``impose_masks`` opens one for masks of your own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar, Token
from typing import Any, Self

from torch import Tensor

from bayesdrop.typing import Latents

_ACTIVE: ContextVar[MaskContext | None] = ContextVar("bayesdrop_mask_context", default=None)


def active_context() -> MaskContext | None:
    """Return the innermost context that is open in this thread, if any."""
    return _ACTIVE.get()


class MaskContext(ABC):
    """Decides where the masks of dropout layers come from while it is open.

    It is the object of a pass: what one layer has drawn, and another one needs, it holds until it
    is closed (``drawn``). It stands below the layers, which ask it: so it knows them only as keys,
    a ``BayesianDropout`` in ``mask`` and any ``LatentOwner`` in ``values``.

    Args:
        num_rows: Number of examples (times particles) that every layer must find in its
            ``batch_dim``; None if it is not known.
    """

    def __init__(self, num_rows: int | None = None) -> None:
        self.num_rows = num_rows
        self.drawn: dict[Any, Tensor] = {}
        self._tokens: list[Token[MaskContext | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_ACTIVE.set(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        _ACTIVE.reset(self._tokens.pop())
        if not self._tokens:
            self.drawn = {}

    @abstractmethod
    def mask(self, layer: Any, x: Tensor) -> Tensor | None:
        """Return a mask of shape ``(K,)`` or ``(N, K)``, or None to let the layer decide.

        Particles may stand in front of the examples; the layer's input then has particles x
        examples in its ``batch_dim``.
        """

    def mask_of(self, layer: Any) -> Tensor | None:
        """Return the mask that a layer has in this pass; None if it has not run yet.

        Layers that share a draw ask for it.
        """
        return self.drawn.get(layer)

    def latents_of(self, layer: Any) -> Latents | None:
        """Return the latents under which a layer may draw a mask of its own, and multiply by it.

        None asks the layer to ask for its ``mask``. A layer that does not puts its mask into
        ``drawn``.
        """
        return None

    def values(self, owner: Any) -> Latents | None:
        """Return the values of a layer's global latents, or None to let the layer decide.

        Layers with random weights ask for them. They are of event shape, or have one dimension of
        particles in front; the layer's input then has particles x examples in its first.
        """
        return None
