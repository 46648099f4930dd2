"""Layers that hold masks inside, where no mask beside the layer could reach."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import nn

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

    @abstractmethod
    def put_mask(self, place: str, mask: BayesianDropout | None) -> None:
        """Put a mask into a place of ``mask_sizes``, or take it out.

        Raises:
            ConfigError: If there is no such place, or a mask cannot be there.
        """

    @abstractmethod
    def to_plain(self) -> nn.Module:
        """Return a layer of ``torch.nn`` with copies of the parameters, and without masks."""

    @abstractmethod
    def with_mean_masks(self) -> nn.Module | None:
        """Return the same with the mean masks in its weights; None if they do not fit there."""
