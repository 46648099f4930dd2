"""The shapes of all values of a graph, also of one with packed sequences."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp, _extract_tensor_metadata
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import override

from bayesdrop.networks.operations import PACKED


class Shapes(ShapeProp):
    """Notes shapes in the nodes' ``meta``.

    What has packed sequences in it has no shape, and torch's own class breaks when it looks for
    one.

    Args:
        module: The graph.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.packed: set[fx.Node] = set()

    @override
    def run_node(self, n: fx.Node) -> Any:
        makes = n.target in PACKED or n.target is PackedSequence
        if not makes and not self.packed.intersection(n.all_input_nodes):
            return super().run_node(n)
        result = fx.Interpreter.run_node(self, n)
        if isinstance(result, PackedSequence | tuple):
            self.packed.add(n)
        elif isinstance(result, Tensor):
            n.meta["tensor_meta"] = _extract_tensor_metadata(result)
        return result
