"""The contract of a layer whose weights have a prior and a posterior."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions.elements import elements
from bayesdrop.distributions.normal import Normal
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.arguments import check_units, is_real, shown_arguments
from bayesdrop.nn.context import context_of
from bayesdrop.nn.hooks import take_hooks
from bayesdrop.nn.latents import LatentOwner
from bayesdrop.nn.layer_kinds import has_kind, kind_of
from bayesdrop.ops import noise as noise_source
from bayesdrop.ops.layout import memory_format_of
from bayesdrop.ops.transforms import plain_gradients, takes_plain_operations
from bayesdrop.typing import SharedBy

Noise: TypeAlias = Literal["local", "weights"]
"""What is drawn in training mode, see ``BayesianWeights``."""


class BayesianWeights(LatentOwner):
    r"""Abstract ``torch.nn`` layer with random weights: the counterpart of ``BayesianDropout``.

    It is put around an ``nn.Linear`` or an ``nn.Conv1d/2d/3d``, whose weights its means start
    from, and whose settings (groups, padding, dilation ...) it keeps. Its one global latent is
    ``weight``; the bias is a point estimate. A subclass is one law of the weights, for all of
    these layers. It must define

    * ``key``, and an ``__init__(layer, *, ...)`` whose other arguments are keywords: what
      ``bd.nn.register`` and ``bd.nn.make`` need. ``reference``, its publication, is optional;
    * ``prior()`` and ``posterior()``: ``{"weight": distribution}``, the weight's shape being the
      event shape (``to_event()``), with noise from ``bayesdrop.distributions`` and a KL divergence
      that is registered for the pair;
    * ``weight_moments()``: mean and variance of each weight, for local noise;
    * ``kept()``: which weights are not pruned.

    What is learned beside the mean is a parameter made like ``self.weight``. The rest follows:

    * outside a Pyro program ``train()`` draws noise and ``eval()`` uses the mean weights, with
      pruned ones at zero;
    * in a Pyro program, and in a posterior sample of ``predict``, the weights are those that were
      drawn for the whole data set, or for each particle;
    * ``kl_by_unit``, by which a mask can price the weights of its units;
    * ``fit`` trains the means at the weights' rate without decay, every other parameter of the
      class at the variational one; ``mean_parameters`` and ``variational_parameters`` say
      otherwise. A term of the loss that is not the KL divergence goes into ``penalty``.

    The example below is whole; ``SparseVariational`` is the one to copy for more, ``Dropconnect``
    for noise of a fixed rate.

    Args:
        layer: The layer whose place it takes; copied, device, dtype, mode and ``requires_grad``
            included, and not changed.
        noise: What ``train()`` draws. ``"local"``: the pre-activations, whose mean and variance
            follow from those of the weights (local reparameterisation), which has the least
            variance. ``"weights"``: the weights themselves.
        shared_by: ``"example"``: each example has a draw of its own. ``"batch"``: one draw, of the
            local noise or of the weights, for all examples of a call. None is what costs least:
            ``"example"`` for local noise, ``"batch"`` for weights, which is what the Pyro model
            does. The distribution of any one output is the same for all. That of several outputs
            is the model's only for the weights of a batch: with local noise the calls of a layer
            that is called twice, and the pixels of a convolution, are independent.
        kl_scale: Factor on this layer's KL divergence (1 is the ELBO).

    Shape:  input and output as those of ``layer``.
    Sites:  ``{module path}.weight``, of the weight's shape as event shape.

    Example:
        >>> from bayesdrop.distributions import Normal
        >>> class MeanField(BayesianWeights):
        ...     key, reference = "mean-field", "Blundell et al. (2015)"
        ...
        ...     def __init__(self, layer, *, init_scale=0.1, **options):
        ...         super().__init__(layer, **options)
        ...         self.log_scale = nn.Parameter(torch.full_like(self.weight, init_scale).log())
        ...
        ...     def posterior(self):
        ...         return {"weight": Normal(self.weight, self.log_scale.exp()).to_event()}
        ...
        ...     def prior(self):
        ...         return {"weight": Normal(0 * self.weight, 1 + 0 * self.weight).to_event()}
        ...
        ...     def weight_moments(self):
        ...         return self.weight, (2 * self.log_scale).exp()
        ...
        ...     def kept(self):
        ...         return torch.ones_like(self.weight, dtype=torch.bool)
        >>> MeanField(nn.Conv1d(2, 3, 5))(torch.ones(4, 2, 9)).shape
        torch.Size([4, 3, 5])
    """

    unit_word: ClassVar[str] = "weights"

    key: ClassVar[str]
    """Name in the registry, such as ``"sparse-variational"``."""
    reference: ClassVar[str]
    """The publication, for ``bayesdrop list dropouts``."""

    always_shown: ClassVar[tuple[str, ...]] = ()
    """Arguments that ``repr`` shows even where they are the default."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        layer: nn.Module,
        *,
        noise: Noise = "local",
        shared_by: SharedBy | None = None,
        kl_scale: float = 1.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self.kind = kind_of(layer, who)
        if noise not in get_args(Noise):
            raise unknown_name(f"noise of {who}", noise, get_args(Noise))
        if shared_by is None:
            shared_by = "example" if noise == "local" else "batch"
        if shared_by not in get_args(SharedBy):
            raise unknown_name(f"shared_by of {who}", shared_by, get_args(SharedBy))
        if not is_real(kl_scale) or not 0.0 < kl_scale < math.inf:
            raise ConfigError(
                who,
                expected="a finite kl_scale > 0",
                got=f"kl_scale={kl_scale!r}",
                hint="1 is the ELBO.",
            )
        values = dict(layer.named_parameters())
        if not values["weight"].numel():
            raise ConfigError(
                who,
                expected="at least one unit in every dimension of the weight",
                got=f"a weight of shape {tuple(values['weight'].shape)}",
                hint="Check the sizes of the input and the output.",
            )
        self.noise, self.shared_by, self.kl_scale = noise, shared_by, kl_scale
        empty = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in values.values()}
        # In a tuple, so that it is no child of this module.
        self._plain = (copy.deepcopy(layer, empty),)
        for name in ("weight", "bias"):
            new = None
            if name in values:
                new = nn.Parameter(values[name].detach().clone(), values[name].requires_grad)
            self.register_parameter(name, new)
        take_hooks(self, layer)
        self.train(layer.training)

    # -- what a law of the weights defines -----------------------------------------------------

    @abstractmethod
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each weight under the posterior."""

    def moments_in_training(self) -> tuple[Tensor, Tensor]:
        """Return the moments that local noise is drawn with: by default ``weight_moments()``."""
        return self.weight_moments()

    @override
    @abstractmethod
    def kept(self) -> Tensor:
        """Return which weights are kept, a boolean tensor of the weight's shape."""

    # -- what follows from it ------------------------------------------------------------------

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Return whether a layer's weights can be random."""
        return has_kind(layer)

    @property
    def plain(self) -> nn.Module:
        """The ``torch.nn`` layer whose place this one takes, on torch's ``meta`` device."""
        return self._plain[0]

    @property
    def draws_as_model(self) -> bool:
        """Whether training mode draws the weights once for all examples, as the Pyro model."""
        return self.noise == "weights" and self.shared_by == "batch"

    @override
    def total(self) -> int:
        return self.weight.numel()

    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output for these weights, linear in both ``x`` and ``weight``."""
        return self.kind.operate(self.plain, x, weight, bias)

    @torch.no_grad()
    def to_plain(self, *, prune: bool = True) -> nn.Module:
        """Return a ``torch.nn`` layer with the mean weights, pruned ones at zero.

        Args:
            prune: Whether pruned weights are zero; False keeps all.
        """
        values = {"weight": self.mean_weight() if prune else self.weight, "bias": self.bias}
        new = copy.deepcopy(self.plain)
        take_hooks(new, self)
        for name, value in values.items():
            if value is not None:
                old = self.get_parameter(name)
                value = value.detach().clone(memory_format=memory_format_of(old))
                setattr(new, name, nn.Parameter(value, old.requires_grad))
        return new.train(self.training)

    def mean_weight(self) -> Tensor:
        """Return the mean weights, zero where they are pruned."""
        return torch.where(self.kept(), self.weight, torch.zeros_like(self.weight))

    @override
    def carried(self) -> dict[str, Tensor]:
        fn = elements(self.posterior()["weight"])
        if self.fixed_rate or not isinstance(fn, Normal):
            return super().carried()
        return {"loc": fn.loc, "scale": fn.scale}

    def previous_weight(self) -> Normal | None:
        """Return the posterior that ``bd.update_prior`` has made the prior, if it has.

        A ``prior`` asks it first; where the posterior is a ``Normal`` of each weight, nothing
        else is to be done for the layer to learn from one data set after another.
        """
        loc, scale = self.previous("loc"), self.previous("scale")
        return None if loc is None or scale is None else Normal(loc, scale, validate_args=False)

    def kl_by_unit(self, dim: int = 0) -> Tensor:
        """Return the KL divergence of each unit's weights in nats, without ``kl_scale``.

        A mask that switches units off, and the cost of their weights with them, adds
        ``((keep_prob - 1) * layer.kl_by_unit(dim)).sum()`` to its penalty.

        Args:
            dim: 0 for the output units (rows, filters), 1 for the input units.

        Shape:  ``(K,)`` for ``K`` units.
        """
        q, p = self.posterior()["weight"], self.prior()["weight"]
        kl = torch_kl_divergence(elements(q), elements(p))
        return kl.sum([d for d in range(kl.ndim) if d != dim])

    @override
    def mean_parameters(self) -> Iterator[nn.Parameter]:
        yield self.weight

    @override
    def variational_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the other parameters of the posterior; a bias is a weight like any."""
        points = {id(self.weight), id(self.bias)}
        return (p for p in self.parameters() if id(p) not in points)

    def forward(self, input: Tensor) -> Tensor:
        """Run the layer with the weights that the open context, or the mode, asks for."""
        x = input  # torch's name of it, for calls by keyword
        self._check_input(x)
        context = context_of(self)
        latents = None if context is None else context.values(self)
        if context is not None and latents is not None:
            context.keep(self, latents["weight"])
            return self._with_weight(x, latents["weight"])
        if not self.training:
            return self.operate(x, self.mean_weight(), self.bias)
        # Without a dimension of examples there is one.
        by_example = self.shared_by == "example" and x.ndim + self.kind.unit_dim > 0
        if self.noise == "local":
            return self._with_local_noise(x, by_example)
        rows = x.shape[:1] if by_example else torch.Size()
        return self._with_weight(x, self.posterior()["weight"].rsample(rows))

    def _with_local_noise(self, x: Tensor, by_example: bool) -> Tensor:
        mean, variance = self.moments_in_training()
        location = self.operate(x, mean, self.bias)
        if location.dtype == torch.float16:
            # Variances, and squares of inputs, leave its range.
            with torch.autocast(location.device.type, enabled=False):
                spread = self.operate(x.float().square(), variance.float(), None)
        else:
            spread = self.operate(x.square(), variance, None)
        has_examples = location.ndim + self.kind.unit_dim > 0
        shape = location.shape[1:] if has_examples and not by_example else location.shape
        return local_sample(location, spread, shape)

    def _with_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        # One weight for all of x, or one for each particle, x being particles * examples.
        if weight.ndim == self.weight.ndim:
            return self.operate(x, weight, self.bias)
        particles = weight.shape[0]
        x = x.reshape(particles, -1, *x.shape[1:])
        batched = torch.func.vmap(lambda x, weight: self.operate(x, weight, self.bias))
        return batched(x, weight).flatten(0, 1)

    def _check_input(self, x: Tensor) -> None:
        hint = "Is an nn.Flatten missing, or the layer in the wrong place?"
        check_units(self.name, x, self.kind.input_units(self.plain), self.kind.unit_dim, hint)

    def extra_repr(self) -> str:
        """Show the layer whose place it takes, and the arguments that are not the default."""
        options = shown_arguments(self, self._given, self.always_shown)
        return ", ".join([repr(self.plain), *([options] if options else [])])


