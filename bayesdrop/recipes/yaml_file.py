"""A recipe as a YAML file: written to start from, and read with errors that name the line."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bayesdrop import networks
from bayesdrop.data import is_text, parse_name
from bayesdrop.errors import BayesdropError, ConfigError, unknown_name
from bayesdrop.files import first_line
from bayesdrop.nn import layers
from bayesdrop.recipes.building import build_network, network_of
from bayesdrop.recipes.recipe import Recipe, Stage, registry

if TYPE_CHECKING:
    import yaml

SUFFIXES = (".yaml", ".yml")
"""What the name of a recipe's file ends in."""

_MOST_BYTES = 2**20
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)|[-+]?\.(inf|Inf|INF)")


def to_yaml(recipe: Recipe) -> str:
    """Return a recipe as the text of a file that ``read_recipe`` reads.

    Example:
        >>> recipe = Recipe("mine", "a test", "digits", "lenet_500_300", (Stage("plain", 3),))
        >>> print(to_yaml(recipe).splitlines()[0])
        name: mine
    """
    import yaml

    return yaml.safe_dump(
        recipe.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None, width=99
    )


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file, whose keys are the fields of ``Recipe`` and ``Stage``.

    Nothing but plain values is made of what stands in it. Everything that the recipe names is
    looked up, and its networks are built, before any training.

    Args:
        path: The file.

    Raises:
        ConfigError: If a key is unknown, missing or there twice, a value is of the wrong type or
            out of range, or the network cannot be built; it says the line.

    Example:
        >>> read_recipe("my.yaml").stages[0].epochs  # doctest: +SKIP
        3
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"recipe {path}",
            expected="a file that can be read",
            got=error.strerror or type(error).__name__,
            hint="'bayesdrop recipe NAME > my.yaml' writes one to start from.",
        ) from error
    if len(content) > _MOST_BYTES:
        raise _problem(path, 1, "a recipe", "more than a megabyte", "Is it another file?")
    recipe = _Reader(path).recipe(content)
    if recipe.name in registry and registry[recipe.name] != recipe:
        raise ConfigError(
            f"recipe {path}",
            expected="a name of its own",
            got=f"{recipe.name!r}, which is a recipe with other settings",
            hint="Change its name: the folders of runs are called after it.",
        )
    return recipe


