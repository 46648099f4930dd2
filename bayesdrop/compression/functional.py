"""Functions that are called with a network's own weights, written as the layers of torch they are.

Subclasses of layers, such as timm's norms with an activation, call them in a forward of their own.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bayesdrop.networks.tracing import shape_of

_NORM = "input running_mean running_var weight bias training momentum eps".split()
_CONVOLUTION = "input weight bias stride padding dilation groups".split()
_NAMES: dict[Any, list[str]] = {
    F.batch_norm: _NORM, F.linear: _CONVOLUTION[:3], F.conv1d: _CONVOLUTION,
    F.conv2d: _CONVOLUTION, F.conv3d: _CONVOLUTION,
}  # fmt: skip
_TENSORS = ("weight", "bias", "running_mean", "running_var")


def as_layers(module: fx.GraphModule) -> None:
    """Let functions that a graph calls with parameters be layers, in place.

    Args:
        module: A traced network in evaluation mode; the layers are added to it.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _NAMES:
            _replace(module, node)


def _replace(module: fx.GraphModule, node: fx.Node) -> None:
    given: dict[str, Any] = dict(zip(_NAMES[node.target], node.args, strict=False)) | node.kwargs
    found: dict[str, Any] = {name: given.pop(name, None) for name in _TENSORS}
    source, weight = given.pop("input", None), found["weight"]
    reads = [value for value in found.values() if value is not None]
    if not isinstance(source, fx.Node) or not isinstance(weight, fx.Node):
        return
    if any(not isinstance(n, fx.Node) or n.op != "get_attr" for n in reads):
        return
    if any(isinstance(value, fx.Node) for value in given.values()) or given.get("training"):
        return
    tensors = {
        name: None if value is None else operator.attrgetter(str(value.target))(module)
        for name, value in found.items()
    }
    layer = _layer(node.target, tensors, given, len(shape_of(source) or ()))
    if layer is None:
        return
    path = str(weight.target).rpartition(".")[0]
    owner, number = module.get_submodule(path), 0
    while hasattr(owner, name := f"{type(layer).__name__.lower()}_{number}"):
        number += 1
    name = f"{path}.{name}" if path else name
    module.add_submodule(name, layer)
    with module.graph.inserting_after(node):
        new = module.graph.call_module(name, (source,))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)


def _layer(
    function: Any, tensors: dict[str, Tensor | None], settings: dict[str, Any], ndim: int
) -> nn.Module | None:
    """Return the layer of torch that a function is with these tensors, if it is one."""
    weight = tensors["weight"]
    if not isinstance(weight, nn.Parameter) or (function is F.linear and weight.ndim < 2):
        return None
    layer: nn.Module
    with torch.device("meta"):
        if function is F.batch_norm:
            if tensors["running_mean"] is None or tensors["bias"] is None or not 2 <= ndim <= 5:
                return None
            kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 2]
            layer = kind(len(weight), eps=settings.get("eps", 1e-5))
            layer.num_batches_tracked = None
        elif function is F.linear:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        else:
            groups = settings.get("groups", 1)
            convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[weight.ndim - 3]
            sizes = (weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]))
            layer = convolution(*sizes, **settings)
    for name, value in tensors.items():
        if name in layer._buffers:
            layer._buffers[name] = value
        elif name in layer._parameters:
            layer._parameters[name] = value  # type: ignore[assignment]
    return layer.eval()
