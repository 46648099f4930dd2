"""Which networks convert takes, what it says of the others, and subclasses of torch's layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ConversionError, ConversionWarning
from bayesdrop.networks.subclasses import base_of, computes_as, has_units_of
from tests.compression.networks import close_every_other_unit


def mlp(wrap=lambda layer: layer):
    return nn.Sequential(
        wrap(nn.Linear(4, 8)), nn.ReLU(), wrap(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 2)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "expected a network, an nn.Module, got NoneType"),
        (nn.Linear, r"got the type Linear\. Make one of the class: convert\(Linear\(\.\.\.\)\)"),
        (mlp, r"got the function mlp\. Write the function as the forward"),
        ({"a": 1}, r"got dict\. Pass an nn.Module"),
    ],
)
def test_what_is_no_network_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        bd.convert(given)


class Compiled(nn.Module):
    """What torch.compile returns holds the network like this; to make one takes seconds."""

    def __init__(self, network):
        super().__init__()
        self._orig_mod = network


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_scripted_and_wrapped_networks_are_refused_with_what_to_pass():
    with pytest.raises(ConfigError, match=r"torch.compile\. Pass the uncompiled one"):
        bd.convert(Compiled(mlp()))
    with pytest.raises(ConfigError, match=r"'1', the result of torch.compile"):
        bd.convert(nn.Sequential(nn.Linear(4, 4), Compiled(mlp())))
    scripted = torch.jit.trace(mlp(), torch.randn(2, 4))
    with pytest.raises(ConfigError, match=r"of torch.jit\. Pass the network from before"):
        bd.convert(scripted)
    with pytest.raises(ConfigError, match=r"a DataParallel\. Pass its .module"):
        bd.convert(nn.DataParallel(mlp()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU()),
            "'0', a LazyLinear that has not seen",
        ),
        (
            lambda: nn.Sequential(nn.LazyConv2d(4, 3)),
            "'0', a LazyConv2d that has not seen an input",
        ),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.LazyBatchNorm1d()), "'1', a LazyBatchNorm1d"),
    ],
)
def test_lazy_layers_are_asked_to_run_once(build, message):
    with pytest.raises(ConversionError, match=rf"{message}.*Run the network once first"):
        bd.convert(build())


def test_lazy_layers_that_have_run_are_layers():
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    net(torch.randn(3, 4))
    assert [m.num_units for _, m in bd.nn.named_dropout_layers(bd.convert(net))] == [4, 8]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("old", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_the_old_kind_of_weight_norm_becomes_the_new(old, training):
    net = mlp(old).train(training)
    x = torch.randn(5, 4)
    net(x)  # leaves weights that have been computed
    state = torch.get_rng_state()
    converted = bd.convert(net)
    found = dict(bd.nn.named_dropout_layers(converted))
    assert [m.num_units for m in found.values()] == [4, 8, 8]
    kept = {n: torch.ones(m.num_units) for n, m in found.items()}
    for mode in (True, False) if old is nn.utils.weight_norm else (False,):
        with bd.impose_masks(converted.train(mode), kept):
            torch.testing.assert_close(converted(x), net.train(mode)(x))
    assert torch.equal(state, torch.get_rng_state())
    for layer in found.values():
        close_every_other_unit(layer)
    small = bd.compact(converted, x)
    torch.testing.assert_close(small(x), converted(x))
    assert [small.get_submodule(n).in_features for n in "024"] == [2, 4, 4]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3),
    ],
)
def test_compact_takes_layers_whose_weights_hooks_compute(wrap):
    layer = bd.BetaBernoulliDropout(8)
    net = nn.Sequential(wrap(nn.Linear(4, 8)), nn.ReLU(), layer, wrap(nn.Linear(8, 3)))
    close_every_other_unit(layer)
    x = torch.randn(5, 4)
    net(x)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net.eval()(x))
    assert small.get_submodule("0").out_features == 4


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_layers_get_masks_and_compact_is_exact(name):
    net = mlp(getattr(parametrizations, name)).eval()
    converted = bd.convert(net).eval()
    found = dict(bd.nn.named_dropout_layers(converted))
    assert [m.num_units for m in found.values()] == [4, 8, 8]
    x = torch.randn(5, 4)
    with bd.impose_masks(converted, {n: torch.ones(m.num_units) for n, m in found.items()}):
        torch.testing.assert_close(converted(x), net(x))
    for layer in found.values():
        close_every_other_unit(layer)
    small = bd.compact(converted, x)
    torch.testing.assert_close(small(x), converted(x))
    assert small.get_submodule("2").weight.shape == (4, 4)
    assert type(small.get_submodule("2")) is nn.Linear
    with pytest.warns(ConversionWarning, match=r"'0' \(ParametrizedLinear.*computed from others"):
        random = bd.convert(net, "sparse-variational")
    assert [name for name, _ in bd.nn.named_weight_layers(random)] == ["4"]


@pytest.mark.parametrize("name", ["weight_norm", "orthogonal"])
def test_order_of_units_is_by_the_weights_of_parametrized_layers(name):
    net = mlp(getattr(parametrizations, name))
    layer = bd.convert(net, "indian-buffet").get_submodule("2_dropout")
    norms = net[2].weight.norm(dim=0)
    assert int(layer.rank.argmin()) == int(norms.argmax())


def test_a_module_that_cannot_be_copied_is_refused():
    net = mlp()
    net[0].cache = net[0].weight * 2
    with pytest.raises(ConversionError, match="expected a network that copy.deepcopy can copy"):
        bd.convert(net)


class Plain(nn.Linear):
    """Only another constructor, as torchvision's Conv3DSimple."""

    def __init__(self, units):
        super().__init__(units, units)


