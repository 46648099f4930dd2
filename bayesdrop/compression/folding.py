"""Where the factors of a mask go: into the weights after it, or else before it."""

from __future__ import annotations

from torch import Tensor, fx

from bayesdrop.compression.flow import Flow
from bayesdrop.compression.rules import Flatten, Mask, Norm, ShapeQuery, Unary
from bayesdrop.compression.weighted import Weighted


def fold(flow: Flow, rule: Mask) -> None:
    """Multiply a mask's factors into the weights after it, or else before it, if that is exact."""
    # ReLU and pooling know factors that are positive only.
    negative = bool((rule.mask < 0).any())
    direct = all(isinstance(flow.rules[user], Weighted | ShapeQuery) for user in rule.node.users)
    if negative and not direct:
        return
    after = consumers(flow, rule.node, rule.mask)
    if after is not None:
        rule.folded = "forward"
        for consumer, scale in after:
            consumer.column_scale = scale
        return
    before = None if negative else producer(flow, rule)
    if before is not None:
        rule.folded = "backward"
        before.row_scale = rule.mask


def consumers(flow: Flow, node: fx.Node, scale: Tensor) -> list[tuple[Weighted, Tensor]] | None:
    """Return the weighted layers that see the scaled units and nothing else, or None."""
    found: list[tuple[Weighted, Tensor]] = []
    dim = flow.rules[node].dim
    for user in node.users:
        rule = flow.rules[user]
        if isinstance(rule, ShapeQuery):
            continue
        if isinstance(rule, Weighted) and rule.dim == dim:
            found.append((rule, scale))
            continue
        if not rule.homogeneous or not isinstance(rule, Unary):
            return None
        more = scale.repeat_interleave(rule.block) if isinstance(rule, Flatten) else scale
        further = consumers(flow, user, more)
        if further is None:
            return None
        found += further
    return found


def producer(flow: Flow, mask: Mask) -> Norm | Weighted | None:
    """Return the layer whose output reaches the mask, and nothing else, unit by unit, or None."""
    node = mask.input
    while len(node.users) == 1:
        rule = flow.rules[node]
        if rule.dim != mask.dim:
            return None
        if isinstance(rule, Weighted) or (isinstance(rule, Norm) and rule.module.affine):
            return rule
        if not rule.homogeneous or not isinstance(rule, Unary) or isinstance(rule, Flatten):
            return None
        node = rule.input
    return None
