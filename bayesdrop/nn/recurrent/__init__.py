"""Recurrent layers and embeddings with one mask a sequence inside."""

from bayesdrop.nn.recurrent.embedding import DropoutEmbedding
from bayesdrop.nn.recurrent.gru import DropoutGRU
from bayesdrop.nn.recurrent.layer import RecurrentDropout
from bayesdrop.nn.recurrent.lstm import DropoutLSTM

__all__ = ["DropoutEmbedding", "DropoutGRU", "DropoutLSTM", "RecurrentDropout"]
