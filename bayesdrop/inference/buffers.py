"""Buffers of layers that a schedule may change: a temperature, a slope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.inference.schedules import Schedule, as_schedule, value_of
from bayesdrop.nn import LatentOwner


def schedulable_buffers(network: nn.Module) -> dict[str, list[Tensor]]:
    """Return, by name, the buffers that some layer of ``network`` declares as schedulable."""
    found: dict[str, list[Tensor]] = {}
    for module in network.modules():
        if isinstance(module, LatentOwner):
            for name in module.schedulable:
                found.setdefault(name, []).append(module.get_buffer(name))
    return found


def buffer_schedules(network: nn.Module, buffers: Any) -> dict[str, Schedule]:
    """Return the schedules of buffers, each of which some layer of ``network`` has.

    Args:
        network: The network.
        buffers: As ``buffers`` of ``fit``.

    Raises:
        ConfigError: If it is no dictionary, or no layer has a buffer of a name.
    """
    if not isinstance(buffers, Mapping | None):
        raise ConfigError(
            "fit",
            expected="buffers to be a dictionary of names and schedules",
            got=f"buffers={buffers!r}",
            hint="For example buffers={'temperature': schedules.linear(1.0, 0.1)}.",
        )
    for name in buffers or ():
        if name not in (available := schedulable_buffers(network)):
            raise unknown_name("schedulable buffer", name, available or ("none",))
    return {name: as_schedule(value, name) for name, value in (buffers or {}).items()}


def set_buffers(
    network: nn.Module, schedules: Mapping[str, Schedule], epoch: int, epochs: int
) -> dict[str, float]:
    """Set the buffers of an epoch and return the value of each that can be scheduled.

    Args:
        network: The network.
        schedules: Of those that change, by name.
        epoch: The epoch, from 0.
        epochs: Number of epochs.

    Raises:
        ConfigError: If a schedule gives no finite number, or a temperature that is not > 0.
    """
    values = {}
    for name, buffers in schedulable_buffers(network).items():
        if name in schedules:
            value = value_of(schedules[name], name, epoch, epochs)
            if name == "temperature" and value <= 0:
                raise ConfigError(
                    "fit",
                    expected="a temperature > 0",
                    got=f"{value} in epoch {epoch + 1} of {epochs}",
                    hint="For example schedules.linear(1.0, 0.1).",
                )
            for buffer in buffers:
                buffer.fill_(value)
        values[name] = float(buffers[0].reshape(-1)[0])
    return values
