"""Formulas as MathML, which browsers draw by themselves: no script, no fonts, no network."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LONG = 70
_log = logging.getLogger(__name__)


def mathml(formula: str, *, block: bool) -> str:
    r"""Return a TeX formula as MathML.

    Displayed ones of several lines, or with ``&``, are aligned; where ``\qquad`` stands in a long
    one, a line ends, so that it fits a page.

    Raises:
        ValueError: If a command is not known.
    """
    if block and "\\begin" not in formula:
        if len(formula) > _LONG and "\\\\" not in formula:
            formula = formula.replace(r"\qquad", r"\\ &")
        if "\\\\" in formula or "&" in formula:
            lead = "" if "&" in formula.partition("\\\\")[0] else "&"
            formula = rf"\begin{{split}}{lead}{formula}\end{{split}}"
    formula = formula.replace("{aligned}", "{split}")  # the one of the two that is known
    formula = re.sub(r"\\arg\\(min|max)", r"\\text{arg}\\,\\\1", formula)
    formula = re.sub(r"\\mathrm\{(\w+)\}", r"\\text{\1}", formula)  # a word, not its letters
    formula = re.sub(r"(?<!\\)\\\s", r"\\; ", formula)  # a backslash and a space
    result = convert(formula, display="block" if block else "inline").replace(r"\_", "_")
    if "\\" in result or "<mi>&</mi>" in result:  # an environment, by what it leaves
        raise ValueError(f"a command that is not known, in {result}")
    return result


def _converted(node: nodes.Element, *, block: bool) -> str:
    try:
        return mathml(node.astext(), block=block)
    except Exception as error:  # the library has no base class of its own
        _log.warning("formula %r: %r", node.astext(), error, location=node)
        return ""


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Write an inline formula."""
    translator.body.append(_converted(node, block=False))
    raise nodes.SkipNode


def visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula."""
    translator.body.append(f'<div class="math">{_converted(node, block=True)}</div>\n')
    raise nodes.SkipNode
