"""Where a recurrent layer has masks, and which weights are behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.catalogue import make
from bayesdrop.nn.hooks import take_hooks
from bayesdrop.nn.inner_masks import InnerMasks

Dropout: TypeAlias = str | Mapping[str, Any] | None
"""Masks: their key in ``bd.nn.layers``, or that key as ``"dropout"`` in a mapping with options."""


class GateWeights(nn.Module):
    """The weights behind a mask inside a recurrent layer, as those of a Linear.

    Args:
        layer: The recurrent layer.
        names: The matrices that the mask is on the inputs of, such as ``["weight_ih_l0"]``.
        parts: 1, or the number of gates if each has a mask of its own.
    """

    def __init__(self, layer: nn.Module, names: Sequence[str], parts: int) -> None:
        super().__init__()
        self._layer, self.names, self.parts = (layer,), names, parts

    bias = None

    @property
    def weight(self) -> Tensor:
        """The weights ``(outputs, units)``, the outputs of one gate if each has its own mask."""
        found = []
        for name in self.names:
            value = getattr(self._layer[0], name)
            split = value.reshape(self.parts, -1, value.shape[1]).transpose(0, 1)
            found.append(split.reshape(len(split), -1))
        return torch.cat(found)


class RecurrentPlaces(InnerMasks, nn.RNNBase):
    """Abstract recurrent layer of ``torch.nn`` with places for masks, and masks in them.

    Args:
        *args: Those of the layer of ``torch.nn``.
        input_dropout: Masks on the inputs of every layer.
        state_dropout: Masks on what every layer, in either direction, carries from step to step.
        output_dropout: Mask on the outputs of the last layer.
        tied: Whether all gates see the same masks.
        **options: The layer's keyword arguments.
    """

    num_gates: ClassVar[int]
    """Number of gates, the blocks of rows in each weight matrix."""
    plain_class: ClassVar[type[nn.RNNBase]]
    """The layer of ``torch.nn``."""

    def __init__(
        self,
        *args: Any,
        input_dropout: Dropout = "beta-bernoulli",
        state_dropout: Dropout = "beta-bernoulli",
        output_dropout: Dropout = None,
        tied: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if self.dropout:
            raise ConfigError(
                type(self).__name__,
                expected="dropout=0, for nn's own noise is another at every step",
                got=f"dropout={self.dropout}",
                hint='Pass input_dropout={"dropout": "mc-dropout", "drop_prob": '
                f"{self.dropout}}}, which is on the inputs of every layer.",
            )
        if self.proj_size:
            raise ConfigError(
                type(self).__name__,
                expected="proj_size=0",
                got=f"proj_size={self.proj_size}",
                hint="Masks are on the units of the state, which a projection mixes. Leave it "
                "out, or choose a smaller hidden_size.",
            )
        self.tied = tied
        asked = {
            "input_dropout": input_dropout,
            "state_dropout": state_dropout,
            "output_dropout": output_dropout,
        }
        sizes = self.mask_sizes()
        for place in sizes:
            self.add_module(place, None)
        weight = self.get_parameter("weight_ih_l0")
        for place, units in sizes.items():
            argument = f"{place.partition('_')[0]}_dropout"
            name, given = split_dropout(type(self).__name__, argument, asked[argument])
            if name is not None:
                mask = make(name, units, **given)
                self.put_mask(place, mask.to(weight.device, weight.dtype))

    # -- where masks are -----------------------------------------------------------------------

    @property
    def directions(self) -> tuple[str, ...]:
        """Suffixes of the names of parameters and masks."""
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def num_parts(self) -> int:
        """How many masks the units have, side by side: one, or one for each gate."""
        return 1 if self.tied else self.num_gates

    @override
    def mask_sizes(self) -> dict[str, int]:
        width, parts = self.hidden_size * len(self.directions), self.num_parts
        sizes = {}
        for layer in range(self.num_layers):
            sizes[f"input_dropout_l{layer}"] = parts * (width if layer else self.input_size)
            for suffix in self.directions:
                sizes[f"state_dropout_l{layer}{suffix}"] = parts * self.hidden_size
        sizes["output_dropout"] = width
        return sizes

    @override
    def weights_behind(self, place: str) -> nn.Module | None:
        kind, _, rest = place.partition("_dropout_")
        if kind not in ("input", "state"):
            return None
        names = [f"weight_hh_{rest}"]
        if kind == "input":
            names = [f"weight_ih_{rest}{suffix}" for suffix in self.directions]
        return GateWeights(self, names, self.num_parts)

    @override
    def to_plain(self) -> nn.RNNBase:
        return self._like(self, self.plain_class)

    @classmethod
    def from_plain(cls, layer: nn.RNNBase, *, tied: bool = True) -> Self:
        """Return a layer with copies of the parameters of one of ``torch.nn``, without masks yet.

        The noise between its layers (``dropout``) is left out.

        Args:
            layer: An ``nn.LSTM``, or an ``nn.GRU``, of torch's own class.
            tied: Whether all gates see the same masks.
        """
        if type(layer) is not cls.plain_class:
            raise ConfigError(
                f"{cls.__name__}.from_plain",
                expected=f"an nn.{cls.plain_class.__name__}",
                got=repr(layer),
                hint="Other recurrent layers have no masks inside; put masks beside them.",
            )
        return cls._like(layer, cls, tied=tied, **NO_MASKS)

    @staticmethod
    def _like(layer: nn.RNNBase, cls: Any, **options: Any) -> Any:
        settings = ("num_layers", "bias", "batch_first", "bidirectional")
        options |= {name: getattr(layer, name) for name in settings}
        if layer.proj_size:  # an nn.GRU does not know the argument
            options["proj_size"] = layer.proj_size
        own = dict(layer.named_parameters(recurse=False))
        new = cls(layer.input_size, layer.hidden_size, device="meta", **options)
        for name, value in own.items():
            setattr(new, name, nn.Parameter(value.detach().clone(), value.requires_grad))
        take_hooks(new, layer)
        return new.train(layer.training)

    @override
    def reset_parameters(self) -> None:
        bound = self.hidden_size**-0.5
        for weight in self.parameters(recurse=False):
            nn.init.uniform_(weight, -bound, bound)

    @override
    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.tied else f"{text}, tied=False"


def split_dropout(who: str, name: str, given: Dropout) -> tuple[str | None, dict[str, Any]]:
    """Return the key of masks, if there are any, and their options.

    Args:
        who: The layer, for messages.
        name: The argument's name.
        given: Its value.

    Raises:
        ConfigError: If it is something else.
    """
    if given is None or isinstance(given, str):
        return given, {}
    if not isinstance(given, Mapping) or not isinstance(given.get("dropout"), str):
        raise ConfigError(
            who,
            expected="a key of a mask, a mapping with it as 'dropout', or None",
            got=f"{name}={given!r}",
            hint='For example {"dropout": "mc-dropout", "drop_prob": 0.25}.',
        )
    options = dict(given)
    return options.pop("dropout"), options


NO_MASKS: dict[str, Dropout] = dict.fromkeys(("input_dropout", "state_dropout", "output_dropout"))
"""The arguments of a recurrent layer without any mask."""
