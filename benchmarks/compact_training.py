"""Cost of training a beta-Bernoulli recipe whose pruned units leave, against a plain network.

    python benchmarks/compact_training.py --out benchmarks/results/compact-training.json

The recipe's stages (``nn.Dropout``, then masks), with fewer epochs and examples, as they are and
with ``fit(compact_every=1)``; beside them the network of pretraining in plain torch (fused Adam)
for as many epochs, with its ``nn.Dropout`` and without. All run in one process, in random order
within a round, each timed in wall and in the process's CPU time. Units kept, training loss and
validation error are those at the end.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

import torch
from result_files import write
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop import recipes

PLAIN, DROPOUT = "plain torch", "plain torch, nn.Dropout"
MASKED, COMPACTED = "recipe", "recipe, compact_every=1"


def plain(recipe: recipes.Recipe, data: tuple, epochs: int, *, dropout: bool) -> dict:
    """Train a recipe's network in plain torch."""
    network = recipes.build_network(recipe, 10, tuple(data[0].shape[1:]))
    if not dropout:
        for name, module in network.named_children():
            if isinstance(module, nn.Dropout):
                setattr(network, name, nn.Identity())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    x, y = data
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return {}


def by_recipe(recipe: recipes.Recipe, data: tuple, validation: tuple, every: int | None) -> dict:
    """Train a recipe's stages, and return what became of the network."""
    network = recipes.build_network(recipe, 10, tuple(data[0].shape[1:]))
    history = []
    for stage in recipe.stages:
        if stage.dropout:
            network = bd.convert(network, recipe.dropout, **recipe.dropout_options)
        bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(data[0]))
        history += bd.fit(
            bnn,
            data,
            epochs=stage.epochs,
            batch_size=stage.batch_size,
            learning_rate=stage.learning_rate,
            variational_learning_rate=stage.variational_learning_rate,
            weight_decay=stage.weight_decay,
            schedule=stage.schedule(),
            compact_every=every if stage.dropout else None,
            seed=0,
            progress=False,
        ).history
    error = bd.evaluate(bnn, validation, sample=False).error
    masked = [record for record in history if record["units"]]
    return {
        "units": [record["units"] for record in masked],
        "seconds": [round(record["seconds"], 2) for record in masked],
        "loss": round(history[-1]["loss"], 4),
        "validation_error": round(error, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="lenet-500-300-beta-bernoulli")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--pretrain-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = recipes.get(args.recipe).override(
        epochs=args.epochs, pretrain_epochs=args.pretrain_epochs
    )
    splits = bd.load_data("mnist", data_dir=args.data_dir)
    data = tuple(tensor[: args.examples] for tensor in splits.train)
    epochs = sum(stage.epochs for stage in recipe.stages)
    ways = {
        PLAIN: lambda: plain(recipe, data, epochs, dropout=False),
        DROPOUT: lambda: plain(recipe, data, epochs, dropout=True),
        MASKED: lambda: by_recipe(recipe, data, splits.validation, None),
        COMPACTED: lambda: by_recipe(recipe, data, splits.validation, 1),
    }
    load, order = os.getloadavg()[0], random.Random(0)
    rounds = []
    for _ in range(args.rounds):
        found = {}
        for name in order.sample(list(ways), len(ways)):
            torch.manual_seed(0)
            started, used = time.perf_counter(), time.process_time()
            result = ways[name]()
            wall, cpu = time.perf_counter() - started, time.process_time() - used
            found[name] = {"wall": round(wall, 2), "cpu": round(cpu, 2), **result}
            print(name, found[name], flush=True)
        rounds.append(found)
    result = {
        "command": "python " + " ".join(sys.argv),
        "recipe": args.recipe,
        "examples": args.examples,
        "stages": {stage.name: stage.epochs for stage in recipe.stages},
        "threads": args.threads,
        "load_before": round(load, 2),
        "torch": torch.__version__,
        "rounds": rounds,
    }
    if args.out:
        write(result, args.out)


if __name__ == "__main__":
    main()
