"""What a named experiment consists of, and the registry of names."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.inference.private import Private
from bayesdrop.inference.schedules import Schedule, decay, ramp, steps
from bayesdrop.inference.score_function import SCORE_FUNCTIONS
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.recipes.earlier import ADDED, todays_recipe, with_todays_names
from bayesdrop.record import plain
from bayesdrop.registry import Registry
from bayesdrop.typing import NumMasks


@dataclass(frozen=True)
class Stage:
    """One call of ``fit``.

    Args:
        name: Name of its subfolder in the run.
        epochs: Epochs, >= 1.
        dropout: Whether the network has the recipe's Bayesian dropout layers in this stage. The
            first stage with them starts from the weights of the stage before.
        dependent: Whether the beta-Bernoulli layers look at their inputs in this stage: their keep
            probabilities are frozen, and units that no training example needs are closed at the
            end.
        batch_size: Examples a step.
        learning_rate: Of network weights.
        variational_learning_rate: Of the dropout layers' parameters.
        weight_decay: L2 penalty on network weights.
        milestones: Fractions of the run at which the learning rates are divided by 10.
        kl_warm_up: Fraction of the run in which the KL weight rises to 1; 0 for none.
        decay_since: Fraction of the run from which the learning rates fall linearly to 0, instead
            of the milestones; None for these.
        compact_every: Epochs after which pruned units leave training, as for ``fit``.
        num_masks: Masks inside the logarithm, or ``"exact"``, as for ``fit``.
        objective: Key of ``inference.score_function.SCORE_FUNCTIONS``, such as ``"disarm"``; None
            is the closed form.
        buffers: Values of schedulable buffers in this stage, such as ``{"slope": 7.0}``, or the
            points of a ramp, such as ``{"drop_prob": ((0.0, 0.0), (0.5, 0.9))}``.
        private_epsilon: What private training of the stage may spend, at delta 1e-5; None trains
            as usual.
        private_clip_norm: Largest norm of an example's gradient in private training.
    """

    name: str
    epochs: int
    dropout: bool = False
    dependent: bool = False
    batch_size: int = 100
    learning_rate: float = 1e-3
    variational_learning_rate: float = 1e-1
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.5, 0.8)
    kl_warm_up: float = 0.0
    decay_since: float | None = None
    compact_every: int | None = None
    num_masks: NumMasks = 1
    objective: str | None = None
    buffers: Mapping[str, float | tuple[tuple[float, float], ...]] = field(default_factory=dict)
    private_epsilon: float | None = None
    private_clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise ConfigError(
                f"stage {self.name!r}",
                expected="a name of letters, digits, '-', '_' and '.', not beginning with a dot",
                got=repr(self.name),
                hint="It is the name of the stage's folder in the run.",
            )
        for name in ("epochs", "batch_size"):
            if not is_whole(getattr(self, name)):
                raise ConfigError(
                    f"stage {self.name!r}",
                    expected=f"a whole number of {name}",
                    got=f"{name}={getattr(self, name)!r}",
                    hint="Check the options of the recipe.",
                )
        for name, low, high in (
            ("epochs", 1, math.inf),
            ("batch_size", 1, math.inf),
            ("learning_rate", 0.0, math.inf),
            ("variational_learning_rate", 0.0, math.inf),
            ("weight_decay", 0.0, math.inf),
            ("kl_warm_up", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not is_real(value) or not low <= value <= high:
                raise ConfigError(
                    f"stage {self.name!r}",
                    expected=f"{name} from {low} to {high}",
                    got=f"{name}={value!r}",
                    hint="Check the options of the recipe.",
                )
        if self.objective not in (None, *SCORE_FUNCTIONS):
            raise unknown_name("objective", self.objective, SCORE_FUNCTIONS)
        # As tuples again, where they come from a file.
        points = {
            name: value if isinstance(value, int | float) else tuple(map(tuple, value))
            for name, value in self.buffers.items()
        }
        object.__setattr__(self, "buffers", points)
        self.buffer_schedules()  # which checks them, as the next its fractions
        self.schedule()
        self.private()
        if self.dependent and not self.dropout:
            raise ConfigError(
                f"stage {self.name!r}",
                expected="dropout=True in a dependent stage",
                got="dropout=False",
                hint="Only layers that are there can look at their inputs.",
            )

    def schedule(self) -> Schedule:
        """Return the factor on both learning rates, as ``fit`` takes it."""
        return steps(*self.milestones) if self.decay_since is None else decay(self.decay_since)

    def buffer_schedules(self) -> dict[str, float | Schedule]:
        """Return the values of buffers as ``fit`` takes them."""
        return {
            name: value if isinstance(value, int | float) else ramp(*value)
            for name, value in self.buffers.items()
        }

    def private(self) -> Private | None:
        """Return how ``fit`` keeps examples private, if it does."""
        if self.private_epsilon is None:
            return None
        return Private(self.private_clip_norm, self.private_epsilon)


@dataclass(frozen=True)
class Recipe:
    """A named experiment: data, network, dropout and the stages of training.

    Args:
        name: Its key in the registry.
        summary: One line for ``bayesdrop list recipes``.
        data: Default data set.
        network: Name of a constructor in ``bayesdrop.networks``.
        network_options: Its keyword arguments; ``num_classes`` comes from the data.
        dropout: Key of a registered dropout, or None.
        dropout_options: Keyword arguments of ``convert``. A recipe always says its
            ``parametrization`` and ``gradient``, since those of earlier versions do not and mean
            another.
        dependent_options: Keyword arguments of ``to_dependent``, with ``gate_mean`` likewise.
        augment: Whether training images are cropped and flipped at random, as is usual for CIFAR.
        stages: What is trained, in order.

    Example:
        >>> recipe = Recipe("mine", "a test", "digits", "lenet_500_300", (Stage("plain", 3),))
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
    """

    name: str
    summary: str
    data: str
    network: str
    stages: tuple[Stage, ...]
    network_options: Mapping[str, Any] = field(default_factory=dict)
    dropout: str | None = None
    dropout_options: Mapping[str, Any] = field(default_factory=dict)
    dependent_options: Mapping[str, Any] = field(default_factory=dict)
    augment: bool = False

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"recipe {self.name!r}",
                expected="one or more stages with different names",
                got=repr(names),
                hint="A stage's name is its folder.",
            )
        if len(names) > 1 and any(stage.private_epsilon is not None for stage in self.stages):
            raise ConfigError(
                f"recipe {self.name!r}",
                expected="a single stage in private training",
                got=f"the stages {names}",
                hint="Each spends its own; take a recipe that ends in -private, or one without "
                "pretraining.",
            )
        if self.stages[0].dependent:
            raise ConfigError(
                f"recipe {self.name!r}",
                expected="a stage with beta-Bernoulli dropout before a dependent one",
                got=f"the first stage {names[0]!r} dependent",
                hint="Its keep probabilities are those of the stage before.",
            )
        if any(stage.dependent for stage in self.stages):
            options = {"gate_mean": "exact", **self.dependent_options}
            object.__setattr__(self, "dependent_options", options)
        if said := {name: now for name, (_, now) in ADDED.get(self.dropout, {}).items()}:
            object.__setattr__(self, "dropout_options", {**said, **self.dropout_options})
        if any(stage.dropout for stage in self.stages) != (self.dropout is not None):
            raise ConfigError(
                f"recipe {self.name!r}",
                expected="a dropout key exactly where a stage has dropout=True",
                got=f"dropout={self.dropout!r} and stages {names}",
                hint="Set dropout='beta-bernoulli', say, or drop the stage's flag.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON's types."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        for stage in values["stages"]:
            for name in _ADDED_FIELDS:
                if stage[name] == _LATER[name]:  # as runs have it that are older than the field
                    del stage[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of ``to_dict``, by this version or an earlier one.

        Raises:
            ConfigError: If a field is missing, unknown or of the wrong type.
        """
        try:
            values = with_todays_names(values)
            stages = tuple(
                Stage(**{**stage, "milestones": tuple(stage["milestones"])})
                for stage in values["stages"]
            )
            recipe = cls(**{**values, "stages": stages})
            for name in ("network_options", "dropout_options", "dependent_options"):
                if not isinstance(getattr(recipe, name), Mapping):
                    raise TypeError(f"{name}={getattr(recipe, name)!r}")
            return recipe
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                "recipe",
                expected="the fields of Recipe.to_dict()",
                got=f"{type(error).__name__}: {error}",
                hint="Was the file edited, or written by another version?",
            ) from error

    def override(
        self,
        *,
        epochs: int | None = None,
        pretrain_epochs: int | None = None,
        **settings: Any,
    ) -> Recipe:
        """Return a copy with other settings; None keeps the recipe's own.

        Args:
            epochs: Epochs of the last stage.
            pretrain_epochs: Epochs of each stage before it.
            **settings: Fields of ``Stage``, for all stages.

        Raises:
            ConfigError: If there is no stage before the last, or a setting is out of range or
                unknown.
        """
        if pretrain_epochs is not None and len(self.stages) < 2:
            raise ConfigError(
                f"recipe {self.name!r}",
                expected="a recipe with several stages for pretrain_epochs",
                got="a single stage",
                hint="Use epochs (--epochs).",
            )
        known = [field.name for field in dataclasses.fields(Stage)]
        for name in settings:
            if name not in known:
                raise unknown_name("setting of a stage", name, known)
        given = {name: value for name, value in settings.items() if value is not None}
        last = len(self.stages) - 1
        stages = []
        for index, stage in enumerate(self.stages):
            count = epochs if index == last else pretrain_epochs
            changes = given if count is None else {**given, "epochs": count}
            stages.append(dataclasses.replace(stage, **changes))
        return dataclasses.replace(self, stages=tuple(stages))


_ADDED_FIELDS = (
    "decay_since",
    "compact_every",
    "num_masks",
    "objective",
    "buffers",
    "private_epsilon",
    "private_clip_norm",
)
_LATER: dict[str, Any] = {
    field.name: {} if field.name == "buffers" else field.default
    for field in dataclasses.fields(Stage)
}

registry: Registry[Recipe] = Registry("recipe")
"""Name to recipe."""


def register(recipe: Recipe) -> Recipe:
    """Add a recipe to the registry, under its name.

    Raises:
        ConfigError: If another recipe has the name already.
    """
    return registry.register(recipe.name, recipe)


def get(name: str) -> Recipe:
    """Return the recipe of a name, in which abbreviations of the literature may stand.

    Raises:
        ConfigError: If there is none.

    Example:
        >>> get("lenet-500-300-bb") is get("lenet-500-300-beta-bernoulli")
        True
    """
    return registry[todays_recipe(str(name), registry)]
