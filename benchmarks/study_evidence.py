"""What is kept of each image, so that any two methods can be compared on the same ones later.

Of 10,000 images a way of predicting takes some ten kilobytes: a bit for right or wrong, and minus
the log-likelihood in steps of 4.4 %, of which the confidence follows where the class is right.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayesdrop.files import write_file

FLOOR, STEPS = 2.0**-10, 16
"""Nats below which values are not told apart, and steps of the code for a doubling."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What a classifier said of each test image.

    Args:
        correct: Whether its class is the right one, ``(N,)``.
        nll: Minus the log-probability of the right class, nats.
        surprise: Minus the log-probability of its own class.
    """

    correct: NDArray[np.bool_]
    nll: Floats
    surprise: Floats

    @classmethod
    def of(cls, probabilities: Floats, labels: NDArray[np.int64]) -> Evidence:
        """Return the evidence of probabilities ``(N, C)``."""
        own = probabilities.argmax(1)
        rows = np.arange(len(labels))
        tiny = np.finfo(np.float64).tiny
        values = -np.log(np.maximum(probabilities, tiny))
        return cls(own == labels, values[rows, labels], values[rows, own])

    @property
    def confidence(self) -> Floats:
        """Probability of the class it chose."""
        return np.exp(-self.surprise)


def encode(nats: Floats) -> NDArray[np.uint8]:
    """Return values as bytes: steps of a sixteenth of a doubling above ``FLOOR``.

    A value x is off by at most 2.2 % of x + ``FLOOR``.
    """
    return np.round(STEPS * np.log2(1.0 + nats / FLOOR)).clip(0, 255).astype(np.uint8)


def decode(code: NDArray[np.uint8]) -> Floats:
    """Return the values of ``encode``."""
    return FLOOR * (2.0 ** (code.astype(np.float64) / STEPS) - 1.0)


def save(path: Path, ways: dict[str, Evidence]) -> None:
    """Write the evidence of each way of predicting."""
    arrays = {}
    for way, evidence in ways.items():
        arrays[f"{way}.count"] = np.array(len(evidence.correct))
        arrays[f"{way}.correct"] = np.packbits(evidence.correct)
        arrays[f"{way}.nll"] = encode(evidence.nll)
        # Where the class is right it is the same.
        arrays[f"{way}.surprise"] = encode(evidence.surprise[~evidence.correct])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_file(path, lambda file: file.write(buffer.getvalue()))


def load(path: Path) -> dict[str, Evidence]:
    """Return what ``save`` wrote, with values as exact as their code."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {}
        for way in sorted({name.split(".")[0] for name in arrays.files}):
            count = int(arrays[f"{way}.count"])
            correct = np.unpackbits(arrays[f"{way}.correct"], count=count).astype(bool)
            nll = decode(arrays[f"{way}.nll"])
            surprise = nll.copy()
            surprise[~correct] = decode(arrays[f"{way}.surprise"])
            found[way] = Evidence(correct, nll, surprise)
        return found
