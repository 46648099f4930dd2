import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close, assert_means_equal


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def attached(num_units=4, **options):
    torch.manual_seed(3)
    linear = nn.Linear(num_units, 3)
    layer = bd.ConcreteDropout(num_units, **options)
    layer.bind_weights(linear, 1)
    return layer, linear


def test_the_entropy_is_the_golden_value():
    assert entropy(0.1) == pytest.approx(0.325083, abs=5e-7)
    layer = bd.ConcreteDropout(7, init_drop_prob=0.1)
    torch.testing.assert_close(layer.penalty().item(), -7 * entropy(0.1))


@pytest.mark.parametrize("per_unit", [False, True])
def test_the_kl_is_the_published_one(per_unit):
    p, scale = 0.3, 0.6
    layer, linear = attached(init_drop_prob=p, length_scale=scale, per_unit=per_unit)
    unscaled = linear.weight / (1 - p)  # the paper's M; biases have no prior
    expected = scale**2 / 2 * (1 - p) * unscaled.square().sum() - 4 * entropy(p)
    torch.testing.assert_close(layer.penalty(), expected)
    torch.testing.assert_close(bd.kl_divergence(layer), expected)


def test_coefficients_are_those_of_the_regularisers_for_classification():
    """Of the mean loss: l^2 / (2 N) and 1 / N, that is half of the released code's."""
    num_data, p, scale = 50, 0.2, 0.5
    layer, linear = attached(init_drop_prob=p, length_scale=scale)
    bnn = bd.BayesianNetwork(nn.Sequential(layer, linear), bd.Categorical(), num_data)
    kl = bnn.loss(torch.randn(5, 4), torch.randint(3, (5,))).kl / num_data
    weight = scale**2 / (2 * num_data) * linear.weight.square().sum() / (1 - p)
    torch.testing.assert_close(kl, weight - 4 / num_data * entropy(p))


def test_rates_of_units_have_their_own_columns():
    layer, linear = attached(length_scale=1.0, per_unit=True)
    layer.drop_logits.data = torch.tensor([-2.0, -1.0, 0.0, 1.0])
    p = torch.sigmoid(layer.drop_logits).detach()
    own = [0.5 * linear.weight[:, k].square().sum() / (1 - p[k]) - entropy(float(p[k]))
           for k in range(4)]  # fmt: skip
    torch.testing.assert_close(layer.penalty(), sum(own))


def test_the_gradient_of_the_kl_is_that_of_finite_differences():
    layer, linear = attached(length_scale=0.8, per_unit=True)

    def penalty(logits, weight):
        with torch.no_grad():
            linear.weight.copy_(weight)
        replaced = {"drop_logits": logits}
        return torch.func.functional_call(_Penalty(layer), {f"layer.{k}": v for k, v in
                                                            replaced.items()})  # fmt: skip

    logits = torch.randn(4, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: penalty(v, linear.weight.detach()), (logits,))


class _Penalty(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self):
        return self.layer.penalty()


@pytest.mark.parametrize(
    ("temperature", "p", "mean"),
    [(0.1, 0.1, 0.999), (0.1, 0.2, 0.998), (0.1, 0.5, 1.0),
     (2 / 3, 0.1, 0.950), (2 / 3, 0.2, 0.939), (2 / 3, 0.5, 1.0)],
)  # fmt: skip
def test_the_bias_of_the_relaxation_is_the_golden_value(temperature, p, mean):
    layer = bd.ConcreteDropout(1, init_drop_prob=p, temperature=temperature)
    z = layer(torch.ones(200_000, 1)).detach()
    # Golden values have three digits.
    standard_error = float(z.std()) / math.sqrt(len(z))
    assert abs(float(z.mean()) - mean) <= 4.3 * standard_error + 5e-4


@pytest.mark.parametrize(
    ("temperature", "p", "ratio"), [(0.1, 0.1, 0.91), (2 / 3, 0.1, 0.61), (2 / 3, 0.5, 0.47)]
)
def test_relaxed_noise_is_weaker_by_the_golden_ratio(temperature, p, ratio):
    layer = bd.ConcreteDropout(1, init_drop_prob=p, temperature=temperature)
    z = layer(torch.ones(200_000, 1)).detach()
    squares = (z - z.mean()).square() * (1 - p) / p
    standard_error = float(squares.std()) / math.sqrt(len(squares))
    assert abs(float(squares.mean()) - ratio) <= 4.3 * standard_error + 5e-3


def test_default_temperatures_are_those_of_features_and_maps():
    assert float(bd.ConcreteDropout(3).temperature) == pytest.approx(0.1)
    assert float(bd.ConcreteDropout(3, unit_dim=-3).temperature) == pytest.approx(2 / 3)


