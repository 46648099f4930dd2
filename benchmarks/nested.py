r"""One network at every width beside networks of each width: accuracy, calibration, OOD.

    python benchmarks/nested.py --network lenet-500-300 --data mnist \
        --out benchmarks/results/nested-lenet-500-300-mnist.json

Methods, all from scratch, with the same optimiser, schedule and epochs:

    separate          (a) a plain network trained at each width
    nested-uniform    (b) nested dropout, number of open groups uniform
    nested-geometric  (c) the same, geometric (continue_prob 0.9)
    vnd               (d) variational nested dropout
    vnd-frozen        (e) the same, order probabilities frozen at 0.9526
    vnd-bayesian      (d) with Gaussian weights (sparse variational Linear layers and convolutions)
    nested-shared     (b) with one width for all layers, and full width more often (--full-prob)
    vnd-shared        (d) with the same: its prior is nested-shared's law
    vnd-shared-full   the same with full width in 0.7 instead of 0.3 of the prior's masks
    vnd-shared-bayesian
                      vnd-shared with Gaussian weights
    nested-stratified (b) with one width for all layers, shared out in a batch, and weights with
                      fixed noise (--drop-prob)
    vnd-stratified    (d) with the same: its prior is nested-stratified's law

``(a)`` costs as many trainings as there are widths. Each network is evaluated once on the test
set, at widths fixed beforehand; nothing is chosen by it. Networks with Gaussian weights average
``--num-samples`` draws of them, whose KL counts ``--weight-kl-scale``; the others have nothing to
sample at a fixed width. Every finished row is a file in ``--work``, and an interrupted
training continues from its checkpoint. BatchNorm statistics of the nested networks are computed
anew at each width. On a GPU:

    python benchmarks/nested.py --network vgg11 --data cifar10-jpeg75 --device cuda \
        --out benchmarks/results/nested-vgg11-cifar10-jpeg75.json

With ``--validation`` the file is a list of trainings, to which others can be added:

    python benchmarks/nested.py --network lenet5-caffe --data fashion-mnist --methods vnd-shared \
        --seeds 0 --epochs 3 --validation 10000 --out benchmarks/results/nested-choice.json

The area under accuracy-width is an average of accuracies in percent. ``--methods`` runs only some,
and the file keeps its other rows. Needs the data in ``--data-dir`` or ``BAYESDROP_DATA``.
``--figure`` also draws means over seeds.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import result_files
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression.width import WidthRow, WidthSweep
from bayesdrop.data import DataSplits, load_data, load_ood
from bayesdrop.inference.fit import FitResult
from bayesdrop.recipes import get as get_recipe
from bayesdrop.recipes.augment import augmented_loader
from bayesdrop.recipes.building import build_network
from bayesdrop.recipes.recipe import Recipe
from bayesdrop.reporting.plots import plot_widths, save_figure

SINGLE = {
    "nested-uniform": "-nested-uniform",
    "nested-geometric": "-nested-geometric",
    "vnd": "-vnd",
    "vnd-frozen": "-vnd-frozen",
    "vnd-bayesian": "-vnd",
    "nested-shared": "-nested-shared",
    "vnd-shared": "-vnd-shared",
    "vnd-shared-full": "-vnd-shared",
    "vnd-shared-bayesian": "-vnd-shared",
    "nested-stratified": "-nested-stratified",
    "vnd-stratified": "-variational-nested-stratified",
}
BAYESIAN = ("vnd-bayesian", "vnd-shared-bayesian")
ORDER_KL_SCALE = {"vnd": 0.03, "vnd-bayesian": 0.03}
ORDER_KL_SCALE |= {"vnd-shared": 0.3, "vnd-shared-full": 0.3, "vnd-shared-bayesian": 0.3}
ORDER_KL_SCALE |= {"vnd-stratified": 0.3}
"""How much the KL of an order counts for each training image, as in the MNIST recipes."""
FULL_PROB = {
    "nested-shared": 0.3,
    "vnd-shared": 0.3,
    "vnd-shared-full": 0.7,
    "vnd-shared-bayesian": 0.3,
    "nested-stratified": 0.3,
    "vnd-stratified": 0.3,
}
"""Prior probability of full width, where widths are shared."""
NOISY = ("nested-stratified", "vnd-stratified")
"""Methods whose weights have fixed noise."""
METHODS = ["separate", *SINGLE]
OOD = {"mnist": "fashion-mnist", "fashion-mnist": "mnist", "digits": None}
OOD |= {"cifar10": None, "cifar10-jpeg75": None}
WIDTHS = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]


def name_of(method: str, width: float | None, seed: int, args: argparse.Namespace) -> str:
    """Return the name of a training in ``--work``."""
    name = f"{args.network}-{args.data}-{method}-{width or 'all'}-{args.epochs}-{seed}"
    name += f"-validation-{args.validation}" if args.validation else ""
    if method in BAYESIAN and args.weight_kl_scale != 1.0:
        name += f"-{args.weight_kl_scale}"
    if order_kl_scale(method, args) not in (None, 1.0):
        name += f"-order-{order_kl_scale(method, args)}"
    if method in FULL_PROB:
        name += f"-full-{full_prob(method, args)}"
    if method in NOISY and args.drop_prob is not None:
        name += f"-noise-{args.drop_prob}"
    return name


def full_prob(method: str, args: argparse.Namespace) -> float | None:
    """Return the prior probability of a method's full width; None is not its own."""
    return FULL_PROB.get(method) if args.full_prob is None else args.full_prob


