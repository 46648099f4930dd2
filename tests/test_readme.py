"""The README and the pages under docs/: their code runs, and what they name exists."""

import os
import re
from pathlib import Path

import pytest

import bayesdrop as bd
from tests.forked import run_script
from tests.test_layers import LAYERS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *(page for name in ("docs", "benchmarks") for page in (ROOT / name).rglob("*.md")),
]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_of(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return "\n".join(blocks)


def anchor_of(heading):
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def exists(name):
    found = bd
    for part in name.split(".")[1:]:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_of(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_a_page_runs_from_top_to_bottom(page, tmp_path):
    script = tmp_path / "page.py"
    # That it runs is the law here; figures are those of scripts, which have all the epochs.
    script.write_text(re.sub(r'("epochs": |epochs=)\d\d+', r"\g<1>3", code_of(page)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("BAYESDROP_DATA", None)
    assert run_script(script, tmp_path, environment) == ""


def test_the_readme_is_short():
    assert code_of(README)
    assert len(README.read_text().splitlines()) <= 150


@by_page
def test_every_command_that_a_page_names_exists(page):
    from typer.main import get_command

    from bayesdrop import recipes
    from bayesdrop.cli import app

    text = page.read_text()
    known = set(get_command(app).commands)
    assert set(re.findall(r"^bayesdrop (\w+)", text, flags=re.MULTILINE)) <= known
    for recipe in re.findall(r"bayesdrop train ([\w-]+)(?![\w-]|\.yaml)", text):
        recipes.get(recipe)
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
    if page == README:
        assert {"train", "evaluate"} <= set(re.findall(r"^bayesdrop (\w+)", text, re.MULTILINE))


@by_page
def test_every_link_of_a_page_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    text = re.sub(r"(?<!\[)`[^`\n]+`(?!\])", "", text)  # code, which may look like a link
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), flags=re.MULTILINE)
            assert anchor in map(anchor_of, headings), target


@by_page
def test_every_name_that_a_page_mentions_exists(page):
    names = set(re.findall(r"\bbd(?:\.\w+)+", page.read_text()))
    assert not {name for name in names if not exists(name)}


@pytest.mark.parametrize(
    "script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name
)
def test_every_name_that_a_benchmark_uses_exists(script):
    names = set(re.findall(r"\bbd(?:\.[a-z_]+)?\.[A-Za-z_]\w*", script.read_text()))
    assert not {name for name in names if not exists(name)}


@by_page
def test_every_file_that_a_page_mentions_exists(page):
    names = re.findall(r"`((?:bayesdrop|benchmarks|tests|tutorials)/[\w./-]*)`", page.read_text())
    assert not [name for name in names if not (ROOT / name).exists()]


def test_the_architecture_page_has_the_layers_of_the_package():
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Names")[0]
    rooms = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`.*?) \|", table, re.M)]
    assert rooms == LAYERS[::-1]


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", page.read_text()):
            other = (page.parent / target).resolve()
            if other not in reached:
                waiting.append(other)
    assert set(PAGES) <= reached


def test_the_readme_lists_every_tutorial():
    named = set(re.findall(r"\(tutorials/([\w.]+)\)", README.read_text()))
    tutorials = {path.name for path in (ROOT / "tutorials").glob("[0-9]*.py")}
    assert named == tutorials | {"README.md"}


def own_priors():
    layers = bd.nn.registered(bd.BayesianDropout).values()
    return {layer.__name__ for layer in layers if layer.__module__.startswith("bayesdrop.")}


def test_the_readme_has_rows_of_priors_only():
    table = README.read_text().split("## Which prior")[1].split("## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE))
    assert named <= own_priors()


def test_the_page_of_priors_has_an_entry_for_every_layer():
    page = (ROOT / "docs" / "which-prior.md").read_text()
    named = set(re.findall(r"^\*\*.*?\*\*.*?, `(?:bd\.nn\.)?(\w+)`", page, flags=re.MULTILINE))
    assert own_priors() <= named
    weights = bd.nn.registered(bd.nn.BayesianWeights).items()
    own = {key for key, cls in weights if cls.__module__.startswith("bayesdrop.")}
    assert own <= set(re.findall(r'`"([\w-]+)"`', page))
