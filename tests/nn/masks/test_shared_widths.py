"""Layers that share the width of another: one number of kept groups for a whole network."""

import copy
import io
import math
import pickle
import threading

import pyro
import pytest
import torch
from pyro.infer import (
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from torch import nn
from torch.nn.functional import cross_entropy

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close

KEYS = ["nested", "variational-nested"]
SHARED_BY = ["batch", "example"]


def network(key="variational-nested", **options):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    net = bd.convert(net, key, input_dropout=False, num_groups=4, share_widths=True, **options)
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=20)


def layers(bnn):
    return [layer for _, layer in bnn.named_dropout_layers()]


def data():
    return torch.randn(10, 3), torch.randint(2, (10,))


def open_groups(layer, mask):
    return (mask != 0).sum(-1) * layer.num_groups / layer.num_units


@pytest.mark.parametrize("key", KEYS)
def test_all_layers_of_a_pass_have_the_same_width(key):
    bnn, (x, _) = network(key).eval(), data()
    first, second = layers(bnn)
    assert first.width_source is None
    assert second.width_source is first
    seen = set()
    for parallel in (False, True):
        masks = Predictive(bnn.model, guide=bnn.guide, num_samples=100, parallel=parallel)(x)
        pair = [masks[f"{path}.z"].reshape(100, 10, -1) for path, _ in bnn.named_dropout_layers()]
        counts = [open_groups(*each) for each in zip((first, second), pair, strict=True)]
        assert torch.equal(*counts)
        seen |= set(counts[0].flatten().tolist())
    assert seen == {1.0, 2.0, 3.0, 4.0}


def test_losses_agree_with_the_exact_one():
    bnn, (x, y) = network(init_continue_prob=0.6), data()
    first, second = layers(bnn)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    exact = elbo.loss(bnn.model, config_enumerate(bnn.guide, "parallel"), x, y)
    by_hand = bd.kl_divergence(bnn.network)
    q = first.order_posterior()
    for groups, prob in enumerate(q.tail_probs, start=1):
        masks = {path: m.prefix_mask(groups) for path, m in bnn.named_dropout_layers()}
        with bd.impose_masks(bnn.network, masks):
            nll = cross_entropy(bnn(x), y, reduction="sum") * 20 / 10
        by_hand = by_hand + prob * nll
    assert exact == pytest.approx(by_hand.item(), rel=1e-9)
    for stock in (TraceMeanField_ELBO(), Trace_ELBO(num_particles=2, vectorize_particles=True)):
        losses = [stock.loss(bnn.model, bnn.guide, x, y) for _ in range(200)]
        assert_mean_close(torch.tensor(losses), exact)
    own = network(init_continue_prob=0.6, shared_by="example")
    own.load_state_dict(bnn.state_dict())
    losses = torch.stack([own.loss(x, y).loss.detach() for _ in range(400)])
    assert_mean_close(losses, exact)


@pytest.mark.parametrize("shared_by", SHARED_BY)
def test_plain_loop_and_svi_step_agree_under_the_same_noise(shared_by, same_noise):
    bnn, (x, y) = network(shared_by=shared_by), data()
    names, parameters = zip(*bnn.named_parameters(), strict=True)
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y)
    plain = cross_entropy(bnn.network(x), y) * 20 + bd.kl_divergence(bnn.network)
    expected = torch.autograd.grad(stock, parameters)
    assert [name for name in names if "dropout" in name] == ["network.2_dropout.order_logits"]
    assert all(bool((g != 0).any()) for g in expected)
    for loss in (bnn.loss(x, y).loss, plain):
        torch.testing.assert_close(loss, stock)
        torch.testing.assert_close(torch.autograd.grad(loss, parameters), expected)


def test_the_divergence_is_paid_once():
    bnn = network()
    first, second = layers(bnn)
    assert second.prior() == second.posterior() == {}
    torch.testing.assert_close(bd.kl_divergence(bnn.network), first.kl_divergence())
    torch.testing.assert_close(second.keep_prob(), first.keep_prob()[::2])
    torch.testing.assert_close(second.order_probs(), first.order_probs())


