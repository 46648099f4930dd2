"""The contract of a Bayesian dropout layer: a prior and a posterior over a mask."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn.arguments import check_units, is_real, is_whole, shown_arguments
from bayesdrop.nn.context import context_of
from bayesdrop.nn.declared import mask_law
from bayesdrop.nn.gate import MeanGate
from bayesdrop.nn.latents import LatentOwner
from bayesdrop.nn.ordered_law import OrderedLaw
from bayesdrop.typing import Latents

MaskKind: TypeAlias = Literal["gate", "scaled", "noise"]
"""What values a mask may have, see ``BayesianDropout.mask_kind``."""


class BayesianDropout(LatentOwner):
    r"""Abstract dropout layer that multiplies its input by a random mask.

    A subclass says what is random. It **must define** ``key`` and five methods:

    * ``prior()`` and ``posterior()``: the global latents, the same keys in both, each a Pyro
      distribution whose batch shape is empty; closed-form KLs are registered for each pair;
    * ``mask_distribution(latents, x)``: the mask given the global latents (and, for
      input-dependent masks, the layer's input), event shape ``(K,)``: relaxed and reparameterised
      in training mode, exact in evaluation mode;
    * ``keep_prob()``: the posterior probability that a unit is kept, shape ``(K,)``;
    * ``mean_mask(x)``: what evaluation mode multiplies by, zero where a unit is not kept.

    All noise comes from ``bayesdrop.distributions`` (or ``bayesdrop.ops.noise``). A subclass

    * **may declare** ``reference`` (its publication, which lists and model cards show),
      ``mask_kind`` (what values a mask has, and what ``keep_prob`` then means),
      ``input_dependent`` (whether the mask looks at ``x``), ``schedulable`` (what ``fit`` may
      schedule), ``per_unit`` (so that units can leave) and ``always_shown`` (in ``repr``);
    * **may override**, for the loss, ``penalty`` (nats that are no site's KL), ``after_step``,
      ``variational_parameters`` and ``mean_parameters`` (which learning rate applies); for
      pruning, ``kept``, ``mean_gate`` (with which ``compact`` takes an input-dependent mask) and
      ``prune``; for ``convert``, ``bind_weights``, ``options_from_dropout``,
      ``options_for_trained``, ``share`` and ``rank_units``; for auto-encoders, ``ordered_law``
      and ``options_for_code``; where masks can be summed out, ``all_masks`` and
      ``log_prob_of_masks``;
    * **gets** ``forward``, ``sample_mask``, ``draw_mask``, ``draw_latents``, ``kl_divergence``,
      ``total``, ``rows_of`` and ``repr``: plain torch, the Pyro model and guide, prediction,
      pruning and compact networks follow from the above.

    More is declared by ``BernoulliDropout`` (masks that are Bernoulli given the latents),
    ``ConditionalOwner`` (a prior that depends on what layers share) and ``OrderedUnits``. The
    laws that every layer keeps are the tests of ``bayesdrop.testing.MaskContract``.

    Args:
        num_units: Number of units :math:`K` in the masked dimension.
        unit_dim: The masked dimension, counted from the end: -1 for features ``(..., K)``, -3 for
            convolution maps ``(..., K, H, W)``.
        threshold: Units with a keep probability below this are pruned: zero in the mean mask.
        kl_scale: Factor on this layer's KL divergence (1 is the ELBO).
        batch_dim: The dimension of the examples, counted from the first: 1 for ``(T, N, K)``.

    Shape:  input and output have the same shape. An example has one mask, shared along all its
        dimensions other than ``unit_dim``. An input without a ``batch_dim``, such as ``(K,)``, is
        one example.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If an input is not of floating-point numbers.
        ShapeError: If it does not have ``num_units`` in ``unit_dim``, or, where it is known
            how many examples there are, not as many in ``batch_dim``.
    """

    unit_word: ClassVar[str] = "units"

    key: ClassVar[str]
    """Name in the registry, such as ``"beta-bernoulli"``."""
    reference: ClassVar[str]
    """The publication, for ``bayesdrop list dropouts``."""
    input_dependent: ClassVar[bool] = False
    """Whether ``mask_distribution`` looks at the layer's input."""
    mask_kind: ClassVar[MaskKind] = "gate"
    """``"gate"``: a mask lies in [0, 1], and ``keep_prob`` is P(z != 0). ``"scaled"``: it is 0 or
    more than 1, as in ``nn.Dropout``. ``"noise"``: it is never 0, and ``keep_prob`` is that of
    Bernoulli noise with its signal-to-noise ratio, E[z]^2 / E[z^2]."""

    per_unit: ClassVar[tuple[str, ...]] = ()
    """Parameters and buffers with an entry a unit, where units do without one another."""
    always_shown: ClassVar[tuple[str, ...]] = ()
    """Arguments that ``repr`` shows even where they are the default."""

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if not is_whole(num_units) or num_units < 1:
            raise ConfigError(
                who,
                expected="at least 1 unit",
                got=f"num_units={num_units!r}",
                hint="Pass the size of the dimension to be masked.",
            )
        if not is_whole(unit_dim) or unit_dim >= 0:
            raise ConfigError(
                who,
                expected="a negative unit_dim, counted from the last dimension",
                got=f"unit_dim={unit_dim!r}",
                hint="Use -1 for features (N, K) and -3 for convolution maps (N, K, H, W).",
            )
        if not is_whole(batch_dim) or batch_dim < 0:
            raise ConfigError(
                who,
                expected="batch_dim >= 0, counted from the first dimension",
                got=f"batch_dim={batch_dim!r}",
                hint="Use 0 for (N, ..., K) and 1 for sequences (T, N, K).",
            )
        numbers = is_real(threshold) and is_real(kl_scale)
        if not numbers or not 0.0 <= threshold < 1.0 or not 0.0 < kl_scale < math.inf:
            raise ConfigError(
                who,
                expected="0 <= threshold < 1 and a finite kl_scale > 0",
                got=f"threshold={threshold!r}, kl_scale={kl_scale!r}",
                hint="The defaults are threshold=1e-3 and kl_scale=1.",
            )
        self.num_units = num_units
        self.unit_dim = unit_dim
        self.batch_dim = batch_dim
        self.threshold = threshold
        self.kl_scale = kl_scale
        self._bound: tuple[nn.Module, int] | None = None  # in a tuple: it is no child

    # -- what a prior defines ------------------------------------------------------------------

    @abstractmethod
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the mask given the global latents.

        Args:
            latents: Values of the global latents, of event shape ``(K,)``.
            x: The layer's input; only input-dependent masks look at it.
        """

    @abstractmethod
    def keep_prob(self) -> Tensor:
        """Return the posterior probability P(z = 1) of each unit, shape ``(K,)``."""

    @abstractmethod
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        """Return the mean mask, zero where a unit is pruned: ``(K,)`` or ``(N, K)``."""

    # -- what follows from it ------------------------------------------------------------------

    def draw_mask(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        """Draw one mask per example of ``x``, or a single mask if ``x`` is None.

        Args:
            latents: Values of the global latents.
            x: The layer's input, whose ``batch_dim`` holds the examples.

        Returns:
            A mask of shape ``(N, K)``, or ``(K,)`` if ``x`` is None or has no example dimension.
        """
        fn = mask_law(self, latents, x)
        rows = None if x is None else self.rows_of(x)
        shape = torch.Size() if rows is None or fn.batch_shape else torch.Size((rows,))
        return fn.rsample(shape) if fn.has_rsample else fn.sample(shape)

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        """Return which units are kept: ``keep_prob() >= threshold``, shape ``(K,)``."""
        return self.keep_prob() >= self.threshold

    @override
    def total(self) -> int:
        return self.num_units

    @property
    def bound(self) -> tuple[nn.Module, int] | None:
        """The layer and dimension of ``bind_weights``, if this layer remembers them."""
        return self._bound

    def bind_weights(self, layer: nn.Module, dim: int) -> None:
        """Say which layer's weights the units belong to; ``convert`` calls it.

        Only layers whose penalty depends on those weights, or on their number, listen.

        Args:
            layer: The Linear or convolution. It belongs to the network: keep no copy of it, and
                do not register it as a child.
            dim: The dimension of ``layer.weight`` that counts the units: 1 if the mask is on its
                inputs, 0 if on its outputs.
        """

    @classmethod
    def options_from_dropout(cls, dropout: nn.Module) -> dict[str, Any]:
        """Return the options for a layer that does what an ``nn.Dropout`` did; ``convert`` asks.

        Most priors learn their rates, and start from their own.

        Args:
            dropout: The ``nn.Dropout`` (or ``nn.Dropout2d``, ...) that the layer replaces.
        """
        return {}

    @classmethod
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        """Return the options of a layer that leaves a trained network nearly as it is.

        ``convert`` asks; an option that the user gives comes first. Layers whose masks start at
        one have none, and ``convert`` puts noise of a ``fixed_rate`` only where it is asked to.

        Args:
            num_units: Number of units.
            keep_prob: The keep probability to start from, a little below 1.
        """
        return {}

    @classmethod
    def share(cls, layers: Sequence[BayesianDropout]) -> None:
        """Let layers share what they share; ``convert`` calls it. Most share nothing.

        Args:
            layers: Those of this class that one call put in, in the order in which they run.
        """

    def rank_units(self, importance: Tensor) -> None:
        """Say which units of a pretrained network matter most; only ordered masks listen.

        Args:
            importance: A number for each unit, such as the norm of its weights, shape ``(K,)``.
        """

    def all_masks(self) -> Tensor | None:
        """Return every value that the exact mask has, ``(S, K)``; None if they are not few.

        No rows if it follows another layer's mask. With it, and with ``log_prob_of_masks``, an
        objective can sum the masks out (``num_masks="exact"``).
        """
        return None

    def log_prob_of_masks(
        self, masks: Tensor, latents: Latents, x: Tensor | None = None
    ) -> Tensor:
        """Return the log-probability of exact masks, in either mode, ``(..., S)``.

        Args:
            masks: Values of the mask, ``(S, K)``.
            latents: Values of the global latents.
            x: The layer's input, a row for each mask; only input-dependent masks look at it.
        """
        return self.mask_distribution(latents, x).log_prob(masks)

    def order_curves(self) -> tuple[Tensor, Tensor] | None:
        """Return the means of the sticks and the keep probabilities in the sticks' order.

        None for masks that are not made of sticks. The sticks ``(J,)`` may be shared by layers and
        more than the layer's units; the keep probabilities are ``(K,)``.
        """
        return None

    def ordered_law(self) -> OrderedLaw | None:
        """Return the law of masks that keep a prefix of the units; None for all other masks.

        With it the layer makes an ordered code of an auto-encoder's features.
        """
        return None

    @classmethod
    def options_for_code(cls, num_features: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a layer that switches the features of an auto-encoder's code.

        Args:
            num_features: Number of features, the units of the layer.
            options: What the user wants; it is in the result as it is.
        """
        return dict(options)

    def mean_gate(self) -> MeanGate | None:
        """Return ``mean_mask`` as a function of each unit's input; None if it is not one.

        With it ``compact`` takes an input-dependent mask along, exactly. Units that are not kept
        must have a mean mask of zero.
        """
        return None

    def prune(self, units: Tensor) -> bool:
        """Prune units for every input, for good; return whether this layer can.

        ``prune_unused_units`` calls it, on input-dependent layers. The others prune by threshold.

        Args:
            units: Which ones, booleans of shape ``(K,)``.
        """
        return False

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input`` by the mask that the open context, or the mode, asks for."""
        return input * self.sample_mask(input)

    def sample_mask(self, x: Tensor) -> Tensor:
        """Return the mask of this pass, to be multiplied with ``x`` or with what has its shape.

        A loop over time draws it once and multiplies at every step; the Pyro model then has one
        site ``{module path}.z``, as if the layer had been called once. Where the mask comes from
        is as for ``forward``: in evaluation mode outside any context it is the mean mask.

        Args:
            x: What the mask is for, such as a recurrent state ``(N, K)``; its values matter to
                input-dependent masks only.

        Returns:
            A mask that broadcasts against ``x``, such as ``(N, K)``, or ``(1, K)`` if all examples
            share one.

        Example:
            >>> import bayesdrop as bd
            >>> gates, cell = bd.BetaBernoulliDropout(4), nn.RNNCell(3, 4)
            >>> x, state = torch.zeros(5, 7, 3), torch.zeros(5, 4)
            >>> mask = gates.sample_mask(state)
            >>> for time in range(7):
            ...     state = cell(x[:, time], state) * mask
            >>> mask.shape
            torch.Size([5, 4])
        """
        self._check_input(x)
        context = context_of(self)
        if context is not None and context.num_rows is not None:
            self._check_rows(x, context.num_rows)
        mask = None if context is None else context.mask(self, x)
        if mask is None:
            mask = self.draw_mask(self.draw_latents(), x) if self.training else self.mean_mask(x)
        if context is not None:
            context.keep(self, mask)
        return self._align(mask, x)

    def rows_of(self, x: Tensor) -> int | None:
        """Return the number of examples of an input; None if it has no dimension for them."""
        missing = self.batch_dim >= x.ndim or self.batch_dim == x.ndim + self.unit_dim
        return None if missing else x.shape[self.batch_dim]

    def _align(self, mask: Tensor, x: Tensor) -> Tensor:
        # (K,), (N, K) or (particles, N, K) -> broadcastable against x.
        shape = [1] * x.ndim
        shape[self.unit_dim] = self.num_units
        if mask.ndim > 1 and self.rows_of(x) is not None:
            shape[self.batch_dim] = mask.numel() // self.num_units
            if self.batch_dim > x.ndim + self.unit_dim:
                mask = mask.reshape(-1, self.num_units).T
        return mask.reshape(shape)

    def _check_rows(self, x: Tensor, rows: int) -> None:
        if self.rows_of(x) == rows:
            return
        units = x.ndim + self.unit_dim
        found = [dim for dim, size in enumerate(x.shape) if size == rows and dim != units]
        raise ShapeError(
            self.name,
            expected=f"the examples of this pass, {rows}, in dimension {self.batch_dim}",
            got=f"input of shape {tuple(x.shape)}",
            hint=f"Pass batch_dim={found[0]} to the layer."
            if len(found) == 1
            else "An example has one mask: examples must not be merged with another dimension. "
            "Where it is so (windows, tokens), leave the layer out: convert(..., exclude=...).",
        )

    def _check_input(self, x: Tensor) -> None:
        hint = "Is the dropout layer placed before the right Linear?"
        if self.unit_dim == -1 and x.ndim >= 3 and self.num_units == x.shape[-3]:
            hint = "For convolution maps (N, K, H, W) pass unit_dim=-3."
        check_units(self.name, x, self.num_units, self.unit_dim, hint)

    def extra_repr(self) -> str:
        """Show the size, and every argument that is not the default."""
        options = shown_arguments(self, self._given, self.always_shown)
        return f"{self.num_units}, {options}" if options else f"{self.num_units}"


def named_dropout_layers(network: nn.Module) -> Iterator[tuple[str, BayesianDropout]]:
    """Yield the name and module of every Bayesian dropout layer, in definition order."""
    for name, module in network.named_modules():
        if isinstance(module, BayesianDropout):
            yield name, module
