"""Classifiers of texts, whose input is one number for each word; 0 is padding."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override


class MeanOfWords(nn.Module):
    """A deep averaging network: layers on the mean of the word vectors; see ``text_mean``.

    Args:
        num_classes: Number of outputs.
        num_words: Rows of the embedding.
        features: Its columns.
        hidden: Width of the two hidden layers.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc2`` and ``fc3``; none if 0.
    """

    def __init__(
        self, num_classes: int, num_words: int, features: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, features, padding_idx=0)
        idle = dropout == 0.0
        self.fc1 = nn.Linear(features, hidden)
        self.drop1: nn.Module = nn.Identity() if idle else nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, hidden)
        self.drop2: nn.Module = nn.Identity() if idle else nn.Dropout(dropout)
        self.fc3 = nn.Linear(hidden, num_classes)

    @override
    def forward(self, words: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` of words ``(N, T)``."""
        hidden = self.drop1(self.fc1(_mean_of_words(self.embedding(words), words)).relu())
        return self.fc3(self.drop2(self.fc2(hidden).relu()))


class MeanOfStates(nn.Module):
    """An LSTM, and a Linear on the mean of its states; see ``text_lstm``.

    Args:
        num_classes: Number of outputs.
        num_words: Rows of the embedding.
        features: Its columns.
        hidden: Width of the state.
        dropout: Drop probability of an ``nn.Dropout`` before ``head``; none if 0.
    """

    def __init__(
        self, num_classes: int, num_words: int, features: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, features, padding_idx=0)
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.drop: nn.Module = nn.Identity() if dropout == 0.0 else nn.Dropout(dropout)
        self.head = nn.Linear(hidden, num_classes)

    @override
    def forward(self, words: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` of words ``(N, T)``."""
        states = self.lstm(self.embedding(words))[0]
        return self.head(self.drop(_mean_of_words(states, words)))


def _mean_of_words(vectors: Tensor, words: Tensor) -> Tensor:
    """Return the mean of vectors ``(N, T, K)`` where there is a word, ``(N, K)``."""
    there = (words != 0).unsqueeze(-1)
    return (vectors * there).sum(1) / there.sum(1).clamp(min=1)


def text_mean(
    num_classes: int = 2,
    num_words: int = 1000,
    *,
    features: int = 64,
    hidden: int = 64,
    dropout: float = 0.0,
) -> nn.Module:
    """Two hidden layers on the mean of the word vectors.

    Args:
        num_classes: Number of outputs.
        num_words: Rows of the embedding; a recipe takes the size of the vocabulary.
        features: Its columns.
        hidden: Width of the hidden layers.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc2`` and ``fc3``; none if 0.

    Shape:  words ``(N, T)`` of int64 in ``0..num_words - 1``, 0 where there is none; output
        ``(N, num_classes)``.

    References:
        Iyyer, Manjunatha, Boyd-Graber, Daume (2015), "Deep unordered composition rivals syntactic
        methods for text classification".

    Example:
        >>> import torch
        >>> text_mean(3)(torch.tensor([[5, 2, 0]])).shape
        torch.Size([1, 3])
    """
    return MeanOfWords(num_classes, num_words, features, hidden, dropout)


def text_lstm(
    num_classes: int = 2,
    num_words: int = 1000,
    *,
    features: int = 32,
    hidden: int = 64,
    dropout: float = 0.0,
) -> nn.Module:
    """An LSTM over the words, and a Linear on the mean of its states.

    Args:
        num_classes: Number of outputs.
        num_words: Rows of the embedding; a recipe takes the size of the vocabulary.
        features: Its columns.
        hidden: Width of the state.
        dropout: Drop probability of an ``nn.Dropout`` before ``head``; none if 0.

    Shape:  words ``(N, T)`` of int64 in ``0..num_words - 1``, 0 where there is none; output
        ``(N, num_classes)``.

    Example:
        >>> import torch
        >>> text_lstm(3)(torch.tensor([[5, 2, 0]])).shape
        torch.Size([1, 3])
    """
    return MeanOfStates(num_classes, num_words, features, hidden, dropout)
