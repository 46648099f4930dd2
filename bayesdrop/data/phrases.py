"""Short verdicts made by rule: a text data set that needs no file, and an order that matters."""

from __future__ import annotations

import torch

NAME, CLASSES = "phrases", ("blame", "praise")
_GOOD = ("good", "fine", "great", "clever", "moving", "bright", "charming", "honest")
_BAD = ("bad", "poor", "dull", "silly", "empty", "clumsy", "tired", "false")
_THINGS = ("film", "book", "song", "play", "story", "ending", "cast", "plot", "first half")
_FRAMES = (
    "the {thing} is {verdict}",
    "a {thing} that is {verdict}",
    "i found the {thing} {verdict}",
    "what a {thing} , {verdict} from the first to the last",
    "they say the {thing} was long , but it is {verdict}",
)
_NUMBER = 1500


def phrases() -> list[tuple[str, str]]:
    """Return texts and their classes, always the same.

    A verdict is one word, or "not" and a word of the other kind in a quarter of the texts; one
    text in twenty has the wrong class.
    """
    generator = torch.Generator().manual_seed(0)

    def one_of(words: tuple[str, ...]) -> str:
        return words[int(torch.randint(len(words), (), generator=generator))]

    def chance(share: float) -> bool:
        return bool(torch.rand((), generator=generator, dtype=torch.float64) < share)

    rows = []
    for number in range(_NUMBER):
        praise, negated, wrong = number % 2 == 1, chance(0.25), chance(0.05)
        word = one_of(_GOOD if praise != negated else _BAD)
        verdict = f"not {word}" if negated else word
        text = one_of(_FRAMES).format(thing=one_of(_THINGS), verdict=verdict)
        rows.append((text, CLASSES[praise != wrong]))
    return rows
