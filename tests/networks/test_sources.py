"""What torch.fx keeps of compiled graphs is given back with them."""

import gc
import linecache

import pytest
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


def test_warnings_of_convert_name_the_line_of_its_caller():
    net = nn.Sequential(nn.Linear(4, 6), nn.RNN(6, 5))
    with pytest.warns(bd.errors.ConversionWarning) as found:
        bd.convert(net)
    assert found[0].filename == __file__
