"""What every mask has: a draw that a loop can reuse, and a dimension of the examples."""

import math

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.testing import assert_mean_close

KEYS = list(bd.nn.registered(bd.BayesianDropout))


class Loop(nn.Module):
    """A recurrent classifier that multiplies its state by one mask at every step."""

    def __init__(self, gates):
        super().__init__()
        self.gates, self.cell, self.out = gates, nn.RNNCell(3, 4), nn.Linear(4, 3)
        self.states = []

    def forward(self, x):
        state = x.new_zeros(len(x), 4)
        mask = self.gates.sample_mask(state)
        self.states = []
        for time in range(x.shape[1]):
            state = self.cell(x[:, time], state) * mask
            self.states.append(state.detach())
        return self.out(state)


def recurrent(key="beta-bernoulli", **options):
    return bd.BayesianNetwork(Loop(bd.nn.make(key, 4, **options)), bd.Categorical(), num_data=20)


def sequences(rows=5):
    return torch.randn(rows, 6, 3), torch.randint(3, (rows,))


# -- a draw for a loop over time ------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_a_loop_has_one_site_and_one_loss(key, same_noise):
    bnn, data = recurrent(key), sequences()
    guide = poutine.trace(bnn.guide).get_trace(*data)  # as a prior may be improper
    trace = poutine.trace(poutine.replay(bnn.model, trace=guide)).get_trace(*data)
    assert trace.nodes["gates.z"]["value"].shape == (5, 4)
    parameters = list(bnn.parameters())
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, *data)
    ours = bnn.loss(*data).loss
    torch.testing.assert_close(ours, stock)
    torch.testing.assert_close(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(stock, parameters)
    )


def test_stock_pyro_trains_a_loop():
    bnn, data = recurrent(), sequences()
    before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
    for options in ({}, {"num_particles": 3, "vectorize_particles": True}):
        svi = SVI(bnn.model, bnn.guide, Adam({"lr": 0.01}), TraceMeanField_ELBO(**options))
        assert math.isfinite(svi.step(*data))
    assert not any(torch.equal(p, before[name]) for name, p in bnn.named_parameters())
    bnn.eval()
    predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=7, parallel=True)
    assert predictive(data[0])["gates.z"].reshape(7, 5, 4).shape == (7, 5, 4)


def test_a_loop_has_the_same_mask_at_every_step():
    bnn, (x, _) = recurrent("mc-dropout"), sequences()
    sample = bd.nn.PosteriorSample(bnn.draw_latents(), shared=False)
    passes = [lambda: bnn(x), lambda: bnn.model(x), lambda: bnn.loss(x, torch.zeros(5).long())]
    for run in passes:
        run()
        dropped = torch.stack([state == 0 for state in bnn.network.states])
        assert torch.equal(dropped, dropped[:1].expand_as(dropped))
        assert 0 < int(dropped[0].sum()) < 20
    with sample:
        bnn(x)
    assert len({tuple((state == 0).flatten().tolist()) for state in bnn.network.states}) == 1
    bnn.eval()(x)
    assert not any(bool((state == 0).any()) for state in bnn.network.states)


def test_a_loop_takes_an_imposed_mask():
    bnn, (x, _) = recurrent(), sequences()
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    with bd.impose_masks(bnn.network, {"gates": mask}):
        expected = bnn(x)
    assert all(bool((state[:, [1, 3]] == 0).all()) for state in bnn.network.states)
    model = poutine.condition(bnn.model, {"gates.z": mask.expand(5, 4)})
    torch.testing.assert_close(model(x), expected)


def test_a_loop_is_predicted_by_the_mean_over_masks():
    bnn, (x, _) = recurrent("mc-dropout").eval(), sequences(2)
    masks = 2.0 * torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    outputs = []
    for mask in masks:
        with bd.impose_masks(bnn.network, {"gates": mask}):
            outputs.append(bnn(x).softmax(1).detach())
    for shared_by in ("batch", "example"):
        drawn = bd.predict(bnn, x, num_samples=800, shared_by=shared_by, seed=0).samples
        assert_mean_close(drawn, torch.stack(outputs).mean(0))


