"""Attention of torch's own whose heads can have masks, and need not be all there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class MultiheadAttention(nn.MultiheadAttention):
    r"""An ``nn.MultiheadAttention`` that calls its output projection, and may lack heads.

    .. math:: \mathrm{softmax}(q_h k_h^\top / \sqrt{d}) \, v_h \quad \text{for the heads } h
        \text{ that are there}

    Weights, arguments and outputs are those of torch's class, of which it is made by ``of``. That
    one hands the weights of ``out_proj`` to a function and cannot have fewer heads; here a mask on
    the inputs of ``out_proj`` gates heads, and ``heads`` says which are left. Attention weights,
    if asked for, are those of the heads that are left, and their mean.

    Shape:  as in torch; inside, ``out_proj`` sees ``(N, L, heads * head_dim)``, examples first.
    """

    heads: tuple[int, ...]
    """The heads that are left, by their numbers in the full layer."""
    num_heads_total: int
    """How many heads the full layer has."""

    @classmethod
    def of(cls, layer: nn.MultiheadAttention) -> None:
        """Make one of a layer of torch's own, in place."""
        layer.__class__ = cls
        setattr(layer, "heads", tuple(range(layer.num_heads)))  # noqa: B010 - of its new class
        setattr(layer, "num_heads_total", layer.num_heads)  # noqa: B010
        # Torch's fused kernel for a whole encoder layer would use the weights by itself.
        layer._qkv_same_embed_dim = False

    def restore(self) -> None:
        """Make this a layer of torch's own again, in place, if no head is missing."""
        if len(self.heads) < self.num_heads_total:
            return
        self._qkv_same_embed_dim = self.in_proj_weight is not None
        del self.heads, self.num_heads_total
        self.__class__ = nn.MultiheadAttention  # type: ignore[assignment]

    @property
    def projections(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of query, key and value."""
        weights: tuple[Tensor, ...] = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        biases: tuple[Tensor | None, ...] = (
            (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        )
        return list(zip(weights, biases, strict=True))

    @override
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs, and the attention weights if they are needed."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        inputs = (query, key, value)
        if not batched:
            inputs = tuple(x.unsqueeze(0) for x in inputs)  # type: ignore[assignment]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)  # type: ignore[assignment]
        mask = self._mask(inputs, key_padding_mask, attn_mask)
        parts = [
            F.linear(x, *weights) for x, weights in zip(inputs, self.projections, strict=True)
        ]
        parts[1:], mask = self._extended(parts[1:], mask)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in parts)
        rate = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            scores = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(scores, rate)
            output = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            output = F.scaled_dot_product_attention(q, k, v, mask, rate)
        output = self.out_proj(output.transpose(1, 2).flatten(-2))
        if not batched:
            output = output.squeeze(0)
            return output, weights.squeeze(0) if need_weights else None
        return output if self.batch_first else output.transpose(0, 1), (
            weights if need_weights else None
        )

    def _mask(
        self, inputs: Any, key_padding_mask: Tensor | None, attn_mask: Tensor | None
    ) -> Tensor | None:
        """Return what is added to the scores ``(N, heads, L, S)``."""
        query, key = inputs[:2]
        padding = F._canonical_mask(
            mask=key_padding_mask,
            mask_name="key_padding_mask",
            other_type=F._none_or_dtype(attn_mask),
            other_name="attn_mask",
            target_type=query.dtype,
        )
        mask = F._canonical_mask(
            mask=attn_mask,
            mask_name="attn_mask",
            other_type=None,
            other_name="",
            target_type=query.dtype,
            check_other=False,
        )
        if mask is not None and mask.dim() == 3:
            mask = mask.reshape(len(query), -1, *mask.shape[1:])
            mask = mask[:, list(self.heads)] if mask.shape[1] == self.num_heads_total else mask
        if padding is not None:
            padding = padding.reshape(len(key), 1, 1, -1)
            mask = padding if mask is None else mask + padding
        return mask

    def _extended(
        self, parts: list[Tensor], mask: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return keys and values with those of ``add_bias_kv`` and ``add_zero_attn``."""
        more = 0
        if self.bias_k is not None and self.bias_v is not None:
            own = (self.bias_k, self.bias_v)
            parts = [
                torch.cat([x, bias.expand(len(x), 1, -1)], 1)
                for x, bias in zip(parts, own, strict=True)
            ]
            more += 1
        if self.add_zero_attn:
            parts = [F.pad(x, (0, 0, 0, 1)) for x in parts]
            more += 1
        return parts, mask if mask is None else F.pad(mask, (0, more))
