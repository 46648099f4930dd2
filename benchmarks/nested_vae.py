"""Auto-encoders whose code is cut to its first features, on binarised MNIST.

    python benchmarks/nested_vae.py --out benchmarks/results/nested-vae.json

Methods, with the same networks, optimiser and epochs:

    plain            no mask; features ordered by their average divergence on training images
    plain-small      a plain auto-encoder trained anew for each number of features (``--small``)
    nested-uniform   an ordered code, the number of features an example uses uniform
    nested-geometric the same, geometric with the prior's rate
    vnd              variational nested dropout: each example has its own law; its gradient as
                     published
    vnd-C            the same with a factor C on the divergence of the order (``kl_scale``), its
                     unbiased gradient, and the law shared out in a batch
    vnd-uniform-C    the same under a prior that is uniform over the number of features
    chosen           of these two the one that validation has the best bound for, averaged over
                     ``WIDTHS`` (``--choice``)

Held-out bound at ``L`` features: the first ``L`` are drawn from their posterior and paid for, the
others are zero and free; the width is given, so that the order costs nothing. That of ``vnd`` and
of the fixed laws over all widths, with the order paid for, is ``elbo``. The reconstruction error
is the squared error of the pixels' mean, summed over an image. Nothing is chosen by the test
images; with ``--validation`` 10,000 training images are held out and evaluated instead, to choose
C by. Runs are resumable (``--work``), take one thread each and add to the file. Needs MNIST in
``--data-dir`` or ``BAYESDROP_DATA`` (torchvision downloads it otherwise).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import shlex
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import result_files
import torch
from ibp_vae import load_binarised
from rows import RESULTS
from torch import Tensor

import bayesdrop as bd
from bayesdrop.diagnostics import log_likelihood_bound

_ORDER = {"latent_dropout": "variational-nested"}
METHODS: dict[str, dict] = {
    "plain": {},
    "plain-small": {},
    "nested-uniform": {"latent_dropout": "nested", "latent_options": {"law": "uniform"}},
    "nested-geometric": {
        "latent_dropout": "nested",
        "latent_options": {"law": "geometric", "continue_prob": 0.95},
    },
    "vnd": {
        **_ORDER,
        "latent_options": {"prior_continue_prob": 0.95, "gradient": "straight-through"},
    },
}
_SHARED_OUT = {"shared_by": "example", "stratified": True}
for _scale in (1, 3, 10, 30):
    METHODS[f"vnd-{_scale}"] = {
        **_ORDER,
        "latent_options": {"prior_continue_prob": 0.95, "kl_scale": _scale, **_SHARED_OUT},
    }
    METHODS[f"vnd-uniform-{_scale}"] = {
        **_ORDER,
        "latent_options": {
            "prior_continue_prob": None,
            "init_continue_prob": None,
            "kl_scale": _scale,
            **_SHARED_OUT,
        },
    }
"""Arguments of ``bd.networks.vae`` by name."""

FIRST = ["plain", "plain-small", "nested-uniform", "nested-geometric", "vnd"]
WIDTHS = [1, 2, 4, 8, 12, 16, 24, 32, 40]
LATENT_SIZE = 40


def name_of(method: str, size: int, seed: int, args: argparse.Namespace) -> str:
    """Return the name of a training in ``--work``."""
    held_out = "-validation" if args.validation else ""
    return f"{method}-{size}-{args.epochs}-{seed}{held_out}"


def train(
    method: str, size: int, seed: int, x: Tensor, args: argparse.Namespace
) -> tuple[bd.VariationalAutoencoder, float]:
    """Train one auto-encoder, or continue, and return it with its minutes."""
    torch.manual_seed(seed)
    vae = bd.networks.vae(len(x), latent_size=size, hidden=(500,), **METHODS[method])
    result = bd.fit(
        vae,
        (x, x),
        epochs=args.epochs,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule=(0.7, 0.9),
        seed=seed,
        checkpoint_dir=args.work / name_of(method, size, seed, args),
        progress=False,
    )
    return vae, result.seconds / 60


@torch.no_grad()
def order_of(vae: bd.VariationalAutoencoder, x: Tensor) -> Tensor:
    """Return the features, the one with the largest average divergence first."""
    if vae.code.is_ordered:
        return torch.arange(vae.latent_size)
    return divergences(vae, x).mean(0).argsort(descending=True)


def divergences(vae: bd.VariationalAutoencoder, x: Tensor) -> Tensor:
    """Return KL(q(h_k | x) || N(0, 1)) for each image and feature, in nats."""
    encoding = vae.network.encode(x)
    variance = encoding.scale.square()
    return 0.5 * (encoding.mean.square() + variance - 1.0 - variance.log())


@torch.no_grad()
def cut_to_width(
    vae: bd.VariationalAutoencoder, x: Tensor, order: Tensor, width: int, seed: int
) -> dict[str, float]:
    """Return the bound and the squared error with the first ``width`` features of ``order``."""
    mask = torch.zeros(vae.latent_size)
    mask[order[:width]] = 1.0
    elbo, squared = 0.0, 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in x.split(1000):
            encoding = vae.network.encode(batch)
            h = encoding.mean + encoding.scale * torch.randn_like(encoding.mean)
            logits = vae.network.decoder(h * mask)
            elbo -= float(vae.likelihood.nll(logits, batch))
            elbo -= float((divergences(vae, batch) * mask).sum())
            squared += float((torch.sigmoid(logits) - batch).square().sum())
    return {"elbo": elbo / len(x), "squared_error": squared / len(x)}


def run_one(method: str, size: int, seed: int, args: argparse.Namespace) -> dict:
    """Train one auto-encoder, or load what an earlier call made of it, and evaluate it once."""
    torch.set_num_threads(1)
    file = args.work / f"{name_of(method, size, seed, args)}.json"
    if file.exists():
        return json.loads(file.read_text())
    data = load_binarised(args.data_dir, 10_000 if args.validation else 0)
    held_out = data["validation" if args.validation else "test"]
    vae, minutes = train(method, size, seed, data["train"], args)
    vae.eval()
    order = order_of(vae, data["train"][:10_000])
    widths = [size] if method == "plain-small" else [w for w in WIDTHS if w <= size]
    record = {
        "method": method,
        "seed": seed,
        "epochs": args.epochs,
        "latent_size": size,
        "kl_scale": METHODS[method].get("latent_options", {}).get("kl_scale", 1),
        "minutes": minutes,
        "elbo": log_likelihood_bound(vae, held_out, num_samples=1, seed=0).mean,
        "widths": {w: cut_to_width(vae, held_out, order, w, seed) for w in widths},
    }
    if vae.code.is_ordered:
        with torch.no_grad():
            probs = torch.cat([vae.feature_probs(batch) for batch in held_out.split(1000)])
        record["features_per_image"] = float(probs.sum(1).mean())
    file.write_text(json.dumps(record))
    return record


def mean_of(runs: list[dict]) -> dict:
    """Return mean and standard error over seeds at each width."""
    widths = {w for run in runs for w in run["widths"]}
    rows = {}
    for width in sorted(widths, key=int):
        at = [run["widths"][width] for run in runs if width in run["widths"]]
        rows[width] = {
            key: [
                statistics.fmean(row[key] for row in at),
                statistics.stdev([row[key] for row in at]) / len(at) ** 0.5
                if len(at) > 1
                else 0.0,
            ]
            for key in ("elbo", "squared_error")
        }
    return rows


def chosen(means: dict[str, dict]) -> str:
    """Return the candidate with the highest bound, averaged over widths.

    Args:
        means: Method to width to figure to mean and standard error.
    """
    candidates = {m: at for m, at in means.items() if m.startswith("vnd-")}
    return max(
        candidates,
        key=lambda m: statistics.fmean(row["elbo"][0] for row in candidates[m].values()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, "chosen"], default=FIRST)
    parser.add_argument("--small", type=int, nargs="*", default=[2, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--choice", type=Path, default=RESULTS / "nested-vae-choice.json")
    parser.add_argument("--validation", action="store_true", help="never touch the test images")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/nested-vae"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if "chosen" in args.methods:
        best = chosen(json.loads(args.choice.read_text())["mean"])
        args.methods = [best if method == "chosen" else method for method in args.methods]
    bd.load_data("mnist", data_dir=args.data_dir)  # downloads once, before the processes start
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tasks = [
            pool.submit(run_one, method, size, seed, args)
            for seed in args.seeds
            for method in args.methods
            for size in (args.small if method == "plain-small" else [LATENT_SIZE])
        ]
        # A file has its widths as strings, and so has what is returned from here on.
        runs = [json.loads(json.dumps(task.result())) for task in tasks]
    command = shlex.join(["python", *sys.argv])
    earlier = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    keys = ("method", "latent_size", "seed")
    runs = result_files.added(earlier["runs"], [{**r, "command": command} for r in runs], keys)
    methods = dict.fromkeys(run["method"] for run in runs)
    result = {
        "torch": torch.__version__,
        "bayesdrop": bd.__version__,
        "validation": args.validation,
        "latent_size": LATENT_SIZE,
        "mean": {m: mean_of([r for r in runs if r["method"] == m]) for m in methods},
        "runs": runs,
    }
    result_files.write(result, args.out)


if __name__ == "__main__":
    main()
