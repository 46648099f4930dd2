"""The package's layers: imports point down, one concept has one stem."""

import ast
import functools
import importlib
import pkgutil
from pathlib import Path

import pytest

import bayesdrop as bd
from bayesdrop.renamed import RENAMED

ROOT = Path(bd.__file__).parent

# Lowest first; modules of one row may import each other. docs/architecture.md has the same list.
# Networks come after the programs since one of them, the autoencoder, is both.
LAYERS = [
    {
        "abstract",
        "archives",
        "errors",
        "files",
        "record",
        "registry",
        "renamed",
        "tables",
        "typing",
    },
    {"metrics"},
    {"ops"},
    {"distributions"},
    {"nn"},
    {"likelihoods"},
    {"program"},
    {"networks"},
    {"conversion"},
    {"data"},
    {"inference"},
    {"diagnostics"},
    {"compression"},
    {"reporting"},
    {"estimators"},
    {"surface"},
    {"recipes"},
    {"integrations"},
    {"listing", "citations"},
    {"commands"},
    {"cli"},
    {"__main__"},
    {"testing"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def layer(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@functools.cache
def nodes(path):
    return list(ast.walk(ast.parse(path.read_text())))


def shown(path):
    return path.relative_to(ROOT).as_posix()


def imported_layers(nodes):
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] == "bayesdrop" and len(parts) > 1:
                yield parts[1]
            elif parts == ["bayesdrop"]:
                yield None


# What the package's top imports cannot import the top.
TOP = set(imported_layers(nodes(ROOT / "surface.py")))


def test_every_file_has_its_layer():
    assert not {layer(path) for path in FILES} - RANK.keys(), "add it to LAYERS"


def test_imports_are_absolute():
    faults = [
        (shown(path), node.lineno)
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not faults


def test_imports_point_down():
    faults = []
    for path in FILES:
        for name in imported_layers(nodes(path)):
            if name not in RANK:  # "import bayesdrop", "from bayesdrop import fit"
                if layer(path) in TOP:
                    faults.append((shown(path), "imports the top, not the module that defines it"))
            elif RANK[name] > RANK[layer(path)]:
                faults.append((shown(path), f"must not import {name}"))
    assert not faults


def test_the_check_sees_every_kind_of_import():
    source = "import bayesdrop.cli\nfrom bayesdrop import recipes\nfrom bayesdrop.ops import noise"
    assert {"cli", "recipes", "ops"} <= set(imported_layers(ast.walk(ast.parse(source))))


def imported_modules(nodes, modules):
    """Yield the modules that a file imports, also for types alone; a package is its __init__."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def circles(graph):
    """Return what is left of a directed graph without what reaches no circle."""
    while leaves := {node for node, below in graph.items() if not below & graph.keys()}:
        graph = {node: below for node, below in graph.items() if node not in leaves}
    return graph


def test_no_modules_import_each_other_not_even_for_types():
    files = [*FILES, ROOT / "__init__.py"]
    names = [path.relative_to(ROOT.parent).with_suffix("").parts for path in files]
    names = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names]
    graph = {
        name: set(imported_modules(nodes(path), set(names)))
        for name, path in zip(names, files, strict=True)
    }
    assert not circles(graph)


def test_a_circle_is_found_wherever_it_is():
    graph = {"a": {"b", "torch"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert set(circles(graph)) == {"a", "b", "c"}
    assert not circles({"a": {"b"}, "b": {"torch"}})


def test_no_name_hides_a_module():
    for package in sorted({path.parent for path in FILES}):
        name = ".".join(("bayesdrop", *package.relative_to(ROOT).parts))
        found = importlib.import_module(name)
        for info in pkgutil.iter_modules(found.__path__):
            own = getattr(found, info.name, None)
            if own is not None:  # else nothing hides it, and it may need what is not there
                module = importlib.import_module(f"{name}.{info.name}")
                assert own is module, f"{name} has a module and also {info.name}"


ABBREVIATED = {"mc-dropout": "monte-carlo"}  # what everybody calls it


OWN = [
    key
    for key, cls in bd.nn.registered(bd.BayesianDropout).items()
    if cls.__module__.startswith("bayesdrop.")
]


@pytest.mark.parametrize("key", OWN)
def test_dropouts_have_one_stem(key):
    cls = bd.nn.registered(bd.BayesianDropout)[key]
    assert cls.key == key
    key = ABBREVIATED.get(key, key)
    stem = key.replace("-", "_")
    assert cls.__module__ == f"bayesdrop.nn.masks.{stem}"
    assert cls.__name__ == "".join(part.capitalize() for part in key.split("-")) + "Dropout"
    assert (Path(__file__).parent / "nn" / "masks" / f"test_{stem}.py").exists()
    assert cls.reference


def test_the_top_holds_few_names_and_an_earlier_one_says_where_it_is():
    assert len(bd.__all__) <= 48 and all(hasattr(bd, name) for name in bd.__all__)
    for name, today in RENAMED.items():
        assert name not in bd.__all__
        thing = bd
        for part in today.split("."):
            thing = getattr(thing, part)
        with pytest.raises(AttributeError, match=f"it is bayesdrop.{today} now"):
            getattr(bd, name)
    with pytest.raises(AttributeError, match=r"it is bayesdrop.errors.DataError$"):
        _ = bd.DataError
    with pytest.raises(AttributeError, match="has no attribute 'nothing'$"):
        _ = bd.nothing


def test_a_file_has_at_most_four_hundred_lines():
    lengths = {shown(path): len(path.read_text().splitlines()) for path in FILES}
    assert not {path: length for path, length in lengths.items() if length > 400}


def final_classes():
    """Names of the priors, posteriors and likelihoods that can be built."""
    classes = [*bd.nn.layers.values(), bd.nn.IndianBuffetSticks]
    classes += [bd.Bernoulli, bd.Categorical, bd.Gaussian]
    return {cls.__name__ for cls in classes}


KINSHIP = ("isinstance", "issubclass")
OWN_ROOMS = ("nn/masks", "nn/weights", "likelihoods")


def asked_kinds(nodes):
    """Yield the names that ``isinstance`` and ``issubclass`` are called with."""
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in KINSHIP:
            yield from (name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name))


def test_nothing_outside_asks_for_a_concrete_prior_or_likelihood():
    final = final_classes()
    asked = {
        shown(path): final.intersection(asked_kinds(nodes(path)))
        for path in FILES
        if not shown(path).startswith(OWN_ROOMS)
    }
    assert not {path: names for path, names in asked.items() if names}


def test_a_question_is_seen():
    tree = ast.parse("isinstance(layer, (BernoulliDropout, nn.Linear))")
    assert "BernoulliDropout" in set(asked_kinds(ast.walk(tree)))
