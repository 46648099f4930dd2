"""BibTeX of the package and of the publications that its methods are from."""

from __future__ import annotations

import re
from importlib.resources import files

from bayesdrop.errors import unknown_name

_FILE = files("bayesdrop") / "references.bib"


def cite(key: str = "bayesdrop") -> str:
    """Return the BibTeX entries of a method, as ``bayesdrop cite KEY`` prints them.

    Args:
        key: Of a prior or of a law of weights, as ``convert`` knows it, its abbreviation, or
            another method (``"lora"``, ``"recurrent"``, ``"private"``, ``"continual"``);
            ``"bayesdrop"`` is the package.

    Raises:
        ConfigError: If no entry has the key among its keywords.

    Example:
        >>> print(cite("concrete").splitlines()[0])
        @inproceedings{gal2017concrete,
    """
    by_key: dict[str, list[str]] = {}
    for entry in _FILE.read_text(encoding="utf-8").strip().split("\n\n"):
        for word in re.findall(r"keywords = \{(.*?)\}", entry)[0].split(", "):
            by_key.setdefault(word, []).append(entry)
    if key not in by_key:
        raise unknown_name("method", key, by_key)
    return "\n\n".join(by_key[key])
