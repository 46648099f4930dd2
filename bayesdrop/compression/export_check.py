"""What an exported network may hold to be loaded: numbers, names, and sums of batch sizes.

``torch.export.load`` runs code from the file in more than one way: it unpickles what is not
numbers, evaluates expressions of sizes and guards, compiles the names of inputs into a function,
imports the modules that a ``defaultdict`` names, and opens shared libraries.
"""

from __future__ import annotations

import ast
import io
import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import Any

from bayesdrop.archives import MOST_TIMES, check_entries, check_tensors
from bayesdrop.errors import CheckpointError

_ENTRY = re.compile(
    r"archive_format|archive_version|byteorder|version|\.(data|format)[\w/]*|\.storage_alignment"
    r"|models/model\.json|data/sample_inputs/model\.pt|data/(weights|constants)/\w+(\.json|\.pt)?"
)
_NAME = re.compile(r"[\w.+\-:/ ]*")
_SYMBOL = re.compile(r"[a-z]+\d+")
_LONGEST_EXPRESSION = 2000
_CONTAINERS = (
    None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
    "torch.fx.immutable_collections.immutable_list",
    "torch.fx.immutable_collections.immutable_dict",
)  # fmt: skip
# Sympy's and torch's functions of sizes, as they stand in files.
_FUNCTIONS = frozenset(
    "Symbol Integer Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv L "
    "IntTrueDiv ModularIndexing Identity Eq Ne Ge Gt Le Lt And Or Not Equality Unequality "
    "GreaterThan LessThan StrictGreaterThan StrictLessThan".split()
)
_ATTRIBUTES = frozenset(("size", "shape", "stride", "storage_offset"))
_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.keyword, ast.Subscript,
    ast.Load, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.USub, ast.cmpop, ast.boolop,
    ast.Not,
)  # fmt: skip


def check_export(path: str | os.PathLike[str]) -> None:
    """Raise unless nothing in an exported network can run code when it is loaded.

    Args:
        path: The file.

    Raises:
        CheckpointError: If something in it could.
        zipfile.BadZipFile: If it is damaged, or larger than it looks.
    """
    sizes = check_entries(path)
    roots = {name.partition("/")[0] for name in sizes}
    with zipfile.ZipFile(path) as archive:
        for name in sizes:
            inner = name.partition("/")[2]
            if len(roots) > 1 or not _ENTRY.fullmatch(inner):
                raise _refusal(path, "another kind of entry", name)
            leaf = inner.rpartition("/")[2]
            if leaf.startswith(("custom_obj_", "opaque_obj_")):
                raise _refusal(path, "pickled objects", name)
            if leaf.endswith(".pt"):
                try:
                    check_tensors(io.BytesIO(archive.read(name)))
                except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
                    raise _refusal(path, "pickled objects", name) from error
            elif leaf.endswith(".json"):
                try:
                    content = json.loads(archive.read(name))
                    if leaf.endswith("_config.json"):
                        _check_payload(content, sum(sizes.values()))
                    else:
                        _check_strings(content)
                except _RefusedError as error:
                    raise _refusal(path, str(error), name) from error


class _RefusedError(ValueError):
    """What was found that a file of numbers and names does not have."""


def _refusal(path: str | os.PathLike[str], what: str, where: str) -> CheckpointError:
    return CheckpointError(
        f"plain network {os.fspath(path)}",
        expected="a file of numbers and names",
        got=f"{what} in {where}, which can run code",
        hint="save_plain writes none: do not open it unless you made it yourself.",
    )


def _check_payload(content: Any, size: int) -> None:
    for entry in content["config"].values():
        if entry["use_pickle"]:
            raise _RefusedError("pickled objects")
        lengths = [length["as_int"] for length in entry["tensor_meta"]["sizes"]]
        if any(length < 0 for length in lengths) or math.prod(lengths) > MOST_TIMES * size:
            raise zipfile.BadZipFile(f"a tensor of {lengths} in {size:,} bytes")


def _check_strings(value: Any, key: str = "") -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not _NAME.fullmatch(name):
                raise _RefusedError(f"the name {name[:40]!r}")
            if key == "metadata":  # comments of the function that torch compiles
                _check_comment(item)
            else:
                _check_strings(item, name)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, key)
    elif isinstance(value, str):
        _CHECKS.get(key, _check_name)(value)


def _check_name(value: str) -> None:
    if not _NAME.fullmatch(value) or "from_file" in value:
        raise _RefusedError(f"the name {value[:40]!r}")


def _check_comment(value: Any) -> None:
    # A carriage return would end the comment.
    if not isinstance(value, str) or not all(c.isprintable() or c in "\n\t" for c in value):
        raise _RefusedError("odd characters")


def _check_expression(code: str) -> None:
    try:
        if len(code) > _LONGEST_EXPRESSION:
            raise ValueError
        nodes = list(ast.walk(ast.parse(code, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _RefusedError("an expression") from error
    if not all(_is_arithmetic(node) for node in nodes):
        raise _RefusedError(f"the expression {code[:40]!r}")


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        value = node.value
        return bool(_NAME.fullmatch(value)) if isinstance(value, str) else _is_size(value)
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Attribute):
        return node.attr in _ATTRIBUTES
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return True  # of one of _ATTRIBUTES, as is looked at by itself
        powers = isinstance(node.func, ast.Name) and node.func.id == "Pow"
        return isinstance(node.func, ast.Name) and (not powers or _is_small(node.args[1:]))
    return isinstance(node, _ARITHMETIC)


def _is_size(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) < 2**64)


def _is_small(exponents: list[ast.expr]) -> bool:
    return len(exponents) == 1 and bool(
        re.fullmatch(r"Integer\(-?\d\)", ast.unparse(exponents[0]))
    )


def _check_treespec(value: str) -> None:
    _, spec = json.loads(value)
    specs = [spec]
    while specs:
        spec = specs.pop()
        if spec["type"] not in _CONTAINERS or "{" in str(spec["context"]):
            raise _RefusedError(f"a container {str(spec['type'])[:40]!r}")
        specs += spec["children_spec"]


_CHECKS: dict[str, Callable[[str], None]] = {
    "expr_str": _check_expression,
    "guards_code": _check_expression,
    "in_spec": _check_treespec,
    "out_spec": _check_treespec,
    "as_string": lambda value: None,  # an argument, which torch quotes
    "as_strings": lambda value: None,
}
