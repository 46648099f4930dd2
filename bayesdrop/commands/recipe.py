"""``bayesdrop recipe``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from bayesdrop.commands.options import Json, complete_recipe
from bayesdrop.commands.terminal import print_json


def recipe(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of a recipe; see 'bayesdrop list recipes'.", autocompletion=complete_recipe
        ),
    ],
    as_json: Json = False,
) -> None:
    """Print a recipe as YAML: change what you like, and 'bayesdrop train my.yaml'."""
    from bayesdrop.recipes import get, to_yaml

    found = get(name)
    if as_json:
        print_json(found.to_dict())
    else:
        # A name of its own: the registered one stays what it is.
        typer.echo(to_yaml(dataclasses.replace(found, name=f"my-{found.name}")), nl=False)