def test_low_temperature_and_frozen_rate_is_monte_carlo_dropout():
    x = torch.ones(20_000, 2)
    frozen = bd.ConcreteDropout(2, init_drop_prob=0.3, temperature=1e-4)
    frozen.drop_logits.requires_grad_(False)
    fixed = bd.MonteCarloDropout(2, drop_prob=0.3)
    for function in (lambda z: z, torch.square, lambda z: (z > 0.5).double()):
        assert_means_equal(function(frozen(x)), function(fixed(x)))


def test_evaluation_masks_are_exact_and_the_mean_mask_one():
    layer = bd.ConcreteDropout(3, init_drop_prob=0.4).eval()
    x = torch.ones(20_000, 3)
    assert torch.equal(layer(x), x)
    mask = layer.draw_mask({}, x)
    assert bool(((mask == 0) | ((mask - 1 / 0.6).abs() < 1e-12)).all())
    assert_mean_close(mask, 1.0)


def test_straight_through_masks_are_exact_forward_and_have_a_gradient():
    layer = bd.ConcreteDropout(3, init_drop_prob=0.4, relaxation="straight-through")
    y = layer(torch.ones(200, 3))
    assert bool(((y == 0) | ((y - 1 / 0.6).abs() < 1e-12)).all())
    y.square().sum().backward()
    assert float(layer.drop_logits.grad.abs()) > 0


def test_the_pathwise_gradient_of_the_rate_is_that_of_the_expectation():
    """d/dlogit E[(1 - z)^2] at low temperature: of Var[z] = p / (1 - p) = exp(logit)."""
    layer = bd.ConcreteDropout(1, init_drop_prob=0.4, temperature=0.05, per_unit=True)
    logits = layer.drop_logits.detach().expand(100_000, 1).clone().requires_grad_()
    layer.num_units, layer.drop_logits = 1, nn.Parameter(logits)
    layer._bounded = lambda: layer.drop_logits  # one rate a sample, for one gradient each
    keep = torch.sigmoid(-logits)
    fn = bd.distributions.BinaryConcrete(torch.tensor(0.05), logits=-logits)
    ((fn.rsample() / keep - 1).square()).sum().backward()
    assert abs(float(logits.grad.mean()) - 0.4 / 0.6) < 0.1


@pytest.mark.parametrize("logit", [-14.0, -10.0, 3.0, 10.0, 14.0])
def test_a_rate_far_from_a_half_is_not_held(logit):
    layer = bd.ConcreteDropout(3)
    with torch.no_grad():
        layer.drop_logits.fill_(logit)
    torch.testing.assert_close(
        layer.keep_prob(), torch.full((3,), -logit).sigmoid(), rtol=1e-9, atol=0
    )


def test_a_pruned_unit_is_zero_in_the_mean_mask():
    layer = bd.ConcreteDropout(3, per_unit=True, threshold=0.2)
    layer.drop_logits.data = torch.tensor([0.0, 3.0, -3.0])
    assert layer.kept().tolist() == [True, False, True]
    assert layer.mean_mask().tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("logit", [-1e4, -30.0, 30.0, 1e4])
def test_float32_corners_are_finite(logit):
    torch.set_default_dtype(torch.float32)
    layer, _ = attached(length_scale=1.0, per_unit=True)
    layer.drop_logits.data.fill_(logit)
    loss = layer(torch.ones(50, 4)).square().mean() + layer.penalty()
    loss.backward()
    assert bool(loss.isfinite()) and bool(layer.drop_logits.grad.isfinite().all())


def test_convert_starts_at_the_rate_of_the_dropout_it_replaces():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 2), nn.Dropout(0.0))
    bayesian = bd.convert(net, "concrete", length_scale=0.1)
    rates = [
        1 - float(bayesian.get_submodule(f"{n}_dropout").keep_prob()[0].detach()) for n in "02"
    ]
    assert rates == pytest.approx([0.1, 0.3])
    assert math.isfinite(bd.kl_divergence(bayesian).item())


def test_a_loaded_state_knows_its_layer():
    def build():
        return bd.convert(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), "concrete",
                          length_scale=0.3)  # fmt: skip

    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(bd.kl_divergence(second), bd.kl_divergence(first))


def test_the_rate_is_learned():
    """Noise on an input that the target is proportional to costs more than its entropy gains."""
    x = torch.randn(400, 2)
    y = 3 * x[:, :1]
    net = nn.Sequential(bd.ConcreteDropout(2, per_unit=True), nn.Linear(2, 1))
    net[1].weight.data = torch.tensor([[3.0, 0.0]])
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=400)
    bd.fit(bnn, (x, y), epochs=60, variational_learning_rate=0.05, weight_decay=0.0,
           schedule=(), progress=False)  # fmt: skip
    used, idle = 1 - net[0].keep_prob().detach()
    assert float(used) < 0.05 and float(idle) > 0.2


def test_bad_options_are_refused():
    for options in ({"init_drop_prob": 0.0}, {"init_drop_prob": 1.0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match="0 < init_drop_prob < 1"):
            bd.ConcreteDropout(3, **options)
    with pytest.raises(ConfigError, match="unknown relaxation"):
        bd.ConcreteDropout(3, relaxation="none")
