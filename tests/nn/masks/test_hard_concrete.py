import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence as torch_kl_divergence

import bayesdrop as bd
from bayesdrop.distributions import HardConcrete
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close


def layer(logits=(-4.0, -2.0, 0.0, 4.0), **options):
    result = bd.HardConcreteDropout(len(logits), **options)
    with torch.no_grad():
        result.logits.copy_(torch.tensor(logits))
    return result


def prices(net):
    return {
        name: int(m.parameters_per_unit) for name, m in net.named_modules() if "dropout" in name
    }


# -- masks ----------------------------------------------------------------------------------------


def test_keep_prob_and_test_gate_are_the_golden_values():
    np.testing.assert_allclose(
        layer().keep_prob().detach(), [0.0831, 0.4010, 0.8318, 0.9963], atol=6e-5
    )
    np.testing.assert_allclose(layer().mean_mask().detach(), [0.0, 0.0430, 0.5, 1.0], atol=6e-5)
    assert layer().kept().tolist() == [False, True, True, True]


def test_masks_are_the_same_in_both_modes_and_hold_both_atoms():
    for mode in (True, False):
        gates = layer((0.0,) * 4).train(mode)
        z = gates.draw_mask({}, torch.ones(5000, 4))
        assert_mean_close((z == 0).double(), 1 - 0.8318274)
        assert_mean_close((z == 1).double(), 0.1681726)


def test_a_unit_is_pruned_exactly_where_the_test_gate_is_zero():
    gates = layer((-2.399, -2.397))
    assert gates.kept().tolist() == [False, True]
    np.testing.assert_allclose(gates.threshold, 0.3102, atol=1e-4)
    gates.threshold = 0.0
    assert gates.kept().tolist() == [False, True]


def test_a_higher_threshold_prunes_by_keep_prob():
    gates = layer(threshold=0.9)
    assert gates.kept().tolist() == (gates.keep_prob() >= 0.9).tolist()
    assert (gates.mean_mask() != 0).tolist() == gates.kept().tolist() == [False] * 3 + [True]


def test_logits_outside_the_bounds_count_as_the_bound_and_can_come_back():
    bound = math.log(100.0)
    torch.testing.assert_close(layer((9.0, -9.0)).keep_prob(), layer((bound, -bound)).keep_prob())
    far = layer((9.0,))
    (gradient,) = torch.autograd.grad(far.penalty(), far.logits)
    assert float(gradient) > 0
    (gradient,) = torch.autograd.grad(-far.penalty(), far.logits)
    assert float(gradient) == 0


# -- the penalty ----------------------------------------------------------------------------------


def test_the_penalty_is_the_price_of_the_parameters_that_are_on():
    gates = layer(cost_per_parameter=0.3)
    expected = 0.3 * gates.keep_prob().sum()
    torch.testing.assert_close(gates.penalty(), expected)
    gates.bind_weights(nn.Linear(4, 7), dim=1)
    torch.testing.assert_close(bd.kl_divergence(gates), 7 * expected)
    scaled = layer(cost_per_parameter=0.3, kl_scale=2.0)
    torch.testing.assert_close(bd.kl_divergence(scaled), 2 * expected)


def test_the_penalty_is_the_expected_number_of_open_gates():
    gates = layer(cost_per_parameter=1.0)
    z = gates.draw_mask({}, torch.ones(20_000, 4))
    assert_mean_close((z != 0).double().sum(1), gates.penalty())


@pytest.mark.parametrize("name", ["lenet-500-300", "lenet5-caffe"])
def test_convert_says_how_many_parameters_each_gate_governs(name):
    net = bd.convert(bd.networks.build(name), "hard-concrete")
    expected = {
        "lenet-500-300": {"fc1_dropout": 500, "fc2_dropout": 300, "fc3_dropout": 10},
        # Maps with their bias; fc1 has 800 inputs and 500 outputs.
        "lenet5-caffe": {
            "conv1_dropout": 26, "conv2_dropout": 501, "fc1_dropout": 500, "fc2_dropout": 10,
        },
    }[name]  # fmt: skip
    assert prices(net) == expected
    # No weight is a parameter of two modules.
    assert len({id(p) for p in net.parameters()}) == len(list(net.parameters()))
    assert all("_bound" not in key for key in net.state_dict())


