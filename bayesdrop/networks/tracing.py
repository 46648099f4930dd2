"""Symbolic tracing by ``torch.fx``, with errors that say what cannot be traced and where."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from typing_extensions import override

from bayesdrop.errors import BayesdropError
from bayesdrop.nn import BayesianLayer


class LayerTracer(fx.Tracer):
    """Tracer to which a Bayesian layer is one operation, like a layer of ``torch.nn``."""

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BayesianLayer) or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module, who: str, error: type[BayesdropError]) -> fx.Graph:
    """Return the graph of operations of ``network`` in its present mode.

    Args:
        network: The module to trace; it is not changed.
        who: The function that complains if that fails.
        error: Its class of error.

    Raises:
        BayesdropError: Of the given class, if the control flow depends on the data.
    """
    try:
        return LayerTracer().trace(network)
    except (TraceError, TypeError, ValueError, RuntimeError, NotImplementedError) as cause:
        raise error(
            who,
            expected="a network that torch.fx can trace: control flow that does not depend on the "
            "data",
            got=f"{type(network).__name__}: {type(cause).__name__} {_location(cause)}: {cause}",
            hint="Move that code into a module of its own outside the converted part, or put "
            "the dropout layers into the network by hand.",
        ) from cause


def _location(cause: Exception) -> str:
    """Return the last line of the user's code that the error passed through."""
    torch_root = Path(torch.__file__).parent
    frames = traceback.extract_tb(cause.__traceback__)
    own = [
        frame
        for frame in frames
        if torch_root not in Path(frame.filename).parents and frame.filename != __file__
    ]
    if not own or own[-1].filename.startswith("<"):
        return "while tracing"
    frame = own[-1]
    return f"in {Path(frame.filename).name}, line {frame.lineno}, `{frame.line}`"


def leaf_modules(network: nn.Module, graph: fx.Graph) -> dict[str, nn.Module]:
    """Return the modules that the graph calls, by name."""
    modules = dict(network.named_modules(remove_duplicate=False))
    return {str(n.target): modules[str(n.target)] for n in graph.nodes if n.op == "call_module"}
