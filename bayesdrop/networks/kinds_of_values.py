"""Of what type the value of a node is, as far as the node tells."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.nn.utils import rnn

from bayesdrop.networks.operations import operation
from bayesdrop.nn import BayesianLayer

LISTS = {"chunk", "split", "tensor_split", "unbind"}
_NAMED = {
    "aminmax", "broadcast_tensors", "cummax", "cummin", "eig", "eigh", "frexp", "kthvalue",
    "meshgrid", "mode", "qr", "slogdet", "sort", "std_mean", "svd", "topk", "var_mean",
}  # fmt: skip
_NAMED_ALONG = {"max", "median", "min", "nanmedian"}
"""What returns tensors in a tuple, and what does if it is told a dimension."""
_VIEWS = {"T", "mT", "H", "mH", "data", "grad", "real", "imag"}
_ATTRIBUTES: dict[str, type] = {
    **dict.fromkeys(_VIEWS, Tensor), "shape": torch.Size, "ndim": int, "dtype": torch.dtype,
    "device": torch.device, "is_cuda": bool, "requires_grad": bool,
}  # fmt: skip
_RESULTS: dict[str, type] = {
    **dict.fromkeys(LISTS, tuple), "dim": int, "ndimension": int, "numel": int, "tolist": list,
    "is_floating_point": bool, "is_complex": bool,
}  # fmt: skip
_PACKED: dict[Any, type] = {
    rnn.pack_padded_sequence: rnn.PackedSequence, rnn.pack_sequence: rnn.PackedSequence,
    rnn.PackedSequence: rnn.PackedSequence,
    rnn.pad_packed_sequence: tuple, rnn.unpack_sequence: list, rnn.unpad_sequence: list,
}  # fmt: skip
_WHOLE = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg)


def kind_of(node: fx.Node, tracer: Any) -> type | None:
    """Return the type of a node's value; None if it could be any.

    Args:
        node: A node of a graph that is being traced.
        tracer: What traces it.

    Raises:
        TraceError: If a module of somebody's own has made the value.
    """
    if node.op == "placeholder":
        stars = len(str(node.target)) - len(str(node.target).lstrip("*"))
        return (Tensor, tuple, dict)[stars]
    if node.op == "get_attr":
        return _kind_of_attribute(str(node.target), tracer.root)
    if node.op == "call_module":
        return _kind_of_output(node, tracer)
    if node.target is getattr:
        return _ATTRIBUTES.get(str(node.args[1]))
    if node.target in _PACKED:
        return _PACKED[node.target]
    name = name_of(node)
    if name == "size":
        return int if len(node.args) + len(node.kwargs) > 1 else torch.Size
    if name in _RESULTS or name == "item":
        return _RESULTS.get(name)
    if _makes_several(node):
        return tuple
    return _kind_of_result(node, tracer)


def name_of(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls."""
    called = operation(node)
    return str(getattr(called, "__name__", called))


def _makes_several(node: fx.Node) -> bool:
    """Return whether a function or method of torch returns a tuple of tensors."""
    name = name_of(node)
    if name in _NAMED_ALONG:
        return "dim" in node.kwargs or len(node.args) > 1 and isinstance(node.args[1], int)
    return name in LISTS or name in _NAMED


def _kind_of_attribute(target: str, root: Any) -> type:
    path, _, name = target.rpartition(".")
    holder = root.get_submodule(path)
    return type(holder._parameters.get(name, holder._buffers.get(name, torch.empty(0))))


def _kind_of_output(node: fx.Node, tracer: Any) -> type:
    target = str(node.target)
    module = tracer.root.get_submodule(target)
    known = f"{type(module).__module__}.".startswith("torch.nn.")
    if not known and not isinstance(module, BayesianLayer):
        raise TraceError(f"forward looks at the type of what {target!r} returns")
    if isinstance(module, nn.RNNBase) and node.all_input_nodes:  # of its outputs, not its states
        packed = kind_of(node.all_input_nodes[0], tracer) is rnn.PackedSequence
        return rnn.PackedSequence if packed else Tensor
    return tuple if getattr(module, "return_indices", False) else Tensor


def _kind_of_result(node: fx.Node, tracer: Any) -> type | None:
    home = str(getattr(node.target, "__module__", None)).split(".")[0]
    if node.op == "call_function" and home not in ("_operator", "math", "builtins"):
        return Tensor if home in ("torch", "None") else None
    sources = [kind_of(source, tracer) for source in node.all_input_nodes]
    if node.target is operator.getitem and sources[0] in (torch.Size, tuple):
        if sources[0] is tuple:
            return Tensor if _makes_several(node.all_input_nodes[0]) else None
        return torch.Size if isinstance(node.args[1], slice) else int
    if node.target is operator.getitem and sources[0] is rnn.PackedSequence:
        outputs = node.all_input_nodes[0].op == "call_module" and node.args[1] == 0
        return rnn.PackedSequence if outputs else Tensor
    if Tensor in sources or torch.nn.Parameter in sources:
        return Tensor
    whole = node.target in _WHOLE and all(kind is int for kind in sources)
    return int if whole else None
