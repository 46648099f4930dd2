"""How much faster the study's convolutional networks are once their units are cut.

    python benchmarks/study_latency.py [--work runs/study] [--repeats 50]

The code that trains them is that of ``study_pins.json``, whose ``compact`` laid convolutions out
in memory in another order than the network had: what its runs have measured of convolutions
compares two layouts. This measures, with the code of the checkout, every finished run whose
weights are in ``--work``, and writes the ratios by the runs' names; what is already in ``--out``
of other runs stays. The networks take turns, on one thread; ratios are those of medians.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import study_design as design
import torch
from study_jobs import LATENCIES, PINS, Plan
from study_runs import machine

import bayesdrop as bd
from bayesdrop.errors import CompactionError
from bayesdrop.files import read_json, write_json
from bayesdrop.recipes import load_run

BATCHES = (1, 100)


def speedups(folder: Path, x: torch.Tensor, repeats: int) -> dict[str, Any] | None:
    """Return the ratios of a run; None where nothing is random, or nothing can be cut."""
    bnn = load_run(folder).bnn
    if not bnn.is_random:
        return None
    bnn.eval().to(memory_format=torch.channels_last)
    try:
        small = bd.compact(bnn, x[:1])
    except CompactionError:
        return None
    table = bd.compression.compare_latency(
        bnn, small, x, batch_sizes=BATCHES, ways=("eager",), repeats=repeats
    )
    found = {str(batch): table.speedup(batch) for batch in BATCHES}
    return {"speedup": found, "load": round(os.getloadavg()[0], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/study"))
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, default=LATENCIES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan(read_json(PINS))
    runs: dict[str, Any] = read_json(args.out)["runs"] if args.out.exists() else {}
    x = torch.rand(max(BATCHES), 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for job in plan:
        folder = args.work / "runs" / job.name
        if job.network not in design.CONVOLUTIONAL or job.kind == "trial":
            continue
        if job.result() is None or not (folder / "model.pt").exists():
            continue
        found = speedups(folder, x, args.repeats)
        if found is not None:
            runs[job.name] = found
            print(job.name, found, flush=True)
    command = "python " + " ".join(["benchmarks/study_latency.py", *sys.argv[1:]])
    write_json(args.out, {"command": command, "machine": machine(), "runs": runs})


if __name__ == "__main__":
    main()
