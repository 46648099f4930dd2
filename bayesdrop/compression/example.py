"""The example inputs that a network is traced, checked and measured with."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.checks import explained, require_data
from bayesdrop.program.program import Program

Example: TypeAlias = Tensor | tuple[Tensor, ...]
"""A batch of inputs, or a tuple of batches for a network with several inputs."""


def example_of(who: str, network: nn.Module, given: Example | None = None) -> tuple[Tensor, ...]:
    """Return a network's inputs as a tuple: those given, or two examples that it might see.

    Those are uniform in [0, 1], the same at every call: zeros would leave most weights out of the
    check of a compact network, and one example cannot show that batches of any size work. For a
    network that last saw integers they are integers, that all its embeddings know.

    Args:
        who: The function that asks, for messages.
        network: The network.
        given: What the user passed. None makes examples of the shape that a ``BayesianNetwork``
            last saw, in the dtype and on the device of its parameters.

    Raises:
        ConfigError: If nothing is given, and the network is another module or has seen nothing.
        DataError: If there is no example in the batch, it is no tensor of numbers, or of another
            dtype than the network.
        ShapeError: If the network does not take its shape.
    """
    if given is not None:
        inputs = given if isinstance(given, tuple) else (given,)
        for x in inputs:
            require_data(who, "the example input", x)
            if x.ndim == 0 or x.shape[0] == 0:
                raise DataError(
                    who,
                    expected="an example input with at least one example",
                    got=f"a tensor of shape {tuple(x.shape)}",
                    hint="Pass a batch, such as x[:1].",
                )
        module = network.network if isinstance(network, Program) else network
        with torch.no_grad(), evaluation_mode(module), explained(who, module, inputs[0]):
            module(*inputs)
        return inputs
    shape = network.input_shape if isinstance(network, Program) else None
    parameter = next(network.parameters(), None)
    if shape is None or parameter is None:
        raise ConfigError(
            who,
            expected="an example input, or a BayesianNetwork that has seen one",
            got=f"a {type(network).__name__} and no input",
            hint=f"Pass {who}(..., example_input=x[:1]).",
        )
    generator = torch.Generator().manual_seed(0)
    dtype = network.input_dtype if isinstance(network, Program) else None
    if dtype is not None and not dtype.is_floating_point:
        words = [m.num_embeddings for m in network.modules() if isinstance(m, nn.Embedding)]
        x = torch.randint(min(words, default=2), (2, *shape), generator=generator)
        return (x.to(parameter.device, dtype),)
    x = torch.rand(2, *shape, generator=generator, dtype=parameter.dtype)
    return (x.to(parameter.device),)
