"""What convert says of noise that a forward draws itself."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.conversion import conversion_report
from bayesdrop.errors import ConversionWarning
from bayesdrop.networks.tracing import knows_its_mode


class Inner(nn.Module):
    """A part with a layer, so that it is traced, and noise in its forward."""

    def __init__(self, noise):
        super().__init__()
        self.layer, self.noise = nn.Linear(8, 8), noise

    def forward(self, x):
        h = F.relu(self.layer(x))
        return self.noise(h, self.training)


class OwnDropout(nn.Module):
    """Without a layer: one operation of the graph, of a rate that nothing names."""

    def forward(self, x):
        return x * (torch.rand_like(x) > 0.3) if self.training else x


class OwnDropPath(nn.Module):
    """Draws in a function, at a rate with a known name."""

    def __init__(self):
        super().__init__()
        self.drop_prob = 0.2

    def forward(self, x):
        return path(x, self.drop_prob) if self.training else x


class Sampled(nn.Module):
    """Cannot be traced: the network is converted by parts."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        h = self.layer(x)
        if self.training:
            return h * torch.distributions.Bernoulli(torch.full_like(h, 0.5)).sample()
        return h


class Unseen(nn.Module):
    """Cannot be traced, has a layer, and drops in its forward or in what that calls."""

    def __init__(self, p=0.5):
        super().__init__()
        self.layer, self.p = nn.Linear(8, 8), p
        self.reset_parameters()

    def reset_parameters(self):
        self.layer.bias.data.uniform_(-0.1, 0.1)

    def forward(self, x):
        h = self.layer(x)
        return self.dropped(h) if bool(h.isfinite().all()) else h

    def dropped(self, h):
        return F.batch_norm(h, h.mean(0), h.var(0), training=self.training)


class ByFunction(Unseen):
    def dropped(self, h):
        return F.dropout(h, self.p, self.training)


class ByHelper(Unseen):
    def dropped(self, h):
        return path(h, self.p) if self.training else h


class ByAttention(Unseen):
    def dropped(self, h):
        rate = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(h, h, h, dropout_p=rate)


class ByFunctionAlways(Unseen):
    def dropped(self, h):
        return nn.functional.dropout(h, self.p)


def path(x, rate):
    return x * x.new_empty((x.shape[0], 1)).bernoulli_(1 - rate)


def network(part):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), part, nn.Linear(8, 3))


DROPS = {
    "bernoulli": lambda h, on: h * torch.bernoulli(torch.full_like(h, 0.5)) if on else h,
    "rand_like": lambda h, on: h * (torch.rand_like(h) < 0.5) if on else h,
    "bernoulli_": lambda h, on: h * torch.empty_like(h).bernoulli_(0.5) if on else h,
    "rand": lambda h, on: h * (torch.rand(h.shape) < 0.5) if on else h,
}


@pytest.mark.parametrize("name", DROPS)
def test_a_dropout_by_hand_is_named_once_with_its_place(name):
    net = network(Inner(DROPS[name]))
    with pytest.warns(ConversionWarning) as caught:
        converted = bd.convert(net)
    assert len(caught) == 1 and isinstance(converted, torch.fx.GraphModule)
    assert f"'{name}' ({name}): it draws noise in training only" in str(caught[0].message)
    assert "in the forward of '2', Inner" in str(caught[0].message)
    (left,) = conversion_report(converted).unexpected
    assert left.name == name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bd.convert(net, exclude=name)
        bd.convert(net, replace_dropout=False)
    x = torch.ones(20, 6)
    bare = bd.without_dropout(converted).eval()
    torch.testing.assert_close(bare(x), net.eval()(x))
    assert not torch.equal(bare.train()(x), bare(x))


@pytest.mark.parametrize("part", [OwnDropout, OwnDropPath, Sampled])
def test_modules_that_drop_by_hand_are_named(part):
    net = network(part())
    with pytest.warns(ConversionWarning, match=rf"'2' \({part.__name__}"):
        bd.convert(net)
    assert knows_its_mode(net[2]) == (part is not Sampled)
    if part is not Sampled:  # whose layer would be excluded, too
        bd.convert(net, exclude="2")


def test_noise_that_drops_nothing_is_in_the_report_alone():
    net = network(Inner(lambda h, on: h + torch.randn_like(h) if on else h))
    (left,) = conversion_report(bd.convert(net)).left
    assert (left.name, left.kind, left.wanted) == ("randn_like", "randn_like", False)
    always = network(Inner(lambda h, on: h + torch.randn_like(h)))  # as in an autoencoder
    assert conversion_report(bd.convert(always)).left == ()
    with pytest.warns(ConversionWarning, match="'randn_like'"):
        bd.convert(net, "mc-dropout")


def test_a_dropout_by_hand_that_is_always_on_is_named():
    net = network(Inner(lambda h, on: h * torch.bernoulli(torch.full_like(h, 0.5))))
    with pytest.warns(ConversionWarning, match=r"'bernoulli'.*on in evaluation mode too"):
        bd.convert(net)


