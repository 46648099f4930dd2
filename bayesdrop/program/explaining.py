"""What torch's errors within a pass mean, said of inputs, layers and weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bayesdrop.errors import BayesdropError, ConfigError, DataError, DivergenceError, ShapeError
from bayesdrop.program.inputs import Inputs, bound_inputs, named_inputs, shape_text, tensors_of

# What torch says of dtypes, of shapes, and of a batch of one in batch norm.
_DTYPES = re.compile(
    r"same dtype|scalar types?\b|should be the same|have the type torch|mixed dtype"
    r"|not implemented for '(Byte|Char|Short|Int|Long|Bool|Half)'|match weight dtype"
    r"|desired output type"
)
_SHAPES = re.compile(
    r"cannot be multiplied|channels, but got|running_mean should contain|expected input with shape"
    r"|must be equal to input_size|[Ee]xpected .*\b\dD\b|size mismatch|too small|than kernel"
    r"|embedding dimension|Kernel size can't be|Padding size should be|a vector of size equal"
)
_SHORT = {torch.float32: "x.float()", torch.float64: "x.double()", torch.float16: "x.half()"}


@contextmanager
def explained(who: str, network: nn.Module, x: Inputs) -> Iterator[None]:
    """Say what is wrong with ``x`` where torch, within a pass, speaks of matrices and types.

    An error that is not about number, dtype, shape or rows of the inputs passes unchanged.

    Args:
        who: Who runs the network, for the message.
        network: The network.
        x: Its input.

    Raises:
        ConfigError: If the network takes other inputs, more or fewer.
        DataError: If the dtype of ``x`` is not the network's, a token is out of range, or batch
            norm in training mode meets a single row.
        ShapeError: If ``x`` does not have the shape that a layer expects; the message names it.
    """
    try:
        yield
    except BayesdropError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        known = _explain(who, network, x, error)
        if known is None:
            raise
        raise known from error


@contextmanager
def finite_weights(who: str, network: nn.Module) -> Iterator[None]:
    """Say which weight is not finite where a distribution, within the context, refuses it.

    Args:
        who: Who runs the network, for the message.
        network: The network.

    Raises:
        DivergenceError: If a weight holds NaN or infinity, in the place of torch's error.
    """
    try:
        yield
    except BayesdropError:
        raise
    except (RuntimeError, ValueError) as error:
        for name, parameter in network.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise DivergenceError(
                    who,
                    expected="finite weights",
                    got=f"NaN or infinity in {name!r}",
                    hint="Train again from an earlier checkpoint, with a smaller learning rate.",
                ) from error
        raise


def _explain(who: str, network: nn.Module, x: Inputs, error: Exception) -> BayesdropError | None:
    text = str(error)
    if isinstance(error, TypeError) and (other := _other_inputs(who, network, x)):
        return other
    path, layer = _failed_in(network, error)
    if "Expected more than 1 value per channel" in text:
        return DataError(
            who,
            expected=f"at least two examples in a batch, for {type(layer).__name__} {path!r}",
            got=f"{shape_text(x)} in training mode",
            hint="Choose another batch_size, or put the layer into eval().",
        )
    if "Expected more than 1 spatial element" in text:
        return ShapeError(
            who,
            expected=f"more than one place in a map, for {type(layer).__name__} {path!r}",
            got=shape_text(x),
            hint="It would make zeros of a single place: take larger inputs, or another norm.",
        )
    if isinstance(layer, nn.Embedding):
        return _explain_tokens(who, path, layer, x, text)
    dtypes = {p.dtype for p in network.parameters() if p.is_floating_point()}
    # Of several inputs the whole numbers may be right, such as words.
    others = sorted(
        ((name, t.dtype) for name, t in named_inputs(x) if t.dtype not in dtypes),
        key=lambda other: not other[1].is_floating_point,
    )
    if dtypes and others and _DTYPES.search(text):
        (name, theirs), dtype = others[0], next(iter(dtypes))
        scaled = " Images: divide by 255." if theirs == torch.uint8 else ""
        how = _SHORT.get(dtype) if name == "x" else None
        return DataError(
            who,
            expected=f"inputs of {dtype}, as the network's parameters are",
            got=f"{name} of {theirs}",
            hint=f"Pass {how or f'it as {dtype}'}.{scaled}",
        )
    if layer is not None and _SHAPES.search(text):
        return ShapeError(
            f"{who}: {type(layer).__name__} {path!r}",
            expected=_expected_by(layer),
            got=f"{shape_text(x)} ({text.splitlines()[0]})",
            hint="Do the inputs have the shape that the network was made for?",
        )
    return None


def _other_inputs(who: str, network: nn.Module, x: Inputs) -> ConfigError | None:
    """Return the error for inputs that the network's ``forward`` does not take."""
    try:
        bound_inputs(network, x)
    except TypeError as error:
        given = len(tensors_of(x))
        return ConfigError(
            who,
            expected=f"the inputs of the network, {_taken(network)}",
            got=f"{given}: {type(network).__name__}, whose forward needs "
            f"{_inputs_needed(network)} ({error})",
            hint="Several inputs go into a tuple of their own, ((x1, x2), y), or "
            "((x1, x2), None) without targets; by name into a dictionary, whose 'labels' are "
            "the targets.",
        )
    except ValueError:  # a signature that nobody knows
        return None
    return None


def _taken(network: nn.Module) -> str:
    return f"forward{inspect.signature(network.forward)}".partition(" ->")[0]


def _inputs_needed(network: nn.Module) -> int:
    parameters = inspect.signature(network.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def _words_of(inputs: Inputs, known: int) -> tuple[str, Tensor]:
    """Return the input that an embedding of so many words can have failed on, and its name."""
    pairs = named_inputs(inputs)
    whole = [(n, t) for n, t in pairs if not t.is_floating_point() and t.numel()]
    wrong = [(n, t) for n, t in whole if int(t.min()) < 0 or int(t.max()) >= known]
    return next(iter(wrong or whole or pairs))


def _explain_tokens(
    who: str, path: str, layer: nn.Embedding, inputs: Inputs, text: str
) -> BayesdropError | None:
    expected = f"integers in 0..{layer.num_embeddings - 1}, for Embedding {path!r}"
    name, x = _words_of(inputs, layer.num_embeddings)
    if "out of range" in text:
        got = f"{name} from {x.min().item()} to {x.max().item()}" if x.numel() else "others"
        hint = "Does the network know all words?"
    elif x.dtype not in (torch.int64, torch.int32):
        got, hint = f"{name} of {x.dtype}", "Pass x.long()."
    else:
        return None
    return DataError(who, expected=expected, got=got, hint=hint)


def _failed_in(network: nn.Module, error: Exception) -> tuple[str, nn.Module | None]:
    """Return the innermost module of ``network`` in the error's traceback."""
    names = {module: name for name, module in network.named_modules()}
    found: nn.Module | None = None
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and module in names:
            found = module
        traceback = traceback.tb_next
    return ("" if found is None else names[found]), found


def _expected_by(layer: nn.Module) -> str:
    for name, what in (
        ("in_features", "features in the last dimension"),
        ("in_channels", "channels in dimension 1"),
        ("num_features", "channels in dimension 1"),
        ("input_size", "features in the last dimension"),
    ):
        if isinstance(size := getattr(layer, name, None), int):
            return f"an input with {size} {what}"
    return f"an input that {type(layer).__name__} takes"
