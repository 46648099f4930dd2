"""The one idea below masks and random weights: an owner of global latents."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.abstract import Abstract
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import given_arguments
from bayesdrop.nn.context import note_divergence
from bayesdrop.nn.declared import divergences
from bayesdrop.record import Record
from bayesdrop.typing import Latents

_PREVIOUS = "previous_"


class JointDraw(NamedTuple):
    """What ``LatentOwner.draw_jointly`` has drawn.

    Args:
        latents: The latents of each owner, those of what they depend on included.
        kl: The sum of their divergences and penalties, each times its ``kl_scale``.
        masks: Of those dropout layers for which they were drawn too, ``(N, K)``: what
            ``draw_mask`` would have given at the layer's first call.
    """

    latents: Mapping[LatentOwner, Latents]
    kl: Tensor
    masks: Mapping[LatentOwner, Tensor] = MappingProxyType({})


class LatentOwner(Abstract, nn.Module):
    """Abstract owner of global latents: their prior and their posterior, by site suffix.

    A dropout layer is one, and a layer of random weights. So is what a ``ConditionalOwner``
    depends on.
    """

    unit_word: ClassVar[str]
    """What the owner keeps or prunes, in the plural: ``"units"`` or ``"weights"``."""
    reference: ClassVar[str] = ""
    """The publication; of what is registered, never empty."""
    schedulable: ClassVar[tuple[str, ...]] = ()
    """Names of the owner's buffers that ``fit`` may schedule, such as ``("temperature",)``."""
    fixed_rate: ClassVar[bool] = False
    """Whether it is noise of a rate that nothing learns."""

    kl_scale: float
    path: str = ""
    conversion: Record | None = None
    """What the call of ``convert`` that put it in has done."""
    _given: dict[str, Any]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Note the arguments, for ``repr``, and say which class does not know one of them."""
        layer = super().__new__(cls)
        # A copy is made without arguments, and takes this over.
        layer.__dict__["_given"] = given_arguments(cls, args, options) if args or options else {}
        return layer

    @property
    def name(self) -> str:
        """The class, and where known the path in the network, for messages."""
        return f"{type(self).__name__} {self.path!r}" if self.path else type(self).__name__

    @abstractmethod
    def prior(self) -> dict[str, TorchDistribution]:
        """Return the prior of each global latent, by site suffix."""

    @abstractmethod
    def posterior(self) -> dict[str, TorchDistribution]:
        """Return the variational posterior of each global latent, by site suffix."""

    @abstractmethod
    def kept(self) -> Tensor:
        """Return what is kept under the posterior, one boolean for each of ``total()``."""

    def total(self) -> int:
        """Return the number of units, or weights, of which ``kept`` says what is kept."""
        return self.kept().numel()

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Do what an optimiser's step alone does not; ``fit`` calls it after each.

        A proximal step belongs here, or units that are switched on again. It runs without
        gradients.

        Args:
            optimizer: The optimiser that has made the step.
        """

    def penalty(self) -> Tensor | None:
        """Return a term of the loss, in nats, that is not the KL of a site; None if none is.

        It is counted with ``kl_scale`` like the KL divergence: a factor of the Pyro model, and
        part of ``kl_divergence(network)``.
        """
        return None

    def variational_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what ``fit`` trains at its variational learning rate, without weight decay."""
        return self.parameters()

    def mean_parameters(self) -> Iterator[nn.Parameter]:
        """Yield posterior means of weights: trained at the weights' rate, without decay."""
        return iter(())

    def carried(self) -> dict[str, Tensor]:
        """Return the numbers of the posterior that the next task's prior is made of.

        ``bd.update_prior`` keeps each as a buffer ``previous_{name}``, which ``prior`` then reads
        through ``previous``: a prior of the posterior's family, with a KL divergence that is
        registered for the pair, and zero before anything is learned. Nothing if the owner learns
        no law of its latents.

        Raises:
            ConfigError: If its posterior cannot be a prior; the message says why.
        """
        if self.fixed_rate or (not self.posterior() and self.penalty() is None):
            return {}
        raise self.cannot_carry(f"that of {type(self).__name__}, for which no such form is known")

    def cannot_carry(self, got: str) -> ConfigError:
        """Return the error of an owner whose posterior cannot be a prior.

        Args:
            got: What the posterior is.
        """
        return ConfigError(
            self.name,
            expected="a posterior that can be the next task's prior",
            got=got,
            hint="Beta-Bernoulli and Indian buffet masks have one, and so have Gaussian weights.",
        )

    def grow(self, num_units: int) -> bool:
        """Get more units, in place, and return whether this owner can; ``bd.nn.widen`` asks.

        Args:
            num_units: How many more.
        """
        return False

    def carry(self, numbers: Mapping[str, Tensor]) -> None:
        """Keep what ``carried`` returned, at which the prior stands from now on."""
        for name, value in numbers.items():
            self.register_buffer(_PREVIOUS + name, value.detach().clone())

    def previous(self, name: str) -> Tensor | None:
        """Return what was carried of this name; None before the first ``bd.update_prior``."""
        return self._buffers.get(_PREVIOUS + name)

    @override
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # An owner has these buffers from its first update on, so a state decides which it has.
        own = {
            name: value.shape
            for name, value in self._buffers.items()
            if name.startswith(_PREVIOUS) and value is not None
        }
        start = prefix + _PREVIOUS
        theirs = {key[len(prefix) :]: v for key, v in state_dict.items() if key.startswith(start)}
        if any(key.startswith(prefix) for key in state_dict):
            for name in own.keys() - theirs.keys():
                del self._buffers[name]
        like = next(self.parameters(recurse=False), torch.empty(0))
        for name, value in theirs.items():
            if own.get(name) != value.shape:
                self.register_buffer(name, torch.empty_like(value).to(like))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def draw_latents(self) -> dict[str, Tensor]:
        """Draw the global latents from the posterior, with pathwise gradients."""
        return {name: q.rsample() for name, q in self.posterior().items()}

    @classmethod
    def draw_jointly(
        cls,
        owners: Sequence[Any],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        """Draw the latents of several owners of this class, with their divergences, at once.

        Same values and gradients as those of ``draw_latents`` and ``kl_divergence`` for the same
        noise, in fewer operations. It is asked only of the class that defines it and of classes
        below it that define none of the methods it stands for.

        Args:
            owners: Objects of this very class.
            drawn: Latents of other owners that were drawn jointly before, such as parents.
            rows: Number of masks that each layer needs; None if masks are not wanted yet.

        Returns:
            None if there is no such way for these.
        """
        return None

    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution] | None = None,
        *,
        prior: Mapping[str, TorchDistribution] | None = None,
    ) -> Tensor:
        """Return ``kl_scale`` times KL(posterior || prior) plus the penalty, in nats.

        Args:
            posterior: What ``posterior()`` returned, where the caller has it already.
            prior: The same of ``prior()``.
        """
        note_divergence(self)
        prior = self.prior() if prior is None else prior
        posterior = self.posterior() if posterior is None else posterior
        terms = divergences(self.name, posterior, prior)
        penalty = self.penalty()
        if penalty is not None:
            terms.append(penalty)
        if not terms:
            return torch.zeros((), device=self._device())
        total = sum(terms[1:], start=terms[0])
        return total if self.kl_scale == 1.0 else self.kl_scale * total

    def _device(self) -> torch.device:
        return next(iter(self.parameters()), torch.empty(0)).device


