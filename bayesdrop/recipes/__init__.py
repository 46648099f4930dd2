"""Named experiments: data, network, dropout and schedule, run resumably in a folder."""

from bayesdrop.recipes import catalogue as _catalogue  # noqa: F401 - registers the recipes
from bayesdrop.recipes import nested as _nested  # noqa: F401
from bayesdrop.recipes import sparse_variational as _sparse_variational  # noqa: F401
from bayesdrop.recipes.compare import compare_runs
from bayesdrop.recipes.demo import run_demo
from bayesdrop.recipes.outputs import compact_run, report_run
from bayesdrop.recipes.recipe import (
    Recipe,
    Stage,
    get_recipe,
    register_recipe,
    registered_recipes,
)
from bayesdrop.recipes.run import Run, build_network, load_run, run_recipe

__all__ = [
    "Recipe",
    "Run",
    "Stage",
    "build_network",
    "compact_run",
    "compare_runs",
    "get_recipe",
    "load_run",
    "register_recipe",
    "registered_recipes",
    "report_run",
    "run_demo",
    "run_recipe",
]
