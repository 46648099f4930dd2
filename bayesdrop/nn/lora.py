"""Low-rank adaptation (LoRA) with a mask over the ranks: the posterior chooses the rank."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from bayesdrop.errors import CompactionError, ConfigError
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.nn.catalogue import make, registered
from bayesdrop.nn.mask import BayesianDropout


class MaskedRanks(nn.Module):
    r"""The second factor of a low-rank update, with a mask over its inputs, the ranks.

    .. math:: h \mapsto B\,(z \odot h)

    It stands where the layer ``linear`` stood, also in an adapter of ``peft``: ``weight`` is
    :math:`B\,\mathrm{diag}(E[z])`, so that what merges the update takes the mean mask.

    Args:
        linear: The factor :math:`B`, a Linear or a convolution of kernel size 1; used, not copied.
        mask: A mask over its inputs.

    Shape:  input and output as those of ``linear``.
    Sites:  those of ``mask``.
    """

    def __init__(self, linear: nn.Module, mask: BayesianDropout) -> None:
        super().__init__()
        self.linear = linear
        self.mask = mask

    def forward(self, input: Tensor) -> Tensor:
        """Return ``linear`` of the masked ranks."""
        return self.linear(self.mask(input))

    @property
    def weight(self) -> Tensor:
        """The weight under the mean mask, with zeros for pruned ranks."""
        own: Tensor = self.linear.get_parameter("weight")
        mean = self.mean_mask().to(own.dtype)
        return own * mean.reshape(-1, *[1] * (own.ndim - 2))

    @property
    def bias(self) -> Tensor | None:
        """The bias of ``linear``, if it has one."""
        return self.linear.bias if isinstance(self.linear.bias, Tensor) else None

    def mean_mask(self) -> Tensor:
        """Return the mean mask, ``(r,)``.

        Raises:
            CompactionError: If the mask depends on the input.
        """
        if self.mask.input_dependent:
            raise CompactionError(
                "MaskedRanks",
                expected="a mask that is the same for every input",
                got=f"{self.mask.name}, which looks at its input",
                hint="Merge and cut adapters whose ranks have one of the other priors.",
            )
        return self.mask.mean_mask()

    @torch.no_grad()
    def cut(self, first: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Return both factors of the update without the pruned ranks and without the mask.

        The mean mask's factors are multiplied into the second. If no rank is kept the first one
        stays, with a weight of zero.

        Args:
            first: The first factor, whose outputs the ranks are; not changed.
        """
        kept = self.mean_mask() != 0
        if not kept.any():
            kept[0] = True
        return _with_weight(first, first.get_parameter("weight")[kept]), _with_weight(
            self.linear, self.weight[:, kept]
        )


