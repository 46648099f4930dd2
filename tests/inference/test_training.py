"""Laws of what layers ask of a training step: scheduled buffers, and a hook after the step."""

import pytest
import torch
from torch import nn
from typing_extensions import override

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import LatentOwner
from tests.inference.test_fit import assert_same_bits, fit, make_bnn, make_data


class Lasso(LatentOwner):
    """Gates on which every step is followed by the proximal step of an L1 norm."""

    unit_word = "units"
    schedulable = ("strength", "seen")
    kl_scale = 1.0

    def __init__(self, num_units, strength):
        super().__init__()
        self.gate = nn.Parameter(torch.full((num_units,), 0.5))
        self.register_buffer("strength", torch.tensor(float(strength)))
        self.register_buffer("seen", torch.zeros(2))
        self.steps = 0

    @override
    def prior(self):
        return {}

    @override
    def posterior(self):
        return {}

    @override
    def kept(self):
        return self.gate.detach() != 0

    @override
    def after_step(self, optimizer):
        groups = optimizer.param_groups
        rate = next(g["lr"] for g in groups if any(p is self.gate for p in g["params"]))
        self.gate.copy_(torch.nn.functional.softshrink(self.gate, float(rate * self.strength)))
        self.steps += 1

    def forward(self, x):
        return (x * self.gate).sum(-1, keepdim=True)


def lasso(strength=0.2, units=6):
    likelihood = bd.Gaussian(1.0)
    return bd.BayesianNetwork(nn.Sequential(Lasso(units, strength)), likelihood, num_data=64)


def regression(units=6):
    """Inputs with X'X = N, so that the lasso is the least-squares solution, shrunk."""
    x = torch.linalg.qr(torch.randn(64, units)).Q * 8.0
    return x, x @ torch.tensor([1.0, -0.7, 0.1, 0.0, 0.0, 0.3])[:units] + torch.randn(64)


def test_a_proximal_step_after_the_optimisers_makes_exact_zeros():
    """Proximal gradient descent finds the lasso's solution, which is closed here."""
    bnn, (x, y) = lasso(), regression()
    options = {"optimizer": torch.optim.SGD, "variational_learning_rate": 0.5}
    result = fit(bnn, (x, y), epochs=60, batch_size=64, schedule=lambda *_: 1.0, **options)
    expected = torch.nn.functional.softshrink(x.T @ y / 64, 0.2)
    gate = bnn.network[0].gate.detach()
    torch.testing.assert_close(gate, expected)
    zeros = gate == 0
    assert 0 < int(zeros.sum()) < 6 and torch.equal(zeros, expected == 0)
    assert result.history[-1]["units"] == [int((~zeros).sum())]
    assert bnn.network[0].steps == 60


def test_every_owner_is_called_once_a_step():
    network = nn.Sequential(Lasso(6, 0.1), nn.Linear(1, 6), Lasso(6, 0.1))
    bnn = bd.BayesianNetwork(network, bd.Gaussian(1.0), num_data=64)
    fit(bnn, regression(), epochs=3, batch_size=16, optimizer=lambda groups: sgd(groups, bnn))
    assert [bnn.network[0].steps, bnn.network[2].steps] == [12, 12]


def sgd(groups, bnn):
    gates = [module.gate for module in bnn.modules() if isinstance(module, Lasso)]
    return torch.optim.SGD([{"params": [gate], "lr": 0.01, "initial_lr": 0.01} for gate in gates])


def test_any_declared_buffer_can_be_scheduled_and_is_recorded():
    bnn = lasso()
    buffers = {"strength": bd.schedules.linear(0.4, 0.1), "seen": 3}
    result = fit(bnn, regression(), epochs=4, buffers=buffers)
    strengths = torch.tensor([record["strength"] for record in result.history])
    torch.testing.assert_close(strengths, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    assert float(bnn.network[0].strength) == pytest.approx(0.1)
    assert bnn.network[0].seen.tolist() == [3.0, 3.0]
    assert [record["seen"] for record in result.history] == [3.0] * 4


def test_buffers_of_one_name_are_set_in_all_layers_and_others_are_left():
    network = nn.Sequential(
        bd.BetaBernoulliDropout(6, temperature=0.3),
        nn.Linear(6, 6),
        bd.ConcreteDropout(6, temperature=0.4),
        nn.Linear(6, 6),
        bd.MonteCarloDropout(6),
        nn.Linear(6, 1),
        Lasso(1, 0.1),
    )
    bnn = bd.BayesianNetwork(network, bd.Gaussian(1.0), num_data=64)
    result = fit(bnn, regression(), epochs=1, buffers={"temperature": 0.9})
    assert [float(network[i].temperature) for i in (0, 2)] == pytest.approx([0.9, 0.9])
    assert float(network[6].strength) == pytest.approx(0.1)
    assert result.history[0]["temperature"] == pytest.approx(0.9)
    assert result.history[0]["strength"] == pytest.approx(0.1)


def test_a_resumed_schedule_is_bit_equal(tmp_path):
    data = make_data()
    options = {
        "schedule": bd.schedules.constant(1.0),
        "buffers": {"temperature": lambda epoch, epochs: 1.0 / (1 + epoch)},
    }
    whole, resumed = make_bnn(), make_bnn(seed=5)
    fit(whole, data, epochs=4, **options)
    fit(make_bnn(), data, epochs=2, checkpoint_dir=tmp_path, **options)
    result = fit(resumed, data, epochs=4, checkpoint_dir=tmp_path, **options)
    assert_same_bits(whole, resumed)
    assert [r["temperature"] for r in result.history] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_bnn, r"unknown schedulable buffer 'temprature'. Did you mean 'temperature'\?"),
        (lasso, "unknown schedulable buffer 'temprature'.*Available: seen, strength"),
        (
            lambda: bd.BayesianNetwork(nn.Linear(6, 2), bd.Categorical(), num_data=120),
            "unknown schedulable buffer 'temprature'. Available: none",
        ),
    ],
)
def test_an_undeclared_buffer_is_an_error_that_lists_the_others(make, message):
    bnn = make()
    with pytest.raises(ConfigError, match=message):
        fit(bnn, make_data(bnn.num_data), buffers={"temprature": 0.5})