class _Reader:
    """Reads one file; all its errors name the file and a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def recipe(self, content: bytes) -> Recipe:
        import yaml

        try:
            text = content.decode("utf-8")
            self._refuse_aliases(text)
            self._loader = _loader()(text)
            return self._recipe(self._loader.get_single_node())
        except UnicodeDecodeError as error:
            raise self._error(None, "text in UTF-8", first_line(error)) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = 1 if mark is None else mark.line + 1
            problem = error.problem or first_line(error)
            raise _problem(
                self.path, line, "YAML of plain values", problem, "Check the indentation."
            ) from error

    def _recipe(self, root: yaml.Node | None) -> Recipe:
        if root is None:
            raise self._error(None, "the fields of a recipe", "an empty file")
        fields = self._fields(root, Recipe, "a recipe")
        stages = fields.pop("stages")
        if stages.tag != "tag:yaml.org,2002:seq":
            raise self._error(stages, "a list of stages", _kind(stages))
        values = {name: self._value(node, name, Recipe) for name, node in fields.items()}
        self._look_up(values, fields)
        made = tuple(self._stage(node) for node in stages.value)
        with self._named(root):
            recipe = Recipe(**values, stages=made)
        self._build(recipe, fields)
        return recipe

    def _stage(self, node: yaml.Node) -> Stage:
        fields = self._fields(node, Stage, "a stage")
        values = {name: self._value(child, name, Stage) for name, child in fields.items()}
        if "milestones" in values:
            values["milestones"] = tuple(values["milestones"])
        with self._named(node):
            return Stage(**values)

    def _fields(self, node: yaml.Node, cls: type, what: str) -> dict[str, yaml.Node]:
        """Return the value of each key of a mapping, all of which must be fields of a class."""
        if node.tag != "tag:yaml.org,2002:map":
            raise self._error(node, f"the fields of {what}, as 'name: ...'", _kind(node))
        fields = {field.name: field for field in dataclasses.fields(cls)}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
                meant = f"Did you mean {near[0]!r}? " if near else ""
                raise self._error(
                    key, f"a field of {what}", repr(name), f"{meant}Fields: {', '.join(fields)}."
                )
            if name in found:
                first = found[name].start_mark.line + 1
                raise self._error(key, f"{name!r} once", f"a second one after line {first}")
            found[name] = value
        missing = [
            name
            for name, field in fields.items()
            if name not in found
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise self._error(node, f"{what} with {', '.join(missing)}", f"{sorted(found)}")
        return found

    def _value(self, node: yaml.Node, name: str, cls: type) -> Any:
        value = self._loader.construct_object(node, deep=True)
        hint = typing.get_type_hints(cls)[name]
        if not _fits(value, hint):
            words = (
                "text like 1e-3? Write 1.0e-3." if isinstance(value, str) else "Check its type."
            )
            raise self._error(node, f"{name} of type {_words(hint)}", repr(value), words)
        return value

    def _look_up(self, values: Mapping[str, Any], fields: Mapping[str, yaml.Node]) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", values["name"]):
            raise self._error(
                fields["name"],
                "a name of letters, digits, '-', '_' and '.'",
                repr(values["name"]),
                "It is the name of the run's folder.",
            )
        with self._named(fields["data"]):
            parse_name(values["data"])
        for name, known in (("network", networks.registry), ("dropout", layers)):
            value = values.get(name)
            if value is not None and value not in known:
                with self._named(fields[name]):
                    raise unknown_name(name, value, known)

    def _build(self, recipe: Recipe, fields: Mapping[str, yaml.Node]) -> None:
        """Build the network of every stage, so that a wrong option is found before training."""
        source, classes = parse_name(recipe.data)
        with torch.random.fork_rng(), self._named(fields["network"]):
            words = 2 if is_text(recipe.data) else None
            network = build_network(recipe, len(classes), source.image_shape, words)
        options = fields.get("dropout_options", fields.get("dropout", fields["network"]))
        with torch.random.fork_rng(), self._named(options):
            for index in range(len(recipe.stages)):
                network = network_of(recipe, index, network)

    def _named(self, node: yaml.Node) -> _Named:
        return _Named(self.path, node.start_mark.line + 1)

    def _error(
        self, node: yaml.Node | None, expected: str, got: str, hint: str = ""
    ) -> ConfigError:
        line = 1 if node is None else node.start_mark.line + 1
        return _problem(self.path, line, expected, got, hint)

    def _refuse_aliases(self, text: str) -> None:
        import yaml

        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise _problem(
                    self.path, line, "values written out", f"the alias *{event.anchor}", ""
                )


class _Named:
    """A context whose errors say the file and the line first."""

    def __init__(self, path: Path, line: int) -> None:
        self.where = f"{path}, line {line}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, BayesdropError | TypeError):
            raise ConfigError(f"{self.where}: {error}") from error


def _problem(path: Path, line: int, expected: str, got: str, hint: str) -> ConfigError:
    return ConfigError(
        f"{path}, line {line}",
        expected=expected,
        got=got,
        hint=hint or "'bayesdrop recipe NAME' prints a recipe to compare with.",
    )


def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes 1e-3 for a number, as YAML 1.2 and everybody does, and no date for a date."""

        yaml_implicit_resolvers: typing.ClassVar = {
            first: [pair for pair in pairs if "timestamp" not in pair[0]]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Loader


def _kind(node: yaml.Node) -> str:
    return {"map": "fields", "seq": "a list"}.get(node.tag.rpartition(":")[2], repr(node.value))


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value of YAML's types is one of a field's type."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is typing.Literal:
        return value in inside
    if origin is tuple:
        items = _items(inside, value)
        return items is not None and all(_fits(item, one) for item, one in items)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(
            _fits(key, inside[0]) and _fits(item, inside[1]) for key, item in value.items()
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _items(inside: tuple[Any, ...], value: Any) -> Iterator[tuple[Any, Any]] | None:
    """Return each entry of a list with its type; None if it is no such list."""
    if not isinstance(value, list):
        return None
    if len(inside) == 2 and inside[1] is ...:
        return ((item, inside[0]) for item in value)
    return zip(value, inside, strict=True) if len(value) == len(inside) else None


def _words(hint: Any) -> str:
    text = str(hint) if typing.get_origin(hint) else hint.__name__
    return re.sub(r"\b(typing|collections\.abc)\.", "", text).replace("tuple[", "list[")
