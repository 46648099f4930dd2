"""All contexts: where a pass through a network takes its masks, and random weights, from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError, ShapeError, unknown_name
from bayesdrop.nn.context import MaskContext, note_divergence
from bayesdrop.nn.declared import mask_law
from bayesdrop.nn.latents import LatentOwner, is_own, kl_divergence, named_owners
from bayesdrop.nn.mask import BayesianDropout, named_dropout_layers
from bayesdrop.nn.mask_sum import MaskSum
from bayesdrop.nn.weight import BayesianWeights
from bayesdrop.ops.transforms import takes_plain_operations
from bayesdrop.typing import Latents


class ImposedMasks(MaskContext):
    """Gives each named layer the mask that was asked for; the others behave as outside.

    Args:
        masks: Layer to a mask of shape ``(K,)`` or ``(N, K)``.
        num_rows: Number of examples, if it is known.
    """

    def __init__(
        self, masks: Mapping[BayesianDropout, Tensor], num_rows: int | None = None
    ) -> None:
        super().__init__(num_rows)
        self.masks = masks

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        return self.masks.get(layer)


class TrainingPass(MaskContext):
    """What layers do outside, with one draw of each layer's global latents for the whole pass.

    Each posterior is computed once: the KL divergence can use it again (``posteriors``), and a
    layer that is called twice keeps its latents, as in the Pyro model.

    Args:
        num_rows: Number of examples, or of examples x masks.
        mask_sum: Says all masks of its layer, which is then not drawn.
    """

    counts: ClassVar[bool] = True
    joins_masks: ClassVar[bool] = True
    """Whether masks may be drawn jointly, before their layers run."""

    def __init__(self, num_rows: int | None = None, mask_sum: MaskSum | None = None) -> None:
        super().__init__(num_rows)
        self.mask_sum = mask_sum
        self.posteriors: dict[LatentOwner, Mapping[str, TorchDistribution]] = {}
        self._latents: dict[LatentOwner, Latents] = {}
        self._kls: list[Tensor] = []
        self._joint: set[LatentOwner] = set()
        self._masks: dict[LatentOwner, Tensor] = {}
        self._replayed: dict[LatentOwner, Tensor] = {}
        self._is_complete = False

    def draw_jointly(self, network: nn.Module) -> None:
        """Draw the latents of layers of one class together, where the class knows how.

        Args:
            network: The network of this pass. Layers that it holds in evaluation mode are left.
        """
        if takes_plain_operations():
            return
        groups: dict[type[LatentOwner], list[LatentOwner]] = {}
        owners_of_all = [owner for _, owner in named_owners(network)]
        for owner in owners_of_all:
            if owner.training:
                groups.setdefault(type(owner), []).append(owner)
        rows = self.num_rows if self.joins_masks and self.mask_sum is None else None
        for cls, owners in groups.items():
            if not is_own(cls, "draw_jointly", *_DRAWN):
                continue
            draw = cls.draw_jointly(owners, drawn=self._latents, rows=rows)
            if draw is not None:
                self._latents.update(draw.latents)
                self._joint.update(draw.latents)
                self._kls.append(draw.kl)
                self._masks.update(draw.masks)
        self._is_complete = self._joint.issuperset(owners_of_all) and bool(self._kls)

    def kl_divergence(self, network: nn.Module) -> Tensor:
        """Return ``kl_divergence(network)`` for what this pass has drawn."""
        for owner in self._joint:
            note_divergence(owner)
        if self._is_complete:
            return sum(self._kls[1:], start=self._kls[0])
        joint = {owner: self._latents[owner] for owner in self._joint}
        rest = kl_divergence(network, self.posteriors, drawn=joint)
        return sum(self._kls, start=rest)

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        if not layer.training:
            return None
        total, rows = self.mask_sum, self.num_rows
        if total is not None and total.layer is layer and rows is not None:
            return total.mask(self._draw(layer), x, rows // len(total))
        if layer in self._masks or layer in self._replayed:
            return self._drawn_mask(layer)
        return layer.draw_mask(self._draw(layer), x)

    @override
    def latents_of(self, layer: BayesianDropout) -> Latents | None:
        if not layer.training or self.mask_sum is not None:
            return None
        has_mask = layer in self._masks or layer in self._replayed
        return None if has_mask else self._draw(layer)

    def _drawn_mask(self, layer: BayesianDropout) -> Tensor:
        # Of the first call of a layer, and where gradient checkpointing runs that again.
        if layer in self._masks:
            mask = self._masks.pop(layer)
            if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
                self._replayed[layer] = mask
            return mask
        if torch._C._current_graph_task_id() == -1:
            raise ConfigError(
                layer.name,
                expected="to run once in a pass with gradient checkpointing",
                got="a second call, whose mask could not be told from the first one's",
                hint="Draw its mask once, with layer.sample_mask(x), and multiply by it.",
            )
        return self._replayed[layer]

    @override
    def values(self, owner: LatentOwner) -> Latents | None:
        as_model = isinstance(owner, BayesianWeights) and owner.draws_as_model
        return self._draw(owner) if as_model and owner.training else None

    @override
    def replays(self, layer: Any) -> bool:
        # Others draw when they run, and do so outside; but what was counted is counted again.
        return layer in self._joint or layer in self.divergences

    @override
    def needs_gradient(self, layer: Any) -> bool:
        # The divergence is of the posterior that it drew from.
        return bool(self.posteriors.get(layer)) or self.replays(layer)

    def _draw(self, owner: LatentOwner) -> Latents:
        if owner not in self._latents:
            posterior = owner.posterior()
            self.posteriors[owner] = posterior
            self._latents[owner] = {name: q.rsample() for name, q in posterior.items()}
        return self._latents[owner]


_DRAWN = ("prior", "posterior", "draw_latents", "kl_divergence", "penalty")


class ModelPass(MaskContext):
    """Draws each mask as a named site that adds nothing to the ELBO, as q(z | pi) = p(z | pi).

    ``draws`` holds each layer, the distribution and the mask that was drawn.

    Args:
        latents: The global latents of every owner, drawn by the Pyro model.
        particles: Batch shape to the left of the examples.
        num_examples: Number of examples, the size of the data plate.
        num_masks: Masks :math:`M` of each example, which stand in a row.
        mask_sum: Says all masks of its layer, which then has no site.
        plate: The data plate, for the masks' sites.

    Sites:  ``{module path}.z`` of every layer that runs, event ``(K,)``, or ``(M, K)`` if an
        example has several masks.
    """

    counts: ClassVar[bool] = True

    def __init__(
        self,
        latents: Mapping[LatentOwner, Latents],
        particles: torch.Size,
        num_examples: int,
        num_masks: int = 1,
        mask_sum: MaskSum | None = None,
        plate: AbstractContextManager[Any] | None = None,
    ) -> None:
        super().__init__(particles.numel() * num_examples * num_masks)
        self.latents = latents
        self.particles = particles
        self.plate = nullcontext() if plate is None else plate
        self.num_examples, self.num_masks = num_examples, num_masks
        self.mask_sum = mask_sum
        self.draws: list[tuple[BayesianDropout, TorchDistribution, Tensor]] = []
        self.batch_shape: torch.Size = particles + (num_examples * num_masks,)

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        latents = self.latents.get(layer)
        if latents is None:
            return None
        if self.mask_sum is not None and self.mask_sum.layer is layer:
            return self.mask_sum.mask(latents, x, self.num_examples)
        fn = mask_law(layer, latents, x).expand(self.batch_shape)
        z = fn.rsample() if fn.has_rsample else fn.sample()
        self.draws.append((layer, fn, z))
        by_example = self.batch_shape + (layer.num_units,)
        site: TorchDistribution = fn
        if self.num_masks > 1:
            by_example = self.particles + (self.num_examples, self.num_masks, layer.num_units)
            z = z.reshape(by_example)
            site = Delta(z, event_dim=2)
        # The network runs outside the plate: its own weights may be sites, for all examples.
        with self.plate:
            z = pyro.sample(f"{layer.path}.z", site.mask(False), obs=z)
        z = z.expand(by_example)
        return z if self.num_masks == 1 else z.reshape(-1, layer.num_units)

    @override
    def values(self, owner: LatentOwner) -> Latents | None:
        latents = self.latents.get(owner)
        if latents is None or not isinstance(owner, BayesianWeights):
            return latents
        return {name: self._by_particle(value, owner.weight) for name, value in latents.items()}

    def _by_particle(self, value: Tensor, event: Tensor) -> Tensor:
        value = value.to(event)
        if value.numel() == event.numel():
            return value.reshape(event.shape)
        return value.expand(self.particles + (1,) + event.shape).reshape(-1, *event.shape)


class PosteriorSample(MaskContext):
    """One draw of the global latents, and masks drawn from it.

    Args:
        latents: The global latents of every layer, as its ``draw_latents`` gives them. Those of
            layers with random weights are the weights of this sample, for all inputs.
        shared: Whether one mask, drawn now, serves all inputs. The alternative draws a mask per
            example at every forward pass. The marginal prediction of each input is the same; only
            the correlation between inputs differs. Masks that depend on the input are always
            drawn per example.
    """

    def __init__(self, latents: Mapping[Any, Latents], *, shared: bool) -> None:
        super().__init__()
        self.latents: Mapping[LatentOwner, Latents] = latents
        self.shared = shared
        self.masks: dict[BayesianDropout, Tensor] = {}
        with self:
            for owner in latents if shared else ():
                if isinstance(owner, BayesianDropout):
                    self.mask_of(owner)

    @override
    def mask_of(self, layer: BayesianDropout) -> Tensor | None:
        if not self.shared or layer.input_dependent or layer not in self.latents:
            return super().mask_of(layer)
        if layer not in self.masks:  # the layer that asks may be drawn before this one
            self.masks[layer] = layer.draw_mask(self.latents[layer])
        return self.masks[layer]

    @override
    def values(self, owner: LatentOwner) -> Latents | None:
        return self.latents.get(owner)

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        if layer in self.masks:
            return self.masks[layer]
        if layer in self.latents:
            return layer.draw_mask(self.latents[layer], x)
        return None


class _Watched(MaskContext):
    # Asks another context for masks and weights, if there is one.

    def __init__(self, source: MaskContext | None = None) -> None:
        super().__init__()
        self.source = source

    @override
    def mask_of(self, layer: BayesianDropout) -> Tensor | None:
        mask = super().mask_of(layer)
        return self.source.mask_of(layer) if mask is None and self.source is not None else mask

    @override
    def values(self, owner: LatentOwner) -> Latents | None:
        return None if self.source is None else self.source.values(owner)


class RecordedMasks(_Watched):
    """Keeps the mask that each layer has in the last pass: in its last call, if there are several.

    Args:
        source: Decides on masks and weights; None runs with mean masks.
    """

    def __init__(self, source: MaskContext | None = None) -> None:
        super().__init__(source)
        self.masks: dict[BayesianDropout, Tensor] = {}

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        mask = layer.mean_mask(x) if self.source is None else self.source.mask(layer, x)
        if mask is not None:
            self.masks[layer] = mask
        return mask


class LocalDivergences(_Watched):
    """Adds up the divergences of masks whose posterior is each example's own, such as contextual.

    ``kl_divergence(network)`` does not have them, since they depend on the inputs. A plain loop
    over mini-batches opens this context for the pass::

        with bd.nn.LocalDivergences() as local:
            output = net(x)
        loss = cross_entropy(output, y) + bd.kl_divergence(net) / num_data + local.mean()

    Args:
        source: Decides on masks and weights; None leaves them to the layers.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(nn.Linear(3, 4), bd.nn.ContextualDropout(4))
        >>> with LocalDivergences() as local:
        ...     y = net(torch.zeros(5, 3))
        >>> local.divergence_by_example().shape, local.mean().shape
        (torch.Size([5]), torch.Size([]))
    """

    counts: ClassVar[bool] = True

    def mean(self) -> Tensor:
        """Return the average over the examples, in nats."""
        return self.divergence_by_example().mean()

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        return None if self.source is None else self.source.mask(layer, x)


def impose_masks(network: nn.Module, masks: Mapping[str, Tensor]) -> ImposedMasks:
    """Return a context in which the named layers use the given masks.

    Args:
        network: The network (or ``BayesianNetwork``) whose layers are meant.
        masks: Layer name, as in ``network.named_modules()``, to a mask of shape ``(K,)`` or
            ``(N, K)``.

    Raises:
        ConfigError: If a name is not that of a dropout layer of ``network``.
        ShapeError: If a mask does not have the layer's number of units.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(3), nn.Linear(3, 2, bias=False))
        >>> with impose_masks(net, {"0": torch.zeros(3)}):
        ...     bool((net(torch.ones(1, 3)) == 0).all())
        True
    """
    if not isinstance(masks, Mapping):
        raise ConfigError(
            "impose_masks",
            expected="a mapping of layers' names to masks",
            got=f"a {type(masks).__name__}",
            hint='For example {"fc1_dropout": torch.ones(500)}.',
        )
    layers = dict(named_dropout_layers(network))
    given: dict[BayesianDropout, Tensor] = {}
    for name, mask in masks.items():
        if name not in layers:
            raise unknown_name("dropout layer", name, layers)
        layer = layers[name]
        given[layer] = torch.as_tensor(mask)
        if given[layer].ndim == 0 or given[layer].shape[-1] != layer.num_units:
            raise ShapeError(
                "impose_masks",
                expected=f"a mask of shape ({layer.num_units},) or (N, {layer.num_units}) for "
                f"{name!r}",
                got=str(tuple(given[layer].shape)),
                hint="A mask has a number for each unit.",
            )
    return ImposedMasks(given)
