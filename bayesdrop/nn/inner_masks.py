"""Layers that hold masks inside, where no mask beside the layer could reach."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast

from torch import nn

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.mask import BayesianDropout


class InnerMasks(ABC):
    """Abstract ``torch.nn`` layer with masks inside, which are children of it like any others.

    A subclass is a subclass of the layer of ``torch.nn`` too, with its parameters under the same
    names. Tracing takes it for one operation.
    """

    @abstractmethod
    def mask_sizes(self) -> Mapping[str, int]:
        """Return where masks can be, by the name that each has as a child: its number of units."""

    @abstractmethod
    def weights_behind(self, place: str) -> nn.Module | None:
        """Return the weights that a mask is on the inputs of, as those of a Linear, if any are."""

    def put_mask(self, place: str, mask: BayesianDropout | None) -> None:
        """Put a mask into a place of ``mask_sizes``, or take it out.

        Raises:
            ConfigError: If there is no such place, or a mask cannot be there.
        """
        sizes = self.mask_sizes()
        if place not in sizes:
            raise unknown_name(f"place of a mask in {type(self).__name__}", place, sizes)
        if mask is not None:
            _check_mask(f"{type(self).__name__}.{place}", mask, sizes[place])
            weights = self.weights_behind(place)
            if weights is not None:
                mask.bind_weights(weights, 1)
        cast(nn.Module, self).add_module(place, mask)

    @abstractmethod
    def to_plain(self) -> nn.Module:
        """Return a layer of ``torch.nn`` with copies of the parameters, and without masks."""

    @abstractmethod
    def with_mean_masks(self) -> nn.Module | None:
        """Return the same with the mean masks in its weights; None if they do not fit there."""


def _check_mask(where: str, mask: BayesianDropout, units: int) -> None:
    # One draw serves for a whole sequence.
    if not isinstance(mask, BayesianDropout):
        raise ConfigError(
            where,
            expected="a mask",
            got=repr(mask),
            hint="bd.nn.make(key, units) makes one.",
        )
    if mask.input_dependent:
        raise ConfigError(
            where,
            expected="a mask that does not look at its input, since one is drawn for all steps",
            got=f"{type(mask).__name__}, whose mask depends on it",
            hint='Use "beta-bernoulli" inside, and masks that look at their input beside the '
            "layer.",
        )
    if mask.num_units != units:
        raise ConfigError(
            where,
            expected=f"a mask of {units} units",
            got=repr(mask),
            hint="mask_sizes() says how many each place has.",
        )
