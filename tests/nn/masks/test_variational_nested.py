import copy

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn
from torch.distributions import kl_divergence

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close, assert_means_equal


def network(**options):
    net = nn.Sequential(
        nn.Linear(3, 4),
        nn.Tanh(),
        bd.VariationalNestedDropout(4, **options),
        nn.Linear(4, 3),
        nn.Tanh(),
        bd.VariationalNestedDropout(3, **options),
        nn.Linear(3, 2),
    )
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=20)


def data():
    return torch.randn(10, 3), torch.randint(2, (10,))


def test_starts_at_the_published_figures():
    layer = bd.VariationalNestedDropout(32, always_kept=2)
    assert layer.keep_prob().sum().item() == pytest.approx(2 + 15.41, abs=0.01)
    assert layer.kl_divergence().item() == pytest.approx(0.00115, abs=1e-5)


def test_all_three_elbos_agree():
    """The enumerated loss is exact: the others' means are compared with it."""
    bnn, (x, y) = network(init_continue_prob=0.6), data()
    enumerated = TraceEnum_ELBO(max_plate_nesting=1)
    exact = enumerated.loss(bnn.model, config_enumerate(bnn.guide, "parallel"), x, y)
    by_hand = 0.0
    first, second = (layer for _, layer in bnn.named_dropout_layers())
    q1, q2 = first.order_posterior(), second.order_posterior()
    for i, z1 in enumerate(q1.enumerate_support()):
        for j, z2 in enumerate(q2.enumerate_support()):
            masks = {"2": first.expand_order(z1), "5": second.expand_order(z2)}
            with bd.impose_masks(bnn.network, masks):
                nll = nn.functional.cross_entropy(bnn(x), y, reduction="sum") * 20 / 10
            by_hand = by_hand + q1.tail_probs[i] * q2.tail_probs[j] * nll
    by_hand = (by_hand + bd.kl_divergence(bnn.network)).item()
    assert exact == pytest.approx(by_hand, rel=1e-9)
    for elbo in (TraceMeanField_ELBO(), Trace_ELBO()):
        losses = [elbo.loss(bnn.model, bnn.guide, x, y) for _ in range(100)]
        assert_mean_close(torch.tensor(losses), exact)


def test_enumeration_has_the_gradient_of_the_exact_loss():
    bnn, (x, y) = network(), data()
    logits = bnn.network[2].order_logits
    elbo = TraceEnum_ELBO(max_plate_nesting=1)

    def loss():
        return elbo.differentiable_loss(bnn.model, config_enumerate(bnn.guide), x, y)

    (gradient,) = torch.autograd.grad(loss(), logits)
    for k in range(len(logits)):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                logits[k] += step
            ends.append(loss().item())
            with torch.no_grad():
                logits[k] -= step
        assert float(gradient[k]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_masks_of_a_step_are_shared_and_per_example_draws_have_the_same_expectation():
    shared, own = network(), network(shared_by="example")
    own.load_state_dict(shared.state_dict())
    x, y = data()
    layer = shared.network[2]
    z = layer.draw_mask(layer.draw_latents(), torch.ones(50, 4))
    assert bool((z == z[0]).all())
    z = own.network[2].draw_mask({}, torch.ones(50, 4))
    assert len(z.unique(dim=0)) > 1
    assert own.network[2].posterior() == {}
    torch.testing.assert_close(bd.kl_divergence(own), bd.kl_divergence(shared))
    losses = [torch.stack([b.loss(x, y).loss.detach() for _ in range(200)]) for b in (shared, own)]
    assert_means_equal(*losses)
    stock = [TraceMeanField_ELBO().loss(own.model, own.guide, x, y) for _ in range(100)]
    assert_means_equal(losses[1], torch.tensor(stock))


def test_uniform_prior_is_that_of_nested_dropout():
    layer = bd.VariationalNestedDropout(6, prior_continue_prob=None, init_continue_prob=None)
    torch.testing.assert_close(layer.keep_prob(), bd.NestedDropout(6).keep_prob())
    assert layer.kl_divergence().item() == pytest.approx(0.0, abs=1e-12)


def test_frozen_order_is_not_trained_but_saved():
    bnn = network(learn_order=False)
    assert not any("order_logits" in name for name, _ in bnn.named_parameters())
    assert "network.2.order_logits" in bnn.state_dict()
    pyro.infer.SVI(bnn.model, bnn.guide, pyro.optim.Adam({}), TraceMeanField_ELBO()).step(*data())


def test_a_logit_beyond_its_bound_finds_back():
    layer = bd.VariationalNestedDropout(3)
    layer.order_logits.data = torch.tensor([7.0, -9.0])
    torch.testing.assert_close(layer.order_probs(), torch.sigmoid(torch.tensor([5.0, -5.0])))
    optimiser = torch.optim.SGD(layer.parameters(), 10.0)
    for _ in range(200):
        optimiser.zero_grad()
        layer.kl_divergence().backward()
        optimiser.step()
    torch.testing.assert_close(layer.order_logits.detach(), layer.prior_logits.expand(2))


def test_weights_of_a_unit_cost_as_much_as_it_is_open():
    linear = bd.nn.SparseVariational(nn.Linear(4, 2))
    net = nn.Sequential(bd.VariationalNestedDropout(4, kl_scale=3.0), linear)
    net[0].bind_weights(linear, 1)
    open_prob = net[0].keep_prob()
    expected = 3 * kl_divergence(net[0].order_posterior(), net[0].order_prior())
    expected = expected + (open_prob * linear.kl_by_unit(1)).sum()
    torch.testing.assert_close(bd.kl_divergence(net), expected)
    twin = copy.deepcopy(net)
    assert twin[0].__dict__["_bound"][0] is twin[1]
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x, y = torch.randn(5, 4), torch.randint(2, (5,))
    ours = torch.stack([bnn.loss(x, y).loss.detach() for _ in range(100)])
    for elbo in (TraceMeanField_ELBO(), Trace_ELBO()):
        stock = [elbo.loss(bnn.model, bnn.guide, x, y) for _ in range(100)]
        assert_means_equal(torch.tensor(stock), ours)


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="init_continue_prob <= 0.9933"):
        bd.VariationalNestedDropout(4, init_continue_prob=0.999)
    with pytest.raises(ConfigError, match="0 < prior_continue_prob < 1"):
        bd.VariationalNestedDropout(4, prior_continue_prob=1.0)
    with pytest.raises(ConfigError, match="finite temperature > 0"):
        bd.VariationalNestedDropout(4, temperature=0.0)
    with pytest.raises(ConfigError, match="unknown shared_by"):
        bd.VariationalNestedDropout(4, shared_by="both")


def test_the_order_is_in_inference_data_where_the_batch_shares_it():
    pytest.importorskip("arviz")

    def posterior(layer):
        net = nn.Sequential(layer, nn.Linear(4, 3))
        bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=9)
        return bd.to_inference_data(bnn, torch.randn(9, 4), torch.arange(9) % 3, num_samples=8)

    layer = bd.VariationalNestedDropout(4, shared_by="batch")
    found = posterior(layer)
    order = torch.tensor(found.posterior["0.order"].values[0])
    assert order.shape == (8, layer.num_ordered)
    assert bool((order.diff() <= 0).all()), "what is kept is a prefix"
    assert found.prior["0.order"].shape == (1, 8, layer.num_ordered)
    alone = bd.VariationalNestedDropout(4, shared_by="example")
    assert "0.order" not in posterior(alone).posterior
