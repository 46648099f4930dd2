"""What nested dropout layers share: groups of units in an order, of which a prefix is kept."""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions import OrderedMask
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.nn.context import active_context
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.masks.importance import importance_ranks
from bayesdrop.nn.masks.unit_mask import UnitMask, first_units, of_units
from bayesdrop.nn.ordered_law import OrderedLaw
from bayesdrop.nn.weight import BayesianWeights
from bayesdrop.typing import Latents

Ordering: TypeAlias = Literal["index", "importance"]
_GROUPS = 32
_MOST_MASKS = 1024


class _PlainPass(threading.local):
    """The draw that a group of layers shares in plain torch, where no context holds it.

    Each thread has its own; a copy of the network starts without.
    """

    mask: Tensor | None = None

    def __deepcopy__(self, memo: object) -> _PlainPass:
        return _PlainPass()

    @override
    def __reduce__(self) -> tuple[type[_PlainPass], tuple[()]]:
        return _PlainPass, ()


class OrderedUnits(BayesianDropout):
    r"""Abstract layer whose masks keep a prefix of its groups of units.

    Unit ``k`` belongs to group ``unit_group[k]``; the first ``always_kept`` groups are kept in
    every mask. ``hold_width`` fixes the mask to one prefix. Where the next Linear layer, or the
    convolution before, has random weights (``SparseVariational``), the divergence of a
    unit's weights is counted with the probability that it is kept.

    Layers draw their widths independently of each other, unless one shares another's
    (``share_width_with``; ``convert`` with ``share_widths=True``): in every pass both then have as
    many kept groups. A network that runs at one width in all layers is trained as such.

    Where each example has a mask, ``stratified=True`` draws those of a batch of :math:`N`
    together, example :math:`n` from a slice of the law of its own, in random order:

    .. math:: t_n = F^{-1}(u_n), \qquad u_n = \frac{s_n + v_n}{N}, \quad
              s\ \text{a random permutation of}\ 0, \dots, N - 1, \quad v_n \sim U(0, 1)

    Each :math:`t_n` alone has the law, so that loss and gradient keep their expectations; how many
    examples run at each width hardly varies. The full width and the narrowest are in every batch
    if their probability :math:`P` is at least :math:`1 / N`: :math:`\lfloor NP \rfloor` times or
    more; any other width at least :math:`\lfloor NP \rfloor - 1` times.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units whose keep probability is below this are pruned from the mean mask.
        kl_scale: Factor on this layer's KL divergence.
        num_groups: Number of groups :math:`G` of neighbouring units, equal but for rounding; None
            takes 32, or one unit a group where there are fewer.
        always_kept: Number of groups :math:`F < G` that every mask keeps; None: 1, or 0 of one.
        ordering: ``"index"``: a prefix is the first units by index. ``"importance"``: by what
            ``rank_units`` says; ``convert`` calls it with the norms of each unit's weights.
        share_widths: Whether the layers that one call of ``convert`` puts in share the width of
            the first of them. They need the same number of groups.
        stratified: Whether the masks of a batch in training mode share the law of widths out among
            them. See above.
    """

    always_shown: ClassVar[tuple[str, ...]] = ("num_groups",)

    unit_group: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
        num_groups: int | None = None,
        always_kept: int | None = None,
        ordering: Ordering = "index",
        share_widths: bool = False,
        stratified: bool = False,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        if ordering not in ("index", "importance"):
            raise unknown_name("ordering", ordering, ("index", "importance"))
        groups = min(_GROUPS, num_units) if num_groups is None else num_groups
        fixed = 0 if always_kept is None else always_kept
        if not is_whole(groups) or not is_whole(fixed) or not 0 <= fixed < groups <= num_units:
            raise ConfigError(
                type(self).__name__,
                expected=f"ints 1 <= num_groups <= {num_units} and 0 <= always_kept < num_groups",
                got=f"num_groups={num_groups!r}, always_kept={always_kept!r}",
                hint="By default there are at most 32 groups, of which one is always kept.",
            )
        self.num_groups, self.ordering = groups, ordering
        self.always_kept = min(1, groups - 1) if always_kept is None else always_kept
        self.share_widths, self.stratified = share_widths, stratified
        self.held_groups: int | None = None
        # In a tuple, so that the other layer is no child of this module.
        self._width_source: tuple[OrderedUnits, ...] = ()
        self._plain_pass: _PlainPass | None = None  # of a layer whose width others share
        self.register_buffer("unit_group", torch.arange(num_units) * groups // num_units)

    @property
    def num_ordered(self) -> int:
        """Number of groups that masks can drop, :math:`D = G - F`."""
        return self.num_groups - self.always_kept

    @abstractmethod
    def order_prior(self) -> OrderedMask:
        """Return the prior of the mask of the ordered groups, event shape ``(D,)``."""

    @abstractmethod
    def order_posterior(self) -> OrderedMask:
        """Return the posterior of the mask of the ordered groups; the prior where it is fixed."""

    def order_temperature(self) -> float | None:
        """Return the temperature of the posterior's gradient; None where the law is fixed."""
        return None

    def order_interpolated(self) -> bool:
        """Return whether the posterior's gradient is that of ``OrderedMaskInterpolated``."""
        return False

    @abstractmethod
    def order_probs(self) -> Tensor:
        r"""Return :math:`\beta_k`, that a group is kept if the one before it is, ``(D,)``."""

    @override
    def ordered_law(self) -> OrderedLaw:
        return OrderedLaw(
            self.order_prior().logits,
            self.order_posterior().logits,
            self.always_kept,
            self.order_temperature(),
            self.order_interpolated(),
            self.stratified,
        )

    @classmethod
    @override
    def options_for_code(cls, num_features: int, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"num_groups": num_features, **options}  # each feature has its place

    def expand_order(self, order: Tensor) -> Tensor:
        """Return the mask of the units of a mask of the ordered groups, ``(..., K)``.

        Args:
            order: Values of the groups that are not always kept, ``(..., D)``.
        """
        return of_units(order, self.unit_group, self.always_kept)

    # -- widths --------------------------------------------------------------------------------

    def groups_at(self, width: float) -> int:
        """Return how many groups are kept at a width.

        Args:
            width: A float is a share of the groups, in (0, 1], rounded to whole groups. An int is
                a number of units: as many groups as fit into it, those with the most important
                units first. At least ``always_kept`` groups are kept, and at least one.

        Raises:
            ConfigError: If a share is not in (0, 1], or a number not in 1..K.
        """
        share = not is_whole(width)
        if not is_real(width) or not 0 < width <= (1 if share else self.num_units):
            raise ConfigError(
                self.name,
                expected=f"a share in (0, 1], or a number of units from 1 to {self.num_units}",
                got=f"width={width!r}",
                hint="0.5 is half of the groups, 64 as many as fit into 64 units.",
            )
        if share:
            groups = math.floor(width * self.num_groups + 0.5)
        else:
            sizes = torch.bincount(self.unit_group, minlength=self.num_groups).cumsum(0)
            groups = int((sizes <= width).sum())
        return max(groups, self.always_kept, 1)

    def prefix_mask(self, groups: int) -> Tensor:
        """Return the mask with the first ``groups`` groups kept, ``(K,)``.

        Args:
            groups: Number of kept groups, the ones that are always kept included.
        """
        like = next(self.parameters(), torch.empty(0))
        mask = (self.unit_group < groups).to(like.dtype)
        return mask if like.is_floating_point() else mask.to(torch.get_default_dtype())

    def hold_width(self, width: float | None) -> None:
        """Fix every mask to the prefix of a width; None lets them vary again.

        A held layer has no latents and no KL divergence. The width is not part of ``state_dict``.

        Args:
            width: As for ``groups_at``.
        """
        self.held_groups = None if width is None else self.groups_at(width)

    # -- one width for several layers ------------------------------------------------------------

    @property
    def width_source(self) -> OrderedUnits | None:
        """The layer whose width this one shares in every pass, if it has none of its own."""
        return self._width_source[0] if self._width_source else None

    def share_width_with(self, source: OrderedUnits) -> None:
        """Have as many kept groups as another layer in every pass, instead of an own law.

        This layer then has no latents, no parameters and no KL divergence; those of the source
        stand for both. The source must run first. There is no way back.

        Args:
            source: A layer of the same class and as many groups, that follows none itself.

        Raises:
            ConfigError: If it is not such a layer.
        """
        groups = (self.num_groups, self.always_kept)
        others = (source.num_groups, source.always_kept)
        if (
            type(source) is not type(self)
            or source is self
            or source.width_source
            or groups != others
        ):
            raise ConfigError(
                self.name,
                expected=f"to share the width of another {type(self).__name__} of {groups[0]} "
                f"groups, {groups[1]} of them always kept, which has a width of its own",
                got=f"a {type(source).__name__} of {others[0]} and {others[1]}",
                hint="Pass the same num_groups for all layers, at most the units that the "
                "narrowest has.",
            )
        self._width_source = (source,)
        root = source._source
        root._plain_pass = root._plain_pass or _PlainPass()
        self._drop_law()

    def _drop_law(self) -> None:
        """Forget the parameters of a law that is not used any more."""

    @classmethod
    @override
    def share(cls, layers: Sequence[BayesianDropout]) -> None:
        first: OrderedUnits | None = None
        for layer in layers:
            if not isinstance(layer, OrderedUnits) or not layer.share_widths:
                continue
            if first is None:
                first = layer
            else:
                layer.share_width_with(first)

    @property
    def _source(self) -> OrderedUnits:
        """The layer whose law this one has: itself, or the one whose width it shares."""
        return self if self.width_source is None else self.width_source._source

    def _shared_mask(self, x: Tensor | None) -> Tensor:
        """Return the mask that goes with the one that the source has in this pass."""
        source, context = self._source, active_context()
        mask: Tensor | None = None
        if context is not None:
            mask = context.mask_of(source)
        elif source._plain_pass is not None:
            mask = source._plain_pass.mask
        rows = None if x is None else self.rows_of(x)
        if mask is None or (mask.ndim > 1 and mask[..., 0].numel() not in (1, rows)):
            raise ConfigError(
                self.name,
                expected=f"{source.name}, whose width it shares, to have run on the same examples",
                got="no mask of it" if mask is None else f"one of shape {tuple(mask.shape)}",
                hint="The layer that runs first must be the source.",
            )
        return mask[..., first_units(source.unit_group, source.num_groups)][..., self.unit_group]

    @override
    def draw_mask(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        mask = super().draw_mask(latents, x)
        if self._plain_pass is not None and active_context() is None:
            self._plain_pass.mask = mask
        return mask

    # -- random weights --------------------------------------------------------------------------

    @override
    def bind_weights(self, layer: nn.Module, dim: int) -> None:
        """Remember a layer of random weights, of which those of pruned units cost nothing."""
        if isinstance(layer, BayesianWeights):
            self._bound = (layer, dim)

    @override
    def penalty(self) -> Tensor | None:
        r"""Return what pruned units save of the bound weights' KL divergence, or None.

        .. math:: \sum_u (P(z_u = 1) - 1)\,\mathrm{KL}_u
        """
        layer, dim = (None, 0) if self._bound is None else self._bound
        if not isinstance(layer, BayesianWeights):
            return None
        saved = ((self.keep_prob() - 1) * layer.kl_by_unit(dim)).sum()
        # The whole of it is counted with the weights' own factor, this with the mask's.
        return saved * (layer.kl_scale / self.kl_scale)

    # -- the contract ----------------------------------------------------------------------------

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        if self.held_groups is not None:
            return Delta(self.prefix_mask(self.held_groups), event_dim=1, validate_args=False)
        if self.width_source is not None:
            return Delta(self._shared_mask(x), event_dim=1, validate_args=False)
        return self._free_mask(latents)

    @override
    def all_masks(self) -> Tensor | None:
        """Return the D + 1 prefixes, if at most 1024; no row if the width is another layer's."""
        if self.held_groups is not None:
            return self.prefix_mask(self.held_groups).unsqueeze(0)
        if self.num_ordered >= _MOST_MASKS:
            return None
        masks = self.expand_order(self._source.order_prior().enumerate_support())
        return masks[:0] if self.width_source is not None else masks

    @override
    def log_prob_of_masks(
        self, masks: Tensor, latents: Latents, x: Tensor | None = None
    ) -> Tensor:
        if self.held_groups is not None:
            return masks.new_zeros(len(masks))
        return UnitMask(self.order_posterior(), self.unit_group, self.always_kept).log_prob(masks)

    @abstractmethod
    def _free_mask(self, latents: Latents) -> TorchDistribution:
        """Return the distribution of the mask of a layer that is not held."""

    @override
    def keep_prob(self) -> Tensor:
        if self.held_groups is not None:
            return self.prefix_mask(self.held_groups)
        if self._source.held_groups is not None:
            return self.prefix_mask(self._source.held_groups)
        return self.expand_order(self._source.order_probs().cumprod(-1))

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        mean = self.keep_prob()
        return torch.where(mean < self.threshold, torch.zeros_like(mean), mean)

    @override
    def rank_units(self, importance: Tensor | Sequence[float]) -> None:
        """Put the most important units into the first groups, if ``ordering="importance"``.

        With ``ordering="index"`` it does nothing: prefixes stay prefixes by index.

        Raises:
            ShapeError: If there is not one number for each unit.
            ConfigError: If one is NaN.
        """
        rank = importance_ranks(self.name, importance, self.num_units, self.unit_group.device)
        if self.ordering == "importance":
            self.unit_group.copy_(rank * self.num_groups // self.num_units)

    @override
    def extra_repr(self) -> str:
        held = "" if self.held_groups is None else f", held at {self.held_groups} groups"
        source = self.width_source
        led = "" if source is None else f", width of {source.path or 'another'}"
        return f"{super().extra_repr()}{held}{led}"
