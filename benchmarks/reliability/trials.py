"""What the trials of this folder share: a process that can be killed, and the bits of a result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Before torch is imported: a forked process has no threads of its parent.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.inference.fit import FitResult

RESULTS = Path(__file__).parent.parent / "results"
Data = tuple[torch.Tensor, torch.Tensor]


def small_network(seed: int = 0) -> bd.BayesianNetwork:
    """Return an untrained network of two masked layers, always the same."""
    torch.manual_seed(seed)
    layers = (nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    return bd.BayesianNetwork(bd.convert(nn.Sequential(*layers)), bd.Categorical(), num_data=60)


def small_data() -> Data:
    """Return 60 examples in three classes, always the same."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator)
    return x, x[:, :3].argmax(1)


def fit(bnn: bd.BayesianNetwork, data: Any = None, epochs: int = 2, **options: Any) -> FitResult:
    """Train for a moment."""
    settings = {"batch_size": 20, "seed": 0, "progress": False, **options}
    return bd.fit(bnn, small_data() if data is None else data, epochs=epochs, **settings)


def digest(value: Any) -> str:
    """Return a hash of all bits of tensors, modules and JSON's types, times of day left out."""
    found = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, nn.Module):
            add(dict(item.state_dict()))
        elif isinstance(item, Mapping):
            for name in sorted(item):
                if name not in ("seconds", "minutes"):
                    found.update(name.encode())
                    add(item[name])
        elif isinstance(item, torch.Tensor):
            found.update(str((item.dtype, tuple(item.shape))).encode())
            found.update(
                item.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        elif isinstance(item, list | tuple):
            for part in item:
                add(part)
        else:
            found.update(repr(item).encode())

    add(value)
    return found.hexdigest()


def start(work: Callable[[], object]) -> int:
    """Do ``work`` in a process of its own, and return its number.

    It ends with 0, with 1 and a traceback, or as it is killed.
    """
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ended(number: int) -> int:
    """Wait for a process, and return 0, 1, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def publish(name: str, result: Mapping[str, Any], out: Path | None = None) -> None:
    """Write a result with its command and versions, and print it."""
    told = {
        "command": f"python benchmarks/reliability/{Path(sys.argv[0]).name} "
        + " ".join(sys.argv[1:]),
        **result,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    out = RESULTS / f"reliability-{name}.json" if out is None else out
    out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))
