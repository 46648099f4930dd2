"""What a forward does besides its operations, and a graph of these would leave out.

Numbers that it draws or counts while it is traced would be the same for ever, and a block without
gradients, or in another precision, would be like the rest.
"""

from __future__ import annotations

import pickle
import random
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

Contexts: TypeAlias = tuple[bool, ...]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SIMPLE = (bool, int, float, str, type(None))
_NO_GRADIENTS, _OTHER_PRECISION = "without_gradients", "in_other_precision"


def contexts() -> Contexts:
    """Return whether gradients are on, and autocast on each kind of device."""
    kinds = ("cpu", "cuda")
    return torch.is_grad_enabled(), *(torch.is_autocast_enabled(kind) for kind in kinds)


def told(node: fx.Node, before: Contexts) -> fx.Node:
    """Return a new node that tells what forward has switched, other than it was before."""
    now = contexts()
    if before[0] and not now[0]:
        node.meta[_NO_GRADIENTS] = True
    if before[1:] != now[1:]:
        node.meta[_OTHER_PRECISION] = True
    return node


def check_switches(root: nn.Module, graph: fx.Graph) -> None:
    """Refuse a graph of a forward that switches off gradients of weights, or switches autocast.

    Raises:
        TraceError: If an operation was traced with gradients off, by ``torch.no_grad`` or in an
            ``autograd.Function``, and depends on a parameter that has one.
    """
    trained: set[fx.Node] = set()
    for node in graph.nodes:
        if _OTHER_PRECISION in node.meta and node.op in ("call_module", "call_function"):
            raise TraceError("forward switches torch.autocast")
        if _has_gradient(root, node) or not trained.isdisjoint(node.all_input_nodes):
            trained.add(node)
            if _NO_GRADIENTS in node.meta and node.op != "get_attr":
                raise TraceError(
                    f"forward computes {node.name!r} without gradients, or by an autograd.Function"
                )


def _has_gradient(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(p.requires_grad for p in root.get_submodule(str(node.target)).parameters())
    if node.op != "get_attr":
        return False
    path, _, name = str(node.target).rpartition(".")
    parameter = root.get_submodule(path)._parameters.get(name)
    return parameter is not None and parameter.requires_grad


def hides_gradients(module: nn.Module) -> bool:
    """Return whether a module without parameters or children may switch gradients off."""
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None:
        return False
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and not {"apply", "no_grad"}.isdisjoint(code.co_names)


def state_of(root: nn.Module) -> dict[tuple[str, str], Any]:
    """Return the numbers and texts that modules hold, in lists and dictionaries too."""
    return {
        (name, key): value
        for name, module in root.named_modules()
        for own, held in vars(module).items()
        for key, value in _within(own, held)
        if isinstance(value, _SIMPLE)
    }


def _within(key: str, value: Any) -> list[tuple[str, Any]]:
    items: Any = ()
    if isinstance(value, list | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    return [(key, value), *((f"{key}[{own!r}]", item) for own, item in items)]


def check_constants(root: nn.Module, graph: fx.Graph) -> None:
    """Refuse a forward whose graph would hold what it has computed of weights, once for ever.

    Raises:
        TraceError: If it has read weights otherwise than as attributes, as by ``parameters()``.
    """
    for node in graph.nodes:
        made = node.op == "get_attr" and str(node.target).startswith("_tensor_constant")
        if made and getattr(root, str(node.target)).grad_fn is not None:
            raise TraceError("forward computes with weights that it does not read as attributes")


def check_state(root: nn.Module, before: dict[tuple[str, str], Any]) -> None:
    """Refuse a forward that counts, or changes another number that a module holds.

    Raises:
        TraceError: If one is another than before.
    """
    for (name, key), value in state_of(root).items():
        old = before.get((name, key), value)
        if old != value and value == value:
            where = f" of {name!r}" if name else ""
            raise TraceError(f"forward changes its attribute {key!r}{where}")


def generators() -> tuple[Any, ...]:
    """Return the states of the generators of random numbers of torch, Python and NumPy."""
    numpy = pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002 - what others draw from
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy


def has_hooks(module: nn.Module, *, but_of: tuple[str, ...] = ()) -> bool:
    """Return whether a call of a module is more than its forward.

    Args:
        module: The module.
        but_of: Beginnings of the names of Python modules whose hooks do not count.
    """
    hooks = (hook for name in _HOOKS for hook in (vars(module).get(name) or {}).values())
    return any(not str(getattr(hook, "__module__", "")).startswith(but_of) for hook in hooks)


def borrowed_forward(network: nn.Module) -> str | None:
    """Return the name of a module with a function as its forward, which copies do not take along.

    Such a function holds the module that it was made for, and a copy would run that one.
    """
    for name, module in network.named_modules():
        if isinstance(vars(module).get("forward"), FunctionType):
            return name
    return None


def modes_held(network: nn.Module) -> dict[bool, list[str]]:
    """Return the modules that a train() of somebody's own holds in a mode, and leave all as is."""
    before = {module: module.training for module in network.modules()}
    held: dict[bool, list[str]] = {}
    for mode in (True, False):
        network.train(mode)
        others = [name for name, m in network.named_modules() if m.training != mode]
        held[not mode] = others
    for module, mode in before.items():
        module.training = mode
    return held
