"""Named experiments: data, network, dropout and schedule, run resumably in a folder."""

from bayesdrop.recipes import catalogue as _catalogue  # noqa: F401 - registers the recipes
from bayesdrop.recipes import encoders as _encoders  # noqa: F401 - likewise
from bayesdrop.recipes import photographs as _photographs  # noqa: F401 - likewise
from bayesdrop.recipes import private as _private  # noqa: F401 - likewise
from bayesdrop.recipes import published as _published  # noqa: F401 - likewise
from bayesdrop.recipes import ramped as _ramped  # noqa: F401 - likewise
from bayesdrop.recipes import texts as _texts  # noqa: F401 - likewise
from bayesdrop.recipes.building import build_network
from bayesdrop.recipes.compare import compare_runs
from bayesdrop.recipes.demo import run_demo
from bayesdrop.recipes.earlier import ABBREVIATIONS
from bayesdrop.recipes.encoders import choose_encoder
from bayesdrop.recipes.outputs import compact_run, report_run
from bayesdrop.recipes.recipe import Recipe, Stage, get, register, registry
from bayesdrop.recipes.run import Run, load_run, run_recipe
from bayesdrop.recipes.yaml_file import SUFFIXES, read_recipe, to_yaml

__all__ = [
    "ABBREVIATIONS",
    "SUFFIXES",
    "Recipe",
    "Run",
    "Stage",
    "build_network",
    "choose_encoder",
    "compact_run",
    "compare_runs",
    "get",
    "load_run",
    "read_recipe",
    "register",
    "registry",
    "report_run",
    "run_demo",
    "run_recipe",
    "to_yaml",
]
