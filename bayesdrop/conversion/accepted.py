"""What ``convert`` can start from, and what it makes of it before it looks for layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bayesdrop.conversion.kinds import CONVOLUTIONS
from bayesdrop.errors import ConfigError, ConversionError
from bayesdrop.networks.computed_weights import as_linear, copy_of, renew
from bayesdrop.networks.side_effects import borrowed_forward, modes_held
from bayesdrop.networks.subclasses import base_of, computes_as

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def copied(network: object) -> nn.Module:
    """Return a copy of a network into which layers can be put.

    A subclass of a Linear or convolution that computes what its base does is that base in it, the
    old weight and spectral norms are parametrizations, and a Conv1D of GPT-2 is a Linear. A layer
    alone is in an ``nn.Sequential``.

    Raises:
        ConfigError: If it is no network of ``torch.nn``, or a compiled, scripted or wrapped one.
        ConversionError: If a layer has no weights yet, or cannot be copied.
    """
    if not isinstance(network, nn.Module):
        raise _not_a_network(network)
    _refuse_wrapped(network)
    _refuse_unfinished(network)
    _refuse_borrowed(network)
    try:
        work = copy_of(network)
    except (RuntimeError, TypeError) as cause:
        raise ConversionError(
            "convert",
            expected="a network that copy.deepcopy can copy",
            got=f"{type(network).__name__}: {str(cause).splitlines()[0]}",
            hint="A module holds a tensor that was computed: take it out, or compute it in "
            "forward.",
        ) from cause
    _refuse_held(work)
    renew(work)
    for name, module in list(work.named_modules(remove_duplicate=False)):
        # An adapter of peft knows which form the layer in it has.
        linear = None if name.endswith("base_layer") else as_linear(module)
        if linear is not None and name:
            work.set_submodule(name, linear)
    for module in list(work.modules()):
        base = base_of(module)
        if base is not None and computes_as(module, base):
            module.__class__ = base
    return nn.Sequential(work).train(work.training) if _is_one_layer(work) else work


def _is_one_layer(network: nn.Module) -> bool:
    kinds = (nn.Linear, *CONVOLUTIONS, nn.Embedding)
    parts = {name for name, _ in network.named_children()} - {"parametrizations"}
    return isinstance(network, kinds) and not parts


def _not_a_network(given: object) -> ConfigError:
    if isinstance(given, type) and issubclass(given, nn.Module):
        hint = f"Make one of the class: convert({given.__name__}(...))."
    elif callable(given):
        hint = "Write the function as the forward of an nn.Module."
    else:
        hint = "Pass an nn.Module, such as an nn.Sequential."
    name = getattr(given, "__name__", None)
    got = type(given).__name__ if name is None else f"the {type(given).__name__} {name}"
    return ConfigError("convert", expected="a network, an nn.Module", got=got, hint=hint)


def _refuse_wrapped(network: nn.Module) -> None:
    for name, module in network.named_modules():
        where = f"{name!r}, " if name else ""
        got = hint = ""
        if isinstance(module, torch.jit.ScriptModule):
            got = f"{where}a {type(module).__name__} of torch.jit"
            hint = "Pass the network from before torch.jit.script or trace; script what comes out."
        elif hasattr(module, "_orig_mod"):
            got = f"{where}the result of torch.compile"
            hint = "Pass the uncompiled one (its _orig_mod), and compile what comes out."
        elif isinstance(module, _WRAPPERS):
            got = f"{where}a {type(module).__name__}"
            hint = "Pass its .module, and wrap what comes out."
        if got:
            expected = "a network as Python runs it"
            raise ConfigError("convert", expected=expected, got=got, hint=hint)


def _refuse_borrowed(network: nn.Module) -> None:
    name = borrowed_forward(network)
    if name is not None:
        raise ConversionError(
            "convert",
            expected="modules whose forward is their class's",
            got=f"a function that was set as the forward of {name or type(network).__name__!r}, "
            "which would run the modules it was made for, not their copies",
            hint="Write a subclass with that forward, or a module around the network.",
        )


def _refuse_held(work: nn.Module) -> None:
    held = modes_held(work)[True]
    if held:
        raise ConversionError(
            "convert",
            expected="a network that eval() puts into evaluation mode",
            got=f"a train() or eval() of its own that leaves {held[0]!r} in training mode",
            hint="Take it out: predict samples what stays random, and all else is deterministic "
            "in evaluation mode. 'mc-dropout' samples each nn.Dropout at its rate.",
        )


def _refuse_unfinished(network: nn.Module) -> None:
    for name, tensor in network.named_parameters():
        if tensor.is_meta:
            raise ConversionError(
                "convert",
                expected="parameters with values",
                got=f"{name!r} on the meta device",
                hint="Give it values first: network.to_empty(device='cpu'), then load them.",
            )
    for name, module in network.named_modules():
        if any(is_lazy(tensor) for tensor in (module._parameters | module._buffers).values()):
            raise ConversionError(
                "convert",
                expected="layers that know their sizes",
                got=f"{name!r}, a {type(module).__name__} that has not seen an input",
                hint="Run the network once first, on a batch of its inputs: network(x).",
            )
