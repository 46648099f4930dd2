"""Masks of a batch that share the law of widths out among them: one law, less variance."""

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.ops import noise
from bayesdrop.testing import assert_mean_close, assert_means_equal

ROWS = 12
EXAMPLE = {"shared_by": "example"}
LAYERS = {
    "nested": ("nested", {"law": "geometric", "continue_prob": 0.6}),
    "learned": ("variational-nested", {**EXAMPLE, "init_continue_prob": 0.6}),
    "frozen": (
        "variational-nested",
        {**EXAMPLE, "init_continue_prob": 0.6, "learn_order": False},
    ),
}


def layer_of(name, stratified=True):
    key, options = LAYERS[name]
    return bd.nn.make(key, 5, stratified=stratified, **options)


def network(stratified, share_widths=False, key="variational-nested"):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    net = bd.convert(
        net,
        key,
        input_dropout=False,
        num_groups=4,
        share_widths=share_widths,
        stratified=stratified,
        **(LAYERS["learned"][1] if key == "variational-nested" else {}),
    )
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=20)


def test_strata_hold_one_number_each_and_every_number_is_uniform():
    draws = torch.stack([noise.strata((4,), torch.zeros(())) for _ in range(4000)])
    assert bool(((draws * 4).floor().sort(1).values == torch.arange(4.0)).all())
    assert_mean_close(draws, torch.full((4,), 0.5))
    assert_mean_close(draws.square(), torch.full((4,), 1 / 3))
    place = nn.functional.one_hot((draws * 4).long(), 4).double()
    assert_mean_close(place, torch.full((4, 4), 0.25))


@pytest.mark.parametrize("name", LAYERS)
def test_each_example_has_the_law_and_the_batch_hardly_varies(name):
    layer, x = layer_of(name), torch.ones(ROWS, 5)
    masks = torch.stack([layer.draw_mask({}, x) for _ in range(600)]).detach()
    keep = layer.keep_prob().detach()
    assert_mean_close(masks, keep.expand(ROWS, 5))
    independent = keep * (1 - keep) / ROWS
    assert bool((masks.mean(1).var(0)[1:] < 0.5 * independent[1:]).all())


@pytest.mark.parametrize("name", ["nested", "frozen"])
def test_the_widest_and_the_narrowest_mask_are_in_every_batch(name):
    layer, x = layer_of(name), torch.ones(ROWS, 5)
    tail = layer.order_posterior().tail_probs
    for _ in range(50):
        widths = layer.draw_mask({}, x).sum(-1).long() - 1
        count = torch.bincount(widths, minlength=5)
        least = (ROWS * tail).floor().long()
        assert bool((count >= least - 1).all())
        assert int(count[0]) >= int(least[0]) >= 1
        assert int(count[-1]) >= int(least[-1]) >= 1


def test_loss_and_gradients_keep_their_means():
    x, y = torch.randn(10, 3), torch.randint(2, (10,))
    samples = []
    for stratified in (False, True):
        torch.manual_seed(3)
        bnn = network(stratified, share_widths=True)
        parameters = [p for n, p in bnn.named_parameters() if "order_logits" in n]
        losses, gradients = [], []
        for _ in range(180):
            loss = bnn.loss(x, y).loss
            losses.append(loss.detach())
            gradients.append(torch.cat(torch.autograd.grad(loss, parameters)))
        samples.append((torch.stack(losses), torch.stack(gradients)))
    for plain, spread in zip(*samples, strict=True):
        assert_means_equal(plain, spread)


@pytest.mark.parametrize("key", ["nested", "variational-nested"])
def test_the_plain_loss_and_pyro_s_agree_under_the_same_noise(key, same_noise):
    bnn, x, y = network(True, True, key), torch.randn(10, 3), torch.randint(2, (10,))
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y)
    torch.testing.assert_close(bnn.loss(x, y).loss, stock)


def test_only_training_shares_the_law_out(monkeypatch):
    monkeypatch.setattr(noise, "strata", None)
    layer = layer_of("learned").eval()
    assert layer.draw_mask({}, torch.ones(ROWS, 5)).shape == (ROWS, 5)


@pytest.mark.parametrize("options", [{"shared_by": "batch"}, {"gradient": "straight-through"}])
def test_where_nothing_can_be_shared_out_it_is_refused(options):
    with pytest.raises(ConfigError, match="shared_by='example' and gradient='interpolated'"):
        bd.VariationalNestedDropout(4, **{**EXAMPLE, **options}, stratified=True)


def test_noise_of_a_fixed_rate_costs_a_narrow_width_as_much_as_the_full_one():
    """Weights with fixed noise under an order: their divergence is zero, whatever is kept."""
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    key, options = LAYERS["learned"]
    net = bd.convert(net, key, weights="gaussian-dropconnect", stratified=True, **options)
    masks = [layer for _, layer in bd.nn.named_dropout_layers(net)]
    orders = sum(
        torch.distributions.kl_divergence(m.order_posterior(), m.order_prior()) for m in masks
    )
    torch.testing.assert_close(bd.kl_divergence(net), orders)
