"""How a dropout layer knows where it runs: an explicit context, never a guess.

Outside any context a layer is plain torch: it draws its mask from the posterior in training mode
and multiplies by the mean mask in evaluation mode. Inside ``with context:`` the layer asks the
context for its mask instead. ``BayesianNetwork`` opens one for the Pyro model, ``predict`` opens
one for a posterior sample, and ``impose_masks`` opens one for masks of your own.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, ClassVar, Self
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from bayesdrop.errors import ConfigError, UncountedDivergenceWarning
from bayesdrop.typing import Latents

_ACTIVE: ContextVar[MaskContext | None] = ContextVar("bayesdrop_mask_context", default=None)
# Those that were opened in compiled code, for which torch can trace no ContextVar.
_TRACED: list[MaskContext] = []
# The contexts in which a layer ran inside gradient checkpointing, as long as the graph lives.
_HELD: WeakKeyDictionary[Any, WeakSet[MaskContext]] = WeakKeyDictionary()
# Layers that ran without gradients in a pass that has some, as in reentrant checkpointing.
_WITHOUT_GRADIENT: WeakSet[Any] = WeakSet()
# Layers in a Pyro model that is not ours: the handlers of their last pass, until their divergence
# was asked for in one.
_UNCOUNTED: WeakKeyDictionary[Any, ReferenceType[Any]] = WeakKeyDictionary()
_COUNTED: WeakSet[Any] = WeakSet()
# Layers that train outside any context: how often they ran before their divergence was asked for.
_PASSES: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
_MANY_PASSES = 100
_ASKED: ContextVar[list[Any] | None] = ContextVar("bayesdrop_divergences_asked", default=None)


def active_context() -> MaskContext | None:
    """Return the innermost context that is open in this thread, if any."""
    return _TRACED[-1] if _TRACED else _ACTIVE.get()


def context_of(layer: Any) -> MaskContext | None:
    """Return the innermost context that is open, for a layer that is about to run.

    Where there is none, in a Pyro model of one's own or in the backward pass, this is the place
    to say what is wrong about that.

    Args:
        layer: A ``LatentOwner``.

    Raises:
        ConfigError: If gradient checkpointing runs a layer again after its context is closed, or
            does so because its first run was without gradients.
    """
    context = active_context()
    if context is None and not torch.compiler.is_compiling():
        if (_HELD or _WITHOUT_GRADIENT) and torch._C._current_graph_task_id() != -1:
            context = _replayed(layer)
        if layer.training:
            if not _PYRO_STACK:
                if torch.is_grad_enabled():
                    _check_asked(layer)
            elif layer not in _COUNTED:
                _check_counted(layer)
    return context


def note_divergence(owner: Any) -> None:
    """Note that an owner's KL divergence was asked for.

    Args:
        owner: A ``LatentOwner``, which stands for those inside it.
    """
    if torch.compiler.is_compiling():
        return
    if _PYRO_STACK:
        _COUNTED.add(owner)
    if _PASSES.get(owner) != math.inf:
        _PASSES.update((part, math.inf) for part in owner.modules())
    asked = _ASKED.get()
    if asked is not None:
        asked.append(owner)


@contextmanager
def divergences_asked() -> Iterator[list[Any]]:
    """Yield a list of the owners whose KL divergence is asked for as long as this is open."""
    asked: list[Any] = []
    token = _ASKED.set(asked)
    try:
        yield asked
    finally:
        _ASKED.reset(token)


def _check_asked(layer: Any) -> None:
    passes = _PASSES[layer] = _PASSES.get(layer, 0) + 1
    if passes < _MANY_PASSES or passes == math.inf:
        return
    # Say it once, of all layers of the network: the others are about to run as often.
    for other, count in _PASSES.items():
        if count >= _MANY_PASSES - 1:
            _PASSES[other] = math.inf
    learns = layer.posterior() or layer.penalty() is not None
    if learns and any(parameter.requires_grad for parameter in layer.parameters()):
        warnings.warn(
            f"{layer.name} has run {_MANY_PASSES} times in training mode, and nothing asked for "
            "its KL divergence: a loss without it trains no posterior. Add bd.kl_divergence(net) "
            "/ num_data to the loss; bd.integrations does so in the loops of other libraries.",
            UncountedDivergenceWarning,
            stacklevel=2,
        )


def _replayed(layer: Any) -> MaskContext | None:
    # In the backward pass a layer runs again for gradient checkpointing: in the same context.
    if layer.training and layer in _WITHOUT_GRADIENT:
        raise ConfigError(
            layer.name,
            expected="gradient checkpointing that keeps to the masks of the pass",
            got="a layer that ran without gradients, and runs again in the backward pass with "
            "another mask",
            hint="Pass use_reentrant=False to torch.utils.checkpoint.",
        )
    task = torch._C._current_graph_task_id()
    contexts = [c for c in _HELD.get(layer, ()) if c.replayed_in in (None, task)]
    if len(contexts) > 1:
        raise ConfigError(
            layer.name,
            expected="one pass whose gradient is wanted",
            got=f"{len(contexts)} that gradient checkpointing may have to run again",
            hint="Call backward() after each pass, and run those without gradients under "
            "torch.no_grad().",
        )
    for context in contexts:
        context.replayed_in = task
        return context
    return None


def _check_counted(layer: Any) -> None:
    run = _PYRO_STACK[0]  # its handlers are new ones in each run of a model
    last = _UNCOUNTED.get(layer)
    if last is None or last() is run:
        _UNCOUNTED[layer] = ref(run)
        return
    _COUNTED.add(layer)  # say it once
    if layer.posterior() or layer.penalty() is not None:
        warnings.warn(
            f"{layer.name} runs in a Pyro model of your own, which does not count its KL "
            "divergence. Add pyro.factor('kl', -bd.kl_divergence(net)) to the model, outside the "
            "data plate, or call the model of a bd.BayesianNetwork in it.",
            UncountedDivergenceWarning,
            stacklevel=2,
        )


class MaskContext(ABC):
    """Decides where the masks of dropout layers come from while it is open.

    It is the object of a pass: what one layer has drawn, and another one needs, it holds until it
    is closed (``drawn``). It stands below the layers, which ask it: so it knows them only as keys,
    a ``BayesianDropout`` in ``mask`` and any ``LatentOwner`` in ``values``.

    Args:
        num_rows: Number of examples (times particles) that every layer must find in its
            ``batch_dim``; None if it is not known.
    """

    counts: ClassVar[bool] = False
    """Whether ``count`` is wanted, as for a loss."""

    def __init__(self, num_rows: int | None = None) -> None:
        self.num_rows = num_rows
        self.batch_shape: torch.Size | None = None  # of the rows, particles to the left
        self.divergences: dict[Any, Tensor] = {}
        self.drawn: dict[Any, Tensor] = {}
        self.replayed_in: int | None = None
        self._tokens: list[Token[MaskContext | None] | None] = []

    def __enter__(self) -> Self:
        if torch.compiler.is_compiling():
            _TRACED.append(self)
            self._tokens.append(None)
        else:
            self._tokens.append(_ACTIVE.set(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        token = self._tokens.pop()
        if token is None:
            _TRACED.pop()
        else:
            _ACTIVE.reset(token)
        if not self._tokens:
            self.drawn = {}

    def replays(self, layer: Any) -> bool:
        """Return whether a layer must run in this context to draw the same from the same noise.

        Args:
            layer: The layer, which gradient checkpointing may run again.
        """
        return True

    def needs_gradient(self, layer: Any) -> bool:
        """Return whether a layer that ran without gradients would have another gradient later.

        Args:
            layer: The layer, which reentrant gradient checkpointing may run again.
        """
        return self.replays(layer)

    def keep(self, layer: Any, drawn: Tensor, result: Tensor | None = None) -> None:
        """Keep what a layer has in this pass.

        Args:
            layer: The layer that runs.
            drawn: Its mask, which ``mask_of`` then returns, or its weights.
            result: What was computed with it, where it has itself no gradient.
        """
        self.drawn[layer] = drawn
        result = drawn if result is None else result
        if torch.compiler.is_compiling():
            return
        if torch.is_grad_enabled():
            _WITHOUT_GRADIENT.discard(layer)
        elif layer.training and self.needs_gradient(layer):
            _WITHOUT_GRADIENT.add(layer)
        if not result.requires_grad or not self.replays(layer):
            return
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            self.hold(layer, result)

    def hold(self, layer: Any, result: Tensor) -> None:
        """Let gradient checkpointing run a layer in this context again, as long as a graph lives.

        Args:
            layer: The layer.
            result: Of the graph.
        """
        # The graph holds the context, which nothing else does after the pass.
        result.register_hook(lambda grad, context=self: None)
        _HELD.setdefault(layer, WeakSet()).add(self)

    def count(self, layer: Any, divergence: Tensor) -> None:
        """Count the divergence of masks whose posterior is each example's own.

        Args:
            layer: The layer that runs.
            divergence: In nats, ``(N,)``, with the layer's ``kl_scale``.
        """
        known = self.divergences.get(layer)
        self.divergences[layer] = divergence if known is None else known + divergence

    def divergence_by_example(self) -> Tensor:
        """Return what was counted in this pass, ``(N,)`` in nats; a zero if nothing was."""
        return sum(self.divergences.values(), start=torch.zeros(()))

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