def test_the_number_survives_saving_loading_and_copies():
    net = bd.convert(nn.Sequential(nn.Linear(4, 3)), "hard-concrete", prior_precision=2.0)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    by_hand = nn.ModuleDict({"0_dropout": bd.HardConcreteDropout(4), "0": nn.Linear(4, 3)})
    by_hand.load_state_dict(torch.load(file, weights_only=True))
    assert prices(by_hand) == prices(net) == {"0_dropout": 3}
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.get_submodule("0").weight.zero_()
    assert bd.kl_divergence(twin) < bd.kl_divergence(net)  # its own weights, not the original's
    torch.testing.assert_close(
        bd.kl_divergence(twin), 0.1 * 3 * layer((2.0,) * 4).keep_prob().sum()
    )


@pytest.mark.parametrize("dim", [0, 1])
def test_the_slab_is_weighted_by_the_gate(dim):
    gates = layer(cost_per_parameter=0.0, prior_precision=2.0)
    linear = nn.Linear(4, 5) if dim == 1 else nn.Linear(5, 4)
    gates.bind_weights(linear, dim)
    energy = linear.weight.square().sum(0) if dim == 1 else linear.weight.square().sum(1)
    energy = energy + linear.bias.square() if dim == 0 else energy
    torch.testing.assert_close(gates.penalty(), (gates.keep_prob() * energy).sum())
    (gradient,) = torch.autograd.grad(gates.penalty(), linear.weight)
    assert bool((gradient != 0).all())


def test_a_prior_on_the_gates_adds_its_divergence():
    gates = layer(cost_per_parameter=0.0, prior_logits=-1.0)
    z = gates.draw_mask({}, torch.ones(40_000, 4))
    q, p = HardConcrete(gates.logits), HardConcrete(torch.full((4,), -1.0))
    torch.testing.assert_close(gates.penalty(), torch_kl_divergence(q, p).sum())
    assert_mean_close((q.log_prob(z) - p.log_prob(z)).sum(1), gates.penalty())
    same = layer((-1.0,) * 4, cost_per_parameter=0.0, prior_logits=-1.0)
    torch.testing.assert_close(same.penalty(), torch.zeros(()))


def test_three_true_features_of_eight_are_found():
    x = torch.randn(200, 8)
    y = x[:, :3] @ torch.tensor([[1.0], [-2.0], [1.5]]) + 0.3 * torch.randn(200, 1)
    net = bd.convert(nn.Sequential(nn.Linear(8, 1)), "hard-concrete", cost_per_parameter=20.0)
    bnn = bd.BayesianNetwork(net, bd.Gaussian(0.3), num_data=200)
    bd.fit(bnn, (x, y), epochs=300, batch_size=200, learning_rate=0.02,
           variational_learning_rate=0.1, schedule=(), progress=False, seed=0)  # fmt: skip
    gates = net.get_submodule("0_dropout")
    assert gates.kept().tolist() == [True] * 3 + [False] * 5
    assert float(gates.keep_prob().detach()[3:].max()) < 0.2


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost_per_parameter": -1.0}, "cost_per_parameter >= 0"),
        ({"prior_precision": math.nan}, "prior_precision >= 0"),
        ({"lower": 0.0}, "lower < 0, upper > 1 and temperature > 0"),
        ({"upper": 1.0}, "lower < 0, upper > 1 and temperature > 0"),
        ({"temperature": 0.0}, "lower < 0, upper > 1 and temperature > 0"),
        ({"init_logits": 5.0}, "at most 4.605 in size"),
        ({"prior_logits": -5.0}, "at most 4.605 in size"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ConfigError, match=f"HardConcreteDropout: expected .*{message}"):
        bd.HardConcreteDropout(3, **options)


@pytest.mark.parametrize(
    ("other", "dim"),
    [(nn.Linear(5, 4), 1), (nn.Linear(4, 5), 0), (nn.ReLU(), 1), (nn.Linear(4, 4), 2)],
)
def test_attaching_another_layer_raises(other, dim):
    with pytest.raises(ConfigError, match=r"expected a layer with 4 inputs \(dim=1\) or outputs"):
        layer().bind_weights(other, dim)


def test_a_slab_needs_to_know_its_layer():
    with pytest.raises(ConfigError, match="expected to know the layer whose weights"):
        layer(prior_precision=1.0).penalty()
