"""convert puts masks into recurrent layers and embeddings, and says so."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bayesdrop as bd
from bayesdrop.conversion import conversion_report
from bayesdrop.errors import ConversionWarning


class Tagger(nn.Module):
    """Words, a packed or padded recurrent layer, and a Linear on the mean over steps."""

    def __init__(self, layer=None, packs=False, dropout=0.0):
        super().__init__()
        self.embed, self.drop = nn.Embedding(9, 5), nn.Dropout(dropout)
        self.layer = nn.LSTM(5, 8, batch_first=True) if layer is None else layer
        self.head = nn.Linear(8 * (2 if self.layer.bidirectional else 1), 2)
        self.packs = packs

    def forward(self, words):
        x = self.drop(self.embed(words))
        if self.packs:
            lengths = (words != 0).sum(1).clamp(min=1).cpu()
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        x, _ = self.layer(x)
        if self.packs:
            x, _ = pad_packed_sequence(x, batch_first=True, total_length=words.shape[1])
        return self.head(x.mean(1))


def words(number=6):
    return torch.randint(9, (number, 7))


def converted(net, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        return bd.convert(net, *args, **options)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_get_masks_that_the_report_names(kind, packs):
    plain = Tagger(kind(5, 8, 2, batch_first=True, bidirectional=True), packs)
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    net = converted(plain, input_dropout=False)
    assert type(net.layer) is {nn.LSTM: bd.nn.DropoutLSTM, nn.GRU: bd.nn.DropoutGRU}[kind]
    assert type(plain.layer) is kind
    placed = {p.name: p for p in conversion_report(net).placed}
    assert list(placed) == [
        "layer.input_dropout_l0",
        "layer.state_dropout_l0",
        "layer.state_dropout_l0_reverse",
        "layer.input_dropout_l1",
        "layer.state_dropout_l1",
        "layer.state_dropout_l1_reverse",
        "head_dropout",
    ]
    assert placed["layer.input_dropout_l1"].number == 16
    assert placed["layer.state_dropout_l0"].where == "state dropout l0 of 'layer'"
    own = net.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    x = words()
    torch.testing.assert_close(bd.without_dropout(net).eval()(x), plain.eval()(x))
    again = converted(net, "concrete", embedding=True)
    names = [part.name for part in conversion_report(again).placed]
    assert names == [*placed, "embed.word_dropout"]
    assert isinstance(again.layer.state_dropout_l0, bd.BetaBernoulliDropout)


@pytest.mark.parametrize("packs", [False, True])
def test_a_converted_network_trains_predicts_and_is_compacted(packs):
    net = converted(Tagger(packs=packs), embedding=True)
    assert type(net.embed) is bd.nn.DropoutEmbedding
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=6)
    x, y = words(), torch.randint(2, (6,))
    bd.fit(bnn, (x, y), epochs=2, batch_size=3, progress=False)
    assert bd.predict(bnn, x, num_samples=2).mean.shape == (6, 2)
    for place in ("state_dropout_l0", "input_dropout_l0"):
        mask = net.get_submodule(f"layer.{place}")
        mask.set_posterior(torch.tensor([1e-4, *[4.0] * (mask.num_units - 1)]))
    net.head_dropout.set_posterior(torch.tensor([1e-4, *[4.0] * 7]))
    small = bd.compact(bnn, x)
    torch.testing.assert_close(small(x), net(x))
    assert (small.layer.input_size, small.layer.hidden_size) == (4, 7)


def test_masks_take_the_place_and_the_rate_of_noise():
    layer = nn.LSTM(5, 8, 2, batch_first=True, dropout=0.3)
    net = converted(Tagger(layer, dropout=0.2), "mc-dropout")
    rates = {name: float(m.drop_prob) for name, m in bd.nn.named_dropout_layers(net)}
    expected = {
        "layer.input_dropout_l0": 0.2,
        "layer.state_dropout_l0": 0.3,
        "layer.input_dropout_l1": 0.3,
        "layer.state_dropout_l1": 0.3,
        "head_dropout": 0.5,
    }
    assert rates == pytest.approx(expected)
    assert net.layer.dropout == 0
    assert not hasattr(net, "drop")


@pytest.mark.parametrize("options", [{"linear": False}, {"recurrent": False}])
def test_monte_carlo_dropout_alone_replaces_noise_between_layers(options):
    layer = nn.LSTM(5, 8, 2, batch_first=True, dropout=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        net = bd.convert(Tagger(layer), "mc-dropout", **options)
    names = [n for n, _ in bd.nn.named_dropout_layers(net) if n.startswith("layer")]
    assert names == ["layer.input_dropout_l1"]
    silent = converted(Tagger(dropout=0.3), "mc-dropout", recurrent=False)
    left = {part.name: part for part in conversion_report(silent).left}
    assert left["layer"].why == "recurrent=False"
    assert not left["layer"].wanted


def test_a_trained_network_gets_fixed_noise_only_where_it_had_some():
    layer = nn.LSTM(5, 8, 2, batch_first=True, dropout=0.3)
    net = converted(Tagger(layer), "mc-dropout", trained=True)
    names = [name for name, _ in bd.nn.named_dropout_layers(net)]
    assert names == ["layer.input_dropout_l1"]
    nearly = converted(Tagger(), trained=True)
    for _, mask in bd.nn.named_dropout_layers(nearly):
        assert (mask.keep_prob() > 0.97).all()


def test_select_exclude_and_overrides_mean_the_layer():
    net = converted(Tagger(), exclude="layer")
    assert type(net.layer) is nn.LSTM
    net = converted(Tagger(), select="layer", overrides={"layer": {"kl_scale": 2.0}})
    scales = [mask.kl_scale for _, mask in bd.nn.named_dropout_layers(net)]
    assert scales == [2.0, 2.0]


def test_what_cannot_have_masks_inside_is_named_with_its_reason():
    cases = {
        "its class is not torch's own, or it projects": (
            Tagger(nn.LSTM(5, 16, batch_first=True, proj_size=8)),
            "beta-bernoulli",
        ),
        "cannot look at its input": (Tagger(), "dependent-beta-bernoulli"),
    }
    for why, (net, key) in cases.items():
        with pytest.warns(ConversionWarning, match=f"'layer' .*{why}"):
            bd.convert(net, key)
    tied = Tagger()
    tied.out = nn.Linear(5, 9)
    tied.out.weight = tied.embed.weight
    with pytest.warns(ConversionWarning, match="'embed' .*its weights are another layer's, too"):
        bd.convert(tied, embedding=True)
    pruned = Tagger()
    nn.utils.prune.random_unstructured(pruned.embed, "weight", 0.5)
    with pytest.warns(ConversionWarning, match="'embed' .*its weights are not all its own"):
        bd.convert(pruned, embedding=True)


def test_the_dimension_of_examples_is_the_embeddings_and_none_of_states():
    net = bd.convert(nn.Sequential(nn.Embedding(9, 5), nn.GRU(5, 8)), embedding=True, batch_dim=1)
    embedding, gru = net.get_submodule("0"), net.get_submodule("1")
    assert embedding.batch_dim == 1
    assert {mask.batch_dim for _, mask in bd.nn.named_dropout_layers(gru)} == {0}


def test_the_first_stick_is_that_of_the_unit_with_the_largest_weights():
    plain = nn.GRU(5, 8)
    with torch.no_grad():
        plain.weight_ih_l0[:, 3] *= 9
        plain.weight_hh_l0[:, 6] *= 9
    masks = dict(bd.nn.named_dropout_layers(bd.convert(plain, "indian-buffet")))
    first = {name: int(mask.rank.argmin()) for name, mask in masks.items()}
    assert first == {"input_dropout_l0": 3, "state_dropout_l0": 6}


def test_masks_of_one_call_share_what_they_share():
    net = converted(Tagger(), "hierarchical-indian-buffet")
    sticks = {id(mask.parent) for _, mask in bd.nn.named_dropout_layers(net)}
    assert len(sticks) == 1


class Searcher(Tagger):
    """Control flow that looks at the data, which torch.fx cannot trace."""

    def forward(self, words):
        return super().forward(words.flip(1) if words.float().mean() > 4 else words)


def test_a_network_that_cannot_be_traced_gets_masks_inside_its_layers():
    plain = Searcher()
    net = converted(plain, embedding=True)
    assert type(net) is Searcher
    assert type(net.layer) is bd.nn.DropoutLSTM
    assert type(plain.layer) is nn.LSTM
    names = [part.name for part in conversion_report(net).placed]
    inside = ["embed.word_dropout", "layer.input_dropout_l0", "layer.state_dropout_l0"]
    assert names == [*inside, "head.mask"]
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=6)
    bnn.loss(words(), torch.randint(2, (6,))).loss.backward()
    assert bd.predict(bnn, words(), num_samples=2).mean.shape == (6, 2)
    only = converted(plain, "mc-dropout", embedding=True, exclude="embed", drop_prob=0.1)
    assert type(only.embed) is nn.Embedding
    left = converted(plain, recurrent=False)
    assert type(left.layer) is nn.LSTM
    (part,) = [part for part in conversion_report(left).left if part.name == "layer"]
    assert (part.why, part.wanted) == ("recurrent=False", False)


def test_a_recurrent_layer_can_be_the_whole_network():
    gru = converted(nn.GRU(3, 4))
    assert type(gru) is bd.nn.DropoutGRU
    assert [part.name for part in conversion_report(gru).placed] == [
        "input_dropout_l0",
        "state_dropout_l0",
    ]


@pytest.mark.parametrize("form", ["converted", "compact", "posterior"])
def test_a_network_of_packed_sequences_is_pickled_as_it_is(form):
    net, x = converted(Tagger(packs=True), embedding=True).eval(), words()
    for _, layer in bd.nn.named_dropout_layers(net):
        layer.set_posterior(torch.where(torch.arange(layer.num_units) % 2 == 0, 1e-4, 5.0))
    if form != "converted":
        net = bd.compact(net, x, keep_posterior=form == "posterior").eval()
    for _ in range(2):  # what one of them leaves behind is seen by the next
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        copies = pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)
        for same in (*copies, copy.deepcopy(copies[0])):
            torch.testing.assert_close(same(x), net(x))
    assert isinstance(converted(Tagger(packs=True)), torch.fx.GraphModule)