class LoRALinear(nn.Module):
    r"""A frozen Linear layer with a low-rank update whose rank a posterior chooses.

    .. math:: y = W x + b + \frac{\alpha}{r}\, B\,(z \odot A x), \qquad z \sim q(z \mid \pi)

    with :math:`A \in \mathbb{R}^{r \times d}` and :math:`B \in \mathbb{R}^{o \times r}`, which
    starts at zero. An example has one mask, shared by its positions. ``cut`` removes the ranks
    that are pruned, exactly; ``merge`` gives one Linear layer.

    Args:
        linear: The layer to adapt; copied, and frozen.
        rank: The largest rank :math:`r`.
        alpha: Scale :math:`\alpha > 0` of the update; None is ``rank``, a factor of 1.
        dropout: Key of the mask over the ranks in ``bd.nn.layers``; None for none.
        **options: Keyword arguments of the mask.

    Shape:  input ``(N, ..., in_features)``, output ``(N, ..., out_features)``.
    Sites:  those of the mask, ``{module path}.lora_B.mask.pi`` and ``.z`` for beta-Bernoulli.

    Raises:
        ConfigError: If ``linear`` is no Linear layer, a number is out of range, or ``dropout`` is
            no mask.

    References:
        Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen (2021), "LoRA: Low-Rank Adaptation of
        Large Language Models", https://arxiv.org/abs/2106.09685. Masks on ranks with another
        prior: "BayesLoRA", https://arxiv.org/abs/2506.22809.

    Example:
        >>> layer = LoRALinear(nn.Linear(6, 4), 3)
        >>> layer(torch.ones(2, 6)).shape, layer.rank
        (torch.Size([2, 4]), 3)
        >>> layer.lora_B.mask.set_posterior(torch.tensor([1e-4, 5.0, 1e-4]))
        >>> layer.cut().rank
        1
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int = 8,
        *,
        alpha: float | None = None,
        dropout: str | None = "beta-bernoulli",
        **options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise ConfigError(
                "LoRALinear",
                expected="an nn.Linear to adapt",
                got=repr(linear),
                hint="For other layers use peft and bd.conversion.mask_lora_ranks.",
            )
        scale = rank if alpha is None else alpha
        if not is_whole(rank) or rank < 1 or not is_real(scale) or not 0.0 < scale < math.inf:
            raise ConfigError(
                "LoRALinear",
                expected="a whole rank >= 1 and a finite alpha > 0",
                got=f"rank={rank!r}, alpha={alpha!r}",
                hint="Ranks of 4 to 64 are usual, and alpha from rank to 2 rank.",
            )
        like: dict[str, Any] = {
            "bias": False,
            "device": linear.weight.device,
            "dtype": linear.weight.dtype,
        }
        self.linear = copy.deepcopy(linear).requires_grad_(False)
        self.scaling = scale / rank
        self.lora_A: nn.Module = nn.Linear(linear.in_features, rank, **like)
        second = nn.Linear(rank, linear.out_features, **like)
        nn.init.zeros_(second.weight)
        mask = None if dropout is None else mask_of_ranks(dropout, second, options)
        self.lora_B: nn.Module = second if mask is None else MaskedRanks(second, mask)
        self.train(linear.training)

    @property
    def rank(self) -> int:
        """The number of ranks that the layer computes with, pruned ones included."""
        return self.lora_A.get_parameter("weight").shape[0]

    def forward(self, input: Tensor) -> Tensor:
        """Return the frozen layer's output and the update's."""
        return self.linear(input) + self.lora_B(self.lora_A(input)) * self.scaling

    def cut(self) -> LoRALinear | nn.Linear:
        """Return the layer under the mean mask without mask and pruned ranks.

        Raises:
            CompactionError: If the mask depends on the input.

        Returns:
            A ``LoRALinear`` of the ranks that are kept, with the scale of this one, or the plain
            Linear layer if none is.
        """
        result = copy.deepcopy(self)
        if isinstance(self.lora_B, MaskedRanks):
            if not self.lora_B.mean_mask().any():
                return _plain(self.linear)
            result.lora_A, result.lora_B = self.lora_B.cut(self.lora_A)
        return result

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Return one Linear layer with the outputs of this one under the mean mask.

        Raises:
            CompactionError: If the mask depends on the input.
        """
        result = _plain(self.linear)
        result.weight += self.update()
        return result

    def update(self) -> Tensor:
        r"""Return the update of the weight under the mean mask, :math:`(\alpha / r) B'A`.

        Raises:
            CompactionError: If the mask depends on the input.
        """
        second = cast(Tensor, self.lora_B.weight)
        return self.scaling * (second @ self.lora_A.get_parameter("weight"))

    def extra_repr(self) -> str:
        """Show the factor on the update."""
        return f"scaling={self.scaling:g}"


def mask_of_ranks(
    dropout: str, second: nn.Module, options: dict[str, Any], keep_prob: float | None = None
) -> BayesianDropout:
    """Return a mask over the ranks of an update, on the device and of the dtype of its factor.

    Args:
        dropout: Key of a mask.
        second: The second factor of the update, whose inputs the ranks are.
        options: Keyword arguments of the mask.
        keep_prob: Where the update is trained: how likely ranks are kept at the beginning.

    Raises:
        ConfigError: If the key is that of random weights, or unknown, or an option is.
    """
    masks = registered(BayesianDropout)
    weight = second.get_parameter("weight")
    ranks = weight.shape[1]
    start: dict[str, Any] = {"unit_dim": 1 - weight.ndim}
    if keep_prob is not None and dropout in masks:
        start |= masks[dropout].options_for_trained(ranks, keep_prob)
    mask = make(dropout, ranks, **start, **options) if dropout in masks else None
    if mask is None:
        known = ", ".join(masks)
        raise ConfigError(
            "ranks of LoRA",
            expected=f"the key of a mask, one of {known}",
            got=f"dropout={dropout!r}",
            hint="Random weights go around whole layers, not between two factors.",
        )
    mask.bind_weights(second, 1)
    return mask.to(device=weight.device, dtype=weight.dtype)


def _plain(linear: nn.Module) -> nn.Linear:
    weight, bias = linear.get_parameter("weight"), getattr(linear, "bias", None)
    result = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    result.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        result.bias = nn.Parameter(bias.detach().clone())
    return result.train(linear.training)


def _with_weight(layer: nn.Module, weight: Tensor) -> nn.Module:
    """Return a copy of a layer with another weight, and the sizes that go with it."""
    own = layer.get_parameter("weight")
    result = copy.deepcopy(layer)
    result.weight = nn.Parameter(weight.detach().clone(), own.requires_grad)
    names = ("out_channels", "in_channels") if own.ndim > 2 else ("out_features", "in_features")
    for name, size in zip(names, weight.shape[:2], strict=True):
        setattr(result, name, size)
    return result
