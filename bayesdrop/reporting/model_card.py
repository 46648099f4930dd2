"""What a network is, in words: its priors, and what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from bayesdrop.distributions.elements import elements
from bayesdrop.nn import BayesianDropout, BayesianLayer, ConditionalOwner
from bayesdrop.program.network import BayesianNetwork


def describe_network(bnn: BayesianNetwork) -> dict[str, Any]:
    """Return the network's class and, for each owner of latents, its kind, prior and units.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> described = describe_network(bd.BayesianNetwork(net, bd.Categorical(), 10))
        >>> described["priors"]["0"]["prior"]
        'pi ~ Beta(concentration1=0.0001, concentration0=1)'
    """
    priors = {}
    for path, owner in bnn.named_owners():
        if isinstance(owner, ConditionalOwner):
            prior = f"given what layers share ({type(owner.parent).__name__})"
        else:
            prior = "; ".join(f"{site} ~ {_describe(fn)}" for site, fn in owner.prior().items())
        if not prior:
            prior = f"no global latents: {owner.extra_repr()}"
        priors[path] = {
            "kind": type(owner).__name__,
            "reference": owner.reference if isinstance(owner, BayesianLayer) else "",
            "prior": prior,
            "kl_scale": owner.kl_scale,
            "units": owner.num_units if isinstance(owner, BayesianDropout) else None,
        }
    return {"network": type(bnn.network).__name__, "priors": priors}


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
