"""What a prediction costs, and what it is worth: one posterior's frontier beside other ways.

    python benchmarks/study_picture.py measure --network lenet-500-300 --data fashion-mnist
    python benchmarks/study_picture.py draw

``measure`` takes runs of the study that are finished (``study.py work``, the same ``--work``) and
measures, seed by seed, on the test images:

- the compact mean-masked network of beta-Bernoulli dropout at several thresholds, and its draws
  compacted into one network (``compact(members=K)``);
- variational nested dropout cut to several widths;
- the plain network, ensembles of up to five, Monte Carlo dropout with up to 64 passes, and the
  last-layer Laplace approximation (laplace-torch);
- Torch-Pruning by the magnitude of groups: from the network that the masks started from, pruned
  once, and trained for as many epochs as the masks were.

The cost of a point is the measured time of 100 images on one thread, as a multiple of the plain
network's in the same turns. All points of a family are measured and none is chosen.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import copy
import json
import shlex
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import study_outside as outside
import torch
from matplotlib.figure import Figure
from method_figures import PALETTE
from methods import predictors
from study_design import ENSEMBLE, EPOCHS, MEMBERS, OTHER
from study_jobs import PINS, Plan
from study_runs import Place, Predict, figures, recipe_of
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.compression import time_in_turns
from bayesdrop.conversion import without_dropout
from bayesdrop.data import load_data, load_ood
from bayesdrop.files import read_json
from bayesdrop.recipes import load_run
from bayesdrop.recipes.run import Run
from bayesdrop.reporting.plots import save_figure
from bayesdrop.reporting.plots.style import styled

ROOT = Path(__file__).parent
BATCH, TURNS = 100, 10
PASSES = (1, 2, 4, 8, 16, 32, 64)
DRAWS = (1, 2, 4, 8, 16)
THRESHOLDS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9)
WIDTHS = (0.125, 0.25, 0.5, 0.75, 1.0)
PRUNED = (0.2, 0.4, 0.6, 0.8)
"""Shares of hidden units that Torch-Pruning removes."""

Point = tuple[str, str, Predict]
"""Family, what the point is, and how it predicts."""


def softmax_of(network: nn.Module) -> Predict:
    """Return the probabilities of a plain network, or the mean over members of one."""

    def predict(x: Tensor) -> Tensor:
        values = network(x).softmax(-1)
        return values.mean(0) if values.ndim == 3 else values

    return predict


def finished(plan: Plan, args: argparse.Namespace, method: str, way: str) -> dict[int, Any]:
    """Return the finished runs of a row, by seed."""
    jobs = plan.runs(args.network, args.data, method, way)
    return {job.seed: job for job in jobs if job.result(plan.results) is not None}


def plain_points(runs: dict[int, Run], seed: int) -> Iterator[Point]:
    """Yield the plain network, and ensembles with the seeds after it."""
    networks = [runs[(seed + step) % len(MEMBERS)].bnn.network.eval() for step in range(ENSEMBLE)]
    for count in range(1, ENSEMBLE + 1):
        parts = [softmax_of(network) for network in networks[:count]]

        def predict(x: Tensor, parts: list[Predict] = parts) -> Tensor:
            return torch.stack([part(x) for part in parts]).mean(0)

        yield "ensemble of plain networks", str(count), predict


def dropout_points(run: Run) -> Iterator[Point]:
    """Yield Monte Carlo dropout with several numbers of passes."""
    for passes in PASSES:
        yield "MC dropout", str(passes), predictors(run, passes)["sampled"]


def threshold_points(run: Run, example: Tensor) -> Iterator[Point]:
    """Yield compact networks of a posterior, and its draws in one network."""
    for threshold in THRESHOLDS:
        bnn = copy.deepcopy(run.bnn)
        for _, layer in bnn.named_dropout_layers():
            layer.threshold = threshold
        small = bd.compact(bnn, example)
        yield "BB, mean mask at thresholds", str(threshold), softmax_of(small)
    for draws in DRAWS:
        members = bd.compact(run.bnn, example, members=draws, seed=run.seed)
        yield "BB, draws in one network", str(draws), softmax_of(members)


def width_points(run: Run, example: Tensor) -> Iterator[Point]:
    """Yield one network cut to several widths."""
    for width in WIDTHS:
        yield "VND, widths", str(width), softmax_of(bd.cut_to_width(run.bnn, width, example))


def pruned_points(run: Run, args: argparse.Namespace) -> Iterator[Point]:
    """Yield networks that Torch-Pruning has cut, trained for as long as the masks were."""
    import torch_pruning as tp

    splits = load_data(args.data, data_dir=args.data_dir, validation=0)
    stage = run.recipe.stages[-1]
    assert run.plain is not None
    for share in PRUNED:
        network = copy.deepcopy(without_dropout(run.plain.network))
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(
            network,
            splits.train[0][:1],
            importance=importance,
            pruning_ratio=share,
            ignored_layers=[last],
        )
        pruner.step()
        bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(splits.train[1]))
        bd.fit(
            bnn,
            splits.train,
            epochs=stage.epochs,
            batch_size=stage.batch_size,
            learning_rate=stage.learning_rate,
            weight_decay=stage.weight_decay,
            schedule=stage.schedule(),
            seed=run.seed,
            progress=False,
        )
        yield "Torch-Pruning", str(share), softmax_of(network.eval())


def measure_seed(plan: Plan, args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Return the figures and the cost of each point of a seed."""
    place = Place(args.work, args.data_dir)

    def run_of(method: str, way: str, number: int = seed) -> Run | None:
        job = finished(plan, args, method, way).get(number)
        return None if job is None else load_run(place.run(job))

    splits = load_data(args.data, data_dir=args.data_dir, validation=0)
    test, labels = splits.test
    other = load_ood(OTHER[args.data], args.data, data_dir=args.data_dir)
    members = [(seed + step) % len(MEMBERS) for step in range(ENSEMBLE)]
    plain = {number: run_of("plain", "mean", number) for number in members}
    if any(run is None for run in plain.values()):
        raise SystemExit("The study's plain networks are not finished.")
    known = {number: run for number, run in plain.items() if run is not None}
    points = list(plain_points(known, seed))
    if (run := run_of("dropout", "sampled")) is not None:
        points += dropout_points(run)
    if (run := run_of("bb", "mean")) is not None:
        points += threshold_points(run, test[:1])
        points += pruned_points(run, args)
    if (run := run_of("vnd", "mean")) is not None:
        points += width_points(run, test[:1])
    predict = outside.laplace(copy.deepcopy(known[seed].bnn.network), splits.train)
    points.append(("Laplace, last layer", "probit", predict))
    found = []
    with torch.no_grad():
        images = test[:BATCH]
        calls = [lambda predict=predict: predict(images) for _, _, predict in points]
        times = time_in_turns(calls, device=images.device, repeats=TURNS)
        for (family, what, predict), milliseconds in zip(points, times, strict=True):
            values = {
                name: torch.cat([predict(part) for part in x.split(1000)]).float()
                for name, x in (("test", test), (OTHER[args.data], other))
            }
            row = figures(values, labels, brief=True)
            found.append(
                {
                    "seed": seed,
                    "family": family,
                    "point": what,
                    "cost": milliseconds / times[0],
                    **{name: row[name] for name in ("error", "nll", "ece")},
                    "auroc": row["auroc"][OTHER[args.data]],
                }
            )
    return found


