r"""Recurrent dropout on text: ratings of reviews, and the next character of Shakespeare.

    BAYESDROP_DATA=... python benchmarks/recurrent.py reviews
    BAYESDROP_DATA=... python benchmarks/recurrent.py shakespeare

Reads ``text/movie-review-scale.tsv`` (Pang and Lee's scale data, the set of the experiment on
sentiment of Gal and Ghahramani, 2016) and ``text/tinyshakespeare.txt``. Both tasks are small, so
that all runs take minutes on one core: the first 60 words of 2,000 training reviews, a vocabulary
of 2,000 words, an LSTM of 64 units whose outputs are averaged over time; and 60,000 characters in
pieces of 50, an LSTM of 96 units, no state carried from piece to piece. The paper has 200 words,
128 units and the last state; figures are therefore compared with each other only.

``naive`` has ``nn.Dropout`` on inputs and outputs of the LSTM, another mask at every step;
``variational`` one mask a sequence on words, inputs, state and outputs, at the same rate.
``beta-bernoulli`` and ``concrete`` learn the rates of the same masks. Fixed rates are chosen by
the validation set, as is the epoch (``chosen``); ``last`` is the end of the curve, which shows
what overfits. RMSE of ratings in [0, 1]; bits per character. Figures are those of the mean mask,
``sampled`` those of the average over 32 draws. Rows that are in the file are not run again. One
thread; seconds are those of the process.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from result_files import added, write
from torch import Tensor, nn

import bayesdrop as bd

RESULTS = Path(__file__).parent / "results"
SEEDS = range(3)
SAMPLES = 32
ROWS: dict[str, dict] = {
    "none": {},
    "naive, 0.25": {"naive": 0.25},
    "naive, 0.5": {"naive": 0.5},
    "variational, 0.25": {"key": "mc-dropout", "drop_prob": 0.25},
    "variational, 0.5": {"key": "mc-dropout", "drop_prob": 0.5},
    "beta-bernoulli": {"key": "beta-bernoulli"},
    "concrete": {"key": "concrete"},
}
SIZES = {
    "reviews": {"words": 2000, "features": 64, "units": 64, "outputs": 1, "epochs": 20},
    "shakespeare": {"words": 65, "features": 32, "units": 96, "outputs": 65, "epochs": 15},
}
BATCH = {"reviews": 100, "shakespeare": 20}
LEARNING_RATE = {"reviews": 2e-3, "shakespeare": 4e-3}
Data = dict[str, tuple[Tensor, Tensor]]


def text(name: str) -> str:
    """Return a file of the data folder."""
    return (Path(os.environ["BAYESDROP_DATA"]) / "text" / name).read_text(encoding="utf-8")


def reviews(length: int = 60) -> Data:
    """Return the first words of reviews, as numbers, and their ratings."""
    lines = text("movie-review-scale.tsv").splitlines()[1:]
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(12345)).tolist()
    rows = [lines[index].split("\t") for index in order[:4000]]
    words = [row[2].split()[:length] for row in rows]
    counts = Counter(word for row in words[:2000] for word in row)
    known = {w: n + 2 for n, (w, _) in enumerate(counts.most_common(1998))}  # 0 pads, 1 is unknown
    x = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(words):
        x[index, : len(row)] = torch.tensor([known.get(word, 1) for word in row])
    y = torch.tensor([[float(row[1])] for row in rows])
    ends = {"train": (0, 2000), "validation": (2000, 2800), "test": (2800, 4000)}
    return {part: (x[a:b], y[a:b]) for part, (a, b) in ends.items()}


def shakespeare(length: int = 50) -> Data:
    """Return pieces of the text as numbers of characters, and the next characters."""
    whole = text("tinyshakespeare.txt")
    number = {character: n for n, character in enumerate(sorted(set(whole)))}
    codes = torch.tensor([number[character] for character in whole])
    ends = {"train": (0, 60_000), "validation": (900_000, 920_000), "test": (1_000_000, 1_030_000)}
    data = {}
    for part, (a, b) in ends.items():
        pieces = (b - a) // length
        x, y = (
            codes[start : start + pieces * length].reshape(pieces, length) for start in (a, a + 1)
        )
        data[part] = (x, y)
    return data


DATA = {"reviews": reviews, "shakespeare": shakespeare}


class Reader(nn.Module):
    """An embedding, an LSTM, and a Linear on its outputs, averaged over time if asked for."""

    def __init__(self, task: str, row: str) -> None:
        super().__init__()
        size, setting = SIZES[task], dict(ROWS[row])
        key, rate = setting.pop("key", None), setting.pop("naive", 0.0)
        dropout = None if key is None else {"dropout": key, **setting}
        self.noise, self.average = nn.Dropout(rate), task == "reviews"
        words, features, units = size["words"], size["features"], size["units"]
        self.embed = bd.nn.DropoutEmbedding(words, features, word_dropout=dropout)
        places = ("input_dropout", "state_dropout", "output_dropout")
        masks = dict.fromkeys(places, dropout)
        self.lstm = bd.nn.DropoutLSTM(features, units, batch_first=True, **masks)
        self.head = nn.Linear(units, size["outputs"])

    def forward(self, x: Tensor) -> Tensor:
        """Return a rating, or the logits of the next character after each."""
        outputs, _ = self.lstm(self.noise(self.embed(x)))
        outputs = self.noise(outputs)
        return self.head(outputs.mean(1) if self.average else outputs)


@torch.no_grad()
def error(bnn: bd.BayesianNetwork, data: tuple[Tensor, Tensor], samples: int = 0) -> float:
    """Return RMSE, or bits per character, by the mean mask or averaged over draws."""
    x, y = data
    bnn.eval()
    passes = bnn.posterior_passes(samples, shared_by="batch") if samples else [bnn.network]
    total = 0.0
    for part, targets in zip(x.split(200), y.split(200), strict=True):
        outputs = torch.stack([run(part) for run in passes])
        if isinstance(bnn.likelihood, bd.Categorical):
            log_probs = outputs.log_softmax(-1).logsumexp(0) - math.log(len(passes))
            total -= float(log_probs.gather(-1, targets.unsqueeze(-1)).double().sum())
        else:
            total += float((outputs.mean(0) - targets).double().square().sum())
    average = total / y.numel()
    return average / math.log(2) if isinstance(bnn.likelihood, bd.Categorical) else average**0.5


def run(task: str, row: str, seed: int, data: Data) -> dict:
    """Train one network, and return its curve and its figures."""
    torch.manual_seed(seed)
    network, size = Reader(task, row), SIZES[task]
    likelihood = bd.Gaussian(init_scale=0.2) if task == "reviews" else bd.Categorical(class_dim=-1)
    bnn = bd.BayesianNetwork(network, likelihood, num_data=len(data["train"][0]))
    started, curve = time.process_time(), []
    best: dict = {}

    def watch(bnn: bd.BayesianNetwork, record: object) -> None:
        found = {part: error(bnn, data[part]) for part in ("validation", "test")}
        found["train"] = error(bnn, (data["train"][0][:500], data["train"][1][:500]))
        curve.append({part: round(value, 4) for part, value in found.items()})
        if curve[-1]["validation"] <= min(point["validation"] for point in curve):
            best.update(epoch=len(curve), state=copy.deepcopy(bnn.state_dict()))
        bnn.train()

    bd.fit(
        bnn,
        data["train"],
        epochs=size["epochs"],
        batch_size=BATCH[task],
        learning_rate=LEARNING_RATE[task],
        schedule=(),
        clip_norm=None if task == "reviews" else 10.0,
        callbacks=[watch],
        seed=seed,
        progress=False,
    )
    seconds = round(time.process_time() - started, 1)
    found = {"task": task, "row": row, "seed": seed, "kl_scale": 1.0, "cpu_seconds": seconds}
    found |= {"last": curve[-1], "curve": curve, "chosen": {"epoch": best["epoch"]}}
    if bnn.is_random:
        found["last"] = {**curve[-1], "sampled": round(error(bnn, data["test"], SAMPLES), 4)}
    bnn.load_state_dict(best["state"])
    chosen = {part: error(bnn, data[part]) for part in ("validation", "test")}
    if bnn.is_random:
        chosen["sampled"] = error(bnn, data["test"], SAMPLES)
        kept = {name: int(layer.kept().sum()) for name, layer in bnn.named_dropout_layers()}
        found["kept"] = kept
    found["chosen"] |= {part: round(value, 4) for part, value in chosen.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=DATA)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or RESULTS / f"recurrent-{args.task}.json"
    torch.set_num_threads(1)
    data = DATA[args.task]()
    earlier = json.loads(out.read_text())["runs"] if out.exists() else []
    done = {(run["row"], run["seed"]) for run in earlier}
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__, "threads": 1, "sizes": SIZES[args.task]}
    head |= {part: len(x) for part, (x, _) in data.items()}
    if args.task == "reviews":
        y, mean = data["test"][1], data["train"][1].mean()
        head["constant"] = round(float((y - mean).square().mean().sqrt()), 4)
    for seed in args.seeds:
        for row in args.rows:
            if (row, seed) in done:
                continue
            found = run(args.task, row, seed, data)
            print(row, seed, found["last"], found["chosen"], found["cpu_seconds"], flush=True)
            earlier = added(earlier, [found], ["row", "seed"])
            write({**head, "runs": earlier}, out)


if __name__ == "__main__":
    main()