@torch.no_grad()
def extend_tensor(module: nn.Module, name: str, more: Tensor, dim: int = 0) -> None:
    """Append entries to a parameter or buffer of a module, of which it then has a new one."""
    old = getattr(module, name)
    value = torch.cat([old, more.to(old)], dim)
    if isinstance(old, nn.Parameter):
        module._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
    else:
        module._buffers[name] = value


def is_carried(network: nn.Module, name: str, shape: tuple[int, ...]) -> bool:
    """Return whether an entry of a state is what ``update_prior`` adds to an owner's.

    Args:
        network: The module whose state it may be.
        name: The entry's.
        shape: Its shape, no larger than that of one of the owner's parameters.
    """
    path, _, own = name.rpartition(".")
    owner = dict(network.named_modules()).get(path) if own.startswith(_PREVIOUS) else None
    if not isinstance(owner, LatentOwner):
        return False
    sizes = [p.shape for p in owner.parameters() if p.ndim == len(shape)]
    return any(all(n <= m for n, m in zip(shape, size, strict=True)) for size in sizes)


def is_own(cls: type, name: str, *others: str) -> bool:
    """Return whether a class's method of a name knows all the others: none is defined below it."""
    # A compiled pass takes the long way, which torch fuses by itself.
    return not torch.compiler.is_compiling() and _is_own(cls, name, *others)


@functools.cache
def _is_own(cls: type, name: str, *others: str) -> bool:
    def depth(name: str) -> int:
        return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))

    return all(depth(name) <= depth(other) for other in others)


def alike(parameters: Sequence[Tensor]) -> bool:
    """Return whether vectors can be joined: all have one dtype and one device."""
    return len({(x.dtype, x.device) for x in parameters}) == 1


