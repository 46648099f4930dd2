"""By what a checkpoint knows its run: data, network, objective, optimiser and schedules."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from bayesdrop.inference.batches import Data, as_tensors
from bayesdrop.inference.checkpoint import random_state, set_random_state
from bayesdrop.inference.importance_weighted import ImportanceWeighted
from bayesdrop.inference.score_function import ScoreFunction
from bayesdrop.program.inputs import Inputs, named_inputs
from bayesdrop.program.program import Program

# Rows of a Dataset that are looked at, twice: of tensors all are.
_NUM_ROWS = 8
_CHUNK = 2**24
_ELBO_OPTIONS = ("num_particles", "vectorize_particles", "alpha", "strict_enumeration_warning")
_NOT_OF_THE_RUN = ("params", "param_names", "lr", "fused", "foreach", "capturable")


def describe_data(role: str, data: Data | None) -> dict[str, str]:
    """Return what tells a data set from another one, by what to call it in a message.

    Of tensors that is a checksum of every byte. Of a Dataset it is the type, the length and a
    checksum of a few examples, unless they are random (augmented), even from the same seed.

    Args:
        role: ``"training"`` or ``"validation"``.
        data: The data; None if there is none.
    """
    if data is None:
        return {f"{role} data": "none"}
    source: Any = data
    found: dict[str, str] = {}
    if isinstance(source, DataLoader):
        sampler = source.sampler if source.batch_size is not None else source.batch_sampler
        found[f"batch size of the {role} loader"] = str(source.batch_size)
        found[f"sampler of the {role} loader"] = (
            f"{type(sampler).__name__}{', drop_last' if source.drop_last else ''}"
        )
        source = source.dataset
    if isinstance(source, Subset):
        found[f"rows of the {role} data"] = _checksum([list(source.indices)])
        source = source.dataset
    tensors = None if isinstance(source, list) else as_tensors(source)
    if tensors is None:
        return {**found, f"{role} data": _describe_dataset(source)}
    names = (f"{role} inputs", f"{role} targets")
    return {**found, **{n: _describe_inputs(t) for n, t in zip(names, tensors, strict=False)}}


def _describe_inputs(x: Inputs) -> str:
    if isinstance(x, Tensor):
        return _describe_tensor(x)
    return "; ".join(f"{name} {_describe_tensor(tensor)}" for name, tensor in named_inputs(x))


def _describe_tensor(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{tuple(tensor.shape)} {dtype}, checksum {_checksum([tensor])}"


def _describe_dataset(source: Any) -> str:
    try:
        size = len(source)
    except (TypeError, NotImplementedError):
        return f"a {type(source).__qualname__}"
    text = f"a {type(source).__qualname__} of {size}"
    if isinstance(source, IterableDataset) or not hasattr(source, "__getitem__"):
        return text
    state = random_state()
    try:
        rows = sorted({round(i * (size - 1) / (_NUM_ROWS - 1)) for i in range(_NUM_ROWS)})
        sums = []
        for _ in range(2):
            # Augmentation that draws from a global generator then does the same every time.
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - the global one
            sums.append(_checksum([source[row] for row in rows]))
    finally:
        set_random_state(state)
    return f"{text}, checksum of {len(rows)} {sums[0]}" if sums[0] == sums[1] else text


def _checksum(items: Any) -> str:
    value = 0
    for part in _bytes(items):
        value = zlib.crc32(part, value)
    return f"{value:08x}"


def _bytes(item: Any) -> Iterator[Any]:
    if isinstance(item, Tensor):
        rows = max(1, _CHUNK // max(1, item[:1].nbytes)) if item.ndim else 1
        for part in item.split(rows) if item.ndim else (item,):
            flat = part.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data if flat.numel() else b""
    elif isinstance(item, np.ndarray) and item.dtype != object:
        yield np.ascontiguousarray(item).tobytes()
    elif isinstance(item, tuple | list):
        for part in item:
            yield from _bytes(part)
    elif isinstance(item, Mapping):
        for name, part in item.items():
            yield repr(name).encode()
            yield from _bytes(part)
    elif isinstance(item, bool | int | float | str | bytes | np.generic):
        yield repr(item).encode()


def describe_network(
    bnn: Program, frozen: frozenset[str], scheduled: Mapping[str, object]
) -> dict[str, str]:
    """Return what ``state_dict`` does not tell: kinds of modules, their options, what is frozen.

    Args:
        bnn: The network.
        frozen: Names of modules that stay in evaluation mode.
        scheduled: Names of buffers that a schedule sets.
    """
    modules = [*bnn.network.named_modules(), ("likelihood", bnn.likelihood)]
    lines = {f"layer {name!r}" if name else "network": _line(m, scheduled) for name, m in modules}
    fixed = [name for name, p in bnn.named_parameters() if not p.requires_grad]
    constants = {
        f"buffer {name!r}": _describe_tensor(buffer)
        for name, buffer in bnn.likelihood.named_buffers()
    }
    return {
        **lines,
        **constants,
        "modules in evaluation mode": ", ".join(sorted(frozen)) or "none",
        "frozen parameters": ", ".join(sorted(fixed)) or "none",
    }


def _line(module: nn.Module, scheduled: Mapping[str, object]) -> str:
    options = module.extra_repr()
    for name in scheduled:
        options = re.sub(rf"(, )?\b{re.escape(name)}=[^,]*", "", options)
    # Functions print their address, which is another one in every process.
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(module).__name__}({options})")


def describe_objective(objective: object, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Return the name of an objective, with the options of a Pyro ELBO, and of an optimiser."""
    name = str(getattr(objective, "__qualname__", type(objective).__qualname__))
    if isinstance(objective, ScoreFunction | ImportanceWeighted):
        name = repr(objective)
    if isinstance(objective, ELBO):
        options = {n: getattr(objective, n) for n in _ELBO_OPTIONS if hasattr(objective, n)}
        name = f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
    return {
        "objective": "the closed form" if objective is None else name,
        "optimizer": type(optimizer).__qualname__,
    }


def group_settings(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what an optimiser's groups are told, and how many parameters each has."""
    return [
        {
            "number of parameters": len(group["params"]),
            **{k: _plain(v) for k, v in group.items() if k not in _NOT_OF_THE_RUN},
        }
        for group in groups
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def first_difference(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """Return the first name whose values differ; what one side lacks is None."""
    return next((name for name in {**ours, **saved} if saved.get(name) != ours.get(name)), None)


def generators(data: Data) -> list[torch.Generator]:
    """Return the random generators that what yields batches has for itself, each once."""
    holders: list[object] = [data]
    if isinstance(data, DataLoader):
        batch_sampler = data.batch_sampler
        holders += [data.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
