"""Recurrent layers with masks inside: one mask a sequence, the same at every step."""

import copy

import pyro.poutine as poutine
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError

PLAIN = {"lstm": nn.LSTM, "gru": nn.GRU}
MASKED = {"lstm": bd.nn.DropoutLSTM, "gru": bd.nn.DropoutGRU}
KINDS = pytest.mark.parametrize("kind", ["lstm", "gru"])
SETTINGS = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "two layers": {"num_layers": 2},
    "bidirectional": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False},
}
HALF = {"dropout": "mc-dropout", "drop_prob": 0.5}
KEYS = [
    key for key, cls in bd.nn.registered(bd.BayesianDropout).items() if not cls.input_dependent
]


def masked(kind, *args, p=None, **options):
    """Return a layer with masks of a fixed rate everywhere, or without any."""
    dropout = None if p is None else {"dropout": "mc-dropout", "drop_prob": p}
    places = ("input_dropout", "state_dropout", "output_dropout")
    return MASKED[kind](*args, **{**dict.fromkeys(places, dropout), **options})


def flat(result):
    output, states = result
    states = states if isinstance(states, tuple) else (states,)
    output = output.data if isinstance(output, nn.utils.rnn.PackedSequence) else output
    return [output, *states]


def assert_same(left, right, **tolerance):
    for a, b in zip(flat(left), flat(right), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def packed(x, lengths, batch_first=False):
    return pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)


@KINDS
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("p", [None, 0.0], ids=["no masks", "rate 0"])
def test_without_dropout_it_is_the_layer_of_torch(kind, setting, p):
    options = SETTINGS[setting]
    plain = PLAIN[kind](3, 4, **options)
    layer = masked(kind, 3, 4, p=p, **options)
    layer.load_state_dict(plain.state_dict(), strict=p is None)
    tolerance = {"rtol": 0, "atol": 0 if p is None else 1e-12}
    x = torch.randn(5, 6, 3)
    number = 5 if options.get("batch_first") else 6
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    hx = torch.randn(rows, number, 4)
    hx = (hx, torch.randn_like(hx)) if kind == "lstm" else hx
    one = tuple(s[:, 0] for s in hx) if kind == "lstm" else hx[:, 0]
    pack = packed(x, [5, 2, 6, 1, 4] if number == 5 else [5, 2, 4, 1, 4, 3], number == 5)
    for given in ((x,), (x, hx), (x[0],), (x[0], one), (pack,), (pack, hx)):
        assert_same(layer(*given), plain(*given), **tolerance)
    assert_same(layer.eval()(x, hx), plain.eval()(x, hx), **tolerance)


@KINDS
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("tied", [True, False])
def test_step_by_step_and_by_torchs_kernel_it_is_the_same(kind, setting, tied):
    """Masks that all sequences share go into the weights; the same ones a sequence do not."""
    layer = masked(kind, 3, 4, p=0.5, tied=tied, **SETTINGS[setting])
    x = torch.randn(5, 5, 3)
    shared = {place: torch.rand(units) for place, units in layer.mask_sizes().items()}
    own = {place: mask.expand(5, -1).contiguous() for place, mask in shared.items()}
    for given in (x, packed(x, [5, 2, 3, 1, 5])):
        with bd.impose_masks(layer, shared):
            fast = layer(given)
        with bd.impose_masks(layer, own):
            slow = layer(given)
        assert_same(fast, slow)


@KINDS
def test_a_sequence_has_its_mask_at_every_step(kind):
    """Outputs are those of a cell whose inputs and states are multiplied by one mask."""
    layer = masked(kind, 3, 4, p=0.5)
    cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind](3, 4)
    own = layer.to_plain().named_parameters()
    names = {name.removesuffix("_l0"): value for name, value in own}
    cell.load_state_dict(names)
    masks = {place: 2.0 * torch.rand(5, u).round() for place, u in layer.mask_sizes().items()}
    x, state = torch.randn(6, 5, 3), torch.zeros(5, 4)
    with bd.impose_masks(layer, masks):
        output, _ = layer(x)
    memory = torch.zeros(5, 4)
    for time in range(6):
        step = x[time] * masks["input_dropout_l0"]
        if kind == "lstm":
            _, memory = cell(step, (state * masks["state_dropout_l0"], memory))
            state = _
        else:  # what a unit keeps of its own state has no mask
            gates = cell(step, state * masks["state_dropout_l0"])
            h = state * masks["state_dropout_l0"]
            update = torch.sigmoid(
                (step @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh)[
                    :, 4:8
                ]
            )
            state = gates + update * (state - h)
        torch.testing.assert_close(output[time], state * masks["output_dropout"])


@KINDS
def test_a_dropped_unit_is_zero_at_every_step_and_each_sequence_has_its_own(kind):
    output, _ = masked(kind, 3, 40, p=0.5, batch_first=True)(torch.randn(5, 7, 3))
    dropped = output == 0
    assert (dropped == dropped[:, :1]).all()
    assert not (dropped[0] == dropped[1]).all()
    assert 0.3 < dropped.double().mean() < 0.7


