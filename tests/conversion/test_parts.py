"""Networks that torch.fx cannot trace are converted where their layers are."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.conversion import conversion_report
from bayesdrop.errors import ConfigError, ConversionError, ConversionWarning


class Untraced(nn.Sequential):
    """Control flow that looks at the data."""

    def forward(self, x):
        return super().forward(x if x.sum() < 1e9 else -x)


def dense(*, rate=0.0):
    """Return a network with hidden units between two layers, and one more layer."""
    return Untraced(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(rate), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
    )


def masks(net):
    return dict(bd.nn.named_dropout_layers(net))


class First(nn.Module):
    """The first of several values."""

    def forward(self, values):
        return values[0]


def test_masks_of_a_trained_network_start_nearly_open_by_the_number_of_its_parts():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    parts = (encoder, nn.GRU(4, 4, batch_first=True), First(), nn.Linear(4, 2))
    # The heads, the hidden units, the GRU with two masks, one more matrix.
    for net, number, found in ((dense(), 2, 2), (Untraced(*parts), 4, 5)):
        keep = [m.keep_prob()[0].item() for m in masks(bd.convert(net, trained=True)).values()]
        assert keep == pytest.approx([1 - 0.05 / number] * found)


def test_fixed_noise_is_put_only_where_a_trained_network_has_some():
    with pytest.warns(ConversionWarning, match=r"'5' \(Linear.*never had dropout"):
        net = bd.convert(dense(rate=0.3), "mc-dropout", trained=True)
    assert {name: float(m.drop_prob) for name, m in masks(net).items()} == {
        "3.mask": pytest.approx(0.3)
    }
    for key in ("mc-dropout", "gaussian-dropconnect"):
        with pytest.raises(ConversionError, match=r"'0' \(Linear\): the network is trained and"):
            bd.convert(dense(), key, trained=True)
        with pytest.warns(ConversionWarning, match=r"'5' \(Linear.*never had dropout"):
            asked = bd.convert(dense(), key, trained=True, overrides={"3": {"drop_prob": 0.1}})
        (placed,) = conversion_report(asked).placed
        assert placed.name in ("3", "3.mask")


def test_layers_get_random_weights_in_their_places():
    plain = dense().eval()
    net = bd.convert(plain, "sparse-variational", exclude="3", overrides={"5": {"kl_scale": 2.0}})
    assert type(net) is Untraced and not net[0].training
    weights = dict(bd.nn.named_weight_layers(net))
    assert [(name, layer.kl_scale) for name, layer in weights.items()] == [("0", 1.0), ("5", 2.0)]
    placed = [(p.name, p.where, p.number) for p in conversion_report(net).placed]
    assert placed == [("0", "weights of '0'", 24), ("5", "weights of '5'", 10)]
    x = torch.randn(3, 4)
    torch.testing.assert_close(bd.without_dropout(net)(x), plain(x))
    both = bd.convert(net)
    assert list(masks(both)) == ["3.mask"]


@pytest.mark.parametrize(
    "build", [dense, lambda: Untraced(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0))]
)
def test_layers_with_masks_get_no_others(build):
    with pytest.raises(ConversionError, match="its inputs have a mask already"):
        bd.convert(bd.convert(build()))


def test_random_weights_take_no_mask_off_a_layer():
    masked = bd.convert(dense(), exclude="0")
    with pytest.warns(ConversionWarning, match="'3' .*its inputs have a mask already"):
        both = bd.convert(masked, "sparse-variational")
    assert list(masks(both)) == list(masks(masked)) != []
    assert [name for name, _ in bd.nn.named_weight_layers(both)] == ["0"]


class Twice(nn.Module):
    """One dropout before each of two layers."""

    def __init__(self, rate=0.2):
        super().__init__()
        self.dense, self.out, self.dropout = nn.Linear(4, 4), nn.Linear(4, 2), nn.Dropout(rate)

    def forward(self, x):
        return self.out(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


def test_a_dropout_is_taken_out_only_where_all_its_units_have_masks():
    assert set(masks(bd.convert(Untraced(Twice())))) == {"0.dense.mask", "0.out.mask"}
    some = bd.convert(Untraced(Twice()), exclude="0.dense")
    assert set(masks(some)) == {"0.dropout", "0.out.mask"}


def test_a_dropout_of_rate_zero_is_one_if_a_rate_is_given():
    only = {"dropout": "mc-dropout", "linear": False}
    (given,) = masks(bd.convert(Untraced(Twice(0.0)), drop_prob=0.3, **only)).items()
    assert given[0] == "0.dropout" and float(given[1].drop_prob) == pytest.approx(0.3)
    with pytest.raises(ConversionError, match="at least one"):
        bd.convert(Untraced(Twice(0.0)), **only)


def test_the_first_stick_is_that_of_the_unit_with_the_largest_weights():
    net = dense()
    with torch.no_grad():
        net[3].weight[:, 2] *= 9
    assert int(masks(bd.convert(net, "indian-buffet"))["3.mask"].rank.argmin()) == 2


def test_what_needs_a_graph_is_refused_with_the_reason_for_which_there_is_none():
    with pytest.raises(ConversionError, match="torch.fx can trace.*used as inputs to control"):
        bd.convert(dense(), position="before-activation")
    with pytest.raises(ConfigError, match="unknown layer '7'. Available"):
        bd.convert(dense(), exclude="7")


class InTheDtypeOfItsWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        if x.dtype != self.first.weight.dtype or x.shape[-1] > self.first.weight.size(1):
            x = x[..., :4].to(self.first.weight.dtype)
        return self.last(self.first(x).relu())


class HandsThemOver(InTheDtypeOfItsWeights):
    def forward(self, x):
        return nn.functional.linear(x if x.sum() < 1 else -x, self.last.weight @ self.first.weight)


def test_layers_of_a_forward_that_asks_what_their_weights_are_get_masks():
    assert set(masks(bd.convert(InTheDtypeOfItsWeights()))) == {"first.mask", "last.mask"}
    with pytest.raises(ConversionError, match="'first' .*may hand its weights to a function"):
        bd.convert(HandsThemOver())


def test_warning_and_report_say_why_there_is_no_graph():
    parts = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    why = "Untraced: TraceError in test_parts.py, line .*x.sum.* cannot be used"
    with pytest.warns(ConversionWarning, match=f"'0' .*Conv2d.*There is no graph of it.*{why}"):
        report = conversion_report(bd.convert(Untraced(*parts)))
    assert repr(report).startswith("ConversionReport(Untraced, by parts: 1 put in")
    assert f"By parts, since there is no graph of it. {report.no_graph}\n" in str(report)
    graph = conversion_report(bd.convert(nn.Sequential(*parts)))
    assert graph.no_graph == "" and "by parts" not in str(graph).lower()
