"""``bayesdrop list``, with a filter."""

from __future__ import annotations

from typing import Annotated

import typer

from bayesdrop.commands.options import Json, complete_data, complete_method
from bayesdrop.commands.terminal import print_json, print_table
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.listing import Listed, rows

_NO_DROPOUT = "none"


def list_(
    what: Annotated[Listed, typer.Argument(help="Which registry.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Show entries in which all of these stand."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Recipes of a data set, such as mnist.", autocompletion=complete_data),
    ] = None,
    network: Annotated[str | None, typer.Option(help="Recipes of a network.")] = None,
    dropout: Annotated[
        str | None,
        typer.Option(
            help=f"Recipes of a dropout, by key or abbreviation; '{_NO_DROPOUT}' has none.",
            autocompletion=complete_method,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the registered dropouts, recipes or data sets, all or those that are asked for."""
    asked = {"data": data, "network": network, "dropout": dropout}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and what is not Listed.recipes:
        raise typer.BadParameter("--data, --network and --dropout go with 'list recipes'")
    found = rows(what)
    for column, value in given.items():
        found = _chosen(found, column, value)
    for word in words or ():
        found = [
            row for row in found if any(word.lower() in cell.lower() for cell in row.values())
        ]
    if not found:
        told = " ".join([*(words or ()), *(f"--{name} {value}" for name, value in given.items())])
        raise ConfigError(
            f"list {what}",
            expected="something that is in the list",
            got=f"nothing with {told!r}",
            hint=f"bayesdrop list {what} shows all.",
        )
    if as_json:
        print_json(found)
        return
    # A recipe's name says its network and its dropout.
    header = [name for name in found[0] if name not in ("network", "dropout")]
    print_table(None, header, [[row[name] for name in header] for row in found])


def _chosen(found: list[dict[str, str]], column: str, value: str) -> list[dict[str, str]]:
    """Return the recipes that have a value in a column.

    Raises:
        ConfigError: If no recipe has.
    """
    known = {row[column] or _NO_DROPOUT for row in rows(Listed.recipes)}
    if column == "dropout":
        short = {row["short"]: row["key"] for row in rows(Listed.dropouts) if row["short"]}
        value = short.get(value, value)
    if value not in known:
        raise unknown_name(f"{column} of a recipe", value, known)
    return [row for row in found if (row[column] or _NO_DROPOUT) == value]