class Through(nn.Conv2d):
    def forward(self, x):
        return super().forward(x)


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class LowRank(nn.Linear):
    """An adapter that starts at zero: the same values, and more parameters."""

    def __init__(self, units):
        super().__init__(units, units)
        self.up = nn.Linear(units, units, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return super().forward(x) + self.up(x)


def test_a_subclass_that_computes_as_its_base_is_that_base():
    net = nn.Sequential(Through(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), Plain(6))
    converted = bd.convert(net)
    found = [m.num_units for _, m in bd.nn.named_dropout_layers(converted)]
    assert found == [4, 16, 6] and type(net[4]) is Plain
    assert type(converted.get_submodule("4")) is nn.Linear
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(bd.without_dropout(converted)(x), net(x))
    assert len(list(bd.nn.named_weight_layers(bd.convert(net, "sparse-variational")))) == 3


class Same(nn.Conv2d):
    """As timm's convolutions with the padding of TensorFlow, which torch.fx cannot trace."""

    def forward(self, x):
        missing = (self.kernel_size[0] - 1) % 2
        if max(x.shape[-1], 1) > missing:
            x = F.pad(x, (0, missing, 0, missing))
        return super().forward(x)


class Pooled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).mean((2, 3))


class Scaled(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 2, self.bias)


@pytest.mark.parametrize("kind", [Standardised, Same])
def test_a_subclass_with_the_units_of_its_base_is_masked_and_right(kind):
    net = nn.Sequential(
        kind(1, 6, 2), nn.ReLU(), kind(6, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        Scaled(16, 8), nn.ReLU(), Scaled(8, 3),
    ).eval()  # fmt: skip
    converted = bd.convert(net).eval()
    found = dict(bd.nn.named_dropout_layers(converted))
    assert [m.num_units for m in found.values()] == [6, 4, 16, 8]
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(bd.without_dropout(converted)(x), net(x))
    for layer in found.values():
        close_every_other_unit(layer)
    small = bd.compact(converted, x)
    torch.testing.assert_close(small(x), converted(x))
    with pytest.warns(ConversionWarning, match=rf"'0.0' \({kind.__name__}.*no random weights"):
        bd.convert(nn.Sequential(net, nn.Linear(3, 3)), "sparse-variational")


@pytest.mark.parametrize("build", [lambda: Pooled(1, 16, 1), lambda: LowRank(4)])
def test_a_subclass_that_computes_something_else_is_named_and_right(build):
    part = build()
    net = nn.Sequential(part, nn.Flatten(), nn.Linear(16, 3))
    with pytest.warns(ConversionWarning, match=rf"'0' \({type(part).__name__}, "):
        converted = bd.convert(net)
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(bd.without_dropout(converted)(x), net(x))


class Noisy(nn.Linear):
    def forward(self, x):
        h = super().forward(x)
        return h + torch.randn_like(h) if self.training else h


class Doubled(nn.Linear):
    def forward(self, x):
        h = super().forward(x)
        return h if self.training else torch.cat([h, h], -1)


class Asking(nn.Linear):
    def forward(self, x, other):
        return super().forward(x + other)


class Counting(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))


@pytest.mark.parametrize(
    ("kind", "units"), [(Noisy, True), (Doubled, False), (Asking, False), (Counting, True)]
)
def test_a_subclass_is_tried_in_both_modes_and_left_alone(kind, units):
    layer = kind(4, 3)
    before = torch.get_rng_state()
    assert base_of(layer) is nn.Linear
    assert not computes_as(layer, nn.Linear)
    assert has_units_of(layer, nn.Linear) == units
    assert torch.equal(torch.get_rng_state(), before) and layer.training


