"""Compaction by parts: of a network that torch.fx cannot trace as a whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from bayesdrop.compression.report import Cut
from bayesdrop.compression.tolerance import differs
from bayesdrop.errors import BayesdropError, CompactionError
from bayesdrop.nn import BayesianDropout, InnerMasks, named_dropout_layers

_Compact: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...]], nn.Module]


def compact_parts(
    network: nn.Module,
    example: tuple[Any, ...],
    compact: _Compact,
) -> list[Cut]:
    """Make every part with masks plain, in place: the largest that torch.fx can trace, first.

    Args:
        network: A network in evaluation mode without masks on the inputs of layers.
        example: Its inputs.
        compact: Makes a plain, smaller network of one that torch.fx can trace, or raises.

    Raises:
        CompactionError: If a mask that is in no such part depends on the input, or is on the
            outputs of a recurrent layer.
    """
    cuts: list[Cut] = []
    for name in list(_candidates(network)):
        try:
            part = network.get_submodule(name)
        except AttributeError:  # gone with a larger part
            continue
        if next(named_dropout_layers(part), None) is None or isinstance(part, BayesianDropout):
            continue
        made = _part(network, name, part, example, compact)
        if made is not None:
            cuts += _counts(name, part)
            network.set_submodule(name, made)
    for name, module in list(network.named_modules()):
        if isinstance(module, InnerMasks):
            cuts += _whole(name, module)
            network.set_submodule(name, _mean_masked(name, module))
    for name, mask in list(named_dropout_layers(network)):
        kept, total = int(mask.kept().sum()), int(mask.total())
        network.set_submodule(name, _scale(name, mask))
        why = "" if kept == total else "torch.fx cannot trace what it is in"
        cuts.append(Cut(name, f"units of {name!r}", total, total, kept, why))
    return cuts


def open_leaves(network: nn.Module) -> list[Cut]:
    """Make masks plain that are inside what is one operation of a graph, in place.

    Args:
        network: A network in evaluation mode.
    """
    cuts = []
    for name, mask in list(named_dropout_layers(network)):
        steps = name.split(".")
        inside = [network.get_submodule(".".join(steps[:end])) for end in range(len(steps))]
        if any(_is_leaf(module) for module in inside):
            kept, total = int(mask.kept().sum()), int(mask.total())
            network.set_submodule(name, _scale(name, mask))
            why = "" if kept == total else "they are outputs inside a layer of torch's own"
            cuts.append(Cut(name, f"units of {name!r}", total, total, kept, why))
    return cuts


def _mean_masked(name: str, layer: InnerMasks) -> nn.Module:
    """Return a layer with its mean masks in its weights, and all its units."""
    if not name:
        raise CompactionError(
            "compact",
            expected="a network around a layer with masks inside",
            got=f"a {type(layer).__name__} alone",
            hint="Its with_mean_masks() is plain, and to_plain() without masks.",
        )
    plain = layer.with_mean_masks()
    if plain is None:
        raise CompactionError(
            "compact",
            expected="layers with masks of their outputs in a part that torch.fx can trace",
            got=f"{name!r}, a {type(layer).__name__} in a part that it cannot",
            hint="Put it, with what follows it, into a module of its own.",
        )
    return plain


def _whole(prefix: str, layer: Any) -> Iterator[Cut]:
    """Yield what is said of masks whose units stay, for want of a graph."""
    for own, mask in named_dropout_layers(layer):
        kept, total = int(mask.kept().sum()), int(mask.total())
        why = "" if kept == total else "torch.fx cannot trace what it is in"
        name = f"{prefix}.{own}"
        yield Cut(name, f"units of {name!r}", total, total, kept, why)


def _is_leaf(module: nn.Module) -> bool:
    containers = nn.Sequential | nn.ModuleList | nn.ModuleDict
    if type(module) is nn.Module or isinstance(module, containers):  # torch.fx makes the former
        return False
    return type(module).__module__.startswith("torch.nn")


def _counts(prefix: str, part: nn.Module) -> Iterator[Cut]:
    for name, mask in named_dropout_layers(part):
        path = f"{prefix}.{name}" if name else prefix
        kept, total = int(mask.kept().sum()), int(mask.total())
        yield Cut(path, f"units of {path!r}", total, kept, kept, "")


def _candidates(network: nn.Module) -> Iterator[str]:
    """Yield the names of the parts of a network, larger ones first."""
    waiting = [("", network)]
    while waiting:
        name, module = waiting.pop(0)
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            yield name
        for own, child in module.named_children():
            waiting.append((f"{name}.{own}" if name else own, child))


def _part(
    network: nn.Module,
    name: str,
    part: nn.Module,
    example: tuple[Any, ...],
    compact: _Compact,
) -> nn.Module | None:
    """Return the plain form of a part that is called once, with tensors; None if it has none."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    hook = part.register_forward_hook(
        lambda _, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    try:
        network(*example)
    finally:
        hook.remove()
    if len(calls) != 1 or calls[0][1] or not all(isinstance(x, Tensor) for x in calls[0][0]):
        return None
    args, _, output = calls[0]
    if not isinstance(output, Tensor):
        return None
    try:
        made = compact(copy.deepcopy(part), args)
        same = not differs(output, made(*args))
    except (BayesdropError, RuntimeError, TypeError, ValueError):
        return None
    if not same:
        return None
    network.set_submodule(name, made)
    try:
        network(*example)
    except Exception:  # whatever the network wants of a module of its own class
        return None
    finally:
        network.set_submodule(name, part)
    return made


def _scale(name: str, mask: BayesianDropout) -> nn.Module:
    """Return the plain module that multiplies by a mask's mean."""
    if mask.input_dependent:
        raise CompactionError(
            "compact",
            expected="masks that are the same for every input where torch.fx cannot trace",
            got=f"{type(mask).__name__} {name!r}, whose mask depends on its input",
            hint="Take a layer with a fixed mask there.",
        )
    holder = nn.Module()
    factors = mask.mean_mask().detach().clone()
    holder.register_buffer("scale", factors.reshape(-1, *[1] * (-1 - mask.unit_dim)))
    graph = fx.Graph()
    x = graph.placeholder("input")
    graph.output(graph.call_function(torch.mul, (x, graph.get_attr("scale"))))
    return fx.GraphModule(holder, graph, "Scale").eval()
