"""The Sphinx extension of the site: staging, formulas, docstrings, and names that link."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import bayesdrop as bd
from sitebuild.formulas import visit_math, visit_math_block
from sitebuild.methods import Docstring
from sitebuild.stage import stage
from sitebuild.surface import documented, documented_by_id, home_of, resolve

_RUN_IN = re.compile(r"^(\w[\w ]*):\s{2,}(\S.*)$")
_NAME = re.compile(r"^(?:bd|bayesdrop)((?:\.[A-Za-z]\w*)+)(?:\(.*\))?$", re.DOTALL)


def stage_sources(app: Sphinx) -> None:
    """Write the sources before Sphinx looks for them."""
    stage(Path(app.confdir).parent, Path(app.srcdir))


def run_in_headings(lines: list[str]) -> list[str]:
    """Return a docstring in which ``Shape:  text`` is a paragraph with a bold first word."""
    result: list[str] = []
    inside = False
    for line in lines:
        found = _RUN_IN.match(line)
        if found:
            result += ["", f"**{found[1]}:** {found[2]}"]
            inside = True
        elif inside and line.startswith(" "):
            result.append(line.strip())
        else:
            if inside and line.strip():
                result.append("")
            inside = False
            result.append(line)
    return result


def process_docstring(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Make docstrings what napoleon knows; of a method's class leave out what its page has."""
    if isinstance(thing, type) and thing in bd.nn.layers.values():
        docstring = Docstring.of(thing)
        docstring.sections.pop("Example", None)
        lines[:] = [docstring.head.partition("\n")[0], ""]
        for title, body in docstring.sections.items():
            lines += [f"{title}:", *(f"    {line}" for line in body.splitlines()), ""]
    lines[:] = run_in_headings(lines)


def _target(text: str) -> str | None:
    """Return the documented name that inline code means, or None."""
    found = _NAME.match(text)
    names = documented()
    if found:
        full = "bayesdrop" + found[1]
        thing = resolve(full)
        return full if full in names else documented_by_id().get(id(thing))
    full = f"bayesdrop.{text}"
    if text[:1].isupper():
        for name in (full, f"bayesdrop.nn.{text}"):
            if name in names:
                return name
    return None


def link_names(app: Sphinx, document: nodes.document) -> None:
    """Let inline code that is a public name lead to its entry."""
    for node in list(document.findall(nodes.literal)):
        parent = node.parent
        if isinstance(parent, nodes.reference | pending_xref | nodes.title):
            continue
        target = _target(node.astext())
        if target is None:
            continue
        link = pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True,
            refwarn=True, refdoc=app.env.docname,
        )  # fmt: skip
        parent.replace(node, link)
        link += node


def resolve_type(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Resolve the name of a type in its own module to the name it is documented under."""
    target = node.get("reftarget", "")
    public = home_of(target)
    if public is None or public == target:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, content)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the parts of the site to Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("builder-inited", stage_sources, priority=100)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", resolve_type)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
