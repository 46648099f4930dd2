"""Nothing that is done again and again keeps memory.

    python benchmarks/reliability/memory.py --calls 200

Each action runs in a process of its own. After a fifth of the calls, which fill caches, the
resident memory, Python's objects and Pyro's parameters are counted ten times; the slope is that of
a least-squares line, per call. Memory counts in pages, so that a slope below ``LEVEL`` bytes a
call, over as many calls, is none.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from trials import ended, fit, publish, small_data, small_network, start

import bayesdrop as bd

LEVEL = 1024.0
"""Bytes a call."""
SAMPLES = 10


def new_network() -> None:
    """Train a network that is made for it by Pyro's SVI, and forget it."""
    bnn = small_network()
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(*small_data())


def actions(folder: Path) -> dict[str, Callable[[], object]]:
    bnn, (x, y) = small_network().eval(), small_data()
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def save_and_load() -> None:
        bd.save(bnn, folder / "model.pt")
        bd.load(bnn, folder / "model.pt")

    return {
        "fit": lambda: fit(small_network(), epochs=1),
        "fit with checkpoint": lambda: fit(
            small_network(), epochs=1, checkpoint_dir=folder, resume=False
        ),
        "predict": lambda: bd.predict(bnn, x, num_samples=4, seed=0),
        "evaluate": lambda: bd.evaluate(bnn, (x, y), num_samples=4, seed=0),
        "save and load": save_and_load,
        "convert": lambda: bd.convert(net),
        "compact": lambda: bd.compact(bnn, x),
        "new networks": new_network,
    }


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def count(action: Callable[[], object], calls: int, samples: int = SAMPLES) -> dict[str, float]:
    """Return the slopes of an action, per call."""
    for _ in range(max(1, calls // 5)):
        action()
    for _ in range(10):  # what others left goes in turns, where finalizers hold circles
        if not gc.collect():
            break
    rows = []
    each = max(1, calls // samples)
    for _ in range(samples + 1):
        gc.collect()
        rows.append((resident(), len(gc.get_objects()), len(pyro.get_param_store())))
        for _ in range(each):
            action()
    at = each * np.arange(samples + 1)
    # What grows goes on to grow: the second half tells it from caches that fill slowly.
    half = samples // 2
    memory, objects, store = (
        np.polyfit(at[half:], column[half:], 1)[0] for column in zip(*rows, strict=True)
    )
    return {
        "bytes": round(float(memory), 1),
        "objects": round(float(objects), 3),
        "parameters_in_store": round(float(store), 3),
        "calls": int(at[-1]),
    }


def trial(calls: int) -> dict:
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        for number, action in enumerate(actions(Path(name))):
            out = Path(name) / f"{number}.json"

            def work(action: str = action, out: Path = out) -> None:
                warnings.simplefilter("ignore")
                torch.set_num_threads(1)
                with tempfile.TemporaryDirectory() as folder:
                    out.write_text(json.dumps(count(actions(Path(folder))[action], calls)))

            if ended(start(work)) != 0:
                raise RuntimeError(f"{action} failed")
            rows[action] = json.loads(out.read_text())
    return {"level_bytes": LEVEL, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    publish("memory", trial(options.calls), options.out)


if __name__ == "__main__":
    main()
