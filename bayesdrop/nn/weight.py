"""The contract of a layer whose weights have a prior and a posterior."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions.elements import elements
from bayesdrop.errors import ConfigError, ShapeError, unknown_name
from bayesdrop.nn.context import active_context
from bayesdrop.nn.latents import LatentOwner
from bayesdrop.ops import noise

Noise: TypeAlias = Literal["local", "weights", "shared"]
"""What is drawn in training mode, see ``BayesianWeights``."""


class BayesianWeights(LatentOwner):
    r"""Abstract layer that owns random weights: the counterpart of ``BayesianDropout``.

    Its one global latent is ``weight``; the bias is a point estimate. A subclass says what kind
    of layer it is (``operate``, ``plain``) and what its posterior is (``prior``, ``posterior``,
    ``weight_moments``, ``kept``). The rest follows:

    * outside a Pyro program ``train()`` draws noise and ``eval()`` uses the mean weights, with
      pruned ones at zero;
    * in a Pyro program, and in a posterior sample of ``predict``, the weights are those that were
      drawn for the whole data set, or for each particle.

    Args:
        noise: What ``train()`` draws. ``"local"``: the pre-activations of each example, whose
            mean and variance follow from those of the weights (local reparameterisation), which
            has the least variance. ``"shared"``: the same, with one draw of the noise for all
            examples. ``"weights"``: the weights themselves, once a call, as the Pyro model does.
            The distribution of any one output is the same for all three. That of several outputs
            is the model's only for ``"weights"``: examples, the calls of a layer that is called
            twice, and the pixels of a convolution have independent local noise.
        log_alpha_threshold: Weights whose :math:`\log \alpha` is above this are pruned.
        kl_scale: Factor on this layer's KL divergence (1 is the ELBO).
    """

    unit_word: ClassVar[str] = "weights"

    key: ClassVar[str]
    """Name in the registry, such as ``"sparse-variational"``."""
    reference: ClassVar[str]
    """The publication, for ``bayesdrop list dropouts``."""

    replaces: ClassVar[type[nn.Module]]
    """The ``torch.nn`` class whose place it takes."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, *, noise: Noise, log_alpha_threshold: float, kl_scale: float) -> None:
        super().__init__()
        who = type(self).__name__
        if noise not in get_args(Noise):
            raise unknown_name(f"noise of {who}", noise, get_args(Noise))
        if not kl_scale > 0.0 or log_alpha_threshold != log_alpha_threshold:
            raise ConfigError(
                who,
                expected="kl_scale > 0 and a log_alpha_threshold that is a number",
                got=f"kl_scale={kl_scale}, log_alpha_threshold={log_alpha_threshold}",
                hint="The defaults are 1 and 3.",
            )
        self.noise = noise
        self.log_alpha_threshold = log_alpha_threshold
        self.kl_scale = kl_scale

    def create_weights(self, shape: tuple[int, ...], bias: bool) -> None:
        """Create ``weight`` and ``bias``, drawn as ``torch.nn`` does.

        Raises:
            ConfigError: If a size is below 1.
        """
        if min(shape) < 1:
            raise ConfigError(
                type(self).__name__,
                expected="at least one unit in every dimension of the weight",
                got=f"a weight of shape {shape}",
                hint="Pass the sizes of the input and the output.",
            )
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.reset_weights()

    @torch.no_grad()
    def reset_weights(self) -> None:
        """Draw mean weights and bias anew, as ``torch.nn`` does."""
        bound = 1.0 / math.sqrt(self.weight[0].numel())
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    # -- what a layer defines ------------------------------------------------------------------

    @abstractmethod
    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output for these weights, linear in both ``x`` and ``weight``."""

    @abstractmethod
    def plain(self) -> nn.Module:
        """Return a ``torch.nn`` layer of the same sizes, on torch's ``meta`` device."""

    @classmethod
    @abstractmethod
    def like(cls, layer: nn.Module, **options: object) -> Self:
        """Return a layer of the same sizes as a ``torch.nn`` layer; its values are not set."""

    @property
    @abstractmethod
    def unit_dim(self) -> int:
        """The dimension of the output's units, counted from the end: -1, or -3 for maps."""

    @abstractmethod
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each weight under the posterior."""

    @override
    @abstractmethod
    def kept(self) -> Tensor:
        """Return which weights are kept, a boolean tensor of the weight's shape."""

    @override
    def total(self) -> int:
        return self.weight.numel()

    # -- what follows from it ------------------------------------------------------------------

    @classmethod
    def from_plain(cls, layer: nn.Module, **options: object) -> Self:
        """Return a layer whose mean weights are copies of a ``torch.nn`` layer's.

        Args:
            layer: An ``nn.Linear`` or ``nn.Conv2d``; it is not changed.
            **options: Keyword arguments of this class.

        Raises:
            ConfigError: If the layer is of another class, or an option is unknown.
        """
        new = cls._final_for(layer).like(layer, **options)
        weight = next(layer.parameters())
        new.to(device=weight.device, dtype=weight.dtype).train(layer.training)
        with torch.no_grad():
            for name, value in layer.named_parameters():
                new.get_parameter(name).copy_(value)
                new.get_parameter(name).requires_grad_(value.requires_grad)
        return new

    @classmethod
    def takes(cls, layer: nn.Module) -> bool:
        """Return whether ``from_plain`` can take the place of a layer of this class."""
        return any(type(layer) is final.replaces for final in cls._finals())

    @classmethod
    def _finals(cls) -> list[type[Self]]:
        if not inspect.isabstract(cls):
            return [cls]
        return [final for below in cls.__subclasses__() for final in below._finals()]

    @classmethod
    def _final_for(cls, layer: nn.Module) -> type[Self]:
        finals = {final.replaces: final for final in cls._finals()}
        if inspect.isabstract(cls) and type(layer) not in finals:
            raise ConfigError(
                cls.__name__,
                expected=f"one of {sorted(replaced.__name__ for replaced in finals)}",
                got=repr(layer),
                hint="Leave such a layer as it is: bd.convert(..., exclude=...).",
            )
        return finals.get(type(layer), cls)

    @torch.no_grad()
    def to_plain(self, *, prune: bool = True) -> nn.Module:
        """Return a ``torch.nn`` layer with the mean weights, pruned ones at zero.

        Args:
            prune: Whether pruned weights are zero; False keeps all.
        """
        new = self.plain().to_empty(device=self.weight.device).to(self.weight.dtype)
        new.get_parameter("weight").copy_(self.mean_weight() if prune else self.weight)
        if self.bias is not None:
            new.get_parameter("bias").copy_(self.bias)
        for name, value in new.named_parameters():
            value.requires_grad_(self.get_parameter(name).requires_grad)
        return new.train(self.training)

    def mean_weight(self) -> Tensor:
        """Return the mean weights, zero where they are pruned."""
        return torch.where(self.kept(), self.weight, torch.zeros_like(self.weight))

    def kl_by_unit(self, dim: int = 0) -> Tensor:
        """Return the KL divergence of each unit's weights in nats, without ``kl_scale``.

        A mask that switches units off, and the cost of their weights with them, adds
        ``((prob_open - 1) * layer.kl_by_unit(dim)).sum()`` to its penalty.

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

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer with the weights that the open context, or the mode, asks for."""
        self._check_input(x)
        context = active_context()
        latents = None if context is None else context.values(self)
        if latents is not None:
            return self._with_weight(x, latents["weight"])
        if not self.training:
            return self.operate(x, self.mean_weight(), self.bias)
        if self.noise == "weights":
            return self.operate(x, self.draw_latents()["weight"], self.bias)
        return self._with_local_noise(x)

    def _with_local_noise(self, x: Tensor) -> Tensor:
        mean, variance = self.weight_moments()
        location = self.operate(x, mean, self.bias)
        spread = self.operate(x.square(), variance, None)
        shared = self.noise == "shared" and location.ndim + self.unit_dim > 0
        shape = location.shape[1:] if shared else location.shape
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
        units = self.input_units
        if x.ndim + self.unit_dim >= 0 and x.shape[self.unit_dim] == units:
            return
        where = "the last dimension" if self.unit_dim == -1 else f"dimension {self.unit_dim}"
        raise ShapeError(
            self.name,
            expected=f"{units} units in {where}",
            got=f"input of shape {tuple(x.shape)}",
            hint="Is an nn.Flatten missing, or the layer in the wrong place?",
        )

    @property
    @abstractmethod
    def input_units(self) -> int:
        """Number of units of the input."""


def local_sample(mean: Tensor, variance: Tensor, noise_shape: torch.Size) -> Tensor:
    """Return ``mean`` plus normal noise; the gradient is finite where the variance is zero."""
    return _LocalSample.apply(mean, variance, noise.normal(noise_shape, mean))


class _LocalSample(torch.autograd.Function):
    # Fewer passes over the pre-activations than the operations would take one by one. ``forward``
    # takes ``ctx`` for the reason given in bayesdrop.ops.stable.
    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor, normal: Tensor) -> Tensor:
        spread = variance.clamp(min=_LEAST_VARIANCE).sqrt_()
        # Below the floor there is no gradient: the input is zero there, its weights have none.
        slope = normal.div(spread).mul_(0.5).masked_fill_(variance < _LEAST_VARIANCE, 0.0)
        ctx.save_for_backward(slope)
        return torch.addcmul(mean, spread, normal)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (slope,) = ctx.saved_tensors
        slopes = grads[0] * slope
        return grads[0], slopes, None


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
