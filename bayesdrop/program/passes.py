"""One pass through a user's network: what it was given and what it returned, or what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bayesdrop.errors import BayesdropError, ConfigError, DataError, ShapeError

_HALF = (torch.float16, torch.bfloat16)
_SHAPE_WORDS = ("shape", "size", "dimension", "channels", "expected input", "out of range")


@contextmanager
def explained(who: str, network: nn.Module, x: Tensor) -> Iterator[None]:
    """Say what is wrong with an input on which the network fails in torch's words.

    The dtype is compared with that of the network's weights, the number of inputs with what its
    ``forward`` takes; a message of torch about shapes is repeated beside the input's shape. Other
    exceptions, those of the user's code among them, pass as they are.

    Args:
        who: The function that asks, for messages.
        network: The network that runs inside.
        x: What it is given.

    Raises:
        ConfigError: If its ``forward`` needs more than one input.
        DataError: If the input has a dtype that its weights have not.
        ShapeError: If a layer cannot take an input of that shape.
    """
    try:
        yield
    except BayesdropError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        found = _explanation(who, network, x, str(error).splitlines()[:1])
        if found is None:
            raise
        raise found from error


def _explanation(
    who: str, network: nn.Module, x: Tensor, message: list[str]
) -> BayesdropError | None:
    needed = _inputs_needed(network)
    if needed > 1:
        return ConfigError(
            who,
            expected="a network with one input",
            got=f"{type(network).__name__}, whose forward needs {needed}",
            hint="Wrap it in a module that takes one tensor, such as the inputs side by side, "
            "and takes it apart.",
        )
    weights = {p.dtype for p in network.parameters() if p.is_floating_point()}
    embeds = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in network.modules())
    if weights and x.dtype not in weights and not (embeds and not x.is_floating_point()):
        dtype = str(next(iter(sorted(weights, key=str)))).removeprefix("torch.")
        return DataError(
            who,
            expected=f"inputs of torch.{dtype}, as the network's weights are",
            got=str(x.dtype),
            hint="Convert them: x.float()." if dtype == "float32" else f"x.to(torch.{dtype}).",
        )
    if embeds and x.is_floating_point() and "indices" in "".join(message):
        return DataError(
            who,
            expected="integer tokens for the network's embedding",
            got=str(x.dtype),
            hint="Convert them: x.long().",
        )
    if message and any(word in message[0].lower() for word in _SHAPE_WORDS):
        return ShapeError(
            who,
            expected="inputs of a shape that the network takes",
            got=f"{tuple(x.shape)}, of which torch says: {message[0].rstrip('.')}",
            hint="Is this the data that the network was made for?",
        )
    return None


def _inputs_needed(network: nn.Module) -> int:
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def checked_output(who: str, output: object, rows: int) -> Tensor:
    """Return a network's output, in float32 at least, or say why it is none.

    Args:
        who: The function that asks, for messages.
        output: What the network returned.
        rows: Number of inputs that it was given.

    Raises:
        ConfigError: If it is no tensor, or not of floating-point numbers.
        ShapeError: If its first dimension does not count the inputs.
    """
    if not isinstance(output, Tensor):
        several = isinstance(output, tuple | list | dict)
        inside = f" of {len(output)}" if isinstance(output, tuple | list | dict) else ""
        raise ConfigError(
            who,
            expected="a network that returns a tensor",
            got=f"a {type(output).__name__}{inside}",
            hint="Wrap it in a module whose forward returns the logits (or means) alone."
            if several
            else "Does its forward end in a return?",
        )
    if not output.is_floating_point():
        raise ConfigError(
            who,
            expected="a network that returns floating-point numbers",
            got=str(output.dtype),
            hint="Return logits (or means), not the classes that follow from them.",
        )
    if output.ndim == 0 or output.shape[0] != rows:
        squeezed = rows == 1 and output.ndim < 2
        raise ShapeError(
            who,
            expected=f"one network output for each of {rows} inputs",
            got=f"output of shape {tuple(output.shape)}",
            hint="A batch may be of one example: does the network end in squeeze()? Use "
            "squeeze(-1)."
            if squeezed
            else "Does the network keep the first dimension?",
        )
    return output.float() if output.dtype in _HALF else output