def order_kl_scale(method: str, args: argparse.Namespace) -> float | None:
    """Return how much the KL of a method's order counts for each image, if it learns one."""
    if method not in ORDER_KL_SCALE:
        return None
    return args.order_kl_scale or ORDER_KL_SCALE[method]


def drop_prob(method: str, args: argparse.Namespace) -> float | None:
    """Return the rate of the fixed noise of a method's weights, if they have any."""
    if method not in NOISY or args.drop_prob is not None:
        return args.drop_prob if method in NOISY else None
    return recipe_of(method, args).dropout_options["weights"]["drop_prob"]


def build(
    method: str,
    width: float | None,
    splits: DataSplits,
    num_data: int,
    args: argparse.Namespace,
) -> nn.Module:
    """Return a method's network with fresh weights."""
    recipe = recipe_of(method, args)
    network: nn.Module = build_network(recipe, splits.num_classes, splits.image_shape)
    if method in BAYESIAN:
        network = bd.convert(network, "sparse-variational", kl_scale=args.weight_kl_scale)
    options = {**recipe.dropout_options}
    if "kl_scale" in options:
        options["kl_scale"] = order_kl_scale(method, args) * num_data
    for name in ("full_prob", "prior_full_prob"):
        if name in options:
            options[name] = full_prob(method, args) or None
    if method in NOISY and args.drop_prob is not None:
        options["weights"] = {**options["weights"], "drop_prob": args.drop_prob}
    network = bd.convert(network, recipe.dropout, **{"trained": False, **options})
    if method != "separate":
        return network
    plain = bd.compact(bd.compression.hold_width(network, width).eval(), splits.train[0][:2])
    for module in plain.modules():  # a prefix of a layer's initial weights is none of its own
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    # A mask over the inputs of the last layer that is held open, so that it can be swept.
    exclude = recipe.dropout_options.get("exclude")
    network = bd.convert(plain, "nested", trained=False, input_dropout=False, exclude=exclude)
    for _, layer in bd.BayesianNetwork(network, bd.Categorical(), 1).named_dropout_layers():
        layer.hold_width(1.0)
    return network


def recipe_of(method: str, args: argparse.Namespace) -> Recipe:
    return get_recipe(args.network + SINGLE.get(method, "-nested-uniform"))