def test_the_mask_of_a_layer_is_what_it_multiplies_by():
    layer = bd.BetaBernoulliDropout(4)
    x = torch.randn(5, 4)
    for mode in (True, False):
        layer.train(mode)
        torch.manual_seed(1)
        mask = layer.sample_mask(x)
        torch.manual_seed(1)
        assert torch.equal(layer(x), x * mask)
    assert mask.shape == (1, 4)


# -- the dimension of the examples ----------------------------------------------------------------


class Sequences(nn.Module):
    """Turns (N, T, K) into (T, N, K), as recurrent networks do, and averages over time."""

    def __init__(self, key, batch_dim):
        super().__init__()
        self.gates = bd.nn.make(key, 4, batch_dim=batch_dim)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        x = x.transpose(0, 1) if self.gates.batch_dim == 1 else x
        return self.out(self.gates(x).mean(1 - self.gates.batch_dim))


def of_sequences(key, batch_dim):
    return bd.BayesianNetwork(Sequences(key, batch_dim), bd.Categorical(), num_data=20)


@pytest.mark.parametrize("key", KEYS)
def test_examples_in_the_second_dimension_are_those_in_the_first(key, same_noise):
    first, second = of_sequences(key, 0), of_sequences(key, 1)
    second.load_state_dict(first.state_dict())
    x, y = torch.randn(5, 6, 4), torch.randint(3, (5,))
    torch.testing.assert_close(first.loss(x, y).loss, second.loss(x, y).loss)
    losses = [
        TraceMeanField_ELBO(num_particles=3, vectorize_particles=True).loss(b.model, b.guide, x, y)
        for b in (first, second)
    ]
    assert losses[0] == pytest.approx(losses[1])
    second.load_state_dict(first.state_dict())
    first.eval(), second.eval()
    torch.testing.assert_close(first(x), second(x))
    for shared_by in ("batch", "example"):
        ours, theirs = (
            bd.predict(b, x, num_samples=3, shared_by=shared_by, seed=0) for b in (first, second)
        )
        torch.testing.assert_close(ours.mean, theirs.mean)
    with bd.impose_masks(second.network, {"gates": torch.eye(5, 4)}):
        masked = second(x)
    torch.testing.assert_close(masked[4], second.network.out.bias.detach())


def test_a_mask_is_shared_by_the_other_dimensions():
    layer = bd.MonteCarloDropout(4, unit_dim=-3, batch_dim=1)
    kept = layer(torch.ones(6, 50, 4, 2, 3)) != 0
    assert torch.equal(kept, kept[:1, :, :, :1, :1].expand_as(kept))
    assert 0 < int(kept[0, :, :, 0, 0].sum()) < 200


def test_the_examples_may_come_after_the_units():
    layer = bd.DependentBetaBernoulliDropout(3, unit_dim=-2, batch_dim=1).eval()
    first = bd.DependentBetaBernoulliDropout(3).eval()
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer(x.T), first(x).T)


def test_examples_in_another_dimension_are_refused_by_name():
    bnn = of_sequences("beta-bernoulli", 1)
    bnn.network.gates.batch_dim = 0
    bnn.network.forward = lambda x: bnn.network.out(bnn.network.gates(x.transpose(0, 1)).mean(0))
    x, y = torch.randn(5, 6, 4), torch.randint(3, (5,))
    match = (
        r"BetaBernoulliDropout 'gates': expected the examples of this pass, [15], in dimension 0, "
        r"got input of shape \(6, [15], 4\). Pass batch_dim=1 to the layer."
    )  # a prediction begins with one example
    for run in (
        lambda: bnn.model(x, y),
        lambda: bnn.loss(x, y),
        lambda: bd.predict(bnn, x, num_samples=2),
    ):
        with pytest.raises(ShapeError, match=match):
            run()
    bnn.network.gates.batch_dim = 1
    assert bd.predict(bnn, x, num_samples=2).mean.shape == (5, 3)


