"""What torch.fx keeps of compiled graphs is given back with them."""

import gc
import linecache

import torch
from torch import nn

import bayesdrop as bd


def texts():
    return [name for name in linecache.cache if str(name).startswith("<eval_with_key>")]


def test_converted_and_compact_networks_leave_no_text_behind():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    before = set(texts())
    masked = bd.convert(net)
    small = bd.compact(masked, torch.randn(2, 4))
    kept = set(texts()) - before
    assert kept == {type(m).forward.__code__.co_filename for m in (masked, small)}
    assert "return" in masked.code
    assert linecache.getlines(type(small).forward.__code__.co_filename)
    del masked, small
    gc.collect()
    assert not set(texts()) - before
