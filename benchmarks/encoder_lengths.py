r"""Embeddings of any length: a variational law of lengths beside fixed ones and truncation.

    python benchmarks/encoder_lengths.py --out benchmarks/results/encoder-lengths.json

A Linear map behind the frozen all-MiniLM-L6-v2 is trained to find near-duplicates of passages of
movie reviews (``encoder_data.py``), with ``MultipleNegativesRankingLoss`` of sentence-transformers
in ``MatryoshkaLoss`` or in ``bd.nn.VariationalMatryoshkaLoss``. Tried are the share of test
duplicates whose passage is the nearest of all, and a logistic regression of whether the reviewer
liked the film. One thread; ``--choose`` tries the validation set instead.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from encoder_data import Pairs, pairs
from result_files import added, write
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

import bayesdrop as bd

LENGTHS = (6, 12, 18, 24, 36, 48, 72, 96, 144, 192, 384)
FIXED = (384, 192, 96, 48, 24, 12)
"""The list of ``MatryoshkaLoss``: halves."""
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pca": {},
    "full": {},
    "fixed": {"dims": FIXED},
    "fixed-one": {"dims": FIXED, "n_dims_per_step": 1},
    "uniform": {"learn_order": False},
    "variational": {},
    "variational-0.1": {"kl_scale": 0.1},
    "variational-exact": {"num_widths": "exact"},
    "variational-short": {"prior_continue_prob": 0.9, "init_continue_prob": 0.9},
}
EPOCHS, BATCH, RATE = 20, 100, 1e-3


class Map(nn.Module):
    """A Linear map of embeddings, in the form of a model of sentence-transformers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mapped ``"embedding"`` as ``"sentence_embedding"``."""
        return {**features, "sentence_embedding": self.linear(features["embedding"])}

    def get_embedding_dimension(self) -> int:
        """Return the length of an embedding."""
        return self.linear.out_features


def loss_of(name: str, model: Map) -> nn.Module:
    """Return the loss of a method, around the ranking loss."""
    from sentence_transformers.sentence_transformer import losses

    ranking = losses.MultipleNegativesRankingLoss(model)
    options = METHODS[name]
    if name == "full":
        return ranking
    if "dims" in options:
        rest = {key: value for key, value in options.items() if key != "dims"}
        return losses.MatryoshkaLoss(model, ranking, list(options["dims"]), **rest)
    return bd.nn.VariationalMatryoshkaLoss(model, ranking, **options)


def trained(name: str, data: Pairs, seed: int, epochs: int) -> tuple[Map, nn.Module | None]:
    """Return a map after training, and its loss."""
    torch.manual_seed(seed)
    model = Map(data.passages.shape[1])
    if name == "plain":
        return model, None
    if name == "pca":
        centred = data.passages - data.passages.mean(0)
        model.linear.weight.data = torch.linalg.svd(centred, full_matrices=False).Vh
        return model, None
    loss = loss_of(name, model)
    law = [p for n, p in loss.named_parameters() if n.startswith("law")]
    groups = [{"params": list(model.parameters())}, {"params": law, "lr": 3e-2}]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], RATE)
    steps = epochs * (len(data.y) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.y)).split(BATCH):
            columns = [{"embedding": x[rows]} for x in (data.duplicates, data.passages)]
            optimizer.zero_grad()
            loss(columns, None).backward()
            optimizer.step()
            schedule.step()
    return model, loss


@torch.no_grad()
def figures(model: Map, train: Pairs, tried: Pairs) -> dict[str, list[float]]:
    """Return percentages by length: duplicates found first, and labels told."""
    mapped = [model.linear(x) for x in (train.passages, tried.passages, tried.duplicates)]
    found: dict[str, list[float]] = {"found": [], "told": []}
    for length in LENGTHS:
        fit, passages, duplicates = (F.normalize(x[:, :length], dim=-1) for x in mapped)
        nearest = (duplicates @ passages.T).argmax(1)
        found["found"].append(100 * float((nearest == torch.arange(len(nearest))).float().mean()))
        probe = LogisticRegression(C=1.0, max_iter=1000).fit(fit.numpy(), train.y.numpy())
        found["told"].append(100 * probe.score(passages.numpy(), tried.y.numpy()))
    return found


def run(name: str, seed: int, data: dict[str, Pairs], part: str, epochs: int) -> dict:
    """Train one map and try it at every length."""
    started = time.process_time()
    model, loss = trained(name, data["train"], seed, epochs)
    seconds = round(time.process_time() - started, 1)
    result = {"method": name, "seed": seed, "part": part, "epochs": epochs}
    result |= {"settings": METHODS[name], "cpu_seconds": seconds}
    if isinstance(loss, bd.nn.VariationalMatryoshka):
        lengths, probs = loss.lengths()
        result["law"] = dict(zip(lengths.tolist(), probs.tolist(), strict=True))
    return result | figures(model, data["train"], data[part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("runs/encoder-pairs.pt"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    part = "validation" if args.choose else "test"
    kept = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    data = pairs(args.cache)
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    names = ("method", "seed", "part", "epochs", "settings")
    for seed in args.seeds:
        for method in args.methods:
            if seed and method in ("plain", "pca"):
                continue  # nothing is random
            settings = json.loads(json.dumps(METHODS[method]))
            wanted = [method, seed, part, args.epochs, settings]
            if wanted in [[row[name] for name in names] for row in kept]:
                continue
            row = run(method, seed, data, part, args.epochs)
            row["settings"] = settings
            print(row, flush=True)
            kept = added(kept, [row], names)
            write({**head, "threads": 1, "lengths": LENGTHS, "runs": kept}, args.out)


if __name__ == "__main__":
    main()
