"""What a call of ``convert`` asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from bayesdrop.conversion.kinds import CONVOLUTIONS, RECURRENT
from bayesdrop.conversion.selection import Selection, matches
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn import BayesianWeights, layers

Position: TypeAlias = Literal["after-activation", "before-activation"]
"""Where a mask goes: on what the next layer sees, or on what the activation sees."""
CLOSED = 0.05
"""Of the units of a trained network, the share that is closed by the masks of all its layers."""
NEVER_DROPPED = (
    "the network is trained and never had dropout there (drop_prob=0.1, say, puts it there, "
    "trained=False the default rate)"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of ``convert``, which says what they are; its other ones are ``options``.

    Raises:
        ConfigError: If the dropout or the position is unknown, or they do not go together.
    """

    dropout: str
    linear: bool = True
    conv: bool = True
    recurrent: bool | None = None
    embedding: bool = False
    replace_dropout: bool = True
    input_dropout: bool = True
    output_dropout: bool = False
    select: Selection | None = None
    exclude: Selection | None = None
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    position: Position = "after-activation"
    trained: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = get_args(Position)
        if self.position not in positions:
            raise unknown_name("position", self.position, positions)
        if self.random_weights and self.position != positions[0]:
            raise ConfigError(
                "convert",
                expected="a mask where a position is given",
                got=f"random weights and position={self.position!r}",
                hint="Random weights take the place of the layer. Leave position out.",
            )

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Request:
        """Return the request of a mapping of arguments, of which those unknown are options."""
        names = {item.name for item in dataclasses.fields(cls)} - {"options"}
        own = {name: value for name, value in arguments.items() if name in names}
        return cls(**own, options={k: v for k, v in arguments.items() if k not in names})

    @property
    def random_weights(self) -> bool:
        """Whether layers get random weights, not masks."""
        return issubclass(layers[self.dropout], BayesianWeights)

    @property
    def gates_heads(self) -> bool:
        """Whether attention gets masks on its heads, and not on what its layers see."""
        return self.linear and not self.random_weights and self.position == "after-activation"

    @property
    def fixed_rate(self) -> bool:
        """Whether what is put in drops at a rate that nothing learns."""
        return layers[self.dropout].fixed_rate

    def options_of(self, layer: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options with what ``overrides`` says of a layer."""
        result = dict(options)
        for pattern, more in self.overrides.items():
            if fnmatchcase(layer, pattern):
                result |= more
        return result

    def gives_rate(self, layer: str) -> bool:
        """Return whether the call says at which rate noise drops at a layer."""
        patterns = [p for p, own in self.overrides.items() if "drop_prob" in own]
        return "drop_prob" in self.options or any(fnmatchcase(layer, p) for p in patterns)

    @property
    def kinds(self) -> tuple[type[nn.Module], ...]:
        """The classes of layers that get something on their inputs or outputs."""
        return (*(CONVOLUTIONS if self.conv else ()), *((nn.Linear,) if self.linear else ()))

    @property
    def inside(self) -> tuple[type[nn.Module], ...]:
        """The classes of layers that get masks inside."""
        if self.random_weights:
            return ()
        return (*RECURRENT, *((nn.Embedding,) if self.embedding else ()))

    @property
    def why_no_states(self) -> str:
        """Why recurrent layers get no masks but in place of their own noise, if they do not."""
        if self.recurrent is None:
            return "" if self.linear else "linear=False"
        return "" if self.recurrent else "recurrent=False"

    def why_not(self, name: str, module: nn.Module) -> str:
        """Return why a layer is not selected; nothing if it is."""
        if self.select is not None and not matches(self.select, name, module):
            return "not in select"
        excluded = self.exclude is not None and matches(self.exclude, name, module)
        return "in exclude" if excluded else ""

    def wants(self, name: str, module: nn.Module) -> bool:
        """Return whether a part of the network is selected that may be no layer.

        A function that selects is asked of layers only, of which it may expect weights.
        """
        if self.select is not None:
            if callable(self.select) or not matches(self.select, name, module):
                return False
        exclude = self.exclude
        return exclude is None or callable(exclude) or not matches(exclude, name, module)
