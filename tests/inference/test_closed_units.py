"""Laws of training without pruned units: nothing else than masking them, and nothing is lost."""

import copy

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.inference.closed_units import ClosedUnits
from bayesdrop.ops import noise

# Masks of a network: mask, layer before, norm before, layer behind, positions of a unit.
Links = list[tuple[str, str | None, str | None, str, int]]


def dense(key):
    network = nn.Sequential(
        *(bd.nn.make(key, 6), nn.Linear(6, 8), nn.Tanh()),
        *(bd.nn.make(key, 8), nn.Dropout(0.0), nn.Linear(8, 3)),
    )
    links: Links = [("0", None, None, "1", 1), ("3", "1", None, "5", 1)]
    return network, links, torch.randn(20, 6)


def maps(key):
    network = nn.Sequential(
        *(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), bd.nn.make(key, 5, unit_dim=-3)),
        *(nn.MaxPool2d(2), nn.Conv2d(5, 4, 2, bias=False), bd.nn.make(key, 4, unit_dim=-3)),
        *(nn.Flatten(), bd.nn.make(key, 16), nn.Linear(16, 3)),
    )
    links: Links = [("3", "0", "1", "5", 1), ("6", "5", None, "9", 4), ("8", None, None, "9", 1)]
    return network, links, torch.randn(20, 2, 8, 8)


def close_some(network, links):
    """Prune, by its posterior, the first units of every mask, and what lies behind them."""
    for mask, *_ in links:
        layer = network.get_submodule(mask)
        count = 4 if layer.num_units == 16 else max(1, layer.num_units // 4)
        units = torch.arange(layer.num_units) < count
        tensors = bd.nn.unit_tensors(layer)
        with torch.no_grad():
            if "open" in tensors:
                layer.open &= ~units
            elif "location" in tensors:
                layer.set_posterior(torch.where(units, 1e-5, 3.0))
            elif "logits" in tensors:
                layer.logits[units] = -9.0
            elif "scores" in tensors:
                layer.scores[units] = -3.0
            elif "log_variance" in tensors:
                layer.log_variance[units] = layer.loc[units].square().log() + 9.0
            elif "log_variance_a" in tensors:
                layer.log_variance_a[units] = layer.log_variance_b[units] = 4.0
            else:
                layer.loc[units], layer.log_scale[units] = -15.0, 2.0
        assert torch.equal(~layer.kept(), units)


def make(network, rows=20):
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=rows)
    return bnn


@pytest.fixture
def same_noise(monkeypatch):
    """Noise that is the same for all units, so that it does not depend on how many there are."""
    generator = torch.Generator()

    def column(draw):
        def drawn(shape, like):
            rows = shape[0] if len(shape) > 1 else 1
            value = draw((rows, *[1] * max(0, len(shape) - 1)), generator=generator)
            return value.to(like).expand(tuple(shape)).clone()

        return drawn

    monkeypatch.setattr(noise, "uniform", column(torch.rand))
    monkeypatch.setattr(noise, "normal", column(torch.randn))
    return generator


def movable(network, links):
    """Return, of every parameter, which entries belong to open units alone."""
    found = {name: torch.ones_like(p, dtype=torch.bool) for name, p in network.named_parameters()}
    for mask, before, norm, behind, block in links:
        layer = network.get_submodule(mask)
        units = layer.kept()
        for name, value in bd.nn.unit_tensors(layer).items():
            if isinstance(value, nn.Parameter):
                found[f"{mask}.{name}"] &= units
        found[f"{behind}.weight"][:, ~units.repeat_interleave(block)] = False
        for name in (before, norm):
            for part in ("weight", "bias"):
                if name is not None and f"{name}.{part}" in found:
                    found[f"{name}.{part}"][~units] = False
    return found