def test_functional_dropout_that_is_always_on_can_be_excluded():
    net = network(Inner(lambda h, on: F.dropout(h, 0.3)))
    with pytest.warns(ConversionWarning, match=r"exclude=\['dropout'\]"):
        bd.convert(net)
    bd.convert(net, exclude=["dropout"])


def test_functional_dropout_under_a_branch_on_the_mode_is_replaced():
    net = network(Inner(lambda h, on: F.dropout(h, 0.3) if on else h))
    converted = bd.convert(net, "mc-dropout", linear=False)
    (mask,) = (layer for _, layer in bd.nn.named_dropout_layers(converted))
    assert mask.drop_prob == pytest.approx(0.3) and mask.num_units == 8
    assert conversion_report(converted).unexpected == ()
    x = torch.randn(4, 6)
    torch.testing.assert_close(bd.without_dropout(converted).eval()(x), net.eval()(x))


class Attends(nn.Module):
    """Attention by a function, whose weights are no module's."""

    def __init__(self, attend):
        super().__init__()
        self.layer, self.attend = nn.Linear(8, 8), attend
        self.register_buffer("weight", torch.eye(8).repeat(3, 1))

    def forward(self, x):
        return self.attend(self, self.layer(x))


def heads(part, h, *args, **kwargs):
    h, own = h.transpose(0, 1), part.weight
    return F.multi_head_attention_forward(
        h, h, h, 8, 2, own, None, None, None, False, *args, out_proj_weight=own[:8],
        out_proj_bias=None, need_weights=False, **kwargs,
    )[0]  # fmt: skip


ATTENTION = {
    "by name": lambda s, h: F.scaled_dot_product_attention(
        h, h, h, dropout_p=0.3 if s.training else 0.0
    ),
    "by place": lambda s, h: F.scaled_dot_product_attention(
        h, h, h, None, 0.3 if s.training else 0.0
    ),
    "heads by place": lambda s, h: heads(s, h, 0.3, training=s.training),
    "always, by name": lambda s, h: F.scaled_dot_product_attention(h, h, h, dropout_p=0.3),
    "always, by place": lambda s, h: F.scaled_dot_product_attention(h, h, h, None, 0.3),
    "always, heads": lambda s, h: heads(s, h, 0.3),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_dropout_inside_a_function_of_attention_is_named_with_its_rate(name):
    net = network(Attends(ATTENTION[name])).eval()
    with pytest.warns(ConversionWarning, match="dropout 0.3 that prediction does not sample"):
        converted = bd.convert(net)
    (left,) = conversion_report(converted).unexpected
    assert left.drop_prob == 0.3 and "attention" in left.name
    assert ("evaluation mode too: write dropout_p=" in left.why) == name.startswith("always")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bd.convert(net, exclude=left.name)


@pytest.mark.parametrize("rate", [0.0, None])
def test_attention_without_dropout_is_not_named(rate):
    options = {} if rate is None else {"dropout_p": rate}
    net = network(Attends(lambda s, h: F.scaled_dot_product_attention(h, h, h, **options)))
    assert conversion_report(bd.convert(net)).left == ()
    off = network(Attends(lambda s, h: heads(s, h, 0.3, training=False)))
    assert conversion_report(bd.convert(off)).left == ()


@pytest.mark.parametrize("part", [ByFunction, ByHelper, ByAttention, ByFunctionAlways])
def test_dropout_in_code_that_cannot_be_traced_is_named(part):
    net = network(part())
    with pytest.warns(ConversionWarning, match=rf"'2' \({part.__name__}\)"):
        converted = bd.convert(net)
    assert not isinstance(converted, torch.fx.GraphModule)
    (left,) = [found for found in conversion_report(converted).unexpected if found.name == "2"]
    assert ("evaluation mode too" in left.why) == (part is ByFunctionAlways)
    bd.convert(net, exclude="2")
    bd.convert(net, replace_dropout=False)


@pytest.mark.parametrize("part", [Unseen(), ByFunction(0.0), ByAttention(0.0)])
def test_code_that_drops_nothing_is_not_named(part):
    assert conversion_report(bd.convert(network(part))).unexpected == ()


def native(h, training):
    return torch.native_dropout(h, 0.5, training)[0]


def by_hand(h, training):
    keep = torch.full((len(h), 8), 0.5)  # len cannot be traced
    return h * torch.bernoulli(keep) if training else h


@pytest.mark.parametrize(
    ("noise", "name"), [(native, "'native_dropout'"), (by_hand, "'2' .Inner")]
)
def test_dropout_of_functions_that_a_module_holds_is_named(noise, name):
    with pytest.warns(ConversionWarning, match=f"{name}.*prediction does not sample it"):
        bd.convert(network(Inner(noise)))


def test_the_operator_of_dropout_is_replaced():
    drops = network(Inner(lambda h, training: torch.ops.aten.dropout(h, 0.25, training)))
    converted = bd.convert(drops, "mc-dropout", linear=False)
    ((_, mask),) = bd.nn.named_dropout_layers(converted)
    assert mask.drop_prob == 0.25 and mask.num_units == 8
