"""Values of a graph that share their numbers, so that a change of one in place changes the other.

``v = h[:, :4]`` is a view of ``h``; after ``v.mul_(2)`` both have changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx, nn

from bayesdrop.networks.operations import MOVES
from bayesdrop.networks.traced_value import PLAIN_ARITHMETIC

_PASSING = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
_VIEWS = {str(getattr(move, "__name__", move)) for move in MOVES} - {"clone"} | {
    *("T", "mT", "H", "mH", "data", "real", "imag", "chunk", "split", "unbind", "tensor_split"),
    *("hsplit", "vsplit", "dsplit", "diagonal", "view_as", "reshape_as", "expand_as", "detach"),
    *("as_strided", "to", "type", "float", "double", "half", "bfloat16", "ravel", "unfold"),
    *("broadcast_to", "broadcast_tensors", "moveaxis", "positive", "getattr", "dropout"),
    *("dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "conj"),
    *("atleast_1d", "atleast_2d", "atleast_3d", "view_as_real", "view_as_complex", "type_as"),
}  # fmt: skip
_NUMBERS = ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "itemsize", "layout")


def read_later(
    node: fx.Node, changed: fx.Node, modules: Mapping[str, nn.Module]
) -> tuple[bool, bool]:
    """Return whether a value that an operation has changed is read later, itself or by a view.

    Args:
        node: The operation.
        changed: The value, one of its inputs.
        modules: The modules that the graph calls, by name.

    Returns:
        Whether it is itself, and whether what shares its numbers since before the change is.
    """
    order = {other: position for position, other in enumerate(node.graph.nodes)}
    late = {value: False for value in _sharing(changed, node, modules)}
    for value in late:
        late[value] = any(order[user] > order[node] for user in value.users)
    own = late.pop(changed)
    late = {value: read for value, read in late.items() if order[value] < order[node]}
    return own, any(late.values())


def _sharing(
    start: fx.Node, without: fx.Node, modules: Mapping[str, nn.Module]
) -> Iterator[fx.Node]:
    """Yield the values that may share numbers with one, and that one."""
    seen, waiting = {start, without}, [start]
    while waiting:
        value = waiting.pop()
        yield value
        near = [user for user in value.users if _is_view(user, modules)]
        if _is_view(value, modules):
            near += value.all_input_nodes
        new = [other for other in near if other not in seen]
        seen.update(new)
        waiting += new


def _is_view(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a value may share its numbers with one that it is made of."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        known = type(module).__module__.startswith("torch.nn.")
        changes = getattr(module, "inplace", False) is True
        return changes or not known or isinstance(module, _PASSING)
    if node.op == "call_method":
        name = str(node.target)
        return name in _VIEWS or (name.endswith("_") and not name.endswith("__"))
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] not in _NUMBERS
    name = getattr(node.target, "__name__", "")
    home = str(getattr(node.target, "__module__", "") or "torch").split(".")[0]
    if home not in ("torch", "_operator", "math", "builtins"):
        return True
    in_place = node.kwargs.get("inplace") is True or node.target in PLAIN_ARITHMETIC
    in_place = in_place or (name.endswith("_") and home != "_operator")  # and_, or_, not_
    return in_place or name in _VIEWS
