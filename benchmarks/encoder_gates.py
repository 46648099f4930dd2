r"""Heads and hidden units of a pretrained encoder: masks beside magnitude pruning and MC dropout.

    python benchmarks/encoder_gates.py --out benchmarks/results/encoder-gates.json

all-MiniLM-L6-v2 is fine-tuned on movie reviews (``encoder_data.py``), all weights, then trained
on for as long again in four ways: as it is, with dropout of 0.1 that is sampled at test, with
beta-Bernoulli masks on heads and hidden units (then compacted), and with as many heads and hidden
units as these kept, chosen by magnitude (torch-pruning). Embeddings stay. One thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from encoder_data import Split, encoder, splits
from result_files import added, write
from torch import Tensor, nn

import bayesdrop as bd

EPOCHS, NUM_TRAIN, NUM_TRIED, SAMPLES = 2, 400, 300, 8
FACTORS = (1.0, 0.02)
"""On the KL of the masks."""


class Classifier(nn.Module):
    """Logits from the mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()
        self.head = nn.Linear(self.encoder.config.hidden_size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of tokens ``(N, T)``."""
        return self.head(self.encoder(tokens).last_hidden_state.mean(1))


def with_dropout(network: Classifier, rate: float) -> Classifier:
    """Return a copy whose dropout layers have a rate."""
    result = copy.deepcopy(network)
    for module in result.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
    return result


def by_magnitude(network: Classifier, heads: float, hidden: float, x: Tensor) -> Classifier:
    """Return a copy with shares of heads and hidden units, those of the largest weights.

    Args:
        network: What is pruned.
        heads: Share of heads to keep.
        hidden: Share of hidden units to keep.
        x: Tokens to trace with.
    """
    import torch_pruning as tp

    result = copy.deepcopy(network).eval()
    queries, ignored = {}, [result.head]
    for layer in result.encoder.encoder.layer:
        attention = layer.attention.self
        for projection in (attention.query, attention.key, attention.value):
            queries[projection] = attention.num_attention_heads
        ignored += [layer.attention.output.dense, layer.output.dense]
    pruner = tp.pruner.BasePruner(
        result,
        x,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=max(1 - hidden, 1e-6),  # at 0 it would prune no heads, either
        ignored_layers=ignored,
        num_heads=queries,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=1 - heads,
        output_transform=lambda out: out.sum(),
    )
    pruner.step()
    for layer in result.encoder.encoder.layer:
        attention = layer.attention.self
        attention.num_attention_heads = pruner.num_heads[attention.query]
        attention.all_head_size = attention.query.out_features
    return result


def trained(network: nn.Module, data: Split, seed: int, rate: float) -> tuple[nn.Module, float]:
    """Return a Bayesian network after training, and its CPU seconds."""
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(data.y))
    started = time.process_time()
    options = {"learning_rate": rate, "variational_learning_rate": 0.4, "progress": False}
    warm_up = bd.schedules.warm_up(0.5)
    bd.fit(bnn, data, epochs=EPOCHS, batch_size=16, seed=seed, kl_weight=warm_up, **options)
    return bnn.eval(), round(time.process_time() - started, 1)


def figures(bnn: nn.Module, data: Split, seed: int, sample: bool) -> dict[str, float]:
    found = bd.evaluate(bnn, data, num_samples=SAMPLES, sample=sample, seed=seed)
    return {"accuracy": 100 - found.error, "nll": found.nll, "ece": found.ece}


def costs(network: nn.Module, x: Tensor) -> dict[str, int]:
    """Return what the encoder's layers cost, embeddings and head left out of the parameters."""
    params = sum(p.numel() for p in network.encoder.encoder.parameters())
    return {"params": params, "flops": bd.compression.count_flops(network, x[:1])}


def _share(kept: dict[str, tuple[int, int]], heads: bool) -> float:
    pairs = [pair for name, pair in kept.items() if ("attention" in name) == heads]
    return sum(k for k, _ in pairs) / sum(n for _, n in pairs)


def run(seed: int, data: dict[str, Split], part: str, rate: float) -> list[dict]:
    """Fine-tune once, train on in four ways, and try each."""
    train, tried = data["train"], data[part]
    torch.manual_seed(seed)
    start = trained(Classifier(), train, seed, rate)[0].network
    head = {"seed": seed, "part": part, "epochs": [EPOCHS, EPOCHS], "num_data": len(train.y)}
    runs: list[dict[str, Any]] = []
    plain: dict[str, nn.Module] = {}

    def add(way: str, bnn: nn.Module, seconds: float, network: nn.Module, **more: Any) -> None:
        fixed = bd.BayesianNetwork(network, bd.Categorical(), len(train.y)).eval()
        found = {"way": way, **head, "cpu_seconds": seconds, **more, **costs(network, tried.x)}
        found["mean"] = figures(fixed, tried, seed, False)
        if bnn.is_random:
            found["sampled"] = figures(bnn, tried, seed, True)
        plain[way] = network
        runs.append(found)
        print(found, flush=True)

    bnn, seconds = trained(copy.deepcopy(start), train, seed, rate)
    add("trained on", bnn, seconds, bnn.network)
    bnn, seconds = trained(with_dropout(start, 0.1), train, seed, rate)
    sampled = bd.convert(
        bnn.network, "mc-dropout", linear=False, conv=False, exclude="*embeddings*"
    )
    fixed = bd.BayesianNetwork(sampled, bd.Categorical(), len(train.y)).eval()
    add("mc-dropout", fixed, seconds, bnn.network)
    for factor in FACTORS:
        masked = bd.convert(
            start, "beta-bernoulli", exclude=["*embeddings*", "head"], kl_scale=factor
        )
        bnn, seconds = trained(masked, train, seed, rate)
        small = bd.compact(bnn, tried.x[:2])
        with torch.no_grad():
            difference = float((small(tried.x[:50]) - bnn(tried.x[:50])).abs().max())
        kept = {n: (int(m.kept().sum()), m.num_units) for n, m in bnn.named_dropout_layers()}
        shares = [_share(kept, heads) for heads in (True, False)]
        more = {"kl_scale": factor, "difference": difference, "kept": kept, "shares": shares}
        add(f"beta-bernoulli-{factor:g}", bnn, seconds, small, **more)
        pruned = by_magnitude(start, *shares, tried.x[:2])
        bnn, seconds = trained(pruned, train, seed, rate)
        add(f"magnitude-{factor:g}", bnn, seconds, bnn.network)
    for batch in (1, 32):
        times = bd.compression.measure_latency(
            *plain.values(), example_input=tried.x[:1], batch_size=batch, repeats=15
        )
        for found, milliseconds in zip(runs, times, strict=True):
            found.setdefault("latency_ms", {})[batch] = round(milliseconds, 2)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    part = "validation" if args.choose else "test"
    kept = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    data = splits()
    for name, size in (("train", NUM_TRAIN), (part, NUM_TRIED)):
        data[name] = Split(*(values[:size] for values in data[name]))
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    for seed in args.seeds:
        if [seed, part, args.rate] in [[r["seed"], r["part"], r["rate"]] for r in kept]:
            continue
        runs = [{**found, "rate": args.rate} for found in run(seed, data, part, args.rate)]
        kept = added(kept, runs, ("way", "seed", "part", "rate"))
        write({**head, "threads": 1, "runs": kept}, args.out)


if __name__ == "__main__":
    main()
