"""``bayesdrop cite``."""

from __future__ import annotations

from typing import Annotated

import typer

from bayesdrop.citations import cite as entries
from bayesdrop.commands.options import Json, complete_method
from bayesdrop.commands.terminal import print_json


def cite(
    key: Annotated[
        str,
        typer.Argument(
            help="Key of a method; the package if left out.", autocompletion=complete_method
        ),
    ] = "bayesdrop",
    as_json: Json = False,
) -> None:
    """Print the BibTeX entries of a method."""
    found = entries(key)
    if as_json:
        print_json({"key": key, "bibtex": found.split("\n\n")})
    else:
        typer.echo(found)
