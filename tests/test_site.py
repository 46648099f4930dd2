"""The documentation site: its map, the pages it generates, and what a browser shows of it."""

import inspect
import re
import sys
from pathlib import Path

import pytest

import bayesdrop as bd
from bayesdrop.conversion import kinds
from tests.browser import DESKTOP, PHONE, Browser, browser_path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BUILT = ROOT / "build" / "docs" / "html"
sys.path.insert(0, str(DOCS))

from sitebuild import landing, methods, surface  # noqa: E402

own = pytest.mark.parametrize(
    "key", [k for k, c in bd.nn.layers.items() if c.__module__.startswith("bayesdrop.")]
)


def test_every_page_is_on_the_map():
    named = {path for rows in landing.sections(ROOT).values() for _, path, _ in rows}
    named |= {f"docs/results/{page.stem}" for page in (DOCS / "results").glob("*.md")}
    pages = {str(page.relative_to(ROOT).with_suffix("")) for page in DOCS.rglob("*.md")}
    assert pages <= named
    front = landing.landing_page(ROOT)
    assert not [path for path in named if not re.search(rf"[\n<]{path}[\n>]", front)]


@own
def test_a_page_of_a_method_has_all_that_is_known_of_it(key):
    page = methods.page_of(key, DOCS)
    title = methods.described((DOCS / "which-prior.md").read_text())[key].title
    assert page.startswith(f"# {title}\n")
    assert f"{{figure}} {key}.png" in page
    assert ".. math::" in page or key == "mc-dropout"
    for heading in ("When to use it", "Example", "Arguments", "Cite"):
        assert f"\n## {heading}\n" in page
    assert re.search(r"^>>> ", page, re.MULTILINE)
    assert re.search(rf"^\.\. autoclass:: bayesdrop\..*{bd.nn.layers[key].__name__}$", page, re.M)
    assert re.search(r"^@\w+\{", page, re.MULTILINE)


def test_a_newly_registered_prior_gets_its_page_and_picture(monkeypatch, tmp_path):
    pictures = pytest.importorskip("sitebuild.pictures")

    class Inherited(bd.BetaBernoulliDropout):
        """Masks of somebody else's."""

        key = "inherited"
        reference = "nobody"

    monkeypatch.setitem(bd.nn.layers._entries, "inherited", Inherited)
    page = methods.page_of("inherited", DOCS)
    assert page.startswith("# Inherited\n\nMasks of somebody else's.")
    assert "## Cite" not in page
    assert "[Inherited](inherited.md)" in methods.index_page(DOCS)
    pictures.draw("inherited", tmp_path / "inherited.png", epochs=1)
    assert (tmp_path / "inherited.png").stat().st_size > 10_000


def test_rows_of_results_are_the_methods_own():
    entries = methods.described((DOCS / "which-prior.md").read_text())
    cells = {
        key: [line.split("|")[1].strip() for rows in methods.rows_of(key, entries, DOCS)
              for line in rows.lines[2:]]
        for key in ("beta-bernoulli", "gaussian", "gaussian-dropconnect", "targeted-dropconnect")
    }  # fmt: skip
    assert {"BB, mean mask", "*published*", "plain network"} <= set(cells["beta-bernoulli"])
    assert not any("DBB" in cell for cell in cells["beta-bernoulli"])
    assert "Gaussian dropout, sampled" in cells["gaussian"]
    assert not any("dropconnect" in cell for cell in cells["gaussian"])
    assert "Gaussian dropconnect, sampled" in cells["gaussian-dropconnect"]


def test_every_public_name_has_one_entry():
    entries = surface.documented()
    things = {id(entry.thing) for entry in entries.values()}
    assert len(things) == len(entries)
    for name in bd.__all__:
        thing = getattr(bd, name)
        assert id(thing) in things or inspect.ismodule(thing)
    assert surface.home_of("bayesdrop.nn.BetaBernoulliDropout") == "bayesdrop.BetaBernoulliDropout"
    assert surface.home_of("bayesdrop.inference.fit.fit") == "bayesdrop.fit"


def test_the_page_of_layers_names_every_kind_that_conversion_tells_apart():
    text = (DOCS / "understood.md").read_text()
    groups = (
        kinds.CONVOLUTIONS, kinds.NORMALISATIONS, kinds.RECURRENT, kinds.DROPOUTS,
        kinds.ACTIVATIONS, kinds.POOLS, bd.nn.LAYER_KINDS,
    )  # fmt: skip
    missing = [c.__name__ for group in groups for c in group if f"`{c.__name__}`" not in text]
    assert not missing


