import copy

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn
from torch.distributions import kl_divergence

import bayesdrop as bd
from bayesdrop.diagnostics.elbo import _check_bias
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


@pytest.mark.parametrize("shared_by", ["batch", "example"])
def test_a_mask_is_exact_in_evaluation_mode_and_where_its_gradient_is_straight_through(shared_by):
    x = torch.ones(200, 6)

    def masks(training, **options):
        layer = bd.VariationalNestedDropout(
            6, shared_by=shared_by, init_continue_prob=0.6, **options
        )
        layer.train(training)
        return torch.cat([layer.draw_mask(layer.draw_latents(), x) for _ in range(20)])

    for training, options in (
        (False, {}),
        (True, {"gradient": "straight-through"}),
        (True, {"learn_order": False}),
    ):
        z = masks(training, **options)
        assert bool(((z == 0) | (z == 1)).all())
    assert bool(((masks(True) > 0) & (masks(True) < 1)).any())


@pytest.mark.parametrize("shared_by", ["batch", "example"])
def test_all_widths_can_be_summed_out(shared_by):
    layer = bd.VariationalNestedDropout(4, shared_by=shared_by, init_continue_prob=0.6)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), layer, nn.Linear(4, 2))
    bnn, (x, y) = bd.BayesianNetwork(net, bd.Categorical(), num_data=20), data()
    probs, likelihoods = layer.order_posterior().tail_probs, []
    for z in layer.order_prior().enumerate_support():
        with bd.impose_masks(net, {"2": layer.expand_order(z)}):
            likelihoods.append(net(x).log_softmax(1)[range(10), y])
    by_hand = -(torch.stack(likelihoods, 1) + probs.log()).logsumexp(1).sum() * 20 / 10
    terms = bnn.loss(x, y, num_masks="exact")
    torch.testing.assert_close(terms.nll, by_hand)
    both = torch.autograd.grad(terms.nll, layer.order_logits, retain_graph=True)
    torch.testing.assert_close(both, torch.autograd.grad(by_hand, layer.order_logits))
    stock = TraceMeanField_ELBO().differentiable_loss(
        bnn.model, bnn.guide, x, y, num_masks="exact"
    )
    torch.testing.assert_close(stock, terms.loss)


def test_a_shared_width_can_be_summed_out_of_all_layers():
    def layer():
        return bd.VariationalNestedDropout(4, num_groups=4, shared_by="example")

    net = nn.Sequential(
        nn.Linear(3, 4), layer(), nn.Tanh(), nn.Linear(4, 4), layer(), nn.Linear(4, 2)
    )
    net[4].share_width_with(net[1])
    bnn, (x, y) = bd.BayesianNetwork(net, bd.Categorical(), num_data=20), data()
    probs, likelihoods = net[1].order_posterior().tail_probs, []
    for z in net[1].order_prior().enumerate_support():
        mask = net[1].expand_order(z)
        with bd.impose_masks(net, {"1": mask, "4": mask}):
            likelihoods.append(net(x).log_softmax(1)[range(10), y])
    by_hand = -(torch.stack(likelihoods, 1) + probs.log()).logsumexp(1).sum() * 20 / 10
    torch.testing.assert_close(bnn.loss(x, y, num_masks="exact").nll, by_hand)
    two = network(shared_by="example")
    with pytest.raises(ConfigError, match="share_widths=True"):
        two.loss(*data(), num_masks="exact")


def test_the_bias_of_a_gradient_is_reported():
    def bias(layer):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), layer, nn.Linear(5, 2))
        nn.init.normal_(net[3].weight, std=2.0)
        bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
        (row,) = _check_bias(bnn, *data(), 200)
        assert row.where == "2" and row.passed
        return row.value

    options = {"shared_by": "example", "init_continue_prob": 0.7}
    assert bias(bd.VariationalNestedDropout(5, **options)) < 0.3
    assert bias(bd.VariationalNestedDropout(5, gradient="straight-through", **options)) > 0.5
    assert bias(bd.BetaBernoulliDropout(5, temperature=2.0)) > 0.3  # relaxed


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
    with pytest.raises(ConfigError, match="unknown gradient 'interpolate'"):
        bd.VariationalNestedDropout(4, gradient="interpolate")


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
