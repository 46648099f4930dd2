"""Everyone who is built upon can be cited."""

import re
from pathlib import Path

import pytest

import bayesdrop as bd
from bayesdrop import citations
from bayesdrop.citations import cite
from bayesdrop.errors import ConfigError
from bayesdrop.nn import layers
from bayesdrop.recipes import ABBREVIATIONS

OWN = [key for key, cls in layers.items() if cls.__module__.startswith("bayesdrop.")]


@pytest.mark.parametrize("key", [*OWN, *ABBREVIATIONS])
def test_every_method_has_an_entry_with_title_authors_and_year(key):
    for entry in cite(key).split("\n\n"):
        assert {"title", "author", "year", "keywords"} <= set(
            re.findall(r"^  (\w+) = ", entry, re.M)
        )


def test_an_abbreviation_names_the_same_publications():
    for short, key in ABBREVIATIONS.items():
        assert cite(short) == cite(key)


def test_the_package_is_cited_with_its_version():
    assert f"version = {{{bd.__version__}}}" in cite()


def test_the_file_that_repositories_read_has_the_same_version():
    text = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", text, re.M)[1] == bd.__version__


def test_no_two_entries_have_one_name_and_braces_close():
    text = citations._FILE.read_text()
    names = re.findall(r"^@\w+\{(\w+),$", text, re.M)
    assert len(names) == len(set(names)) == len(text.strip().split("\n\n"))
    for entry in text.strip().split("\n\n"):
        assert entry.count("{") == entry.count("}")


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="concrete"):
        cite("concret")