def test_links_lead_to_pages_of_the_site(tmp_path):
    staging = pytest.importorskip("sitebuild.stage")
    tree = staging.Stage(ROOT, tmp_path)
    page = DOCS / "results" / "x.md"
    text = "[a](../start.md#fit) [b](../../tutorials/02_model_and_guide.py) [c](../../LICENSE) [d](https://x.y)"
    linked = tree.linked(page, text)
    assert linked == text.replace("guide.py", "guide.ipynb")
    assert (tmp_path / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    beside = "```py\ntheirs\n```\n\n```python\nours\n```\n"
    assert tree.linked(page, beside).startswith("::::{container} beside\n```py\n")


def test_pages_link_to_pages_of_the_site_only():
    staging = pytest.importorskip("sitebuild.stage")
    shown = {*staging.pages(ROOT), ROOT / "tutorials" / "README.md"}
    linked = {
        (page.parent / target).resolve()
        for page in shown
        for target in re.findall(r"\]\(([^)\s#:]+\.md)", page.read_text())
    }
    assert linked <= shown


def test_a_tutorial_is_shown_with_its_output_where_its_cells_are_the_same(tmp_path):
    notebooks = pytest.importorskip("sitebuild.notebooks")
    script, executed = tmp_path / "01_a.py", tmp_path / "01_a.ipynb"
    script.write_text("# %% [markdown]\n# # A\n#\n# **Question.** Why\n# so?\n\n# %%\n1 + 1\n")
    book = notebooks.notebook_of(script, executed)
    book.cells[1].outputs = [notebooks.nbformat.v4.new_output("stream", text="2")]
    notebooks.nbformat.write(book, executed)
    assert notebooks.notebook_of(script, executed).cells[1].outputs[0].text == "2"
    script.write_text(script.read_text().replace("1 + 1", "1 + 2"))
    assert not notebooks.notebook_of(script, executed).cells[1].outputs


def test_formulas_are_drawn_without_a_script():
    formulas = pytest.importorskip("sitebuild.formulas")
    assert "<mfrac>" in formulas.mathml(r"\frac12", block=False)
    long = r"p(z) = \mathrm{Bernoulli}(\pi) \qquad q(z) = \mathrm{Kumaraswamy}(a, b) + 1234567890"
    assert formulas.mathml(long, block=True).count("<mtr>") == 2
    assert "<mtext>Bernoulli</mtext>" in formulas.mathml(long, block=True)
    assert "<mtext>arg</mtext>" in formulas.mathml(r"\arg\min_x f", block=True)
    with pytest.raises(ValueError, match="not known"):
        formulas.mathml(r"\notacommand{x}", block=False)
    with pytest.raises(ValueError, match="not known"):
        formulas.mathml(r"\begin{notanenvironment}a & b\end{notanenvironment}", block=True)


def test_run_in_headings_of_docstrings_become_paragraphs():
    extension = pytest.importorskip("sitebuild.extension")
    lines = ["Text.", "", "Shape:  in", "    and out.", "Sites:  none.", "", "Args:", "    x: X."]
    assert [line for line in extension.run_in_headings(lines) if line] == [
        "Text.", "**Shape:** in", "and out.", "**Sites:** none.", "Args:", "    x: X.",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if browser_path() is None or not (BUILT / "index.html").exists():
        pytest.skip("needs a browser, and the site (make docs)")
    with Browser(browser_path(), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.skipif(not BUILT.exists(), reason="needs the site (make docs)")
def test_no_page_fetches_anything():
    fetching = r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//"""
    pages = list(BUILT.rglob("*.html"))
    assert len(pages) > 80
    assert not [page for page in pages if re.search(fetching, page.read_text())]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize(
    "page",
    ["index", "docs/start", "docs/coming-from", "docs/results/methods", "methods/beta-bernoulli",
     "tutorials/02_model_and_guide", "api/nn"],
)  # fmt: skip
def test_nothing_runs_off_a_page(browser, page, width):
    browser.open(BUILT / f"{page}.html", width=width)
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert not browser.broken_images()
    assert not browser.complaints
