"""A batch of sequences, padded or packed, seen step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

States = tuple[Tensor, ...]
"""What a recurrent layer carries on, ``(N, H)`` each: the state, and of an LSTM the cell."""


class Sequences(NamedTuple):
    """The values of a batch of sequences, the longest first where they are packed.

    Args:
        data: Padded values with time first, ``(T, N, K)``; packed ones ``(sum of lengths, K)``.
        packed: The packed sequences they come from, if they do.
    """

    data: Tensor
    packed: PackedSequence | None = None

    @property
    def batch_sizes(self) -> Tensor | None:
        """How many sequences have each step, ``(T,)``, where they are packed."""
        return None if self.packed is None else self.packed.batch_sizes

    @property
    def number(self) -> int:
        """Number of sequences N."""
        sizes = self.batch_sizes
        return self.data.shape[1] if sizes is None else int(sizes[0])

    def replaced(self, data: Tensor) -> Sequences:
        """Return other values of the same sequences."""
        return Sequences(data, self.packed)

    def ordered(self, rows: Tensor) -> Tensor:
        """Return rows, one for each sequence (or one for all), in the order of the sequences."""
        order = None if self.packed is None else self.packed.sorted_indices
        return rows if order is None or rows.shape[0] == 1 else rows.index_select(0, order)

    def by_row(self, rows: Tensor) -> Tensor:
        """Return rows that broadcast against ``data``: for each value that of its sequence.

        Args:
            rows: One for each sequence in their order, or one for all, ``(N, K)`` or ``(1, K)``.
        """
        sizes = self.batch_sizes
        if sizes is None or rows.shape[0] == 1:
            return rows
        own = torch.cat([torch.arange(size) for size in sizes.tolist()])
        return rows.index_select(0, own.to(rows.device))

    def steps(self, data: Tensor) -> Sequence[Tensor]:
        """Return values of these sequences by time step, ``(sequences that have it, K)`` each."""
        sizes = self.batch_sizes
        return data.unbind(0) if sizes is None else data.split(sizes.tolist())

    def joined(self, steps: Sequence[Tensor]) -> Tensor:
        """Return values by time step as ``data`` has them."""
        return torch.stack(list(steps)) if self.packed is None else torch.cat(list(steps))


class Carried:
    """The states of sequences of several lengths, from step to step.

    Going forward, sequences end: their states stay as they are. Going backward they begin, with
    the states that they were given.

    Args:
        states: The states before the first step, ``(N, H)`` each.
        number: How many sequences have the first step that runs.
    """

    def __init__(self, states: States, number: int) -> None:
        self.given = states
        self.states = tuple(state[:number] for state in states)
        self._ended: list[States] = []

    def resized(self, number: int) -> States:
        """Return the states of the first so many sequences, which have the next step."""
        present = len(self.states[0])
        if number < present:
            self._ended.append(tuple(state[number:] for state in self.states))
            self.states = tuple(state[:number] for state in self.states)
        elif number > present:
            pairs = zip(self.states, self.given, strict=True)
            self.states = tuple(torch.cat([state, new[present:number]]) for state, new in pairs)
        return self.states

    def final(self) -> States:
        """Return the states after the last step of each sequence, ``(N, H)`` each."""
        parts = [self.states, *reversed(self._ended)]
        return self.states if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