@pytest.mark.parametrize("shared_by", ["batch", "example"])
@pytest.mark.parametrize("own", SHARED_BY)
def test_prediction_is_that_of_one_width_for_all_layers(shared_by, own):
    bnn, (x, _) = network(shared_by=own, init_continue_prob=0.6).eval(), data()
    widths = [bd.compression.hold_width(bnn, width) for width in (0.25, 0.5, 0.75, 1.0)]
    by_width = torch.stack([held(x).softmax(1) for held in widths]).detach()
    law = layers(bnn)[0].order_posterior().tail_probs.detach()
    expected = torch.einsum("w,wnc->nc", law, by_width)
    drawn = bd.predict(bnn, x, num_samples=600, shared_by=shared_by, seed=0).samples
    assert_mean_close(drawn, expected)
    found = (drawn[:, None] - by_width).abs().amax(-1)  # draws, widths, examples
    assert float(found.amin(1).max()) < 1e-6


def test_a_source_whose_mask_is_given_takes_the_others_along():
    bnn, (x, _) = network(), data()
    first, second = (path for path, _ in bnn.named_dropout_layers())
    prefix = [layer.prefix_mask(2) for layer in layers(bnn)]
    with bd.impose_masks(bnn.network, {first: prefix[0]}):
        led = bnn(x)
    with bd.impose_masks(bnn.network, {first: prefix[0], second: prefix[1]}):
        torch.testing.assert_close(bnn(x), led)
    conditioned = pyro.poutine.condition(bnn.model, {f"{first}.z": prefix[0].expand(10, -1)})
    torch.testing.assert_close(conditioned(x), led)
    layers(bnn)[0].hold_width(0.5)
    torch.testing.assert_close(layers(bnn)[1].keep_prob(), prefix[1])
    torch.testing.assert_close(bnn(x), led)


def test_every_width_is_an_exact_plain_network():
    bnn, (x, _) = network().eval(), data()
    for width in (0.25, 0.5, 1.0):
        held = bd.compression.hold_width(bnn, width)
        torch.testing.assert_close(bd.cut_to_width(bnn, width, x)(x), held(x))
        assert held.units() == [int(8 * width), int(4 * width)]
    first, second = layers(bnn)
    first.hold_width(0.5)
    assert torch.equal(second.mean_mask(), second.prefix_mask(first.held_groups))


def test_copies_and_saved_states_are_whole():
    bnn, (x, y) = network(), data()
    bnn.loss(x, y).loss.backward()
    twin = copy.deepcopy(bnn)
    assert layers(twin)[1].width_source is layers(twin)[0] is not layers(bnn)[0]
    assert not any("dropout.order" in k or "prior" in k for k in _keys(bnn, "4_dropout"))
    file = io.BytesIO()
    torch.save(bnn.state_dict(), file)
    file.seek(0)
    other = network()
    other.load_state_dict(torch.load(file, weights_only=True))
    outputs = []
    for each in (bnn, twin, other, pickle.loads(pickle.dumps(bnn))):
        torch.manual_seed(3)
        outputs.append(each(x))
    assert all(torch.equal(outputs[0], output) for output in outputs)


def _keys(bnn, part):
    return [key for key in bnn.state_dict() if part in key]


def test_fit_learns_which_widths_are_good():
    """With a weak prior the widths that predict badly get less of the law."""
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = (x.sum(1) > 0).long()
    bnn = network(shared_by="example", prior_continue_prob=None, init_continue_prob=None)
    bnn.num_data = 200
    bd.fit(bnn, (x, y), epochs=30, batch_size=50, seed=0, progress=False)
    law = layers(bnn)[0].order_posterior().tail_probs.detach()
    assert float(law[0]) < 0.25 < float(law[-1])


