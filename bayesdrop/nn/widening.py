"""Masks that get more units, and the layers on both sides of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import nn

from bayesdrop.distributions import Normal
from bayesdrop.distributions.elements import elements
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.latents import extend_tensor
from bayesdrop.nn.layer_kinds import LayerKind, kind_of
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.weight import BayesianWeights


@torch.no_grad()
def widen(
    before: nn.Module,
    mask: BayesianDropout,
    after: nn.Module | Sequence[nn.Module],
    num_units: int,
) -> None:
    r"""Give a mask more units, in place, and the layers before and behind it theirs.

    The network computes what it did: the weights that the new units multiply are zero, or random
    ones of mean zero. The other weights of new units are those of a new layer. Masks and random
    weights are new ones too, with their first prior, also after ``bd.update_prior``: nothing was
    learned of them. Where a stick-breaking posterior has filled its truncation
    (``TruncationWarning``), the sticks behind its last go on from the prior, so that the process
    is the same with a larger truncation and nothing is added to the divergence of the masks.

    Parameters are new ones: make the optimiser afterwards.

    Args:
        before: The Linear or convolution whose outputs are the mask's units, plain or random.
        mask: The mask between them.
        after: The one whose inputs they are, or all of them, such as the heads of several tasks.
        num_units: Number of units to add, at least 1.

    Raises:
        ConfigError: If the mask's kind cannot grow, or a layer has other units than the mask.

    Example:
        >>> import bayesdrop as bd
        >>> layers = nn.Linear(4, 3), bd.IndianBuffetDropout(3), nn.Linear(3, 2)
        >>> network = nn.Sequential(*layers).eval()
        >>> x = torch.randn(5, 4)
        >>> earlier = network(x)
        >>> widen(*layers, 2)
        >>> bool((network(x) - earlier).abs().max() < 1e-5), network[0].out_features
        (True, 5)
    """
    if not is_whole(num_units) or num_units < 1:
        raise ConfigError(
            "widen",
            expected="at least 1 unit to add",
            got=f"num_units={num_units!r}",
            hint="Say by how many units the layer grows, not how many it has then.",
        )
    behind = [after] if isinstance(after, nn.Module) else list(after)
    for layer, dim in [(before, 0), *((layer, 1) for layer in behind)]:
        _check(layer, dim, mask)
    if not mask.grow(num_units):
        raise ConfigError(
            "widen",
            expected="a mask whose units can become more, of the kind it has now",
            got=mask.name,
            hint="Beta-Bernoulli and Indian buffet masks can.",
        )
    _extend(before, 0, num_units)
    for layer in behind:
        _extend(layer, 1, num_units)


def _plain(layer: nn.Module) -> tuple[LayerKind, nn.Module]:
    if isinstance(layer, BayesianWeights):
        return layer.kind, layer.plain
    return kind_of(layer, "widen"), layer


def _check(layer: nn.Module, dim: int, mask: BayesianDropout) -> None:
    kind, plain = _plain(layer)
    units = kind.input_units(plain) if dim else kind.output_units(plain)
    if units != mask.num_units or getattr(plain, "groups", 1) != 1:
        raise ConfigError(
            "widen",
            expected=f"a layer with the {mask.num_units} units of {mask.name} as its "
            f"{('outputs', 'inputs')[dim]}, without groups",
            got=repr(layer),
            hint="Pass the layers before and behind the mask, in this order.",
        )
    if isinstance(layer, BayesianWeights) and not _can_extend(layer):
        raise ConfigError(
            "widen",
            expected="random weights with a variance of their own and a Gaussian prior",
            got=repr(layer),
            hint="New weights have the first prior beside the earlier posterior of the others: "
            "use bd.nn.GaussianWeights.",
        )


def _extend(layer: nn.Module, dim: int, num_units: int) -> None:
    """Add output units (dim 0), with weights of a new layer, or input units (1), with zeros."""
    kind, plain = _plain(layer)
    weight = layer.get_parameter("weight")
    shape = list(weight.shape)
    shape[dim] = num_units
    fresh = weight.new_zeros(shape)
    if dim == 0:
        nn.init.kaiming_uniform_(fresh, a=math.sqrt(5))  # as torch does
    for name, old in [*layer.named_parameters(recurse=False)]:
        if name == "weight":
            extend_tensor(layer, name, fresh, dim)
        elif name == "bias" and dim == 0:
            extend_tensor(layer, name, old.new_zeros(num_units))
        elif old.shape == weight.shape:  # no more noise than the layer's most certain weight has
            extend_tensor(layer, name, torch.full_like(fresh, float(old.min())), dim)
    setattr(plain, kind.inputs if dim else kind.outputs, weight.shape[dim] + num_units)
    if isinstance(layer, BayesianWeights):
        _extend_previous(layer, dim)


def _can_extend(layer: BayesianWeights) -> bool:
    """Return whether each weight has numbers of its own, and new ones could have a prior.

    After ``update_prior`` that is the first prior, a Gaussian as the others' posterior is.
    """
    alone = all(p.shape == layer.weight.shape for p in layer.variational_parameters())
    return alone and (layer.previous_weight() is None or isinstance(_first_prior(layer), Normal))


def _extend_previous(layer: BayesianWeights, dim: int) -> None:
    """Give weights that were added behind the others their first prior."""
    previous, first = layer.previous_weight(), _first_prior(layer)
    if previous is None:
        return
    for name in ("loc", "scale"):
        known = getattr(previous, name).shape[dim]
        new = getattr(first, name).narrow(dim, known, layer.weight.shape[dim] - known)
        extend_tensor(layer, f"previous_{name}", new, dim)


def _first_prior(layer: BayesianWeights) -> TorchDistribution:
    """Return the prior of each weight before any ``update_prior``."""
    first = copy.copy(layer)
    first._buffers = {name: b for name, b in layer._buffers.items() if "previous_" not in name}
    return elements(first.prior()["weight"])
