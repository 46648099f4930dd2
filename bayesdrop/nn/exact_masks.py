"""Exact masks in training, with what estimates the gradient of their log-odds needs to know."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.contexts import TrainingPass
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.two_valued import TwoValuedMask
from bayesdrop.ops import noise
from bayesdrop.typing import Latents


class ExactDraw(NamedTuple):
    r"""The exact mask of one call of a layer.

    .. math:: b_{nk} = 1[u_{nk} < \sigma(\ell_{nk})]

    Args:
        layer: The layer.
        logits: :math:`\ell`, with its graph: ``(K,)`` if it is the same for all, else ``(N, K)``.
        uniform: :math:`u`, ``(N, K)``.
        kept: :math:`b`, ``(N, K)``.
    """

    layer: BayesianDropout
    logits: Tensor
    uniform: Tensor
    kept: Tensor


class ExactMasks(TrainingPass):
    """A pass in training mode in which Bernoulli masks are drawn exactly, each example its own.

    Other layers draw as in training. ``draws`` holds what was drawn, in the order of the calls.

    Args:
        num_rows: Number of examples.
    """

    joins_masks: ClassVar[bool] = False

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows)
        self._size = num_rows
        self.draws: list[ExactDraw] = []
        self._antithetic: list[Tensor] | None = None

    def again(self, *, antithetic: bool) -> ExactMasks:
        """Return another pass under the same global latents.

        Args:
            antithetic: Whether each mask comes from one minus the uniform noise of this pass,
                which must then call the same layers; else from noise of its own.
        """
        other = ExactMasks(self._size)
        other._latents, other.posteriors = self._latents, self.posteriors
        if antithetic:
            other._antithetic = [1 - draw.uniform for draw in self.draws]
        return other

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        if not layer.training or not isinstance(layer, TwoValuedMask):
            return super().mask(layer, x)
        logits = layer.keep_logits(self._draw(layer), x)
        if torch._C._current_graph_task_id() != -1:
            return self._drawn_before(layer)
        rows = layer.rows_of(x)
        batch = (1 if rows is None else rows,) if logits.ndim == 1 else logits.shape[:-1]
        shape = (*batch, layer.num_units)
        if self._antithetic is None:
            uniform = noise.uniform(shape, logits)
        else:
            uniform = self._antithetic[len(self.draws)]
        kept = (uniform < torch.sigmoid(logits.detach())).to(logits.dtype)
        self.draws.append(ExactDraw(layer, logits, uniform, kept))
        return layer.mask_where(kept)

    @override
    def latents_of(self, layer: BayesianDropout) -> Latents | None:
        return None if isinstance(layer, TwoValuedMask) else super().latents_of(layer)

    def hold_draws(self, result: Tensor) -> None:
        """Let gradient checkpointing, where it is in use, find these masks again.

        Args:
            result: Of the graph of this pass; the masks have no gradient themselves.
        """
        for draw in self.draws if result.requires_grad else ():
            self.hold(draw.layer, result)

    def _drawn_before(self, layer: TwoValuedMask) -> Tensor:
        # Gradient checkpointing runs the layer again.
        found = [draw for draw in self.draws if draw.layer is layer]
        if len(found) != 1:
            raise ConfigError(
                found[0].layer.name,
                expected="to run once in a pass with gradient checkpointing",
                got="a second call, whose mask could not be told from the first one's",
                hint="Draw its mask once, with layer.sample_mask(x), and multiply by it.",
            )
        return layer.mask_where(found[0].kept)