def measure(args: argparse.Namespace) -> None:
    """Measure all points, and add the seeds to the file."""
    torch.set_num_threads(1)
    plan = Plan(read_json(PINS), args.results)
    result = read_json(args.out) if args.out.exists() else {"points": []}
    for seed in args.seeds:
        rest = [row for row in result["points"] if row["seed"] != seed]
        result = {
            "command": shlex.join(["python", *sys.argv]),
            "network": args.network,
            "data": args.data,
            "epochs": EPOCHS[args.network],
            "recipe": recipe_of(finished(plan, args, "bb", "mean")[seed]).to_dict(),
            "load": round(os.getloadavg()[0], 2),
            "torch": torch.__version__,
            "points": rest + measure_seed(plan, args, seed),
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")


LABELS = {"ece": "ECE", "nll": "NLL", "error": "error %", "auroc": "AUROC"}


@styled
def figure_of(result: dict[str, Any]) -> Figure:
    """Return the figure of one setting: means over seeds, a line for each family.

    The dotted line is the plain network's; what is more than 2.5 times as far from zero is left to
    the file.
    """
    families: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in result["points"]:
        families.setdefault(row["family"], {}).setdefault(row["point"], []).append(row)
    single = families["ensemble of plain networks"]["1"]
    plain = {name: statistics.fmean(row[name] for row in single) for name in LABELS}
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (measure, label) in zip(figure.subplots(1, 4), LABELS.items(), strict=True):
        for colour, (family, points) in zip(PALETTE, families.items(), strict=False):
            means = [
                [statistics.fmean(row[name] for row in rows) for rows in points.values()]
                for name in ("cost", measure)
            ]
            axes.plot(*means, "o-", ms=3, lw=1, c=colour, label=family)
        axes.set(xscale="log", xlabel="time, plain = 1", ylabel=label)
        axes.axhline(plain[measure], c="0.6", lw=0.8, ls=":", zorder=0)
        if measure != "auroc":  # points that keep next to nothing would hide the others
            axes.set_ylim(0.0, 2.5 * plain[measure])
    lines = axes.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw(_: argparse.Namespace) -> None:
    """Draw the figures of every file that there is: means over seeds."""
    for path in sorted((ROOT / "results").glob("study-picture-*.json")):
        name = path.stem.replace("study-picture-", "study_")
        save_figure(figure_of(read_json(path)), ROOT / "figures" / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure", help=measure.__doc__)
    measuring.add_argument("--network", default="lenet-500-300")
    measuring.add_argument("--data", default="fashion-mnist")
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    measuring.add_argument("--work", type=Path, default=ROOT.parent / "runs" / "study")
    measuring.add_argument("--results", type=Path, default=ROOT / "results" / "study")
    measuring.add_argument("--data-dir", default=os.environ.get("BAYESDROP_DATA"))
    measuring.add_argument("--out", type=Path)
    measuring.set_defaults(function=measure)
    drawing = commands.add_parser("draw", help=draw.__doc__)
    drawing.set_defaults(function=draw)
    args = parser.parse_args()
    if args.function is measure and args.out is None:
        args.out = ROOT / "results" / f"study-picture-{args.network}-{args.data}.json"
    args.function(args)


if __name__ == "__main__":
    main()
