"""What ``convert`` can start from, and what it makes of it before it looks for layers."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from bayesdrop.conversion.kinds import CONVOLUTIONS
from bayesdrop.errors import ConfigError, ConversionError
from bayesdrop.networks.computed_weights import as_linear, copy_of, renew

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def copied(network: object) -> nn.Module:
    """Return a copy of a network into which layers can be put.

    A subclass of a Linear or convolution that computes what its base does is that base in it, the
    old weight and spectral norms are parametrizations, and a Conv1D of GPT-2 is a Linear.

    Raises:
        ConfigError: If it is no network of ``torch.nn``, or a compiled, scripted or wrapped one.
        ConversionError: If a layer has no weights yet, or cannot be copied.
    """
    if not isinstance(network, nn.Module):
        raise _not_a_network(network)
    _refuse_wrapped(network)
    _refuse_unfinished(network)
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
    renew(work)
    for name, module in list(work.named_modules(remove_duplicate=False)):
        # An adapter of peft knows which form the layer in it has.
        linear = None if name.endswith("base_layer") else as_linear(module)
        if linear is not None and name:
            work.set_submodule(name, linear)
    for module in list(work.modules()):
        base = _base_of(module)
        if base is not None and _computes_as(module, base):
            module.__class__ = base
    return work


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


def _refuse_unfinished(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if any(is_lazy(tensor) for tensor in (module._parameters | module._buffers).values()):
            raise ConversionError(
                "convert",
                expected="layers that know their sizes",
                got=f"{name!r}, a {type(module).__name__} that has not seen an input",
                hint="Run the network once first, on a batch of its inputs: network(x).",
            )


def _base_of(module: nn.Module) -> type[nn.Module] | None:
    """Return the layer of torch's own whose subclass a module is, if it is one."""
    kind = type(module)
    own = kind.__module__.startswith(("torch.nn", "torch.ao"))
    if own or parametrize.is_parametrized(module):
        return None
    bases = (nn.Linear, *CONVOLUTIONS)
    return next((base for base in bases if kind is not base and issubclass(kind, base)), None)


@torch.no_grad()
def _computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Return whether a module's outputs are its base's, in both modes, on random inputs."""
    layer = copy.deepcopy(module)
    weight = layer.weight
    more = layer._modules or layer._buffers or set(layer._parameters) != {"weight", "bias"}
    if more or not isinstance(weight, nn.Parameter):
        return False
    if weight.is_meta:
        return type(layer).forward is base.forward
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (2, layer.in_features)
    else:
        reach = [d * (k - 1) + 8 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]  # type: ignore[arg-type]
        shape = (2, int(layer.in_channels), *reach)  # type: ignore[arg-type]
    x = torch.randn(shape, generator=generator).to(weight)
    with torch.random.fork_rng(devices=[]):
        for training in (True, False):
            expected = base.forward(layer.train(training), x)
            try:
                got = layer(x)
            except Exception:  # a forward of its own may want anything
                return False
            if not isinstance(got, torch.Tensor) or not torch.equal(got, expected):
                return False
    return True
