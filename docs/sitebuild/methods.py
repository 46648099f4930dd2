"""A page for every registered prior, from its docstring, its entry and the committed results."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import bayesdrop as bd
from bayesdrop.citations import cite
from bayesdrop.errors import ConfigError
from sitebuild.surface import documented_by_id

HERE = Path(__file__).parent
RESULTS = ("published", "methods", "nested", "magnitude", "quantised")
"""Pages with tables of methods, the published ones first."""
_TABLES = 3
_SECTION = re.compile(r"^(\w[\w ]*):(?:\s{2,}(.*))?$")


@dataclass
class Docstring:
    """A Google-style docstring, apart: what comes before the arguments, and each section."""

    head: str
    sections: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, thing: object) -> Docstring:
        """Take the docstring of ``thing`` apart."""
        head: list[str] = []
        sections: dict[str, list[str]] = {}
        lines = head
        for line in (inspect.getdoc(thing) or "").splitlines():
            found = _SECTION.match(line)
            if found:
                lines = sections.setdefault(found[1], [found[2]] if found[2] else [])
            else:
                lines.append(line)
        texts = {name: inspect.cleandoc("\n" + "\n".join(body)) for name, body in sections.items()}
        return cls("\n".join(head).strip(), texts)


@dataclass(frozen=True)
class Described:
    """What ``docs/which-prior.md`` says of a prior."""

    title: str
    labels: tuple[str, ...]
    text: str


def described(page: str) -> dict[str, Described]:
    """Return the entries of the page of priors by key; one text may describe two priors."""
    entries = {}
    for text in re.split(r"\n\s*\n", page):
        if not text.startswith("**"):
            continue
        for title, key in re.findall(r'\*\*([^*]+)\*\*,\s+(?:`[\w.]+`,\s+)?`"([\w-]+)"`', text):
            title = " ".join(title.split())
            name, _, short = title.partition(" (")
            labels = (name, *(word for word in short.rstrip(")").split(", ") if word))
            entries[key] = Described(title, labels, text)
    return entries


def _uses(label: str, cell: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(label)}(?![\w-])", cell, re.IGNORECASE) is not None


def _is_of(key: str, cell: str, entries: dict[str, Described]) -> bool:
    """Whether the first cell of a row names the method, and no other by a longer name."""
    found = [
        (len(label), other)
        for other, entry in entries.items()
        for label in entry.labels
        if _uses(label, cell)
    ]
    return bool(found) and max(found)[1] == key


@dataclass(frozen=True)
class Rows:
    """Rows of one table of results that are a method's own, beside the plain network's."""

    page: str
    lines: list[str]


def rows_of(key: str, entries: dict[str, Described], docs: Path) -> list[Rows]:
    """Return the rows of committed tables with errors that name the method."""
    tables: list[Rows] = []
    for page in RESULTS:
        text = (docs / "results" / f"{page}.md").read_text(encoding="utf-8")
        for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            head, rule, *rows = table.splitlines()
            if not re.search(r"error(?: %|\b)", head):
                continue
            kept, own = [], False
            for row in rows:
                cell = row.split("|")[1].strip()
                published = own and cell == "*published*"
                own = _is_of(key, cell, entries)
                if own or published or cell == "plain network":
                    kept.append(row)
            if any(_is_of(key, row.split("|")[1], entries) for row in kept):
                tables.append(Rows(page, [head, rule, *kept]))
    return tables[:_TABLES]


def when_rows(key: str, page: str, entries: dict[str, Described]) -> list[tuple[str, str]]:
    """Return the rows of the table "which when" that start with the method: wish and warning."""
    rows = []
    for line in re.findall(r"^\| (?!you want|---).*$", page.partition("## Which when")[2], re.M):
        wish, start, know = (cell.strip() for cell in line.strip("|").split("|"))
        if key in entries and any(_uses(label, start) for label in entries[key].labels):
            rows.append((wish, know))
    return rows


def _bibtex(key: str) -> str:
    try:
        return cite(key)
    except ConfigError:  # a prior from elsewhere has its source in its docstring
        return ""


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def page_of(key: str, docs: Path, *, picture: bool = True) -> str:
    """Return the page of a registered prior or law of weights, as MyST Markdown.

    Args:
        key: One of ``bd.nn.layers``.
        docs: The folder with ``which-prior.md`` and ``results``.
        picture: Whether the page shows ``{key}.png`` beside it.
    """
    cls = bd.nn.layers[key]
    which = (docs / "which-prior.md").read_text(encoding="utf-8")
    entries = described(which)
    entry = entries.get(key, Described(cls.__name__, (), ""))
    docstring = Docstring.of(cls)
    summary, _, formula = docstring.head.partition("\n")
    return _environment().get_template("method.md.jinja").render(
        key=key,
        title=entry.title,
        cls=cls,
        name=documented_by_id().get(id(cls), f"{cls.__module__}.{cls.__qualname__}"),
        of_weights=issubclass(cls, bd.nn.BayesianWeights),
        summary=summary,
        formula=formula.strip(),
        text=_rebased(entry.text),
        when=[(_rebased(wish), _rebased(know)) for wish, know in when_rows(key, which, entries)],
        tables=rows_of(key, entries, docs),
        example=docstring.sections.get("Example", ""),
        bibtex=_bibtex(key),
        picture=picture,
    )  # fmt: skip


def _rebased(text: str) -> str:
    """Return Markdown of ``docs/`` as it reads beside it, in ``methods/``."""
    return re.sub(r"\]\((?![a-z]+:|#)", "](../docs/", text)


def index_page(docs: Path) -> str:
    """Return the page that lists all methods."""
    entries = described((docs / "which-prior.md").read_text(encoding="utf-8"))
    groups = {"Masks": bd.BayesianDropout, "Random weights": bd.nn.BayesianWeights}
    return _environment().get_template("methods.md.jinja").render(
        groups={
            title: [
                (key, entries[key].title if key in entries else cls.__name__,
                 Docstring.of(cls).head.partition("\n")[0])
                for key, cls in bd.nn.registered(kind).items()
            ]
            for title, kind in groups.items()
        }
    )  # fmt: skip