def test_all_convolutions_of_r3d_are_found():
    from torchvision.models.video.resnet import Conv3DSimple

    block = nn.Sequential(Conv3DSimple(3, 4), nn.BatchNorm3d(4), nn.ReLU(), Conv3DSimple(4, 4),
                          nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))  # fmt: skip
    converted = bd.convert(block)
    assert [m.num_units for _, m in bd.nn.named_dropout_layers(converted)] == [4, 4, 4]
    for _, layer in bd.nn.named_dropout_layers(converted.eval()):
        close_every_other_unit(layer)
    x = torch.randn(2, 3, 3, 4, 4)
    small = bd.compact(converted, x)
    torch.testing.assert_close(small(x), converted(x))
    assert next(small.parameters()).shape[0] == 2


class Conv1D(nn.Module):
    """As in transformers.pytorch_utils, whose import takes seconds."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.nf, self.nx = outputs, inputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(
            *x.shape[:-1], self.nf
        )


def test_a_transposed_linear_of_gpt_becomes_a_linear(monkeypatch):
    net = nn.Sequential(Conv1D(8, 4), nn.GELU(), Conv1D(3, 8)).eval()
    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    converted = bd.convert(net).eval()
    close_every_other_unit(converted.get_submodule("2_dropout"))
    x = torch.randn(2, 5, 4)
    small = bd.compact(converted, x)
    torch.testing.assert_close(small(x), converted(x))
    assert small.get_submodule("0").out_features == 4
    full = {name: torch.ones(m.num_units) for name, m in bd.nn.named_dropout_layers(converted)}
    with bd.impose_masks(converted, full):
        torch.testing.assert_close(converted(x), net(x))
    assert torch.equal(converted.get_parameter("2.bias"), net[2].bias)


class Given(nn.Module):
    """Computes a weight of its layer in forward, as AWD-LSTM and hypernetworks do."""

    def __init__(self, layer, name):
        super().__init__()
        self.layer, self.name = layer, name
        self.raw = nn.Parameter(layer._parameters.pop(name).detach().clone())

    def forward(self, x):
        setattr(self.layer, self.name, self.raw - self.raw.mean(1, keepdim=True))
        out = self.layer(x)
        return out[0][:, -1] if isinstance(out, tuple) else out


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: nn.LSTM(4, 8, batch_first=True), "weight_hh_l0"),
        (lambda: nn.GRU(4, 8, batch_first=True), "weight_ih_l0"),
        (lambda: nn.Linear(4, 8), "weight"),
    ],
    ids=["LSTM", "GRU", "Linear"],
)
def test_layers_that_are_given_their_weights_by_a_forward_stay_as_they_are(make, name):
    net = nn.Sequential(Given(make(), name), nn.Sequential(nn.ReLU(), nn.Linear(8, 3))).eval()
    with pytest.warns(ConversionWarning, match=r"'0.layer'"):
        converted = bd.convert(net).eval()
    x = torch.randn(2, 5, 4) if name != "weight" else torch.randn(2, 4)
    full = {own: torch.ones(m.num_units) for own, m in bd.nn.named_dropout_layers(converted)}
    assert list(full) == ["1.1.mask"]
    with torch.no_grad(), bd.impose_masks(converted, full):
        torch.testing.assert_close(converted(x), net(x))
    close_every_other_unit(converted.get_submodule("1.1.mask"))
    with torch.no_grad():
        expected = converted(x)
    torch.testing.assert_close(bd.compact(converted, x)(x), expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (4,)),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,)),
        (nn.Conv2d(2, 3, 3), (2, 5, 5)),
        (nn.Embedding(5, 3), ()),
    ],
    ids=["Linear", "weight norm", "Conv2d", "Embedding"],
)
def test_a_layer_may_be_the_whole_network(layer, shape):
    converted = bd.convert(layer.double().eval(), output_dropout=True, embedding=True)
    x = torch.randn(6, *shape) if shape else torch.randint(5, (6, 2))
    assert type(layer).__name__ == bd.conversion.conversion_report(converted).network
    full = {own: torch.ones(m.num_units) for own, m in bd.nn.named_dropout_layers(converted)}
    assert len(full) == 1 and not converted.training
    with torch.no_grad(), bd.impose_masks(converted, full):
        torch.testing.assert_close(converted(x), layer(x))
