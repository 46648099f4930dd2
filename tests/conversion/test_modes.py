"""Forwards that look at their mode: one converted network is right in both."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.conversion.modes import graph_of_both_modes
from bayesdrop.errors import ConversionError
from bayesdrop.networks.by_mode import ChoiceByMode, FunctionByMode
from bayesdrop.networks.tracing import knows_its_mode
from tests.compression.networks import close_every_other_unit

KEEP = 1e6  # a concentration at which every mask is one


class Net(nn.Module):
    """Two layers and a function of them."""

    def __init__(self, function, **modules):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


class Maps(Net):
    """The same of convolutions."""

    def __init__(self, function, **modules):
        super().__init__(function, **modules)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)


class DropPath(nn.Module):
    """As in timm: its shapes cannot be traced in training mode."""

    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(1 - self.drop_prob) / (1 - self.drop_prob)


class Scale(nn.Module):
    """Not the identity in evaluation mode; looks at its mode in another method."""

    def forward(self, x):
        return x * self.factor()

    def factor(self):
        return 2.0 if self.training else 0.5


def residual(net, x):
    h = net.a(x)
    return net.c(F.relu(h + net.path(net.b(h))))


def stochastic(rate):
    from torchvision.ops import StochasticDepth

    return StochasticDepth(rate, "row")


def drop_block():
    from torchvision.ops import DropBlock2d

    return DropBlock2d(0.2, 3)


def function(drop):
    return lambda net, x: net.c(F.relu(drop(net.b(F.relu(net.a(x))), net.training)))


def attention(net, x):
    h = net.a(x)[None]
    rate = 0.1 if net.training else 0.0
    return net.c(F.scaled_dot_product_attention(h, h, net.b(h), dropout_p=rate))[0]


def noisy(net, x):
    h = F.relu(net.a(x + torch.randn_like(x) if net.training else x))
    return net.c(F.relu(net.b(h)))


def norm(net, x):
    h = F.batch_norm(net.a(x), net.mean, net.variance, training=net.training)
    return net.c(F.relu(net.b(F.relu(h))))


class Norm(Net):
    def __init__(self):
        super().__init__(norm)
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)


def changed_in_evaluation(net, x):
    h = net.a(x)
    if not net.training:
        h.clamp_(min=0)
    return net.c(h)


NETWORKS = {
    "changed in place in evaluation": lambda: Net(changed_in_evaluation),
    "stochastic depth": lambda: Net(residual, path=stochastic(0.4)),
    "path with a shape": lambda: Net(residual, path=DropPath(0.4)),
    "other in evaluation": lambda: Net(residual, path=Scale()),
    "DropBlock2d": lambda: Maps(lambda n, x: n.c(F.relu(n.path(n.a(x)))), path=drop_block()),
    "F.dropout": lambda: Net(function(lambda h, on: F.dropout(h, 0.4, on))),
    "F.dropout1d": lambda: Net(function(lambda h, on: F.dropout1d(h[:, None], 0.4, on)[:, 0])),
    "F.dropout2d": lambda: Maps(function(lambda h, on: F.dropout2d(h, p=0.4, training=on))),
    "F.alpha_dropout": lambda: Net(function(lambda h, on: F.alpha_dropout(h, 0.4, on))),
    "F.feature_alpha_dropout": lambda: Maps(
        function(lambda h, on: F.feature_alpha_dropout(h, 0.4, on))
    ),
    "torch.dropout": lambda: Net(function(lambda h, on: torch.dropout(h, 0.4, on))),
    "rate by mode": lambda: Net(function(lambda h, on: F.dropout(h, 0.4 if on else 0.0))),
    "attention": lambda: Net(attention),
    "noise on the input": lambda: Net(noisy),
    "F.batch_norm": Norm,
    "method": lambda: Net(function(lambda h, on: h.clamp(-0.1 if on else -1.0, 0.3))),
    "softmax at the end": lambda: Net(
        lambda n, x: n.c(n.a(x)) if n.training else n.c(n.a(x)).softmax(-1)
    ),
    "auxiliary output": lambda: Net(
        lambda n, x: (
            (n.c(F.relu(n.a(x))), n.b(F.relu(n.a(x)))) if n.training else n.c(F.relu(n.a(x)))
        )
    ),
}


def example(net):
    return torch.randn(4, 3, 8, 8) if isinstance(net, Maps) else torch.randn(4, 6)


def with_masks_of_one(net):
    for _, layer in bd.nn.named_dropout_layers(net):
        layer.set_posterior(KEEP)
    return net


def outputs(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.filterwarnings("ignore::bayesdrop.errors.ConversionWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_converted_network_does_in_each_mode_what_the_original_does(name):
    net = NETWORKS[name]()
    x = example(net)
    converted = with_masks_of_one(bd.convert(net, replace_dropout=False))
    assert len(list(bd.nn.named_dropout_layers(converted))) >= 1
    for copied in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        for training in (False, True):
            torch.manual_seed(0)
            want = outputs(copy.deepcopy(net).train(training)(x))
            bare = bd.without_dropout(copied.train(training))
            torch.manual_seed(0)
            got = outputs(bare(x))
            assert len(got) == len(want)
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::bayesdrop.errors.ConversionWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_compact_takes_what_knows_its_mode(name):
    net = bd.convert(NETWORKS[name]()).eval()
    for _, layer in bd.nn.named_dropout_layers(net):
        close_every_other_unit(layer)
    maps = isinstance(net.get_submodule("a"), nn.Conv2d)
    x = torch.randn(4, 3, 8, 8) if maps else torch.randn(4, 6)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x[:3]), net(x[:3]))
    assert sum(p.numel() for p in small.parameters()) < sum(
        p.numel() for p in bd.without_dropout(net).parameters()
    )


def test_stochastic_depth_stays_where_it_was_and_goes_on_by_mode():
    net = bd.convert(Net(residual, path=stochastic(0.4)))
    assert not knows_its_mode(nn.ReLU()) and not knows_its_mode(nn.Linear(2, 2))
    assert knows_its_mode(net.path) and net.path.p == 0.4
    x = torch.randn(50, 8)
    assert torch.equal(net.eval().path(x), x)
    assert 0 < int((net.train().path(x) == 0).all(1).sum()) < 50
    (left,) = bd.conversion.conversion_report(net).left
    assert (left.name, left.kind, left.drop_prob) == ("path", "StochasticDepth", 0.4)
    assert not left.wanted


def count_in_place(net):
    net.count.add_(1)


def count_by_assignment(net):
    net.count = net.count + 1


@pytest.mark.parametrize("count", [count_in_place, count_by_assignment])
def test_what_training_does_to_a_buffer_is_done_in_training_and_then_only(count):
    def counting(net, x):
        if net.training:
            count(net)
        return net.c(F.relu(net.a(x)))

    net = Net(counting)
    net.register_buffer("count", torch.zeros(()))
    converted = bd.convert(net)
    assert float(net.count) == 0 and float(converted.count) == 0
    for _ in range(3):
        converted.eval()(torch.randn(2, 6))
    assert float(converted.count) == 0
    for _ in range(3):
        converted.train()(torch.randn(2, 6))
    assert float(converted.count) == 3 and float(net.count) == 0


def averaged(net, h):
    net.mean = 0.9 * net.mean + 0.1 * h.detach().mean(0)


def averaged_in_place(net, h):
    net.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)


@pytest.mark.parametrize("average", [averaged, averaged_in_place])
def test_a_running_mean_that_training_computes_from_itself_is_kept_up(average):
    def centred(net, x):
        h = net.a(x)
        if net.training:
            average(net, h)
        return net.c(F.relu(h - net.mean))

    net = Net(centred)
    net.register_buffer("mean", torch.zeros(8))
    bare = bd.without_dropout(bd.convert(net))
    for _ in range(3):
        x = torch.randn(4, 6)
        torch.testing.assert_close(bare.train()(x), net.train()(x))
    torch.testing.assert_close(bare.mean, net.mean)
    torch.testing.assert_close(bare.eval()(x), net.eval()(x))


def test_what_cannot_be_joined_is_refused_with_the_first_difference():
    def other(net, x):
        return net.c(net.a(x)) if net.training else net.c(net.b(net.a(x)))

    with pytest.raises(ConversionError, match=r"difference is at 'b' \(Linear\): it runs it"):
        graph_of_both_modes(Net(other))
    masks = [name for name, _ in bd.nn.named_dropout_layers(bd.convert(Net(other)))]
    assert masks == ["a.mask", "b.mask", "c.mask"]  # its parts have no modes


def test_constants_are_joined_and_frozen_noise_is_refused():
    def shifted(net, x):
        h = F.relu(net.a(x)) + torch.arange(8.0)
        return net.c(h if net.training else h * 1.0)

    net = Net(shifted)
    x = torch.randn(3, 6)
    for training in (True, False):
        bare = bd.without_dropout(bd.convert(net)).train(training)
        torch.testing.assert_close(bare(x), net.train(training)(x))
    with pytest.raises(ConversionError, match="draws random numbers of a fixed shape"):
        graph_of_both_modes(Net(lambda net, x: net.c(net.a(x) + torch.randn(8))))


def test_a_layer_that_is_called_twice_on_one_value_is_called_once():
    net = bd.convert(Net(lambda n, x: n.c(n.a(x) + n.b(n.a(x)))))
    assert [n for n, _ in bd.nn.named_dropout_layers(net)] == [
        "a_dropout",
        "b_dropout",
        "c_dropout",
    ]
    with pytest.raises(ConversionError, match="'a', called 2 times"):
        bd.convert(Net(lambda n, x: n.c(n.a(x) + n.b(F.relu_(n.a(x))))))
    with pytest.raises(ConversionError, match="'a', called 2 times"):
        bd.convert(Net(lambda n, x: n.c(n.a(input=x) + n.b(n.a(input=-x)))))


def test_the_modules_that_choose_say_what_they_do():
    drop = FunctionByMode(F.dropout, ((0,), {"p": 0.5}), ((0,), {"p": 0.0}))
    assert repr(drop) == "FunctionByMode(dropout)" and drop.drop_rates() == []
    choice = ChoiceByMode()
    assert choice.train()(1, 2) == 1 and choice.eval()(1, 2) == 2


@pytest.mark.parametrize("name", ["efficientnet_b0", "googlenet"])
def test_networks_of_torchvision_with_modes_are_converted_whole(name):
    import torchvision

    options = {"init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(weights=None, num_classes=5, **options).eval()
    masked = with_masks_of_one(bd.convert(net).float())
    kinds = (nn.Linear, nn.Conv2d)
    layers = [n for n, m in net.named_modules() if isinstance(m, kinds) and ".qkv" not in n]
    assert len(list(bd.nn.named_dropout_layers(masked))) == len(layers)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(masked.float()(x.float()), net.float()(x.float()))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_networks_of_timm_are_converted_whole(name):
    timm = pytest.importorskip("timm")
    options = {"depth": 2, "drop_path_rate": 0.1} if name.startswith("vit") else {}
    net = timm.create_model(name, pretrained=False, num_classes=5, **options).eval()
    masked = bd.convert(net)
    kinds = (nn.Linear, nn.Conv2d)
    layers = [n for n, m in net.named_modules() if isinstance(m, kinds) and ".qkv" not in n]
    assert len(list(bd.nn.named_dropout_layers(masked))) == len(layers)
