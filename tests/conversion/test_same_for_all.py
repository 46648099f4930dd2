"""Layers that see parameters or positions, and no examples, get no mask of an example."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.conversion import conversion_report
from bayesdrop.errors import ConversionWarning


class Beside(nn.Module):
    """A layer whose input is not the network's."""

    def __init__(self, given, join=torch.add):
        super().__init__()
        self.first, self.side, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.own = nn.Parameter(torch.randn(5, 4))
        self.register_buffer("table", torch.randn(5, 4))
        self.words = nn.Parameter(torch.randn(7, 4))
        self.given, self.join = given, join

    def forward(self, x):
        beside = self.side(self.given(self, x))
        return self.last(F.relu(self.join(self.first(x), beside)).mean(1))


SAME = {
    "parameter": lambda s, x: s.own,
    "buffer": lambda s, x: s.table.to(x.dtype),
    "steps": lambda s, x: torch.arange(x.shape[1], dtype=x.dtype)[:, None] + s.own,
    "words of steps": lambda s, x: s.words[torch.arange(x.size(1))],
    "zeros of steps": lambda s, x: x.new_zeros(x.size(1), x.shape[-1]) + s.own,
    "type": lambda s, x: s.own.type_as(x),
}  # fmt: skip
OF_EXAMPLES = {
    "input": lambda s, x: x,
    "repeated": lambda s, x: s.own.expand(x.shape[0], -1, -1),
    "repeated by size": lambda s, x: s.own.repeat(x.size(0), 1, 1),
    "zeros": lambda s, x: torch.zeros_like(x) + s.own,
    "new": lambda s, x: x.new_ones(x.shape[0], 5, 4) * s.own,
    "sum": lambda s, x: s.own + 0 * x,
}


@pytest.mark.parametrize("name", SAME)
def test_a_layer_that_sees_no_examples_is_left_with_its_reason(name):
    net = Beside(SAME[name]).eval()
    with pytest.warns(ConversionWarning, match=r"'side' \(Linear.*sees no examples"):
        converted = bd.convert(net)
    assert [p.name for p in conversion_report(converted).placed] == [
        "first_dropout", "last_dropout",
    ]  # fmt: skip
    bnn = bd.BayesianNetwork(converted, bd.Categorical(), num_data=8)
    x, y = torch.randn(8, 5, 4), torch.randint(3, (8,))
    bd.fit(bnn, (x, y), epochs=1, progress=False)
    for shared_by in ("batch", "example"):
        assert bd.predict(bnn, x, num_samples=2, shared_by=shared_by).mean.shape == (8, 3)
    bd.convert(net, exclude="side")


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_a_layer_whose_input_has_a_row_for_each_example_gets_its_mask(name):
    converted = bd.convert(Beside(OF_EXAMPLES[name]))
    assert "side_dropout" in [p.name for p in conversion_report(converted).placed]
    bnn = bd.BayesianNetwork(converted.eval(), bd.Categorical(), num_data=3)
    assert bd.predict(bnn, torch.randn(3, 5, 4), num_samples=2).mean.shape == (3, 3)


def test_recurrent_layers_and_embeddings_of_positions_are_left_too():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.order = nn.Embedding(7, 4), nn.GRU(4, 4)
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            return self.last(F.relu(x + self.order(self.words(torch.arange(5)))[0]).mean(1))

    with pytest.warns(ConversionWarning, match=r"'words'.*sees no examples.*'order'"):
        converted = bd.convert(Steps(), embedding=True)
    assert [p.name for p in conversion_report(converted).placed] == ["last_dropout"]
