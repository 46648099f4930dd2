r"""A small residual network on a folder of photographs: plain, beta-Bernoulli, and an ensemble.

    BAYESDROP_DATA=DATA python benchmarks/cifar_jpeg.py --out benchmarks/results/cifar-jpeg.json

The folder holds the first images of each class of CIFAR-10 as JPEG files of quality 75, unpacked
from ``DATA/CIFAR10-jpeg75/cifar10-jpeg75.tar.xz`` and read through ``folder:PATH@16``. These are
not CIFAR-10's pixels, nor its resolution: nothing here stands beside published figures of that
set. A recipe without dropout trains for as many epochs as the beta-Bernoulli recipe's two stages
together; the ensemble averages the probabilities of all plain seeds. Other data are Fashion-MNIST
at the same size, where it is in ``DATA``, and uniform noise. Runs resume, and each is added to
``--out`` as soon as it is done.

The whole set at full size, on a GPU:

    python benchmarks/cifar_jpeg.py --network resnet20 --size 32 --train 5000 --test 1000 \
        --device cuda --out cifar-jpeg-gpu.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from result_files import added, write

import bayesdrop as bd
from bayesdrop.data import data_root
from bayesdrop.recipes import Run, load_run, run_recipe

ARCHIVE = "CIFAR10-jpeg75/cifar10-jpeg75.tar.xz"
BAYESIAN = "beta-bernoulli"


def unpack(folder: Path, counts: dict[str, int]) -> Path:
    """Unpack so many images of each class of each split, unless they are there."""
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        with tarfile.open(data_root() / ARCHIVE, "r:xz") as archive:
            for member in archive:
                split, name, file = ("", "", *member.name.split("/"))[-3:]
                if not file.endswith(".jpg") or int(Path(file).stem) >= counts[split]:
                    continue
                place = Path(part) / "images" / split / name / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.extractfile(member).read())
        (Path(part) / "images").rename(folder)
    return folder


def other_data(size: int, count: int) -> dict[str, torch.Tensor]:
    """Return images that the networks were not trained on."""
    noise = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = {"noise": noise}
    if (data_root() / "FashionMNIST").exists():
        x = bd.load_data("fashion-mnist", download=False).test[0][:count]
        x = torch.nn.functional.interpolate(x, size=(size, size), mode="area")
        found["fashion-mnist"] = x.expand(-1, 3, -1, -1)
    return found


def row(bnn: torch.nn.Module, test: tuple, ood: dict, *, sample: bool) -> dict:
    """Return the figures of one way to predict."""
    result = bd.evaluate(bnn, test, ood=ood, sample=sample, num_samples=16, seed=0)
    figures = {name: getattr(result, name) for name in ("error", "nll", "ece")}
    return figures | {"auroc": {name: s["entropy"]["auroc"] for name, s in result.ood.items()}}


def size_of(bnn: torch.nn.Module, example: torch.Tensor) -> dict:
    """Return what is left of a network once its closed units are gone."""
    small = bd.compact(bnn, example)
    params = sum(parameter.numel() for parameter in small.parameters())
    return {"params": params, "flops": bd.compression.count_flops(small, example[:1])}


def measure(run: Run, test: tuple, ood: dict) -> dict:
    """Return the row of a finished run."""
    found = {
        "recipe": run.recipe.name,
        "seed": run.seed,
        "epochs": [stage.epochs for stage in run.recipe.stages],
        "kl": 1.0,
        "minutes": round(run.minutes, 2),
        "mean": row(run.bnn, test, ood, sample=False),
        **size_of(run.bnn, test[0][:8]),
    }
    if run.bnn.is_random:
        found["sampled"] = row(run.bnn, test, ood, sample=True)
        found["units"], found["of"] = run.bnn.units(), run.bnn.units_total()
    return found


def ensemble(runs: list[Run], test: tuple, ood: dict) -> dict:
    """Return the figures of the averaged probabilities of several plain networks."""

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([bd.predict(run.bnn, x, sample=False).mean for run in runs])

    inside = probabilities(test[0])
    figures = bd.metrics.ClassifierFigures.from_predictions(inside, test[1])
    outside = {name: probabilities(x) for name, x in ood.items()}
    table = bd.metrics.compare_ood(inside, outside).metrics
    return {
        "seeds": [run.seed for run in runs],
        **{name: getattr(figures, name) for name in ("error", "nll", "ece")},
        "auroc": {name: scores["entropy"]["auroc"] for name, scores in table.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--train", type=int, default=250, help="Training images a class.")
    parser.add_argument("--test", type=int, default=200, help="Test images a class.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar-jpeg"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    counts = {"train": args.train, "test": args.test}
    name = f"{args.work.name}-{args.train}-{args.test}"
    folder = unpack(args.work / name, counts)
    data = f"folder:{folder}@{args.size}"
    splits = bd.load_data(data)
    ood = other_data(args.size, len(splits.test[1]) // 2)
    earlier = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "bayesdrop": bd.__version__,
        "threads": args.threads,
        "device": args.device,
        "pixels": args.size,
        "images": {"train": len(splits.train[1]), "validation": len(splits.validation[1])}
        | {"test": len(splits.test[1])},
        "runs": earlier["runs"],
    }
    recipes = (args.network, f"{args.network}-{BAYESIAN}")
    plain: list[Run] = []
    for seed in range(args.seeds):
        for recipe in recipes:
            place = args.work / f"{recipe}-{args.size}-{args.train}-{seed}"
            done = any((r["recipe"], r["seed"]) == (recipe, seed) for r in result["runs"])
            if not done:
                started = time.process_time()
                run = run_recipe(
                    recipe, out=place, data=data, seed=seed, device=args.device, progress=False
                )
                found = measure(run, splits.test, ood)
                found["cpu_seconds"] = round(time.process_time() - started, 1)
                result["runs"] = added(result["runs"], [found], ["recipe", "seed"])
                print(found, flush=True)
            if recipe == args.network:
                plain.append(load_run(place))
            write(result, args.out)
        if len(plain) > 1:
            result["ensemble"] = ensemble(plain, splits.test, ood)
            write(result, args.out)


if __name__ == "__main__":
    main()
