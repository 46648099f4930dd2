"""Sphinx's settings: ``make docs`` builds the site into ``build/docs/html``.

The sources are staged: ``build/docs/source`` is a mirror of the repository's pages, so that links
between them are the same on the site as on a code host, with the generated pages beside them.
"""

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import bayesdrop  # noqa: E402

logging.getLogger("bayesdrop").setLevel(logging.WARNING)  # pictures are drawn after short fits

project = "bayesdrop"
author = copyright = "The bayesdrop developers"
version = release = bayesdrop.__version__
root_doc = "index"
exclude_patterns = ["build"]

extensions = [
    "myst_nb",  # Markdown pages and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sitebuild.extension",  # stages the pages; formulas as MathML; names to their entries
]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4  # those of a code host
nb_execution_mode = "off"  # `make notebooks` executes them, this build only shows what it finds
nb_output_stderr = "remove"  # progress, and warnings with paths of the machine they were made on
suppress_warnings = [
    "config.cache",  # the resolver below is a function, which no cache of settings can hold
    "myst.header",  # a notebook's cell may start with a heading of any level
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"show-inheritance": False}
autosummary_generate = False  # every entry has its place on a page of its room
add_module_names = False
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_use_ivar = True
html_math_renderer = "mathml"

# Strict (-n): every cross-reference must lead somewhere. Types of other packages do not, since
# their inventories would have to be fetched; private aliases of types have no entry of their own.
nitpick_ignore_regex = [(r"py:(?!obj).*", r".*")]

html_theme = "furo"
html_title = f"bayesdrop {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