def train(
    method: str, width: float | None, seed: int, splits: DataSplits, args: argparse.Namespace
) -> tuple[bd.BayesianNetwork, FitResult]:
    """Train one network, or continue from its checkpoint in ``--work``."""
    torch.set_num_threads(1)
    parts = tuple(part[: args.limit] for part in splits.train)
    recipe = recipe_of(method, args)
    torch.manual_seed(seed)
    network = build(method, width, splits, len(parts[1]), args)
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(parts[1]))
    bnn.to(args.device).to(memory_format=torch.channels_last)  # faster convolutions
    stage = recipe.stages[0]
    result = bd.fit(
        bnn,
        augmented_loader(*parts, stage.batch_size) if recipe.augment else parts,
        epochs=args.epochs or stage.epochs,
        batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
        variational_learning_rate=stage.variational_learning_rate,
        weight_decay=stage.weight_decay,
        schedule=stage.schedule(),
        kl_weight=bd.schedules.warm_up(0.3) if method in BAYESIAN else None,
        seed=seed,
        checkpoint_dir=args.work / name_of(method, width, seed, args),
        progress=False,
    )
    return bnn, result


def train_and_sweep(method: str, width: float | None, seed: int, args: argparse.Namespace) -> dict:
    """Train one network, or load what an earlier call made of it, and sweep its widths."""
    name = name_of(method, width, seed, args)
    file = args.work / f"{name}.json"
    if file.exists():
        return json.loads(file.read_text())
    started = time.time()
    splits = load_data(args.data, data_dir=args.data_dir, validation=args.validation)
    held_out = splits.validation if args.validation else splits.test
    bnn, result = train(method, width, seed, splits, args)
    other = OOD[args.data]
    ood = {other: load_ood(other, args.data, data_dir=args.data_dir)} if other else None
    widths = [1.0] if method == "separate" else args.widths
    has_norm = any(isinstance(module, nn.BatchNorm2d) for module in bnn.modules())
    sweep = bd.compression.sweep_widths(
        bnn,
        held_out,
        widths,
        ood=ood,
        num_samples=args.num_samples,
        recalibrate=splits.train[0][: args.limit] if has_norm and method != "separate" else None,
        seed=seed,
    )
    row: dict[str, Any] = {"method": method, "seed": seed, **sweep.to_dict()}
    if method == "separate":
        row["rows"][0]["width"] = width
    else:
        layers = bnn.named_dropout_layers()
        row["open_prob"] = {path: layer.order_probs().tolist() for path, layer in layers}
    row |= {"epochs": len(result.history), "train_minutes": result.seconds / 60}
    row["wall_minutes"] = (time.time() - started) / 60
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(row))
    (args.work / name / "training.pt").unlink(missing_ok=True)
    return row


def as_sweep(rows: list[dict]) -> WidthSweep:
    """Return rows of JSON as a sweep, the narrowest first."""
    fields = WidthRow.__dataclass_fields__
    made = [WidthRow(**{key: row[key] for key in fields}) for row in rows]
    made.sort(key=lambda row: row.flops)
    return WidthSweep(tuple(made), 0, 1, 1)


def mean_of(runs: list[WidthSweep]) -> tuple[list[dict], list[dict]]:
    """Return mean and standard error over seeds of every width's figures."""
    means, errors = [], []
    for rows in zip(*(run.rows for run in runs), strict=True):
        mean, error = dict(vars(rows[0])), {"width": rows[0].width}
        for key in ("error", "nll", "ece", "latency_ms"):
            mean[key], error[key] = _mean([getattr(row, key) for row in rows])
        mean["auroc"], error["auroc"] = {}, {}
        for name in rows[0].auroc:
            pair = _mean([row.auroc[name] for row in rows])
            mean["auroc"][name], error["auroc"][name] = pair
        means.append(mean)
        errors.append(error)
    return means, errors


