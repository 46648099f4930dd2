r"""What several masks inside the logarithm cost and buy, at equal epochs and at equal time.

    python benchmarks/several_masks.py digits
    BAYESDROP_DATA=... python benchmarks/several_masks.py mnist fashion-mnist

LeNet-500-300 from scratch, as a new user would train it: ``bd.convert`` and ``bd.fit`` with their
defaults. Each row of ``ROWS`` trains the same network from the same initial weights. ``plain`` has
no masks; ``M=4`` has four masks for each example; ``M=1, time of M=4`` has one, and as many more
epochs as take as long; ``M=4, quarter batches`` has four masks, a quarter of the batch and a
quarter of the epochs, so that its network meets as many rows; ``M=1, then 4`` has four in the last
quarter of its epochs, in which the weights hardly move; ``M=4, stratified`` draws an example's
masks from noise that knows of each other (``several_masks_noise.py``); ``softplus`` learns what
the papers' code learns of a posterior.

A row has figures on images that were held out of training, by which a default is chosen, and on
test images; with the mean mask, and averaged over 64 drawn masks. ``undecided`` counts the keep
probabilities between 0.1 and 0.9; ``deviation`` is the standard deviation of their posterior, on
average over the units that are kept. Rows that are in the file are not run again; ``commands``
are those that ran some. One thread; seconds are those of the process.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from result_files import added, write
from torch import Tensor, nn

import bayesdrop as bd

RESULTS = Path(__file__).parent / "results"
SEEDS = range(5)
EPOCHS = {"digits": 100, "mnist": 8, "fashion-mnist": 8}
OTHERS = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}
# Epochs of M=1 that take as long as those of M=4, as measured (see seconds).
LONGER = {"digits": 2.0, "mnist": 2.5, "fashion-mnist": 2.5}

ROWS: dict[str, dict] = {
    "plain": {"masks": 0},
    "M=1": {"masks": 1},
    "M=4": {"masks": 4},
    "M=1, time of M=4": {"masks": 1, "longer": True},
    "M=2": {"masks": 2},
    "M=8": {"masks": 8},
    "M=1, then 4": {"masks": 1, "then": 4},
    "M=4, quarter batches": {"masks": 4, "split": 4},
    "M=4, stratified": {"masks": 4, "noise": "stratified"},
    "M=1, softplus": {"masks": 1, "options": {"parametrization": "softplus"}},
    "M=4, softplus": {"masks": 4, "options": {"parametrization": "softplus"}},
}


def network(dataset: str) -> nn.Module:
    """Return the untrained network, without masks."""
    pixels = 64 if dataset == "digits" else 784
    layers = [nn.Flatten(), nn.Linear(pixels, 500), nn.ReLU(), nn.Linear(500, 300), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(300, 10))


def splits(dataset: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return training, validation and test images."""
    data = bd.load_data(dataset)
    x, y = data.train
    held_out = 300 if dataset == "digits" else 10_000
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(12345))
    kept, val = order[held_out:], order[:held_out]
    return {"train": (x[kept], y[kept]), "validation": (x[val], y[val]), "test": data.test}


def train(dataset: str, row: str, seed: int, data: tuple[Tensor, Tensor]) -> bd.BayesianNetwork:
    """Train the network of a row."""
    from several_masks_noise import drawn  # which imports this file

    setting = ROWS[row]
    torch.manual_seed(seed)
    net = network(dataset)
    if setting["masks"]:
        net = bd.convert(net, **setting.get("options", {}))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=len(data[0]))
    epochs = EPOCHS[dataset]
    if setting.get("longer"):
        epochs = round(epochs * LONGER[dataset])
    batch_size = 50 if dataset == "digits" else 100
    if "split" in setting:
        epochs, batch_size = epochs // setting["split"], batch_size // setting["split"]
    masks = max(setting["masks"], 1)
    settings = {"batch_size": batch_size, "seed": seed, "progress": False}
    if "then" in setting:
        last = epochs // 4
        first = bd.schedules.steps(round(0.5 * epochs))
        bd.fit(bnn, data, epochs=epochs - last, schedule=first, **settings)
        # The weights hardly move any more, what is learned of the posteriors does.
        rates = {"learning_rate": 1e-4, "variational_learning_rate": 1e-2, "schedule": (0.5,)}
        bd.fit(bnn, data, epochs=last, num_masks=setting["then"], **rates, **settings)
    else:
        with drawn(setting["noise"]) if "noise" in setting else nullcontext():
            bd.fit(bnn, data, epochs=epochs, num_masks=masks, **settings)
    return bnn


def figures(bnn: bd.BayesianNetwork, data: tuple[Tensor, Tensor], other: Tensor | None) -> dict:
    """Return error (percent), NLL, ECE and AUROC against other images."""
    found = {}
    for name, sample in (("mean", False), ("sampled", True)):
        if sample and not bnn.is_random:
            continue
        options = {"sample": sample, "num_samples": 64, "seed": 0} if sample else {"sample": False}
        prediction = bd.predict(bnn, data[0], **options)
        found[name] = {
            "error": bd.metrics.error_percent(prediction.mean, data[1]),
            "nll": bd.metrics.negative_log_likelihood(prediction.mean, data[1]),
            "ece": bd.metrics.expected_calibration_error(prediction.mean, data[1]),
        }
        if other is not None:
            away = bd.predict(bnn, other, **options)
            scores = prediction.predictive_entropy, away.predictive_entropy
            found[name]["auroc"] = bd.metrics.ood_metrics(*scores)["auroc"]
    return found


def run(dataset: str, row: str, seed: int) -> dict:
    """Train one row and return its figures."""
    data = splits(dataset)
    begin = time.process_time()
    bnn = train(dataset, row, seed, data["train"])
    seconds = time.process_time() - begin
    other = bd.load_data(OTHERS[dataset]).test[0] if dataset in OTHERS else None
    keep = [layer.keep_prob() for _, layer in bnn.named_dropout_layers()]
    deviation = [
        layer.posterior()["pi"].variance.sqrt()[layer.kept()].detach()
        for _, layer in bnn.named_dropout_layers()
    ]
    return {
        "data": dataset,
        "row": row,
        "seed": seed,
        "seconds": round(seconds, 1),
        "kl": 1.0,
        "units": bnn.units(),
        "undecided": [int(((k > 0.1) & (k < 0.9)).sum()) for k in keep],
        "deviation": float(torch.cat(deviation).mean()) if deviation else None,
        "validation": figures(bnn, data["validation"], None),
        "test": figures(bnn, data["test"], other),
        "torch": str(torch.__version__),
        "bayesdrop": bd.__version__,
    }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+", choices=EPOCHS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for dataset in arguments.data:
        out = RESULTS / f"several-masks-{dataset}.json"
        for seed in arguments.seeds:
            for row in arguments.rows:
                stored = json.loads(out.read_text()) if out.exists() else {"runs": []}
                runs = stored["runs"]
                if any((r["row"], r["seed"]) == (row, seed) for r in runs):
                    continue
                new = run(dataset, row, seed)
                print(dataset, row, seed, new["seconds"], new["units"], new["validation"])
                command = "python benchmarks/several_masks.py " + shlex.join(sys.argv[1:])
                commands = stored.get("commands") or [stored.get("command", command)]
                if command not in commands:
                    commands = [*commands, command]
                runs = added(runs, [new], ["row", "seed"])
                write({"commands": commands, "epochs": EPOCHS[dataset], "runs": runs}, out)


if __name__ == "__main__":
    main()
