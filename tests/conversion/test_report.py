"""What convert says of what it has done, and of what it has left."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.conversion import ConversionReport, conversion_report
from bayesdrop.errors import ConfigError, ConversionError, ConversionWarning


class Around(nn.Module):
    """A part with weights or dropout of its own, between two Linear layers."""

    def __init__(self, part):
        super().__init__()
        self.first, self.part, self.last = nn.Linear(3, 8), part, nn.Linear(8, 2)

    def forward(self, x):
        h = F.relu(self.first(x))
        h = self.part(h, h, h) if isinstance(self.part, nn.MultiheadAttention) else self.part(h)
        return self.last(h[0] if isinstance(h, tuple) else h)


class Always(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        return self.drop(x)


PARTS = {
    "LSTM": (lambda: nn.LSTM(8, 8, batch_first=True), 0.0),
    "LSTM with dropout": (lambda: nn.LSTM(8, 8, 2, batch_first=True, dropout=0.3), 0.3),
    "GRU": (lambda: nn.GRU(8, 8, 2, dropout=0.3), 0.3),
    "RNN": (lambda: nn.RNN(8, 8), 0.0),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2, dropout=0.4), 0.4),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.3), 0.3),
    "FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(0.3), 0.3),
}


@pytest.mark.parametrize("key", ["beta-bernoulli", "mc-dropout", "sparse-variational"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_with_weights_or_dropout_of_its_own_is_named_in_one_warning(name, key):
    build, rate = PARTS[name]
    if type(build()) in (nn.LSTM, nn.GRU) and key != "sparse-variational":
        return  # they get masks inside
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = bd.convert(Around(build()), key)
    assert [warning.category for warning in caught] == [ConversionWarning]
    assert caught[0].filename == __file__
    assert f"'part' ({name.split()[0]}" in str(caught[0].message)
    assert (f"dropout {rate:g}" in str(caught[0].message)) == (rate > 0)
    (left,) = conversion_report(net).unexpected
    assert (left.name, left.drop_prob) == ("part", rate)
    masked = name == "MultiheadAttention" and key != "sparse-variational"
    size = sum(p.numel() for p in build().parameters())
    assert left.num_parameters == (0 if masked else size)
    bd.convert(Around(build()), key, exclude="part")  # meant, and therefore silent
    bd.convert(Around(build()), key, select=["first", "last"])


@pytest.mark.parametrize("name", ["MultiheadAttention", "AlphaDropout"])
def test_monte_carlo_dropout_alone_names_dropout_that_nothing_will_sample(name):
    only = {"linear": False, "conv": False}
    net = nn.Sequential(Around(PARTS[name][0]()), nn.Dropout(0.1), nn.Linear(2, 2))
    with pytest.warns(ConversionWarning, match=r"'0.part' .*that prediction does not sample"):
        bd.convert(net, "mc-dropout", **only)
    net = nn.Sequential(Around(nn.LSTM(8, 8)), nn.Dropout(0.1), nn.Linear(2, 2))
    bd.convert(net, "mc-dropout", **only)  # weights are not asked for
    with pytest.raises(ConversionError, match=rf"'part' \({name.split()[0]}\): "):
        bd.convert(Around(PARTS[name][0]()), "mc-dropout", **only)


def test_an_embedding_is_named():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
    with pytest.warns(ConversionWarning, match=r"'0' \(Embedding, 20 parameters\)"):
        bd.convert(net)


@pytest.mark.parametrize(
    "drop",
    [
        lambda h: F.dropout(h, 0.3),
        lambda h: F.dropout(h, p=0.3, training=True),
        lambda h: F.alpha_dropout(h, 0.3, True),
        lambda h: torch.dropout(h, 0.3, True),
    ],
)
def test_dropout_that_is_always_on_is_named(drop):
    with pytest.warns(ConversionWarning, match=r"dropout.*0\.3.*on in evaluation mode too"):
        bd.convert(Around(Always(drop)))
    bd.convert(Around(Always(lambda h: F.alpha_dropout(h, 0.3))))  # is off by default
    bd.convert(Around(Always(lambda h: F.dropout(h, 0.3, training=False))))


def test_a_function_that_selects_is_asked_of_layers_only():
    net = Around(nn.AlphaDropout(0.3))
    bd.convert(net, select=lambda name, module: module.weight.ndim == 2)
    with pytest.warns(ConversionWarning, match="'part'"):
        bd.convert(net, exclude=lambda name, module: module.weight.ndim > 2)


def test_a_warning_names_eight_parts_and_says_how_many_more_there_are():
    parts = [nn.AlphaDropout(0.1) for _ in range(10)]
    rest = r"'8' [^;]*; and 2 more\. Put .*exclude=\['1', '2', '3', \.\.\.\] if"
    with pytest.warns(ConversionWarning, match=rest):
        bd.convert(nn.Sequential(nn.Linear(3, 2), *parts))
    with pytest.warns(ConversionWarning, match=r"'3' [^;]*\. Put .*exclude=\['1', '2', '3'\] if"):
        bd.convert(nn.Sequential(nn.Linear(3, 2), *parts[:3]))


def test_attention_whose_rate_goes_by_mode_is_named():
    class Attention(nn.Module):
        def forward(self, x):
            rate = 0.3 if self.training else 0.0
            return F.scaled_dot_product_attention(x, x, self.bias + x, dropout_p=rate)

        bias = 0.0

    part = Attention()
    part.inner = nn.Linear(1, 1)  # has a child: traced, not one operation
    with pytest.warns(ConversionWarning, match="scaled_dot_product_attention.*dropout 0.3"):
        bd.convert(Around(part))


def test_the_report_says_where_what_and_how_many():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    report = conversion_report(bd.convert(net, exclude="5"))
    assert [(p.name, p.key, p.where, p.number) for p in report.placed] == [
        ("0_dropout", "beta-bernoulli", "outputs of '0'", 4),
        ("3_dropout", "beta-bernoulli", "inputs of '3'", 16),
    ]
    assert [(p.name, p.kind, p.why) for p in report.left] == [("5", "Linear", "in exclude")]
    assert repr(report) == "ConversionReport(Sequential: 2 put in, 1 left as they were)"
    assert report.to_dict()["placed"][1]["number"] == 16
    assert "| 5 | - | Linear | in exclude | 14 |" in str(report)
    for options, why in (
        ({"linear": False}, "linear=False"),
        ({"select": "0"}, "not in select"),
    ):
        report = conversion_report(bd.convert(net, **options))
        assert {part.why for part in report.left} == {why}
    flat = conversion_report(bd.convert(net[3:], input_dropout=False))
    assert [part.why for part in flat.left] == ["input_dropout=False"]
    assert "1 put in" in repr(flat)


def test_a_replaced_dropout_and_random_weights_are_in_the_report():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2))
    both = bd.convert(net, "mc-dropout", weights="sparse-variational", linear=False)
    report = conversion_report(both)
    assert [(p.name, p.where) for p in report.placed] == [
        ("0", "weights of '0'"), ("3", "weights of '3'"),
        ("2", "in place of Dropout(p=0.3, inplace=False)"),
    ]  # fmt: skip
    again = bd.convert(bd.convert(net, "sparse-variational", exclude="0"), "beta-bernoulli")
    assert [p.name for p in conversion_report(again).placed] == ["3", "0_dropout", "3_dropout"]
    part = nn.Sequential(again.get_submodule("0_dropout"), nn.Linear(4, 6), nn.Linear(6, 2))
    assert [p.name for p in conversion_report(bd.convert(part)).placed] == ["2_dropout"]


def test_what_neither_weights_nor_masks_reach_is_told_once():
    with pytest.warns(ConversionWarning, match="'part'"):
        net = bd.convert(Around(nn.RNN(8, 8)), weights="sparse-variational")
    assert [part.name for part in conversion_report(net).left] == ["part"]


def test_the_report_is_printed_on_request(capsys):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    converted = bd.convert(net)
    assert capsys.readouterr().out == ""
    bd.convert(net, show_report=True)
    assert capsys.readouterr().out == f"{conversion_report(converted)}\n"


def test_copies_and_pickles_keep_the_report(tmp_path):
    net = bd.convert(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=5)
    report = conversion_report(net)
    path = tmp_path / "net.pt"
    torch.save(net, path)
    for other in (
        copy.deepcopy(copy.deepcopy(net)),
        pickle.loads(pickle.dumps(net)),
        copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(bnn)))),
        torch.load(path, weights_only=False),
        bd.to_dependent(net),
    ):
        assert conversion_report(other) == report
    assert isinstance(report, ConversionReport)
    with pytest.raises(ConfigError, match="expected a network that convert has returned"):
        conversion_report(nn.Sequential(bd.BetaBernoulliDropout(3)))
