"""The example inputs that a network is traced, checked and measured with."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.checks import check_orders, require_module
from bayesdrop.program.explaining import explained
from bayesdrop.program.inputs import (
    GivenInputs,
    as_inputs,
    outputs_of,
    positional_inputs,
    shape_text,
    tensors_of,
)
from bayesdrop.program.program import Program

Example: TypeAlias = GivenInputs
"""A batch of inputs; a tuple, or a mapping by name, for a network with several."""


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
        ConfigError: If nothing is given, and the network is another module or has seen nothing; or
            if averaging has rounded an order of its units, or it is no module.
        DataError: If there is no example in the batch, it is no tensor of numbers, has NaN, or is
            of another dtype than the network.
        ShapeError: If the network does not take its shape.
    """
    require_module(who, network)
    module = network.network if isinstance(network, Program) else network
    check_orders(who, module)
    if given is not None:
        x = as_inputs(who, given)
        if (isinstance(x, Tensor) and x.ndim == 0) or len(x) == 0:
            raise DataError(
                who,
                expected="an example input with at least one example",
                got=shape_text(x),
                hint="Pass a batch, such as x[:1].",
            )
        tensors = [t for t in tensors_of(x) if t.is_floating_point() and not t.is_meta]
        if any(bool(t.isnan().any()) for t in tensors):  # infinity may be a mask of attention
            raise DataError(
                who,
                expected="an example input of numbers",
                got="NaN in it",
                hint="Pass clean rows, or torch.nan_to_num of them.",
            )
        with torch.no_grad(), evaluation_mode(module), explained(who, module, x):
            outputs_of(module, x)
        return positional_inputs(who, module, x)
    if isinstance(network, Program) and network.several_inputs is not None:
        raise ConfigError(
            who,
            expected="an example of all inputs, for a network with several",
            got="none",
            hint=f"Pass {who}(..., example_input=(x1[:1], x2[:1])), or a dictionary of them.",
        )
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
        words_seen = torch.randint(min(words, default=2), (2, *shape), generator=generator)
        return (words_seen.to(parameter.device, dtype),)
    uniform = torch.rand(2, *shape, generator=generator, dtype=parameter.dtype)
    return (uniform.to(parameter.device),)


def at_least_two(network: nn.Module, example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return an example of one twice, its numbers in another order, if the network takes two.

    One does not show what an operation does to a batch: ``x.reshape(1, n * c, h, w)``, by which
    each example has a filter of its own in one convolution, would be the identity.

    Args:
        network: As for ``example_of``.
        example: What it returned.
    """
    if any(t.ndim == 0 or len(t) != 1 for t in example):
        return example
    module = network.network if isinstance(network, Program) else network
    try:
        two = tuple(torch.cat([t, t.roll(1, -1) if t.ndim > 1 else t]) for t in example)
        with torch.no_grad(), evaluation_mode(module):
            module(*two)
    except Exception:  # whatever a forward does that is made for one
        return example
    return two
