"""Attention whose heads can have masks is torch's own otherwise."""

import copy
import itertools

import pytest
import torch
from torch import nn

from bayesdrop.nn import MultiheadAttention

OPTIONS = [
    {},
    {"bias": False},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"kdim": 6, "vdim": 10},
]


def inputs_of(layer, batched):
    sizes = (8, layer.kdim, layer.vdim)
    lengths = (5, 7, 7)
    xs = [torch.randn(3, n, k) for n, k in zip(lengths, sizes, strict=True)]
    if not batched:
        return [x[0] for x in xs]
    return xs if layer.batch_first else [x.transpose(0, 1) for x in xs]


def masks_of(kind, batched):
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    if not batched:
        padding = padding[1]
    causal = torch.ones(5, 7, dtype=torch.bool).triu(1)
    heads = torch.randn(12 if batched else 4, 5, 7)
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "causal": {"attn_mask": causal},
        "float": {"attn_mask": torch.randn(5, 7)},
        "heads": {"attn_mask": heads},
        "both": {
            "attn_mask": causal.double() * -1e9,
            "key_padding_mask": padding.double() * -1e9,
        },
    }[kind]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
def test_outputs_and_weights_are_those_of_torch(options, batch_first):
    plain = nn.MultiheadAttention(8, 4, batch_first=batch_first, **options).eval()
    layer = copy.deepcopy(plain)
    MultiheadAttention.of(layer)
    kinds = ("none", "padding", "causal", "float", "heads", "both")
    for batched, kind, need in itertools.product((True, False), kinds, (True, False)):
        xs, masks = inputs_of(plain, batched), masks_of(kind, batched)
        expected, weights = plain(*xs, need_weights=need, average_attn_weights=False, **masks)
        got, own = layer(*xs, need_weights=need, average_attn_weights=False, **masks)
        torch.testing.assert_close(got, expected)
        if need:
            torch.testing.assert_close(own, weights)
            mean = plain(*xs, **masks)[1]
            torch.testing.assert_close(layer(*xs, **masks)[1], mean)
        else:
            assert own is None
    layer.restore()
    assert type(layer) is nn.MultiheadAttention
    assert layer.__dict__.keys() == plain.__dict__.keys()


def test_a_causal_hint_without_a_mask_is_refused_as_in_torch():
    layer = nn.MultiheadAttention(8, 4)
    MultiheadAttention.of(layer)
    x = torch.randn(3, 2, 8)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        layer(x, x, x, is_causal=True)