def test_examples_merged_with_another_dimension_are_refused():
    class Merged(Sequences):
        def forward(self, x):
            return self.out(self.gates(x.flatten(0, 1))).reshape(len(x), -1, 3).mean(1)

    bnn = bd.BayesianNetwork(Merged("mc-dropout", 0), bd.Categorical(), num_data=20)
    with pytest.raises(ShapeError, match=r"got input of shape \(30, 4\). An example has one mask"):
        bnn.loss(torch.randn(5, 6, 4), torch.randint(3, (5,)))


def test_convert_passes_the_dimension_on():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    layers = bd.nn.named_dropout_layers(bd.convert(net, "nested", batch_dim=1))
    assert [layer.batch_dim for _, layer in layers] == [1, 1]


def test_a_negative_dimension_is_refused():
    with pytest.raises(ConfigError, match="BetaBernoulliDropout: expected batch_dim >= 0"):
        bd.BetaBernoulliDropout(3, batch_dim=-1)


@pytest.mark.parametrize(
    "options",
    [
        {"num_units": 3.5},
        {"num_units": "3"},
        {"num_units": None},
        {"num_units": True},
        {"num_units": float("nan")},
        {"unit_dim": "last"},
        {"unit_dim": -1.5},
        {"batch_dim": None},
        {"kl_scale": "1"},
        {"kl_scale": True},
        {"threshold": None},
    ],
)
def test_an_argument_of_another_type_is_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        bd.BetaBernoulliDropout(**{"num_units": 4, **options})


@pytest.mark.parametrize("key, unit_dim, rows", [("two of that size", -3, 5), ("units", -1, 4)])
def test_no_dimension_is_advised_that_may_not_be_that_of_the_examples(key, unit_dim, rows):
    gates = bd.nn.make("beta-bernoulli", 4, unit_dim=unit_dim)
    net = nn.Sequential(gates, nn.Flatten(), nn.LazyLinear(3))
    shape = (1, 4, rows, rows) if unit_dim == -3 else (1, 3, 4)
    net(torch.randn(shape))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    net.forward = lambda x: nn.Sequential(*net)(torch.randn(shape)).expand(len(x), 3)
    with pytest.raises(ShapeError, match="examples must not be merged with another dimension"):
        bnn.loss(torch.randn(rows, 2), torch.zeros(rows, dtype=torch.long))


def test_what_is_no_mask_is_neither_put_on_inputs_nor_imposed():
    layer = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match="mask_inputs: expected a mask, got None"):
        bd.nn.mask_inputs(layer, None)
    assert not layer._forward_pre_hooks
    with pytest.raises(ConfigError, match="impose_masks: expected a mapping .*, got a list"):
        bd.impose_masks(bd.BetaBernoulliDropout(3), [torch.ones(3)])


class ByKeyword(nn.Module):
    """Calls its layers as torch allows; with ``branch`` it cannot be traced."""

    def __init__(self, branch=False):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3)
        self.branch = branch

    def forward(self, x):
        if self.branch and x.sum() > 1e9:
            return x
        return self.last(input=self.drop(input=self.first(input=x)))


@pytest.mark.filterwarnings("ignore::bayesdrop.errors.BayesdropWarning")
@pytest.mark.parametrize("key", list(bd.nn.layers))
@pytest.mark.parametrize("branch", [False, True])
def test_layers_may_be_called_by_keyword(key, branch):
    bnn = bd.BayesianNetwork(bd.convert(ByKeyword(branch), key), bd.Categorical(), num_data=5)
    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    bd.fit(bnn, (x, y), epochs=1, progress=False)
    assert bd.predict(bnn, x, num_samples=2).mean.shape == (5, 3)


def test_a_mask_on_inputs_given_by_keyword_is_that_on_inputs_given_by_place():
    layer = nn.Linear(3, 2)
    mask = bd.BetaBernoulliDropout(3).eval()
    mask.set_posterior(torch.tensor([1e-6, 1.0, 9.0]), torch.ones(3))
    x = torch.randn(4, 3)
    bd.nn.mask_inputs(layer, mask)
    torch.testing.assert_close(layer(input=x), layer(x), rtol=0, atol=0)
    bd.nn.unmask_inputs(layer)
    assert not layer._forward_pre_hooks and not layer._forward_pre_hooks_with_kwargs
