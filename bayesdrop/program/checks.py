"""What a network may be and may return."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn import named_dropout_layers
from bayesdrop.nn.masks.ordered_units import OrderedUnits
from bayesdrop.nn.masks.stick_breaking import StickBreakingDropout
from bayesdrop.program.program import Program


def check_program(who: str, bnn: object) -> None:
    """Raise ``ConfigError`` unless ``bnn`` is a program whose parameters and orders have values.

    Args:
        who: Who asks, for the message.
        bnn: Anything.
    """
    if not isinstance(bnn, Program):
        parts = bnn.named_modules() if isinstance(bnn, nn.Module) else ()
        inside = [(type(part).__name__, name) for name, part in parts if isinstance(part, Program)]
        raise ConfigError(
            who,
            expected="a BayesianNetwork or a VariationalAutoencoder",
            got=f"the class {bnn.__name__}" if isinstance(bnn, type) else type(bnn).__name__,
            hint=f"Pass the {inside[0][0]} in it, its .{inside[0][1]}."
            if inside
            else "Wrap the module: bd.BayesianNetwork(network, likelihood, num_data).",
        )
    for name, parameter in bnn.named_parameters():
        if parameter.is_meta:
            raise ConfigError(
                who,
                expected="parameters with values",
                got=f"{name!r} on the meta device",
                hint="Give it values before convert: network.to_empty(device='cpu'), then load.",
            )
    check_orders(who, bnn.network)


def check_classifier(who: str, bnn: object) -> None:
    """Raise ``ConfigError`` unless ``bnn`` is a program whose likelihood is that of classes."""
    if not isinstance(bnn, Program) or not bnn.likelihood.is_classifier:
        raise ConfigError(
            who,
            expected="a BayesianNetwork that classifies",
            got=type(bnn).__name__,
            hint="Wrap it: bd.BayesianNetwork(network, bd.Categorical(), num_data).",
        )


def require_module(who: str, network: object) -> None:
    """Raise ``ConfigError`` unless ``network`` is a module, and not its class.

    Args:
        who: Who asks, for the message.
        network: Anything.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError(
            who,
            expected="a BayesianNetwork or another module",
            got=f"the class {network.__name__}"
            if isinstance(network, type)
            else f"a {type(network).__name__}",
            hint="Pass the network itself, such as net or Net().",
        )


def check_orders(
    who: str, network: nn.Module, state: Mapping[str, Tensor] | None = None, prefix: str = ""
) -> None:
    """Raise ``ConfigError`` if averaging has rounded the integers that say which unit is where.

    Args:
        who: Who asks, for the message.
        network: A module with dropout layers in it.
        state: Where these integers are, by their names within ``network``; None takes its own.
        prefix: What comes before these names in ``state``.
    """
    for path, layer in named_dropout_layers(network):
        if isinstance(layer, OrderedUnits):
            name, count = "unit_group", layer.num_groups
        elif isinstance(layer, StickBreakingDropout):
            name, count = "rank", layer.num_units
        else:
            continue
        key = f"{prefix}{path}.{name}" if path else f"{prefix}{name}"
        places: Tensor = getattr(layer, name) if state is None else state[key]
        if places.is_meta or len(places.unique()) == count:
            continue
        raise ConfigError(
            who,
            expected=f"units of {path!r} in each of its {count} places",
            got=f"none in {count - len(places.unique())} of them",
            hint="Were buffers averaged, as by AveragedModel(use_buffers=True)? That rounds "
            "integers: average the parameters alone.",
        )


def require_digits(who: str, bnn: Program) -> None:
    """Raise ``ConfigError`` for a network in 16 bits, whose likelihoods have three digits.

    Args:
        who: Who asks, for the message.
        bnn: The network.
    """
    for name, parameter in bnn.named_parameters():
        if parameter.is_floating_point() and torch.finfo(parameter.dtype).bits < 32:
            raise ConfigError(
                who,
                expected="a network in float32 or float64",
                got=f"{name!r} in {parameter.dtype}",
                hint="Pass copy.deepcopy(bnn).float(), and inputs likewise.",
            )


def require_output(who: str, output: object, num_rows: int) -> Tensor:
    """Return the output of a network if it is one tensor with a row for each input.

    Args:
        who: Who asks, for the message.
        output: What the network returned.
        num_rows: Number of inputs.

    Raises:
        ConfigError: If it is no tensor, or not of floating-point numbers.
        ShapeError: If it has no row for each input.
    """
    if not isinstance(output, Tensor):
        many = f" of {len(output)}" if isinstance(output, tuple | list | dict) else ""
        raise ConfigError(
            who,
            expected="a network that returns one tensor",
            got="None" if output is None else f"a {type(output).__name__}{many}",
            hint="Does forward lack a return?" if output is None else
            "Wrap it in a module whose forward returns the logits (or means) alone.",
        )  # fmt: skip
    if not output.is_floating_point():
        raise ConfigError(
            who,
            expected="a network that returns floating-point numbers",
            got=f"numbers of {output.dtype}",
            hint="Return logits (or means), not the classes that follow from them.",
        )
    if output.ndim == 0 or output.shape[0] != num_rows:
        squeezed = output.ndim == 0 or (num_rows == 1 and output.ndim == 1)
        raise ShapeError(
            who,
            expected=f"one network output for each of {num_rows} inputs",
            got=f"output of shape {tuple(output.shape)}",
            hint="Does the network end in squeeze()? squeeze(-1) keeps the first dimension."
            if squeezed
            else "Does the network keep the first dimension?",
        )
    return output