def joined(numbers: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return a vector in which each number stands as often as its size says.

    Where all are the same number, it is that, without dimensions.
    """
    if len({float(x) for x in numbers}) == 1:
        return numbers[0]
    return torch.cat([x.expand(size) for x, size in zip(numbers, sizes, strict=True)])


class ConditionalOwner(LatentOwner):
    """Abstract owner whose prior depends on another owner's latents, which layers may share.

    The sites of what is shared come once, under the first name that ``network.named_modules()``
    has for it.
    """

    @property
    @abstractmethod
    def parent(self) -> LatentOwner:
        """What the prior depends on: a module inside this one, which others may hold too."""

    @abstractmethod
    def prior_given(self, latents: Latents) -> dict[str, TorchDistribution]:
        """Return the prior given the parent's latents."""

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        """Return the prior given one draw of the parent's latents from their posterior."""
        return self.prior_given(self.parent.draw_latents())


def prior_among(
    owner: LatentOwner, drawn: Mapping[LatentOwner, Latents]
) -> dict[str, TorchDistribution]:
    """Return an owner's prior, given what the owner that it depends on has drawn, if any.

    Args:
        owner: Any owner.
        drawn: Latents of the owners that come before it in ``named_owners``.
    """
    if isinstance(owner, ConditionalOwner):
        return owner.prior_given(drawn[owner.parent])
    return owner.prior()


def named_shared(network: nn.Module) -> Iterator[tuple[str, LatentOwner]]:
    """Yield the name and module of what owners of the network depend on, each once."""
    yield from _shared_and_all(network)[0]


def named_owners(network: nn.Module) -> Iterator[tuple[str, LatentOwner]]:
    """Yield the owners of all global latents: what layers share, each once, then all others.

    An owner inside another one is a part of it, and is not yielded, unless layers share it.
    """
    parents, owners = _shared_and_all(network)
    skipped = {id(part) for _, owner in owners for part in owner.modules() if part is not owner}
    skipped |= {id(parent) for _, parent in parents}
    yield from parents
    yield from ((name, owner) for name, owner in owners if id(owner) not in skipped)


def _shared_and_all(network: nn.Module) -> tuple[list[tuple[str, LatentOwner]], ...]:
    # In one walk: each step looks for them, and a small network's step is as short as a few walks.
    owners = [(name, m) for name, m in network.named_modules() if isinstance(m, LatentOwner)]
    parents = {owner.parent for _, owner in owners if isinstance(owner, ConditionalOwner)}
    return [(name, owner) for name, owner in owners if owner in parents], owners


def kl_divergence(
    network: nn.Module,
    posteriors: Mapping[Any, Mapping[str, TorchDistribution]] | None = None,
    *,
    drawn: Mapping[LatentOwner, Latents] = MappingProxyType({}),
) -> Tensor:
    r"""Return the KL divergence (and penalty) of all Bayesian layers of ``network``, in nats.

    .. math:: \sum_l s_l\,(\mathrm{KL}(q_l \,\|\, p_l) + \rho_l)

    with :math:`s_l` the layer's ``kl_scale`` and :math:`\rho_l` its ``penalty()``, if any. In a
    plain loop over mini-batches add it divided by the size of the data set:
    ``cross_entropy(net(x), y) + kl_divergence(net) / num_data``.

    What layers share is counted once. Their own divergences are then given one draw from its
    posterior, the same for all, so that the sum is an unbiased estimate with pathwise gradients.

    Args:
        network: Any module; one without Bayesian layers gives zero.
        posteriors: What ``posterior()`` of a layer returned, where the caller has it already.
        drawn: Owners that are left out, since they are counted already, to what was drawn for
            them.

    Example:
        >>> kl_divergence(nn.Linear(2, 2)).item()
        0.0
    """
    terms = []
    latents = dict(drawn)
    parents = {parent for _, parent in named_shared(network)}
    for _, owner in named_owners(network):
        if owner in drawn:
            continue
        posterior = None if posteriors is None else posteriors.get(owner)
        if owner in parents:
            posterior = owner.posterior()
            latents[owner] = {name: q.rsample() for name, q in posterior.items()}
        prior = prior_among(owner, latents) if isinstance(owner, ConditionalOwner) else None
        note_divergence(owner)
        terms.append(owner.kl_divergence(posterior, prior=prior))
    if not terms:
        return torch.zeros((), device=next(iter(network.parameters()), torch.empty(0)).device)
    return sum(terms[1:], start=terms[0])
