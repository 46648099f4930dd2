"""Units that are pruned, yet kept, so that a layer has a size that hardware likes."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from typing_extensions import override

from bayesdrop.compression.chooser import Chooser
from bayesdrop.compression.flow import NAN, Flow, Rule
from bayesdrop.compression.rules import Mask
from bayesdrop.nn import BayesianDropout


def rounded(kept: Tensor, keep_prob: Tensor, multiple_of: int) -> Tensor:
    """Return which units are kept if their number is a multiple, or else all.

    Args:
        kept: Which are kept by themselves, ``(K,)``. Where none is, none is added.
        keep_prob: The most probable of the others come first.
        multiple_of: What the number is a multiple of.

    Example:
        >>> kept = torch.tensor([True, False, False, True, True])
        >>> rounded(kept, torch.tensor([0.9, 0.1, 0.2, 0.8, 0.7]), 4)
        tensor([ True, False,  True,  True,  True])
    """
    count = int(kept.sum())
    missing = min(-count % multiple_of, len(kept) - count)
    if not count or not missing:
        return kept
    order = keep_prob.masked_fill(kept, -1.0).argsort(descending=True, stable=True)
    return kept.index_fill(0, order[:missing], True)


class RoundedMask(Mask):
    """A mask some of whose closed units stay in the network, multiplied by 0."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int, multiple_of: int) -> None:
        super().__init__(flow, node, dim)
        layer = flow.source.get_submodule(str(node.target))
        if not isinstance(layer, BayesianDropout):
            raise TypeError(f"RoundedMask: expected a Bayesian dropout layer, got {layer}")
        keep_prob = layer.keep_prob().detach().double().cpu()
        self.stays = rounded(self.mask != 0, keep_prob, multiple_of)

    @override
    def constant(self) -> Tensor:
        return torch.where(self.stays & (self.mask == 0), NAN, super().constant())


class Rounded(Chooser):
    """Finds the rule for a node, with rounded numbers of units of masks.

    Args:
        flow: The analysis.
        multiple_of: What the numbers are multiples of.
    """

    def __init__(self, flow: Flow, multiple_of: int) -> None:
        super().__init__(flow)
        self.multiple_of = multiple_of

    @override
    def __call__(self, node: fx.Node) -> Rule:
        rule = super().__call__(node)
        if type(rule) is Mask and self.multiple_of > 1:
            return RoundedMask(self.flow, node, rule.dim, self.multiple_of)
        return rule