@pytest.mark.parametrize("build", [dense, maps], ids=["dense", "maps"])
@pytest.mark.parametrize(
    "key",
    [
        "beta-bernoulli",
        "dependent-beta-bernoulli",
        "generalized",
        "group-horseshoe",
        "hard-concrete",
        "neural-plasticity",
        "normal-jeffreys",
        "structured-bayesian-pruning",
    ],
)
def test_it_is_training_with_closed_masks_at_zero(key, build, same_noise):
    network, links, x = build(key)
    close_some(network, links)
    y = torch.randint(0, 3, (len(x),))
    first = make(network)
    first.eval()(x)
    first.train()
    second = copy.deepcopy(first)

    def optimizer(bnn):
        return torch.optim.Adam(bnn.parameters(), lr=0.01, weight_decay=0.1, amsgrad=True)

    def step(bnn, adam):
        adam.zero_grad()
        terms = bnn.loss(x, y)
        (terms.loss / 20).backward()
        adam.step()
        return terms.loss.item(), terms.kl.item()

    one, two = optimizer(first), optimizer(second)
    free = movable(second.network, links)
    for mask, *_ in links:
        layer = second.network.get_submodule(mask)
        shape = [-1] + [1] * (-1 - layer.unit_dim)
        zero = layer.kept().reshape(shape).to(x.dtype)
        layer.register_forward_hook(lambda m, inputs, out, zero=zero: out * zero)
    units = ClosedUnits(first)
    units.close()
    assert {name: int(u.sum()) for name, u in units.closed.items()} == {
        mask: int((~network.get_submodule(mask).kept()).sum()) for mask, *_ in links
    }
    for epoch in range(2):
        same_noise.manual_seed(epoch)
        with units.absent(one) as kl:
            assert network[0].num_units < 6 if build is dense else network[0].weight.shape[0] < 5
            losses = [step(first, one) for _ in range(2)]
        same_noise.manual_seed(epoch)
        for loss, own_kl in losses:
            frozen = {name: p.detach().clone() for name, p in second.network.named_parameters()}
            expected, expected_kl = step(second, two)
            with torch.no_grad():
                for name, p in second.network.named_parameters():
                    p.copy_(torch.where(free[name], p, frozen[name]))
            assert loss + kl == pytest.approx(expected, rel=1e-9)
            assert own_kl + kl == pytest.approx(expected_kl, rel=1e-9)
    assert_alike(first, second, one, two, free)
    for norm in {norm for _, _, norm, _, _ in links if norm}:
        open_units = first.network[3].kept()
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(
                getattr(first.network.get_submodule(norm), name)[open_units],
                getattr(second.network.get_submodule(norm), name)[open_units],
            )


def assert_alike(first, second, one, two, free):
    """Two networks have the same parameters, and their optimisers the same state where it is."""
    for (name, p), q in zip(
        first.network.named_parameters(), second.network.parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10, msg=name)
        for kind in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            torch.testing.assert_close(
                one.state[p][kind][free[name]], two.state[q][kind][free[name]]
            )
        assert one.state[p]["step"] == 4


class Reshaped(nn.Module):
    def forward(self, x):
        return x.view(-1, 6)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask, self.layer = bd.BetaBernoulliDropout(6), nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(torch.relu(self.layer(self.mask(x))))


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask, self.layer = bd.BetaBernoulliDropout(6), nn.Linear(6, 6)

    def forward(self, x):
        masked = self.mask(x)
        return masked + self.layer(masked)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(bd.BetaBernoulliDropout(6), nn.BatchNorm1d(6), nn.Linear(6, 3)),
        nn.Sequential(bd.BetaBernoulliDropout(6), nn.Sigmoid(), nn.Linear(6, 3)),
        nn.Sequential(bd.BetaBernoulliDropout(6), nn.AlphaDropout(0.1), nn.Linear(6, 3)),
        nn.Sequential(bd.BetaBernoulliDropout(6), Reshaped(), nn.Linear(6, 3)),
        nn.Sequential(bd.ConcreteDropout(6), nn.Linear(6, 3)),
        nn.Sequential(bd.IndianBuffetDropout(6), nn.Linear(6, 3)),
        nn.Sequential(bd.BetaBernoulliDropout(6), bd.nn.Dropconnect(nn.Linear(6, 3))),
        Twice(),
        Sum(),
    ],
    ids=lambda network: " ".join(type(m).__name__ for m in network.children()),
)
def test_units_that_something_may_miss_stay(network):
    network = copy.deepcopy(network).double()
    bnn = make(network)
    mask = next(m for _, m in bnn.named_dropout_layers())
    if isinstance(mask, bd.BetaBernoulliDropout):
        mask.set_posterior(torch.tensor([1e-5, 1e-5, 3.0, 3.0, 3.0, 3.0]))
    bnn.eval()(torch.randn(4, 6))
    bnn.train()
    units = ClosedUnits(bnn)
    units.close()
    assert units.closed == {}