def local_sample(mean: Tensor, variance: Tensor, noise_shape: torch.Size) -> Tensor:
    """Return ``mean`` plus normal noise; the gradient is finite where the variance is zero.

    The variance may be of a wider dtype than the mean, whose dtype the sample has.
    """
    wide = mean.to(variance.dtype)
    normal = noise_source.normal(noise_shape, wide)
    form = _plain_local_sample if takes_plain_operations() else _LocalSample.apply
    return form(wide, variance, normal).to(mean.dtype)


def _plain_local_sample(mean: Tensor, variance: Tensor, normal: Tensor) -> Tensor:
    return mean + _plain_noise(variance, normal)


def _plain_noise(variance: Tensor, normal: Tensor) -> Tensor:
    return variance.clamp(min=_LEAST_VARIANCE).sqrt() * normal


class _LocalSample(torch.autograd.Function):
    # Fewer passes over the pre-activations than the operations would take one by one. As in
    # bayesdrop.ops.stable it stands beside its form in plain operations.
    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor, normal: Tensor) -> Tensor:
        spread = variance.clamp(min=_LEAST_VARIANCE).sqrt_()
        # Below the floor there is no gradient: the input is zero there, its weights have none.
        slope = normal.div(spread).mul_(0.5).masked_fill_(variance < _LEAST_VARIANCE, 0.0)
        ctx.save_for_backward(variance, slope)
        return torch.addcmul(mean, spread, normal)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        variance, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            normal = 2 * slope * variance.detach().clamp(min=_LEAST_VARIANCE).sqrt()
            return grads[0], *plain_gradients(_plain_noise, (variance, normal), grads[0])
        return grads[0], grads[0] * slope, None


_LEAST_VARIANCE = 1e-20


def named_weight_layers(network: nn.Module) -> Iterator[tuple[str, BayesianWeights]]:
    """Yield the name and module of every layer with random weights, in definition order."""
    for name, module in network.named_modules():
        if isinstance(module, BayesianWeights):
            yield name, module


def with_plain_weights(network: nn.Module, *, prune: bool = True) -> nn.Module:
    """Replace, in place, every layer with random weights by a ``torch.nn`` one; return the root.

    Args:
        network: A copy of the user's network.
        prune: As for ``BayesianWeights.to_plain``.
    """
    for name, layer in list(named_weight_layers(network)):
        if not name:
            return layer.to_plain(prune=prune)
        network.set_submodule(name, layer.to_plain(prune=prune))
    return network
