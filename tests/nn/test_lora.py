"""LoRA layers with a mask over their ranks."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import CompactionError, ConfigError

KEYS = [k for k, cls in bd.nn.registered(bd.BayesianDropout).items() if not cls.input_dependent]


def trained(dropout="beta-bernoulli", rank=6, bias=True, **options):
    """A layer whose update is not zero, as after training."""
    layer = bd.nn.LoRALinear(nn.Linear(5, 4, bias), rank, alpha=12, dropout=dropout, **options)
    with torch.no_grad():
        for factor in (layer.lora_A, getattr(layer.lora_B, "linear", layer.lora_B)):
            factor.weight.normal_()
    return layer


def with_pruned(ranks, **options):
    layer = trained(**options)
    keep = torch.full((layer.rank,), 5.0)
    keep[list(ranks)] = 1e-4
    layer.lora_B.mask.set_posterior(keep)
    return layer.eval()


@pytest.mark.parametrize("dropout", [None, *KEYS])
def test_a_new_layer_is_the_layer_it_adapts(dropout):
    linear, x = nn.Linear(5, 4), torch.randn(3, 7, 5)
    layer = bd.nn.LoRALinear(linear, 6, dropout=dropout)
    for mode in (True, False):
        torch.testing.assert_close(layer.train(mode)(x), linear(x))
    assert not layer.linear.weight.requires_grad and linear.weight.requires_grad
    assert layer.merge().weight.equal(linear.weight) and layer.linear is not linear


def test_the_update_is_scaled_by_alpha_over_rank_and_masked_between_its_factors():
    layer, x, mask = trained(), torch.randn(3, 5), torch.tensor([1.0, 0, 0, 1, 1, 0])
    a, b = layer.lora_A.weight, layer.lora_B.linear.weight
    with bd.impose_masks(layer, {"lora_B.mask": mask}):
        got = layer(x)
    expected = layer.linear(x) + 12 / 6 * (x @ a.T * mask) @ b.T
    torch.testing.assert_close(got, expected)


def test_an_example_has_one_mask_for_all_its_positions():
    layer, x = trained(init_concentration1=1.0).train(), torch.ones(20, 7, 5)
    update = layer(x) - layer.linear(x)
    torch.testing.assert_close(update, update[:, :1].expand_as(update))
    assert update[:, 0].std(0).min() > 0


@pytest.mark.parametrize("dropout", KEYS)
def test_cut_and_merged_layers_have_the_outputs_of_the_mean_mask(dropout):
    layer, x = trained(dropout).eval(), torch.randn(3, 7, 5)
    torch.testing.assert_close(layer.merge()(x), layer(x))
    torch.testing.assert_close(layer.cut()(x), layer(x))
    assert type(layer.merge()) is nn.Linear and not list(bd.nn.named_owners(layer.cut()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pruned", [(0,), (1, 4), (0, 1, 2, 3, 5)])
def test_pruned_ranks_are_cut_and_the_scale_stays(pruned, bias):
    layer, x = with_pruned(pruned, bias=bias), torch.randn(3, 5)
    small = layer.cut()
    assert small.rank == 6 - len(pruned) == small.lora_B.in_features == small.lora_A.out_features
    assert small.scaling == layer.scaling == 2.0
    torch.testing.assert_close(small(x), layer(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(small.merge()(x), layer(x), rtol=1e-9, atol=1e-9)
    assert small.lora_A.weight.requires_grad and not small.linear.weight.requires_grad


def test_a_layer_without_ranks_is_the_layer_it_adapted():
    layer = with_pruned(range(6))
    small = layer.cut()
    assert type(small) is nn.Linear and small.weight.equal(layer.linear.weight)


def test_compact_follows_the_mask_over_the_ranks():
    net = nn.Sequential(with_pruned((1, 4)), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(3, 5)
    small = bd.compact(net, x)
    assert small.get_submodule("0.lora_A").out_features == 4
    torch.testing.assert_close(small(x), net(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("useful", [True, False])
def test_fit_keeps_ranks_that_help_and_prunes_those_that_do_not(useful):
    x, linear = torch.randn(200, 5), nn.Linear(5, 4)
    y = linear(x).detach() + 0.1 * torch.randn(200, 4)
    y += (x @ torch.randn(5, 1)) @ torch.randn(1, 4) if useful else 0.0
    layer = bd.nn.LoRALinear(linear, 3, init_concentration1=1.0)
    bnn = bd.BayesianNetwork(layer, bd.Gaussian(init_scale=0.1), num_data=len(x))
    options = {"learning_rate": 0.02, "variational_learning_rate": 0.3, "progress": False}
    bd.fit(bnn, (x, y), epochs=80, batch_size=50, seed=0, **options)
    small = bd.compression.cut_lora_ranks(bnn.network)
    assert (type(small) is bd.nn.LoRALinear) == useful
    torch.testing.assert_close(small(x), bnn(x))
    assert layer.linear.weight.equal(linear.weight)
    before, after = ((f(x) - y).square().mean() for f in (linear, bnn))
    assert after < 0.1 * before if useful else after.isclose(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Conv2d(3, 2, 1),), "expected an nn.Linear to adapt"),
        ((nn.Linear(3, 2), 0), "rank=0"),
        ((nn.Linear(3, 2), 2.0), "rank=2.0"),
        ((nn.Linear(3, 2), True), "rank=True"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        bd.nn.LoRALinear(*arguments)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), "8"])
def test_a_scale_that_is_no_positive_number_is_refused(alpha):
    with pytest.raises(ConfigError, match="finite alpha > 0"):
        bd.nn.LoRALinear(nn.Linear(3, 2), alpha=alpha)


def test_random_weights_are_no_mask_over_ranks():
    with pytest.raises(ConfigError, match="the key of a mask"):
        bd.nn.LoRALinear(nn.Linear(3, 2), dropout="dropconnect")


def test_a_mask_that_looks_at_its_input_is_neither_cut_nor_merged():
    layer = trained("dependent-beta-bernoulli").eval()
    for function in (layer.cut, layer.merge, layer.update):
        with pytest.raises(CompactionError, match="which looks at its input"):
            function()
