"""Layers with fewer units than they were made with, each under the posterior that it had."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn.latents import is_own
from bayesdrop.nn.mask import BayesianDropout


def unit_tensors(layer: BayesianDropout) -> dict[str, Tensor]:
    """Return the parameters and buffers of a layer that have an entry a unit, ``(K, ...)``.

    None at all if its units cannot be taken apart: their number is part of the prior, as of
    sticks, or a class below the one that declares them (``per_unit``) may have others.
    """
    methods = ("__init__", "prior", "posterior", "penalty", "mask_distribution", "keep_prob")
    if not is_own(type(layer), "per_unit", *methods):
        return {}
    found = ((name, getattr(layer, name, None)) for name in layer.per_unit)
    return {name: value for name, value in found if isinstance(value, Tensor)}


def restrict_units(layer: BayesianDropout, units: Tensor) -> bool:
    """Leave a layer some of its units, in place, and return whether its kind can.

    The layer then is one of fewer units, with the posteriors, and the divergences, that these had.
    Its parameters are new ones: make the optimiser afterwards. Where its penalty depends on the
    weights of a layer (``bound``), cut that layer likewise.

    Args:
        layer: The layer; a copy, where the whole one is still needed.
        units: The units that are left, by number, ``(J,)`` with ``J >= 1``, each once.

    Raises:
        ConfigError: If these are no such numbers.

    Example:
        >>> import torch, bayesdrop as bd
        >>> layer = bd.BetaBernoulliDropout(5)
        >>> bd.nn.restrict_units(layer, torch.tensor([0, 3])), layer.num_units
        (True, 2)
        >>> layer(torch.ones(7, 2)).shape
        torch.Size([7, 2])
    """
    whole = isinstance(units, Tensor) and units.dtype in (torch.int32, torch.int64)
    good = whole and units.ndim == 1 and len(units) > 0 and len(units.unique()) == len(units)
    if not good or int(units.min()) < 0 or int(units.max()) >= layer.num_units:
        raise ConfigError(
            "restrict_units",
            expected=f"a tensor of different integers in 0..{layer.num_units - 1}",
            got=repr(units),
            hint="Of a mask they are layer.kept().nonzero().flatten().",
        )
    tensors = unit_tensors(layer)
    for name, value in tensors.items():
        part = value.detach().index_select(0, units.to(value.device))
        if isinstance(value, nn.Parameter):
            layer._parameters[name] = nn.Parameter(part, requires_grad=value.requires_grad)
        else:
            layer._buffers[name] = part
    if tensors:
        layer.num_units = len(units)
    return bool(tensors)
