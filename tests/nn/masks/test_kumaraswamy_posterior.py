"""What is learned of a Kumaraswamy posterior, in each parametrization."""

import math

import pytest
import torch

import bayesdrop as bd
from bayesdrop.distributions.kumaraswamy_step import _Concentrations, _plain_concentrations
from bayesdrop.errors import ConfigError

PARAMETRIZATIONS = ("location", "softplus", "log")
PAIRS = [(5.0, 1.0), (0.3133, 1.0), (1e-4, 1.0), (30.0, 12.0), (0.5, 0.2), (200.0, 0.7)]


def concentrations(layer):
    q = layer.posterior()["pi"].base_dist
    return q.concentration1, q.concentration0


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_layer_starts_and_is_set_at_the_given_concentrations(parametrization, a, b):
    options = {"init_concentration1": a, "init_concentration0": b}
    layer = bd.BetaBernoulliDropout(2, parametrization=parametrization, **options)
    expected = (torch.full((2,), a), torch.full((2,), b))
    torch.testing.assert_close(concentrations(layer), expected)
    layer.set_posterior(torch.tensor([a, 3.0]), torch.tensor([b, 2.0]))
    torch.testing.assert_close(
        concentrations(layer), (torch.tensor([a, 3.0]), torch.tensor([b, 2.0]))
    )


@pytest.mark.parametrize("source", PARAMETRIZATIONS)
@pytest.mark.parametrize("target", PARAMETRIZATIONS)
@pytest.mark.parametrize("key", ["beta-bernoulli", "dependent-beta-bernoulli"])
def test_a_state_of_one_parametrization_loads_into_another(key, source, target):
    a, b = (torch.tensor(values) for values in zip(*PAIRS, strict=True))
    layer, other = (bd.nn.make(key, len(a), parametrization=p) for p in (source, target))
    layer.set_posterior(a, b)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(concentrations(other), (a, b))
    torch.testing.assert_close(other.keep_prob(), layer.keep_prob())


def test_sticks_of_one_parametrization_load_into_those_of_another():
    layer = bd.IndianBuffetDropout(40, parametrization="log")
    other = bd.IndianBuffetDropout(40, init_concentration1=1.0)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.keep_prob(), layer.keep_prob())


def test_location_and_shape_give_the_median():
    layer = bd.BetaBernoulliDropout(4)
    with torch.no_grad():
        layer.location.copy_(torch.tensor([-3.0, -0.5, 0.5, 3.0]))
        layer.log_shape.copy_(torch.tensor([-1.0, 0.0, 2.0, 4.0]))
    a = layer.log_shape.exp()
    median = torch.sigmoid(layer.location * (1 + 1 / a))
    q = layer.posterior()["pi"].base_dist
    torch.testing.assert_close(q.cdf(median), torch.full((4,), 0.5))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_parameters_far_out_give_finite_posteriors_and_can_come_back(sign):
    for location, shape in ((30.0, 30.0), (30.0, -40.0), (-30.0, 30.0), (-1e3, 3.0), (0.0, 40.0)):
        layer = bd.BetaBernoulliDropout(2).float()
        layer.location.data.fill_(location)
        layer.log_shape.data.fill_(shape)
        q = layer.posterior()["pi"].base_dist
        kl, log_pi = layer.kl_divergence(), q.rsample_log()
        assert bool(torch.isfinite(kl)) and bool(torch.isfinite(log_pi).all())
        assert bool(torch.isfinite(layer.keep_prob()).all())
        (kl + log_pi.sum()).backward()
        for parameter in layer.posterior_parameters():
            assert bool(torch.isfinite(parameter.grad).all())
    # A descent step inward is not cut at the bounds of the shape.
    layer = bd.BetaBernoulliDropout(1)
    layer.log_shape.data.fill_(sign * 40.0)
    (q,) = [layer.posterior()["pi"].base_dist]
    (sign * q.concentration1.log()).sum().backward()
    assert float(layer.log_shape.grad) == sign


@pytest.mark.parametrize("bound", [-11.0, 51.0])
def test_softplus_parameters_beyond_their_bounds_can_come_back(bound):
    layer = bd.BetaBernoulliDropout(1, parametrization="softplus")
    layer.raw_concentration0.data.fill_(bound)
    q = layer.posterior()["pi"].base_dist
    (math.copysign(1.0, bound) * q.concentration0).sum().backward()
    assert float(layer.raw_concentration0.grad) != 0.0


def test_a_narrow_posterior_is_found_within_some_hundred_steps():
    # Beta(81, 121): what 200 observations of a coin leave, with standard deviation 0.034.
    torch.manual_seed(0)
    deviations = {}
    for parametrization in ("location", "softplus"):
        layer = bd.BetaBernoulliDropout(
            1, prior_concentration1=1.0, init_concentration1=1.0, parametrization=parametrization
        )
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.03)
        for _ in range(700):
            pi = layer.draw_latents()["pi"]
            loss = layer.kl_divergence() - (80 * pi.log() + 120 * (1 - pi).log()).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        q = layer.posterior()["pi"]
        deviations[parametrization] = float(q.variance.detach()) ** 0.5
        if parametrization == "location":
            assert float(q.mean.detach()) == pytest.approx(81 / 202, abs=0.02)
    assert deviations["location"] < 0.05
    assert deviations["softplus"] > 0.1  # b <= 50 allows no less than 0.09


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e30])
def test_concentrations_that_cannot_be_held_are_refused(value):
    layer = bd.BetaBernoulliDropout(2)
    with pytest.raises(ConfigError, match="positive concentrations that 'location' parameters"):
        layer.set_posterior(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_written_out_gradient_is_that_of_the_plain_operations(dtype):
    location = torch.tensor([-80.0, -9.0, -1.0, 0.0, 1e-3, 2.0, 30.0, 80.0], dtype=dtype)
    log_shape = torch.tensor([-21.0, -9.0, -2.0, 0.0, 1.6, 4.0, 9.0, 26.0], dtype=dtype)
    inputs = [
        x.flatten().requires_grad_() for x in torch.meshgrid(location, log_shape, indexing="ij")
    ]
    for signs in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0), (0.0, 1.0)):
        found = []
        for form in (_Concentrations.apply, _plain_concentrations):
            a, b = form(*inputs)
            loss = signs[0] * a.log().sum() + signs[1] * b.log().sum()
            found.append([a, b, *torch.autograd.grad(loss, inputs)])
        tolerance = {"rtol": 1e-4, "atol": 2e-5} if dtype == torch.float32 else {}
        torch.testing.assert_close(*found, **tolerance)


def test_second_derivatives_of_a_location_are_right():
    inputs = [torch.randn(10, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradgradcheck(_Concentrations.apply, inputs)
