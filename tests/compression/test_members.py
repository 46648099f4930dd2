"""Laws of several posterior members in one network: each is its own compact network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.compression.members import side_by_side

K = 3
FIXED = [key for key, cls in bd.nn.layers.items() if not getattr(cls, "input_dependent", False)]


def bb(num_units, **options):
    layer = bd.BetaBernoulliDropout(num_units, **options)
    layer.set_posterior(torch.logspace(-3, 3, num_units)[torch.randperm(num_units)])
    return layer


def mlp():
    return nn.Sequential(
        bb(12), nn.Linear(12, 20), nn.ReLU(), bb(20), nn.Linear(20, 15), nn.Tanh(), bb(15),
        nn.Linear(15, 3),
    )  # fmt: skip


def normed():
    return nn.Sequential(
        nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), bb(9), nn.Linear(9, 8), nn.BatchNorm1d(8),
        nn.Sigmoid(), bb(8), nn.Linear(8, 3),
    )  # fmt: skip


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)), bb(3, unit_dim=-3), nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6), nn.ReLU(), bb(6, unit_dim=-3),
        nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.ReLU(), bb(8, unit_dim=-3),
        nn.MaxPool2d(2), nn.Flatten(), bb(8), nn.Linear(8, 3),
    )  # fmt: skip


class Residual(nn.Module):
    """Sums of features, and masks that scale."""

    def __init__(self):
        super().__init__()
        self.first, self.mask, self.second = nn.Linear(12, 12), bb(12), nn.Linear(12, 12)
        self.scaled, self.head = bd.MonteCarloDropout(12), nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = x + self.second(self.mask(x))
        return self.head(self.scaled(x + x.relu()))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.mask, self.down = nn.Linear(4, 9), bb(9), nn.Linear(9, 4)
        self.last, self.head = bb(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.down(self.mask(F.gelu(self.up(x.unflatten(1, (3, 4))))))
        return self.head(self.last(x)).mean(1)


class Shifted(nn.Module):
    """A number is added to units that one member has all of and another one has not."""

    def __init__(self):
        super().__init__()
        self.first, self.mask, self.head = nn.Linear(12, 4), bb(4), nn.Linear(4, 3)
        self.mask.set_posterior(torch.full((4,), 12.0))

    def forward(self, x):
        return self.head(torch.sinh(self.mask(self.first(x).tanh()) + 1))


class Weighed(Shifted):
    """A parameter stands first."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x):
        x = self.scale * self.mask(self.first(x).tanh())
        return F.linear(x, self.head.weight.abs())


