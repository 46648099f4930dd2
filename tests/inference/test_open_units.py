"""Laws of passes over open units: outputs of the ordinary pass, for less."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import bayesdrop as bd
from bayesdrop.inference import open_units
from bayesdrop.inference.open_units import OpenUnits, open_passes
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.ops.seeding import draws_noise, seeded

NUM_SAMPLES = 3


def bb(num_units, **options):
    """Masks of which a third of the units is nearly always closed, and a third nearly open."""
    layer = bd.BetaBernoulliDropout(num_units, **options)
    layer.set_posterior(torch.logspace(-3, 3, num_units))
    return layer


def mlp(make=bb):
    layers = [nn.Flatten(), make(12), nn.Linear(12, 30), nn.ReLU(), make(30), nn.Linear(30, 20)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True), make(20), nn.Linear(20, 3))


def convolutional(*, between=(), activation=None):
    """Masks on maps and on features, with what the arguments say between layer and mask."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        bb(6, unit_dim=-3), *between, nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8),
        activation or nn.ReLU(), bb(8, unit_dim=-3), nn.AvgPool2d(2, padding=1), nn.Flatten(),
        bb(32), nn.Linear(32, 5),
    )  # fmt: skip


class Residual(nn.Module):
    """Sums, functions, a method, a default argument and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.before, self.inside, self.head = bb(12), bb(12), nn.Linear(12, 3)

    def forward(self, x, skip=None, scale=1.0):
        x = x.flatten(1)
        for _ in range(2):
            hidden = F.relu(self.first(self.before(x)))
            inner = self.second(self.inside(hidden))
            inner += x if skip is None else skip
            x = torch.tanh(inner) * scale
        return self.head(x)


class Tokens(nn.Module):
    """Units in the last dimension of sequences, of two kinds of layers, and attention."""

    def __init__(self):
        super().__init__()
        self.embed, self.mask, self.up = nn.Linear(4, 8), bb(8), nn.Linear(8, 16)
        self.wide, self.down, self.head = bb(16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.embed(x.reshape(-1, 3, 4))
        mixed, _ = self.attention(x, x, x)
        return self.head(self.down(self.wide(F.gelu(self.up(self.mask(mixed))))).mean(1))


def all_closed():
    net = mlp()
    net[4].set_posterior(1e-7)
    return net


def channels_closed():
    net = convolutional()
    net[4].set_posterior(1e-7)
    return net


NETWORKS = {
    "mlp": mlp,
    "all units closed": all_closed,
    "all channels closed": channels_closed,
    "convolutions": convolutional,
    "sigmoid before a mask": lambda: convolutional(activation=nn.Sigmoid()),
    "batch norm after a mask": lambda: convolutional(between=[nn.BatchNorm2d(6)]),
    "sigmoid after a mask": lambda: convolutional(between=[nn.Sigmoid()]),
    "depthwise": lambda: convolutional(between=[nn.Conv2d(6, 6, 3, padding=1, groups=6)]),
    "two masks": lambda: convolutional(between=[nn.Dropout(0.5), bb(6, unit_dim=-3)]),
    "residual": Residual,
    "tokens": Tokens,
    "converted": lambda: bd.convert(
        nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 5)
        )
    ),
}
VECTORS = ("mlp", "all units closed", "residual", "tokens")


def passes_of(network, x, num_rows=10**9, *, shared_by="batch"):
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=100)
    ordinary = bnn.posterior_passes(NUM_SAMPLES, shared_by=shared_by)
    return ordinary, open_passes(network, ordinary, x, num_rows)


def assert_same(network, x, *, shared_by="batch", taken=True):
    with evaluation_mode(network), torch.no_grad():
        ordinary, found = passes_of(network, x, shared_by=shared_by)
        assert all(isinstance(run, open_units._OpenPass) == taken for run in found)
        for one, other in zip(ordinary, found, strict=True):
            for rows in (x, x[:1], x):
                with seeded(1):
                    expected = one(rows)
                with seeded(1):
                    torch.testing.assert_close(other(rows), expected, rtol=1e-9, atol=1e-9)
        mean = open_passes(network, [network], x, 10**9)[0]
        torch.testing.assert_close(mean(x), network(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_ordinary_pass(name):
    network = NETWORKS[name]()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
    assert_same(network, torch.randn(20, 1, *((4, 3) if name in VECTORS else (6, 6))))


@pytest.mark.parametrize("key", list(bd.nn.layers))
@pytest.mark.parametrize("shared_by", ["batch", "example"])
def test_outputs_are_those_of_the_ordinary_pass_for_every_layer(key, shared_by):
    def make(size):
        return bd.nn.make(key, size)

    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    assert_same(bd.convert(network, dropout=key), torch.randn(20, 12), shared_by=shared_by)


def test_multiplications_are_those_of_open_units():
    """Of a matrix of 30 x 12 weights, say, those between open units."""
    network, x = mlp().eval(), torch.randn(20, 12)
    with torch.no_grad():
        ordinary, found = passes_of(network, x)
        for one, run in zip(ordinary, found, strict=True):
            pixels, first, second = (int((m > 0).sum()) for m in one.sample.masks.values())
            with FlopCounterMode(display=False) as counter:
                run(x)
            products = pixels * first + first * second + 3 * second
            assert counter.get_total_flops() == 2 * len(x) * products


def test_what_no_mask_comes_before_is_computed_once():
    network, x = convolutional().eval(), torch.randn(20, 1, 6, 6)
    with torch.no_grad():
        _, found = passes_of(network, x)
        found[0](x)
        with FlopCounterMode(display=False) as counter:
            found[0](x)
        with FlopCounterMode(display=False) as after_another:
            found[0](x.clone())
    assert after_another.get_total_flops() - counter.get_total_flops() == 2 * 20 * 36 * 6 * 9


class Branching(Residual):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Noisy(Residual):
    def forward(self, x):
        return super().forward(x + torch.randn(3))


class Remembering(Residual):
    def forward(self, x):
        self.last = x
        return super().forward(x)


class Changing(Residual):
    def forward(self, x):
        y = x.flatten(1)
        y += 1.0
        return super().forward(x)


def hooked():
    network = Residual()
    network.first.register_forward_hook(lambda *_: None)
    return network


@pytest.mark.parametrize("make", [Branching, Noisy, Remembering, Changing, hooked])
def test_a_network_that_does_more_than_its_graph_keeps_its_passes(make):
    network, x = make().eval(), torch.randn(20, 1, 4, 3)
    ordinary, found = passes_of(network, x)
    assert found == ordinary
    assert not hasattr(network, "last")


def test_another_shape_takes_the_ordinary_pass():
    net = nn.Sequential(nn.Conv2d(1, 6, 3), bb(6, unit_dim=-3), nn.AdaptiveAvgPool2d(1))
    network = net.append(nn.Flatten()).append(nn.Linear(6, 3)).eval()
    ordinary, found = passes_of(network, torch.randn(20, 1, 6, 6))
    other = torch.randn(4, 1, 9, 9)
    assert torch.equal(found[0](other), ordinary[0](other))


@pytest.mark.parametrize("shared_by", ["batch", "example"])
@pytest.mark.parametrize("sample", [True, False])
def test_predictions_of_a_seed_are_those_with_ordinary_passes(monkeypatch, sample, shared_by):
    bnn = bd.BayesianNetwork(convolutional(), bd.Categorical(), num_data=100)
    options = {"seed": 0, "num_samples": 4, "sample": sample, "shared_by": shared_by}
    x = torch.randn(50, 1, 6, 6)
    expected = bd.predict(bnn, x, **options)
    monkeypatch.setattr(open_units, "_WORK_OF_PASS", 0)
    monkeypatch.setattr(open_units, "_WORK_OF_GRAPH", 0)
    found = bd.predict(bnn, x, **options)
    torch.testing.assert_close(found.samples, expected.samples, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.expected_entropy, expected.expected_entropy)


def test_few_rows_are_not_planned_for():
    network, x = mlp().eval(), torch.randn(20, 12)
    ordinary, found = passes_of(network, x, num_rows=20)
    assert found == ordinary


def test_tracing_leaves_the_network_alone():
    network, x = convolutional().eval(), torch.randn(2, 1, 6, 6)
    before = [(id(m), sorted(vars(m))) for m in network.modules()]
    OpenUnits(network, x)
    assert [(id(m), sorted(vars(m))) for m in network.modules()] == before
    assert network[2].inplace


def test_noise_is_noticed_and_put_back():
    before = torch.get_rng_state()
    assert draws_noise(lambda: torch.rand(1))
    assert draws_noise(lambda: F.dropout(torch.ones(3), 0.5, True))
    assert draws_noise(lambda: (torch.rand(1), F.dropout(torch.ones(3), 0.5, True)))
    assert not draws_noise(lambda: torch.ones(3))
    x = torch.ones(1, 2, 3, 4)
    assert not draws_noise(lambda: F.scaled_dot_product_attention(x, x, x))
    assert torch.equal(torch.get_rng_state(), before)
