"""All that waits for a GPU, in one command: ``make bench-gpu``.

    python benchmarks/gpu.py --device cuda

The tables of steps and of growth with networks and data on the device, then the VGG recipes, which
are trained, evaluated and compacted, and go on where they were interrupted. On a CPU ``--quick``
runs the same commands with one size, and the digits' recipe.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
VGG = ("vgg", "vgg-dropout", "vgg-beta-bernoulli", "vgg-dependent-beta-bernoulli")
CLI = [sys.executable, "-c", "from bayesdrop.cli import main; main()"]


def commands(device: str, out: Path, quick: bool) -> list[list[str]]:
    """Return the commands, in order."""
    kind = torch.device(device).type
    steps = [sys.executable, str(HERE / "step_time.py"), "--device", device, "--threads", "1"]
    steps += ["--out", str(out / f"step-time-{kind}.json")]
    growth = [sys.executable, str(HERE / "growth.py"), "--device", device]
    growth += ["--out", str(out / f"growth-{kind}.json")]
    if quick:
        steps += ["--rounds", "2", "--slice-steps", "1", "--keys", "--networks", "lenet-500-300"]
        growth += ["--quick"]
    found = [steps, growth]
    for recipe in ("digits-mlp-beta-bernoulli",) if quick else VGG:
        run = str(out / recipe)
        short = ["--epochs", "1", "--pretrain-epochs", "1"] if quick else []
        found.append([*CLI, "train", recipe, "--device", device, "--out", run, *short])
        found.append([*CLI, "evaluate", run, *(["--num-samples", "2"] if quick else [])])
        if "beta-bernoulli" in recipe:
            found.append([*CLI, "compact", run, "--out", f"{run}/compact.pt"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="One size, and a recipe on digits.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for command in commands(args.device, args.out, args.quick):
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