@pytest.mark.parametrize("shared_by", SHARED_BY)
def test_the_posterior_of_a_network_has_one_width_a_draw(shared_by):
    bnn, (x, y) = network(shared_by=shared_by, init_continue_prob=0.6), data()
    bnn(x)
    units = list(bd.compression.measure_size(bnn, num_samples=40, seed=0).units.values())
    assert torch.equal(units[0], 2 * units[1])
    assert len(units[0].unique()) > 1
    bnn.num_data = len(x)
    posterior = bd.to_inference_data(bnn, (x, y), num_samples=5).posterior
    for path, layer in bnn.named_dropout_layers():
        assert posterior[f"{path}.keep_prob"].shape == (1, 5, layer.num_units)


def test_what_cannot_be_followed_is_refused():
    lenet = bd.networks.lenet5_caffe()
    with pytest.raises(ConfigError, match="of 32 groups, 1 of them always kept"):
        bd.convert(lenet, "variational-nested", exclude="fc1", share_widths=True)
    layer = bd.NestedDropout(4)
    for source in (layer, bd.NestedDropout(3), bd.VariationalNestedDropout(4)):
        with pytest.raises(ConfigError, match="width of another NestedDropout of 4 groups"):
            layer.share_width_with(source)
    source = bd.NestedDropout(4)
    layer.share_width_with(source)
    with pytest.raises(ConfigError, match="which has a width of its own"):
        bd.NestedDropout(4).share_width_with(layer)
    with pytest.raises(ConfigError, match="to have run on the same examples, got no mask"):
        layer(torch.ones(2, 4))
    source(torch.ones(3, 4))
    with pytest.raises(ConfigError, match=r"got one of shape \(3, 4\)"):
        layer(torch.ones(2, 4))


def test_the_loss_of_one_step_is_finite_with_maps_and_particles():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )
    net = bd.convert(net, "variational-nested", exclude="5", share_widths=True, num_groups=4)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x, y = torch.randn(5, 1, 4, 4), torch.randint(3, (5,))
    for options in ({}, {"num_particles": 3, "vectorize_particles": True}):
        elbo = TraceMeanField_ELBO(**options)
        assert math.isfinite(elbo.loss_and_grads(bnn.model, bnn.guide, x, y))


def test_a_source_with_a_source_takes_the_others_along():
    first, second, third = (bd.VariationalNestedDropout(4) for _ in range(3))
    third.share_width_with(second)
    second.share_width_with(first)
    net = nn.Sequential(first, second, third)
    assert [name for name, _ in net.named_parameters()] == ["0.order_logits"]
    torch.testing.assert_close(third.keep_prob(), first.keep_prob())
    masks = [layer(torch.ones(5, 4)) for layer in net]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_importance_orders_each_layer_by_its_own():
    torch.manual_seed(0)
    bnn = network(ordering="importance")
    first, second = layers(bnn)
    assert first.unit_group.tolist() != sorted(first.unit_group.tolist())
    masks = [layer(torch.ones(1, layer.num_units)) for layer in (first, second)]
    counts = [open_groups(*each) for each in zip((first, second), masks, strict=True)]
    assert torch.equal(*counts)


def test_threads_draw_apart_and_a_copy_starts_without_a_draw():
    source, follower = bd.NestedDropout(64, num_groups=64), bd.NestedDropout(64, num_groups=64)
    follower.share_width_with(source)
    net, ones, agree = nn.Sequential(source, follower), torch.ones(3, 64), []
    both = threading.Barrier(2)

    def run():
        for _ in range(20):
            drawn = source(ones)
            both.wait()  # the other thread has drawn in between
            agree.append(torch.equal(follower(ones), drawn))
            both.wait()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(agree) == 40 and all(agree)
    source(ones)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with pytest.raises(ConfigError, match="got no mask of it"):
            twin[1](ones)
        assert torch.equal(*(layer(ones) for layer in twin))


def test_a_context_does_not_remember_the_pass_before():
    source, follower = bd.NestedDropout(4), bd.NestedDropout(4)
    follower.share_width_with(source)
    training, ones = bd.nn.TrainingPass(), torch.ones(3, 4)
    with training:
        assert torch.equal(source(ones), follower(ones))
    with training, pytest.raises(ConfigError, match="The layer that runs first must be the sour"):
        follower(ones)
