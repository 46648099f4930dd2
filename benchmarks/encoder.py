r"""A pretrained encoder end to end: masks on the ranks of LoRA, and embeddings of any length.

    python benchmarks/encoder.py lora --out benchmarks/results/encoder-lora.json

all-MiniLM-L6-v2 on movie reviews (``encoder_data.py`` says which). A run that is in the file
already is left out. One thread.

``lora``: adapters on the six Linear layers of the last layer, whose inputs are computed once; a
mean over tokens and a Linear head. Masks over the ranks, with their KL in the
loss at the factors in ``METHODS``, beside LoRA of fixed ranks. ``--choose`` gives the validation
set's figures, from which the settings were chosen, instead of the test set's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from encoder_data import Split, encoder, hidden, output_of, splits
from result_files import added, write
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.errors import TruncationWarning

LAYERS = 1
"""That are adapted, of six: two cores had to do."""
RANK = 8
"""The largest rank of adapters with masks."""
EPOCHS = 5
TARGETS = r".*layers\.\d\.(attention\.self\.(query|key|value)|(.*\.)?dense)"
METHODS: dict[str, dict[str, Any]] = {
    "head": {"rank": 0},
    **{f"fixed-{rank}": {"rank": rank} for rank in (1, 2, 4, 8)},
    "beta-bernoulli": {"dropout": "beta-bernoulli"},
    "beta-bernoulli-0.1": {"dropout": "beta-bernoulli", "kl_scale": 0.1},
    "indian-buffet": {"dropout": "indian-buffet", "concentration": 2.0},
    "indian-buffet-10": {"dropout": "indian-buffet", "concentration": 2.0, "kl_scale": 10.0},
}
SAMPLES = 8


class Top(nn.Module):
    """The last layers of an encoder, the mean over tokens, and a head.

    Args:
        model: The encoder, whose layers are used.
        layers: How many.
    """

    def __init__(self, model: nn.Module, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(model.encoder.layer[-layers:])
        self.head = nn.Linear(model.config.hidden_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of hidden states ``(N, T, 384)``."""
        for layer in self.layers:
            x = output_of(layer(x))
        return self.head(x.mean(1))


def adapted(method: dict[str, Any]) -> nn.Module:
    """Return the last layers with an adapter of the method, the rest of them frozen."""
    import peft

    top = Top(encoder(), LAYERS).requires_grad_(False)
    options = dict(method)
    rank = options.pop("rank", RANK)
    if not rank:
        top.head.requires_grad_(True)
        return top
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=TARGETS, modules_to_save=["head"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(top, config)
    return bd.conversion.mask_lora_ranks(model, **options) if options else model


def figures(bnn: nn.Module, data: Split, seed: int, sample: bool) -> dict[str, float]:
    """Return accuracy (percent), NLL (nats) and ECE of a network on a split."""
    found = bd.evaluate(bnn, data, num_samples=SAMPLES, sample=sample, seed=seed)
    return {"accuracy": 100 - found.error, "nll": found.nll, "ece": found.ece}


def lora(name: str, seed: int, data: dict[str, Split], part: str, epochs: int) -> dict:
    """Train one adapter, cut it, and try it on one part of the data."""
    torch.manual_seed(seed)
    model = adapted(METHODS[name])
    bnn = bd.BayesianNetwork(model, bd.Categorical(), num_data=len(data["train"].y))
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # that all ranks are wanted, is allowed
        fitted = bd.fit(
            bnn,
            data["train"],
            epochs=epochs,
            batch_size=16,
            learning_rate=1e-3,
            variational_learning_rate=0.1,
            kl_weight=bd.schedules.warm_up(0.5),
            seed=seed,
            progress=False,
        )
    run: dict[str, Any] = {"method": name, "seed": seed, "part": part, "epochs": epochs}
    run |= {"settings": METHODS[name], "kl": fitted.history[-1]["kl"] * bnn.num_data}
    run["cpu_seconds"] = round(time.process_time() - started, 1)
    bnn.eval()
    if bnn.is_random:
        run["sampled"] = figures(bnn, data[part], seed, True)
        before, example = bnn(data[part].x[:20]), data[part].x[:20]
        model = bd.compression.cut_lora_ranks(model)
        run["difference"] = float((model(example) - before).abs().max())
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    run["ranks"] = [m.r["default"] for m in layers]
    run["params"] = sum(p.numel() for m in layers for n, p in m.named_parameters() if "lora_" in n)
    plain = bd.BayesianNetwork(model, bd.Categorical(), num_data=bnn.num_data).eval()
    run["mean"] = figures(plain, data[part], seed, False)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["lora"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("runs/encoder-hidden.pt"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    part = "validation" if args.choose else "test"
    kept = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    if not args.cache.exists():
        args.cache.parent.mkdir(parents=True, exist_ok=True)
        below, found = encoder(), splits()
        states = {n: (hidden(below, s.x, 6 - LAYERS), s.y) for n, s in found.items()}
        torch.save(states, args.cache)
    data = {name: Split(*both) for name, both in torch.load(args.cache).items()}
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    names = ("method", "seed", "part", "epochs", "settings")
    for seed in args.seeds:
        for method in args.methods:
            wanted = [method, seed, part, args.epochs, METHODS[method]]
            if wanted in [[run[name] for name in names] for run in kept]:
                continue
            run = lora(method, seed, data, part, args.epochs)
            print(run, flush=True)
            kept = added(kept, [run], names)
            write({**head, "threads": 1, "runs": kept}, args.out)


if __name__ == "__main__":
    main()