@KINDS
def test_gates_are_tied_or_each_has_its_own_mask(kind):
    tied, own = masked(kind, 3, 4, p=0.5), masked(kind, 3, 4, p=0.5, tied=False)
    own.load_state_dict(tied.state_dict())
    gates = own.num_gates
    assert own.mask_sizes()["state_dropout_l0"] == gates * 4
    assert own.mask_sizes()["input_dropout_l0"] == gates * 3
    assert own.mask_sizes()["output_dropout"] == 4
    masks = {place: torch.rand(5, units) for place, units in tied.mask_sizes().items()}
    repeated = {p: m.repeat(1, own.mask_sizes()[p] // m.shape[1]) for p, m in masks.items()}
    x = torch.randn(6, 5, 3)
    with bd.impose_masks(tied, masks):
        expected = tied(x)
    with bd.impose_masks(own, repeated):
        assert_same(own(x), expected)
    # Closing the inputs of one gate is that gate without its weights.
    closed = {place: torch.ones(1, units) for place, units in own.mask_sizes().items()}
    closed["input_dropout_l0"][0, :3] = 0
    closed["state_dropout_l0"][0, :4] = 0
    plain = own.to_plain()
    with torch.no_grad():
        plain.weight_ih_l0[:4] = 0
        plain.weight_hh_l0[:4] = 0
    with bd.impose_masks(own, closed):
        assert_same(own(x), plain(x))


@KINDS
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_those_padded_up_to_their_ends(kind, bidirectional):
    layer = masked(kind, 3, 4, p=0.5, num_layers=2, bidirectional=bidirectional)
    masks = {place: torch.rand(5, units) for place, units in layer.mask_sizes().items()}
    x, lengths = torch.randn(6, 5, 3), [4, 6, 1, 6, 3]
    with bd.impose_masks(layer, masks):
        output, states = layer(packed(x, lengths))
    output, _ = pad_packed_sequence(output)
    for index, length in enumerate(lengths):
        own = {place: mask[index : index + 1] for place, mask in masks.items()}
        with bd.impose_masks(layer, own):
            alone, final = layer(x[:length, index : index + 1])
        torch.testing.assert_close(output[:length, index], alone[:, 0])
        for many, one in zip(flat((output, states))[1:], flat((alone, final))[1:], strict=True):
            torch.testing.assert_close(many[:, index], one[:, 0])


@KINDS
@pytest.mark.parametrize("key", KEYS)
def test_every_prior_trains_predicts_and_counts_its_divergence_once(kind, key):
    layer = masked(kind, 3, 4, batch_first=True, input_dropout=key, state_dropout=key)
    net = nn.Sequential(layer, Last(), nn.Linear(4, 2))
    masks = [layer.input_dropout_l0, layer.state_dropout_l0]
    kls = [bd.kl_divergence(mask).item() for mask in masks]
    if not any(isinstance(mask, bd.HierarchicalIndianBuffetDropout) for mask in masks):
        assert bd.kl_divergence(net).item() == pytest.approx(sum(kls))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x, y = torch.randn(6, 5, 3), torch.randint(2, (6,))
    bnn.loss(x, y).loss.backward()
    for parameter in net.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert layer.weight_hh_l0.grad.abs().sum() > 0
    for shared_by in ("batch", "example"):
        prediction = bd.predict(bnn, x, num_samples=3, shared_by=shared_by)
        assert prediction.mean.isfinite().all()


class Last(nn.Module):
    """The outputs of the last step."""

    def forward(self, result):
        return result[0][:, -1]


@KINDS
def test_masks_are_sites_of_the_program_and_the_elbo_is_that_of_stock_pyro(kind):
    torch.manual_seed(1)
    net = nn.Sequential(MASKED[kind](3, 4, batch_first=True), Last(), nn.Linear(4, 2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x, y = torch.randn(6, 5, 3), torch.randint(2, (6,))
    trace = poutine.trace(bnn.model).get_trace(x, y)
    for place, units in (("input_dropout_l0", 3), ("state_dropout_l0", 4)):
        assert trace.nodes[f"0.{place}.pi"]["value"].shape == (units,)
        assert trace.nodes[f"0.{place}.z"]["value"].shape == (6, units)
    assert bd.check_elbo(bnn, x, y, num_samples=500, num_repeats=10).passed


@KINDS
def test_the_same_seed_gives_the_same_masks(kind):
    layer, x = MASKED[kind](3, 4), torch.randn(6, 5, 3)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(layer(x))
    assert_same(*results, rtol=0, atol=0)


@KINDS
def test_state_dicts_go_both_ways_and_copies_have_masks_of_their_own(kind):
    layer, plain = MASKED[kind](3, 4, 2), PLAIN[kind](3, 4, 2)
    missing = layer.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all("dropout" in name for name in missing.missing_keys)
    PLAIN[kind](3, 4, 2).load_state_dict(layer.to_plain().state_dict())
    assert type(layer.to_plain()) is PLAIN[kind]
    again = MASKED[kind].from_plain(plain.eval())
    assert not again.training
    x = torch.randn(5, 6, 3)
    assert_same(again(x), plain(x), rtol=0, atol=0)
    copied = copy.deepcopy(layer)
    bound, _ = bd.nn.make("concrete", 4).bound or (None, 0)
    assert bound is None
    copied.put_mask("state_dropout_l0", bd.ConcreteDropout(4, length_scale=1.0))
    twice = copy.deepcopy(copied)
    with torch.no_grad():
        twice.weight_hh_l0.zero_()
    before, after = (m.state_dropout_l0.kl_divergence() for m in (copied, twice))
    assert after < before  # its weights, not those of the layer that it was copied from


def test_the_prior_on_weights_is_that_of_the_weights_behind_the_mask():
    options = {"dropout": "mc-dropout", "drop_prob": 0.5, "length_scale": 2.0}
    lstm = bd.nn.DropoutLSTM(
        3, 4, bidirectional=True, input_dropout=options, state_dropout=options
    )
    for place, names in {
        "input_dropout_l0": ("weight_ih_l0", "weight_ih_l0_reverse"),
        "state_dropout_l0_reverse": ("weight_hh_l0_reverse",),
    }.items():
        energy = sum(getattr(lstm, name).square().sum() for name in names)
        penalty = getattr(lstm, place).penalty()
        torch.testing.assert_close(penalty, 0.5 * 4 * energy / 0.5)
    own = bd.nn.DropoutLSTM(3, 4, tied=False, state_dropout={"dropout": "hard-concrete"})
    assert own.state_dropout_l0.parameters_per_unit == 4


def test_gates_are_masked_by_pruning():
    lstm = bd.nn.DropoutLSTM(3, 4, batch_first=True).eval()
    lstm.state_dropout_l0.set_posterior(torch.tensor([1e-4, 5.0, 5.0, 5.0]))
    assert lstm.state_dropout_l0.kept().tolist() == [False, True, True, True]
    x = torch.randn(2, 5, 3)
    expected = lstm(x)
    with torch.no_grad():
        lstm.weight_hh_l0[:, 0] = 7.0  # no state of unit 0 is seen
    assert_same(lstm(x), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bd.nn.DropoutLSTM(3, 4, 2, dropout=0.3), "expected dropout=0.*got dropout=0.3"),
        (lambda: bd.nn.DropoutLSTM(3, 4, proj_size=2), "expected proj_size=0, got proj_size=2"),
        (lambda: bd.nn.DropoutGRU(3, 4, state_dropout="nothing"), "nothing"),
        (lambda: bd.nn.DropoutGRU(3, 4, state_dropout="dropconnect"), "expected a torch.nn layer"),
        (lambda: bd.nn.DropoutGRU(3, 4, state_dropout=0.3), "state_dropout=0.3"),
        (lambda: bd.nn.DropoutGRU(3, 4, input_dropout={"drop_prob": 0.3}), "'dropout'"),
        (
            lambda: bd.nn.DropoutLSTM(3, 4, state_dropout="dependent-beta-bernoulli"),
            "DependentBetaBernoulliDropout, whose mask depends on it",
        ),
        (lambda: bd.nn.DropoutLSTM.from_plain(nn.GRU(3, 4)), r"expected an nn.LSTM, got GRU"),
        (
            lambda: bd.nn.DropoutLSTM(3, 4).put_mask("state_l0", None),
            "unknown place of a mask in DropoutLSTM 'state_l0'",
        ),
        (
            lambda: bd.nn.DropoutLSTM(3, 4).put_mask("state_dropout_l0", bd.ConcreteDropout(3)),
            "expected a mask of 4 units",
        ),
        (
            lambda: bd.nn.DropoutLSTM(3, 4).put_mask("state_dropout_l0", nn.Dropout()),
            "expected a mask, got Dropout",
        ),
    ],
)
def test_a_bad_argument_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(5, 6, 2),), r"of shape \(T, N, 3\).*got shape \(5, 6, 2\)"),
        ((torch.zeros(3),), r"got shape \(3,\)"),
        (("text",), "got str"),
        ((torch.zeros(5, 6, 3), torch.zeros(1, 6, 4)), "expected hx of 2 tensor"),
        ((torch.zeros(5, 6, 3), (torch.zeros(1, 5, 4),) * 2), r"shape \(1, 6, 4\)"),
        ((torch.zeros(5, 3), (torch.zeros(1, 1, 4),) * 2), r"shape \(1, 4\)"),
    ],
)
def test_a_bad_input_is_refused(given, message):
    with pytest.raises(ShapeError, match=message):
        bd.nn.DropoutLSTM(3, 4)(*given)


def test_sequences_that_are_not_the_examples_are_refused():
    net = nn.Sequential(bd.nn.DropoutLSTM(3, 4), Last(), nn.Linear(4, 2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    with pytest.raises(
        ShapeError, match="this pass, 6, .* got 5 sequences.*batch_first.*exclude="
    ):
        bnn.loss(torch.randn(6, 5, 3), torch.zeros(6).long())