def test_one_unit_of_each_layer_stays_and_a_layer_of_it_trains():
    network, links, x = dense("beta-bernoulli")
    network[0].set_posterior(1e-5)
    network[3].set_posterior(1e-5)
    data = x, torch.randint(0, 3, (20,))
    history = bd.fit(
        make(network), data, epochs=2, batch_size=10, compact_every=1, progress=False
    ).history
    assert history[-1]["units"] == [0, 0] and network[1].weight.shape == (8, 6)


def test_what_has_left_does_not_come_back_when_the_last_unit_is_pruned_too():
    network, _, x = dense("beta-bernoulli")
    bnn = make(network)
    bnn.eval()(x)
    units = ClosedUnits(bnn)
    network[0].set_posterior(torch.tensor([1e-5, 1e-5, 1e-5, 3.0, 1e-5, 1e-5]))
    units.close()
    closed = units.closed["0"].clone()
    network[0].set_posterior(1e-5)
    units.close()
    assert torch.equal(closed, units.closed["0"]) and closed.tolist().index(False) == 3


def fitted(epochs, folder=None, **options):
    settings = {"batch_size": 5, "seed": 4, "compact_every": 2, "schedule": [10], **options}
    for end in epochs:  # each part as in a process of its own, with a new network
        torch.manual_seed(1)
        network, links, x = dense("beta-bernoulli")
        close_some(network, links)
        data = x, torch.randint(0, 3, (20,))
        bnn = make(network)
        result = bd.fit(bnn, data, epochs=end, checkpoint_dir=folder, progress=False, **settings)
    return bnn, result


@pytest.mark.parametrize("optimizer", [None, lambda g: torch.optim.SGD(g, momentum=0.9)])
def test_a_run_in_two_parts_has_the_bits_of_one(optimizer, tmp_path):
    whole, one = fitted([5], tmp_path / "one", optimizer=optimizer)
    parts, two = fitted([3, 5], tmp_path / "two", optimizer=optimizer)
    for (name, first), second in zip(
        whole.state_dict().items(), parts.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second), name
    for first, second in zip(one.history, two.history, strict=True):
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_what_is_closed_stays_as_it_was_and_the_network_is_whole_between_epochs():
    seen = []

    def look(bnn, record):
        weight = bnn.network[1].weight
        seen.append((weight.detach().clone(), record["kl"], bnn.network[0].location.clone()))
        assert weight.shape == (8, 6) and not bnn.network[0]._forward_pre_hooks
        assert bnn.total() == {"units": [6, 8]} and record["units"] == [5, 6]

    bnn, result = fitted([4], callbacks=[look])
    closed_weight = [weight[2:, 0] for weight, _, _ in seen]
    assert not torch.equal(closed_weight[0], closed_weight[1])  # two epochs as ever
    assert torch.equal(closed_weight[1], closed_weight[3])
    assert torch.equal(seen[1][2][0], seen[3][2][0]) and not torch.equal(seen[1][2], seen[3][2])
    # The divergence of closed units goes on being counted: nothing falls when they leave.
    kls = [kl for _, kl, _ in seen]
    assert abs(kls[2] - kls[1]) < 3 * abs(kls[1] - kls[0]) + 1e-3


def test_the_divergence_of_closed_units_has_the_weight_of_all_others():
    bnn, result = fitted([4], kl_weight=0.25, schedule=lambda epoch, epochs: 0.0)
    assert result.history[-1]["units"] == [5, 6]
    expected = 0.25 * bd.kl_divergence(bnn.network).item() / 20
    assert [record["kl"] for record in result.history] == pytest.approx([expected] * 4)


def test_what_cannot_leave_says_why():
    with pytest.raises(ConfigError, match="compact_every=None, since an example has latents"):
        vae = bd.networks.vae(20, input_shape=(1, 4, 4), latent_size=2)
        bd.fit(vae, torch.rand(20, 1, 4, 4), epochs=1, compact_every=1, progress=False)
    with pytest.raises(ConfigError, match="whose state is of single weights"):
        fitted([4], optimizer=lambda groups: torch.optim.Adafactor(groups))
    with pytest.raises(ConfigError, match="compact_every >= 1"):
        fitted([1], compact_every=0)
