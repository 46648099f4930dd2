"""An embedding whose words are dropped, each everywhere in a sequence."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.catalogue import make
from bayesdrop.nn.hooks import take_hooks
from bayesdrop.nn.inner_masks import InnerMasks
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.recurrent.places import Dropout, split_dropout


class WordWeights(nn.Module):
    """The weights behind the mask of an embedding, as those of a Linear that sees the words.

    Args:
        embedding: The embedding.
    """

    bias = None

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # of which it is no parent

    @property
    def weight(self) -> Tensor:
        """The embeddings, ``(features, words)``."""
        return self._embedding[0].weight.t()


class DropoutEmbedding(InnerMasks, nn.Embedding):
    r"""``nn.Embedding`` with dropout of words: one mask a sequence, an entry for each word.

    .. math:: y_{nt} = z_{n, w_{nt}}\, E_{w_{nt}}

    A word that is dropped is so wherever it stands in the sequence. The mask
    ``word_dropout`` has as many units as there are words, and any prior: one that learns its
    rates prunes words that the data has no use for, also those that are rare.

    Args:
        *args: Those of ``nn.Embedding``.
        word_dropout: The mask: a key of ``bd.nn.layers``, that key as ``"dropout"`` in a mapping
            with options, or None.
        batch_dim: The dimension of the sequences in the input: 1 for ``(T, N)``.
        **options: The keyword arguments of ``nn.Embedding``.

    Shape:  input ``(N, ...)`` of integers, output ``(N, ..., K)``. A single number is one
        sequence. Drawing a mask takes time in proportion to ``N`` times the number of words.
    Sites:  ``{module path}.word_dropout.z`` and its prior's, event ``(number of words,)``.

    Raises:
        ConfigError: If an argument makes no sense, or the mask depends on its input.
        DataError: If the input is not of integers.

    References:
        Gal, Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent
        Neural Networks", section 4.2, https://arxiv.org/abs/1512.05287.

    Example:
        >>> drop = {"dropout": "mc-dropout", "drop_prob": 0.5}
        >>> y = DropoutEmbedding(10, 4, word_dropout=drop)(torch.tensor([[3, 1, 3], [3, 3, 3]]))
        >>> bool((y[:, 0] == y[:, 2]).all())
        True
    """

    word_dropout: BayesianDropout | None

    def __init__(
        self,
        *args: Any,
        word_dropout: Dropout = "beta-bernoulli",
        batch_dim: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        who = type(self).__name__
        if not is_whole(batch_dim) or batch_dim < 0:
            raise ConfigError(
                who,
                expected="batch_dim >= 0, counted from the first dimension",
                got=f"batch_dim={batch_dim!r}",
                hint="Use 0 for inputs (N, T) and 1 for (T, N).",
            )
        self.batch_dim = batch_dim
        self.add_module("word_dropout", None)
        key, given = split_dropout(who, "word_dropout", word_dropout)
        if key is not None:
            mask = make(key, self.num_embeddings, **given)
            self.put_mask("word_dropout", mask.to(self.weight.device, self.weight.dtype))

    @override
    def mask_sizes(self) -> dict[str, int]:
        return {"word_dropout": self.num_embeddings}

    @override
    def weights_behind(self, place: str) -> nn.Module:
        return WordWeights(self)

    @override
    def to_plain(self) -> nn.Embedding:
        return self._like(self, nn.Embedding)

    @override
    @torch.no_grad()
    def with_mean_masks(self) -> nn.Embedding:
        new = self.to_plain()
        if self.word_dropout is not None:
            new.weight.mul_(self.word_dropout.mean_mask().unsqueeze(1))
        return new

    @classmethod
    def from_plain(cls, layer: nn.Embedding, *, batch_dim: int = 0) -> Self:
        """Return a layer with a copy of the weights of one of ``torch.nn``, without a mask yet.

        Args:
            layer: An ``nn.Embedding``, of torch's own class.
            batch_dim: The dimension of the sequences in the input.
        """
        if type(layer) is not nn.Embedding:
            raise ConfigError(
                f"{cls.__name__}.from_plain",
                expected="an nn.Embedding",
                got=repr(layer),
                hint="Other embeddings have no masks inside; put masks beside them.",
            )
        return cls._like(layer, cls, word_dropout=None, batch_dim=batch_dim)

    @staticmethod
    def _like(layer: nn.Embedding, cls: Any, **options: Any) -> Any:
        names = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
        options |= {name: getattr(layer, name) for name in names}
        new = cls(layer.num_embeddings, layer.embedding_dim, device="meta", **options)
        new.weight = nn.Parameter(layer.weight.detach().clone(), layer.weight.requires_grad)
        take_hooks(new, layer)
        return new.train(layer.training)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Look words up, those of every sequence under a mask of its own.

        Args:
            input: The numbers of the words, ``(N, ...)``.
        """
        if not isinstance(input, Tensor) or input.dtype not in (torch.int64, torch.int32):
            got = f"numbers of {input.dtype}" if isinstance(input, Tensor) else repr(input)
            raise DataError(
                type(self).__name__, expected="integers", got=got, hint="Pass x.long()."
            )
        embedded = super().forward(input)
        if self.word_dropout is None:
            return embedded
        alone = input.ndim <= self.batch_dim
        rows = [] if alone else [input.shape[self.batch_dim]]
        like = embedded.new_zeros(()).expand(*rows, self.num_embeddings)
        mask = torch.atleast_2d(self.word_dropout.sample_mask(like))
        if mask.shape[0] == 1:
            return embedded * mask[0][input].unsqueeze(-1)
        words = input.movedim(self.batch_dim, 0)
        own = mask.gather(1, words.flatten(1).long() if words.ndim > 1 else words[:, None].long())
        own = own.reshape(words.shape).movedim(0, self.batch_dim)
        return embedded * own.unsqueeze(-1)