def _mean(values: list[float]) -> tuple[float, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread / len(values) ** 0.5


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a parser of what a training depends on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--network", default="lenet-500-300")
    parser.add_argument("--data", choices=list(OOD), default="mnist")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--widths", type=float, nargs="+", default=WIDTHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="for every training [default: the recipe's]")
    parser.add_argument("--limit", type=int, help="only the first so many training images")
    parser.add_argument(
        "--validation",
        type=int,
        default=0,
        help="hold out so many training images and evaluate on them instead of the test set",
    )
    parser.add_argument(
        "--order-kl-scale",
        type=float,
        help=f"of vnd's order, for each training image [default: the MNIST recipes', "
        f"{ORDER_KL_SCALE}]",
    )
    parser.add_argument(
        "--full-prob",
        type=float,
        help=f"of full width, where widths are shared; 0: as any other [default: {FULL_PROB}]",
    )
    parser.add_argument(
        "--weight-kl-scale",
        type=float,
        default=0.1,
        help="of Gaussian weights [default: %(default)s]",
    )
    parser.add_argument(
        "--drop-prob", type=float, help="of fixed noise of weights [default: the recipes']"
    )
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/nested"))
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    head = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "bayesdrop": bd.__version__,
        "data": args.data,
        "network": args.network,
        "seeds": args.seeds,
        "limit": args.limit,
        "validation": args.validation,
        "num_samples": args.num_samples,
    }
    earlier = json.loads(args.out.read_text()) if args.out.exists() else {}
    kept = {
        method: {"command": earlier["command"], **entry}
        for method, entry in earlier.get("methods", {}).items()
    }
    result = {**head, "methods": kept}
    sweeps = {}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tasks = {
            (method, width, seed): pool.submit(train_and_sweep, method, width, seed, args)
            for method in args.methods
            for width in (args.widths if method == "separate" else [None])
            for seed in args.seeds
        }
        if args.validation:
            runs = [
                {**head, **settings_of(*task[:2], args), **future.result()}
                for task, future in tasks.items()
            ]
            result_files.write({"runs": added(earlier.get("runs", []), runs)}, args.out)
            return
        for method in args.methods:
            widths = args.widths if method == "separate" else [None]
            runs = {s: [tasks[method, w, s].result() for w in widths] for s in args.seeds}
            by_seed = [
                as_sweep([r for run in parts for r in run["rows"]]) for parts in runs.values()
            ]
            means, errors = mean_of(by_seed)
            sweeps[method] = as_sweep(means)
            areas = [sweep.area for sweep in by_seed]
            result["methods"][method] = {
                **head,
                **settings_of(method, None, args),
                "area": _mean(areas),
                "areas": areas,
                "mean": means,
                "standard_error": errors,
                "runs": [run for parts in runs.values() for run in parts],
            }
            result_files.write(result, args.out)
    for method, sweep in sweeps.items():
        sys.stdout.write(f"\n{method}: area {result['methods'][method]['area'][0]:.3f}\n{sweep}\n")
    if args.figure is not None:
        save_figure(plot_widths(sweeps), args.figure)


def settings_of(method: str, width: float | None, args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that a method has and others do not."""
    return {
        "trained_at": width,
        "order_kl_scale": order_kl_scale(method, args),
        "weight_kl_scale": args.weight_kl_scale if method in BAYESIAN else None,
        "full_prob": full_prob(method, args) if method in FULL_PROB else None,
        "drop_prob": drop_prob(method, args),
    }


def added(earlier: list[dict], runs: list[dict]) -> list[dict]:
    """Return earlier runs without those that were run again, and the new ones."""
    keys = ("network", "data", "method", "seed", "epochs", "trained_at", "order_kl_scale")
    keys += ("weight_kl_scale", "full_prob", "drop_prob")
    return result_files.added(earlier, runs, keys)


if __name__ == "__main__":
    main()
