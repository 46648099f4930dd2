"""What a network is, in words: its priors, and what it runs on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from bayesdrop.distributions.elements import elements
from bayesdrop.nn import ConditionalOwner, LatentOwner, named_owners
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.record import Record


@dataclass(frozen=True)
class PriorCard(Record):
    """What is known of one owner of latents.

    Args:
        kind: Its class.
        reference: The publication.
        prior: The prior of each site, in words.
        kl_scale: Factor on its KL divergence.
        units: Units that it masks; None for weights.
    """

    kind: str
    reference: str
    prior: str
    kl_scale: float
    units: int | None


@dataclass(frozen=True)
class NetworkCard(Record, drop_none=True):
    """What a network is.

    Args:
        network: Its class.
        priors: Path of each owner of latents to what is known of it.
        privacy: What private training promises of its training data; None without it.
    """

    network: str
    priors: dict[str, PriorCard]
    privacy: Record | None = None


def describe_network(bnn: BayesianNetwork) -> NetworkCard:
    """Return the network's class and, for each owner of latents, its kind, prior and units.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> card = describe_network(bd.BayesianNetwork(net, bd.Categorical(), 10))
        >>> card.priors["0"].prior
        'pi ~ Beta(concentration1=0.0001, concentration0=1)'
    """
    return NetworkCard(type(bnn.network).__name__, describe_priors(bnn.network), bnn.privacy)


def describe_priors(network: nn.Module) -> dict[str, PriorCard]:
    """Return, by path, what is known of each owner of latents in a network."""
    return {path: _describe_owner(owner) for path, owner in named_owners(network)}


def _describe_owner(owner: LatentOwner) -> PriorCard:
    if isinstance(owner, ConditionalOwner):
        prior = f"given what layers share ({type(owner.parent).__name__})"
    else:
        prior = "; ".join(f"{site} ~ {_describe(fn)}" for site, fn in owner.prior().items())
    return PriorCard(
        kind=type(owner).__name__,
        reference=owner.reference,
        prior=prior or f"no global latents: {owner.extra_repr()}",
        kl_scale=owner.kl_scale,
        units=owner.total() if owner.unit_word == "units" else None,
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that predictions depend on."""
    return {
        "torch": str(torch.__version__),
        "pyro": version("pyro-ppl"),
        "python": platform.python_version(),
    }


def _describe(fn: TorchDistribution) -> str:
    fn = elements(fn)
    values = {name: getattr(fn, name, None) for name in fn.arg_constraints}
    words = [f"{name}={_range(value)}" for name, value in values.items() if value is not None]
    return f"{type(fn).__name__}({', '.join(words)})"


def _range(value: Tensor | float) -> str:
    values = torch.as_tensor(value).detach().double()
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