class Halved(Shifted):
    """A parameter stands alone."""

    def forward(self, x):
        weight = self.head.weight * 0.5
        return F.linear(self.mask(self.first(x)), weight)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mask, self.head = bb(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.mask(x.unflatten(1, (3, 4)))
        return self.head(self.attention(x, x, x)[0].mean(1))


def assert_members(network, x, *, together, **options):
    bnn = bd.BayesianNetwork(network.eval(), bd.Categorical(), num_data=10).eval()
    small = bd.compact(bnn, x, members=K, seed=4, **options)
    expected = bd.predict(bnn, x, num_samples=K, seed=4).samples
    with torch.no_grad():
        torch.testing.assert_close(small(x).softmax(-1), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(small(x[:1]), small(x)[:, :1])
    assert together != any(name.startswith("member_") for name, _ in small.named_modules())
    return bnn, small


@pytest.mark.parametrize("make", [mlp, normed, Residual])
def test_members_are_their_compact_networks_run_together(make):
    torch.manual_seed(1)
    network = make()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
    assert_members(network, torch.randn(5, 12), together=True)


@pytest.mark.parametrize("make", [Tokens, Attending, Shifted, Weighed, Halved])
def test_what_does_not_run_together_runs_one_after_the_other(make):
    assert_members(make(), torch.randn(5, 12), together=False)


def test_convolutions_run_in_groups():
    network = convolutional()[1:]
    x = torch.randn(5, 3, 2, 2)
    _, small = assert_members(network, x, together=True)
    groups = [m.groups for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert groups == [1, K]


@pytest.mark.parametrize("key", FIXED)
def test_every_law_of_masks_and_weights_has_members(key):
    network = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    assert_members(bd.convert(network, dropout=key), torch.randn(5, 12), together=True)


def test_layers_that_no_mask_comes_before_run_once():
    net = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), bb(40), nn.Linear(40, 3))
    _, small = assert_members(net, torch.randn(5, 12), together=True)
    assert small.get_submodule("0").out_features <= 40


def test_the_widest_number_of_units_is_a_multiple():
    _, small = assert_members(mlp(), torch.randn(5, 12), together=True, multiple_of=8)
    assert small.get_submodule("1").out_features % (8 * K) == 0
    assert small.get_submodule("4").weight.shape[1] % 8 == 0


@pytest.mark.parametrize("make", [mlp, convolutional])
@pytest.mark.parametrize("format", ["export", "onnx"])
def test_one_file_holds_all_members(tmp_path, make, format):
    if format == "onnx":
        pytest.importorskip("onnxscript")
    network = (make() if make is mlp else make()[1:]).float()
    x = torch.randn(5, *((12,) if make is mlp else (3, 2, 2)), dtype=torch.float32)
    small = bd.compact(network.eval(), x, members=K, seed=0)
    bd.save_plain(small, tmp_path / "members", x, format=format)
    again = bd.load_plain(tmp_path / "members")
    with torch.no_grad():
        for rows in (x, x[:1], x.repeat(2, *[1] * (x.ndim - 1))):
            torch.testing.assert_close(again(rows), small(rows), rtol=1e-5, atol=1e-5)


def test_members_are_evaluated_like_posterior_samples():
    x, y = torch.randn(20, 12), torch.arange(20) % 3
    bnn, small = assert_members(mlp(), x, together=True)
    program = bd.compression.Members(small, bnn.likelihood, K)
    expected = bd.predict(bnn, (x, y), num_samples=K, seed=4)
    found = bd.predict(program, (x, y), batch_size=8)
    for name in ("mean", "samples", "mutual_information", "log_likelihood"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    result = bd.evaluate(program, (x, y))
    assert result.nll == pytest.approx(bd.evaluate(bnn, (x, y), num_samples=K, seed=4).nll)
    mean = bd.predict(program, x, sample=False)
    torch.testing.assert_close(mean.mean, expected.mean)
    with torch.no_grad():
        loss = program.eval().loss(x, y)
    assert float(loss.nll) == pytest.approx(result.nll)
    assert float(loss.kl) == 0.0


def test_other_outputs_are_no_members():
    _, small = assert_members(mlp(), torch.randn(5, 12), together=True)
    program = bd.compression.Members(small, bd.Categorical(), K + 1)
    with pytest.raises(bd.errors.ShapeError, match=f"expected outputs of {K + 1} members"):
        bd.predict(program, torch.randn(5, 12))


def test_regression_members_are_averaged():
    net = nn.Sequential(bb(12), nn.Linear(12, 2))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(scale=0.3), num_data=10).eval()
    x = torch.randn(5, 12)
    program = bd.compression.Members(bd.compact(bnn, x, members=K, seed=4), bnn.likelihood, K)
    expected = bd.predict(bnn, x, num_samples=K, seed=4)
    torch.testing.assert_close(bd.predict(program, x).variance, expected.variance)
    torch.testing.assert_close(bd.predict(program, x, sample=False).mean, expected.mean)


@pytest.mark.parametrize("members", [0, -1, 2.5, True])
def test_the_number_of_members_is_a_whole_number(members):
    with pytest.raises(bd.errors.ConfigError, match="expected at least one member"):
        bd.compact(mlp(), torch.randn(2, 12), members=members)


@pytest.mark.parametrize("options", [{"per_input": True}, {"keep_posterior": True}])
def test_members_exclude_other_ways(options):
    with pytest.raises(bd.errors.ConfigError, match="one of per_input, keep_post"):
        bd.compact(mlp(), torch.randn(2, 12), members=2, **options)


def test_a_network_without_bayesian_layers_has_no_members():
    with pytest.raises(bd.errors.ConfigError, match="a network with Bayesian layers"):
        bd.compact(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4), members=2)


def test_masks_that_look_at_the_input_have_no_members():
    net = nn.Sequential(bd.DependentBetaBernoulliDropout(4), nn.Linear(4, 3))
    with pytest.raises(bd.errors.CompactionError, match="the same for every input"):
        bd.compact(net, torch.randn(2, 4), members=2)


def test_networks_side_by_side_have_stacked_outputs():
    x = torch.randn(2, 12)
    parts = [bd.compact(mlp(), x) for _ in range(2)]
    torch.testing.assert_close(side_by_side(parts)(x), torch.stack([part(x) for part in parts]))


class Heads(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.mask, self.mean, self.scale = bb(12), nn.Linear(12, 2), nn.Linear(12, 2)
        self.join = join

    def forward(self, x):
        h = self.mask(x)
        return self.join(self.mean(h), self.scale(h))


@pytest.mark.parametrize("join", [lambda a, b: (a, b), lambda a, b: {"mean": a, "scale": b}])
@pytest.mark.parametrize("check", [True, False])
def test_networks_with_several_outputs_have_no_members(join, check):
    with pytest.raises(bd.errors.CompactionError, match="whose output is one tensor"):
        bd.compact(Heads(join), torch.randn(2, 12), members=2, check=check)
