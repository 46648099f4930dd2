"""Embeddings that can be cut to any length, which is drawn from a learned law in training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesdrop.distributions import OrderedMask
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.masks.variational_nested import VariationalNestedDropout
from bayesdrop.typing import NumMasks


class VariationalMatryoshka(nn.Module):
    r"""The expected loss of embeddings cut to a length that is drawn from a learned law.

    .. math::
        E_{q(k)}\bigl[\ell(x_{1:k})\bigr] + w\,\mathrm{KL}(q \,\|\, p)
        \qquad\text{with optimum}\qquad q(k) \propto p(k)\, e^{-\ell(x_{1:k}) / w}

    so that no list of lengths is chosen by hand: each is trained, and lengths that are worth
    it more often. The prior is the same chance for each number of groups. All embeddings of a call
    are cut alike, and normalised. A cut embedding has zeros behind it, which neither cosine nor
    distance sees.

    Training mode draws ``num_widths`` lengths, between two of which the features of one group may
    count in part (``OrderedMaskInterpolated``): the law's gradient is then that of the
    expectation, while the loss itself is near it only. ``gradient="straight-through"`` cuts whole
    groups. In evaluation mode, and without gradients, the expectation is summed.

    Args:
        num_features: Length of the embedding.
        num_widths: Lengths drawn in a call, at the price of the loss alone; ``"exact"`` sums over
            all. The encoder runs once in any case.
        **options: Of the law, a ``VariationalNestedDropout``: ``num_groups`` (32 by default: a
            length in between is cut in the middle of a group), ``kl_scale`` for :math:`w`, which
            is 1 by default, ``learn_order=False`` for a law that stays the prior.

    Raises:
        ConfigError: If a number is out of range, or an option is unknown.

    References:
        Kusupati et al. (2022), "Matryoshka Representation Learning",
        https://arxiv.org/abs/2205.13147, sums over fixed lengths. The law: Cui et al. (2021),
        https://arxiv.org/abs/2101.11353.

    Example:
        >>> matryoshka = VariationalMatryoshka(8)
        >>> a, b = torch.randn(2, 5, 8, requires_grad=True)
        >>> matryoshka.loss(lambda a, b: -(a * b).sum(-1).mean(), a, b).shape
        torch.Size([])
        >>> lengths, probs = matryoshka.lengths()
        >>> lengths.tolist(), bool(probs.sum().isclose(torch.ones(())))
        ([1, 2, 3, 4, 5, 6, 7, 8], True)
    """

    def __init__(self, num_features: int, *, num_widths: NumMasks = 1, **options: Any) -> None:
        super().__init__()
        if num_widths != "exact" and not (is_whole(num_widths) and num_widths >= 1):
            raise ConfigError(
                type(self).__name__,
                expected="num_widths >= 1 or 'exact'",
                got=f"num_widths={num_widths!r}",
                hint="1 is the cheapest; more have less noise.",
            )
        if "shared_by" in options:
            raise ConfigError(
                type(self).__name__,
                expected="one length for all embeddings of a call",
                got=f"shared_by={options['shared_by']!r}",
                hint="Embeddings of different lengths cannot be compared.",
            )
        prior = {"prior_continue_prob": None, "init_continue_prob": None}
        self.num_widths = num_widths
        self.law = VariationalNestedDropout(num_features, **{**prior, **options})

    def lengths(self) -> tuple[Tensor, Tensor]:
        """Return the lengths that are drawn, and the probability of each."""
        order = OrderedMask(logits=self.law.clamped_logits(), validate_args=False)
        return self._masks().sum(-1).long(), order.tail_probs

    def loss(self, function: Callable[..., Tensor], *embeddings: Tensor) -> Tensor:
        """Return the expected value of a function of cut embeddings, and the divergence.

        Args:
            function: Called with as many tensors as there are ``embeddings``, of their shapes.
            *embeddings: Of shape ``(..., num_features)``, as many as the function takes.

        Raises:
            ShapeError: If the last dimension of one is not ``num_features``.
        """
        for embedding in embeddings:
            self._check(embedding)
        return self._expected(lambda mask: function(*(cut(e, mask) for e in embeddings)))

    def _expected(self, of_mask: Callable[[Tensor], Tensor]) -> Tensor:
        kl = self.law.kl_divergence()
        if self.num_widths == "exact" or not (self.training and torch.is_grad_enabled()):
            _, probs = self.lengths()
            terms = [p * of_mask(m) for p, m in zip(probs, self._masks(), strict=True)]
            return sum(terms[1:], start=terms[0]) + kl
        draws = int(self.num_widths)
        masks = [self.law.draw_mask(self.law.draw_latents()) for _ in range(draws)]
        terms = [of_mask(mask) for mask in masks]
        return sum(terms[1:], start=terms[0]) / draws + kl

    def _masks(self) -> Tensor:
        law = self.law
        return torch.stack(
            [law.prefix_mask(law.always_kept + k) for k in range(law.num_ordered + 1)]
        )

    def _check(self, embedding: Tensor) -> None:
        size = self.law.num_units
        if embedding.ndim < 1 or embedding.shape[-1] != size:
            raise ShapeError(
                type(self).__name__,
                expected=f"embeddings of {size} features",
                got=f"shape {tuple(embedding.shape)}",
                hint="Pass the length of the embedding as num_features.",
            )


class VariationalMatryoshkaLoss(VariationalMatryoshka):
    r"""``VariationalMatryoshka`` as a loss of sentence-transformers.

    It stands where ``MatryoshkaLoss(model, loss, matryoshka_dims=[...])`` does, around a loss that
    calls the model: ``MultipleNegativesRankingLoss``, ``CoSENTLoss``, ... Its trainer trains the
    law with the rest, at the model's small learning rate; give it its own by
    ``SentenceTransformerTrainingArguments(learning_rate_mapping={r"law\.order": 1e-2})``.
    The model needs no change to be used: ``SentenceTransformer(..., truncate_dim=k)``.

    Args:
        model: A ``SentenceTransformer``, or any module that maps features to a dictionary with
            ``"sentence_embedding"``.
        loss: A module called as ``loss(sentence_features, labels)``, which calls this model.
        num_features: Length of the embedding; None asks ``model.get_embedding_dimension()``.
        num_widths: As of ``VariationalMatryoshka``.
        **options: Of the law, likewise.

    Raises:
        ConfigError: If ``loss`` caches gradients (``Cached...Loss``), or an argument is wrong.

    Example:
        >>> class Encoder(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(3, 8)
        ...
        ...     def forward(self, features):
        ...         return {"sentence_embedding": self.linear(features["x"])}
        >>> class Cosine(nn.Module):
        ...     def __init__(self, model):
        ...         super().__init__()
        ...         self.model = model
        ...
        ...     def forward(self, features, labels):
        ...         a, b = (self.model(f)["sentence_embedding"] for f in features)
        ...         return ((a * b).sum(-1) - labels).square().mean()
        >>> encoder = Encoder()
        >>> loss = VariationalMatryoshkaLoss(encoder, Cosine(encoder), num_features=8)
        >>> loss([{"x": torch.ones(5, 3)}, {"x": torch.ones(5, 3)}], torch.ones(5)).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_features: int | None = None,
        num_widths: NumMasks = 1,
        **options: Any,
    ) -> None:
        if hasattr(loss, "calculate_loss"):
            raise ConfigError(
                "VariationalMatryoshkaLoss",
                expected="a loss that keeps the graph of its embeddings",
                got=f"a {type(loss).__name__}, which caches their gradients",
                hint="Use the loss of that name without 'Cached', with a smaller batch.",
            )
        if num_features is None and not hasattr(model, "get_embedding_dimension"):
            raise ConfigError(
                "VariationalMatryoshkaLoss",
                expected="num_features, or a model with get_embedding_dimension()",
                got=f"a {type(model).__name__} and num_features=None",
                hint="Pass the length of the embedding.",
            )
        size: Any = num_features
        if num_features is None:
            size = model.get_embedding_dimension()  # type: ignore[operator]
        super().__init__(size, num_widths=num_widths, **options)
        self.model = model
        # Not `loss`, which is the method.
        self.inner = loss

    def forward(self, sentence_features: Iterable[Any], labels: Tensor | None) -> Tensor:
        """Return the expected loss and the divergence.

        Args:
            sentence_features: One collection of features for each column of the data.
            labels: Passed on. If they are embeddings, as in distillation, they are cut as well.
        """
        columns = list(sentence_features)
        outputs: list[dict[str, Any]] = []

        def of_mask(mask: Tensor) -> Tensor:
            calls = itertools.count()

            def forward(features: Any, **keywords: Any) -> dict[str, Any]:
                index = next(calls)
                if index == len(outputs):
                    outputs.append(run(features, **keywords))
                    self._check(outputs[index]["sentence_embedding"])
                embedding = cut(outputs[index]["sentence_embedding"], mask)
                return {**outputs[index], "sentence_embedding": embedding}

            self.model.forward = forward
            size = self.law.num_units
            like = isinstance(labels, Tensor) and labels.ndim > 1 and labels.shape[-1] == size
            return self.inner(columns, labels * mask if like and labels is not None else labels)

        run, own = self.model.forward, "forward" in vars(self.model)
        try:
            return self._expected(of_mask)
        finally:
            if own:
                self.model.forward = run
            else:
                del self.model.forward

    def get_config_dict(self) -> dict[str, Any]:
        """Return what sentence-transformers writes into a model card."""
        lengths, probs = self.lengths()
        pairs = zip(lengths.tolist(), probs.tolist(), strict=True)
        law = {length: round(prob, 4) for length, prob in pairs}
        return {"loss": type(self.inner).__name__, "law_of_lengths": law}


def cut(embedding: Tensor, mask: Tensor) -> Tensor:
    """Return embeddings with a mask on their features, normalised."""
    return F.normalize(embedding * mask.to(embedding.dtype), dim=-1)
