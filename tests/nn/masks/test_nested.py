import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.distributions import OrderedMask
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.testing import assert_mean_close


def test_uniform_law_makes_every_number_of_open_groups_as_likely():
    layer = bd.NestedDropout(5)
    torch.testing.assert_close(layer.keep_prob(), torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]))
    z = layer.draw_mask({}, torch.ones(20_000, 5))
    counts = nn.functional.one_hot(z.sum(-1).long() - 1, 5).double()
    assert_mean_close(counts, torch.full((5,), 0.2))


def test_geometric_law_is_truncated():
    rho = 0.7
    layer = bd.NestedDropout(4, law="geometric", continue_prob=rho)
    expected = [1 - rho, rho * (1 - rho), rho**2 * (1 - rho), rho**3]
    z = layer.draw_mask({}, torch.ones(20_000, 4))
    counts = nn.functional.one_hot(z.sum(-1).long() - 1, 4).double()
    assert_mean_close(counts, torch.tensor(expected))


def test_at_the_flow_paper_s_rate_46_percent_of_masks_keep_everything():
    layer = bd.NestedDropout(784, num_groups=784, law="geometric", continue_prob=0.999)
    assert float(layer.keep_prob()[-1]) == pytest.approx(0.46, abs=0.005)


def test_divergence_is_exactly_zero():
    layer = bd.NestedDropout(6)
    assert layer.prior() == layer.posterior() == {}
    assert float(layer.kl_divergence()) == 0.0
    assert list(layer.parameters()) == []


def test_groups_open_together():
    layer = bd.NestedDropout(10, num_groups=3, always_kept=0)
    assert layer.unit_group.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    z = layer.draw_mask({}, torch.ones(100, 10))
    assert set(z.sum(-1).int().tolist()) == {0, 4, 7, 10}
    fn = layer.mask_distribution({})
    torch.testing.assert_close(fn.mean, layer.keep_prob())
    torch.testing.assert_close(fn.log_prob(z).exp(), torch.full((100,), 0.25))


def test_importance_orders_units_only_on_request():
    importance = torch.tensor([0.1, 5.0, 2.0, 3.0])
    by_index, by_norm = bd.NestedDropout(4), bd.NestedDropout(4, ordering="importance")
    for layer in (by_index, by_norm):
        layer.rank_units(importance)
    assert by_index.unit_group.tolist() == [0, 1, 2, 3]
    assert by_norm.unit_group.tolist() == [3, 0, 2, 1]
    assert by_norm.prefix_mask(2).tolist() == [0.0, 1.0, 0.0, 1.0]
    other = bd.NestedDropout(4, ordering="importance")
    other.load_state_dict(by_norm.state_dict())
    assert torch.equal(other.unit_group, by_norm.unit_group)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    converted = bd.convert(net, "nested", input_dropout=False, ordering="importance")
    norms = net[2].weight.norm(dim=0)
    most = converted.get_submodule("2_dropout").unit_group.argmin()
    assert int(most) == int(norms.argmax())


def test_widths_are_shares_of_groups_or_numbers_of_units():
    layer = bd.NestedDropout(10, num_groups=5, always_kept=2)
    assert [layer.groups_at(w) for w in (0.05, 0.4, 0.5, 0.7, 1.0)] == [2, 2, 3, 4, 5]
    assert [layer.groups_at(w) for w in (1, 4, 7, 10)] == [2, 2, 3, 5]
    for bad in (0.0, 1.5, 0, 11, True, -0.5):
        with pytest.raises(ConfigError, match="share in"):
            layer.groups_at(bad)


def test_a_held_layer_is_a_fixed_prefix():
    layer = bd.NestedDropout(4)
    layer.hold_width(0.5)
    expected = torch.tensor([1.0, 1.0, 0.0, 0.0])
    x = torch.rand(3, 4)
    for mode in (True, False):
        assert torch.equal(layer.train(mode)(x), x * expected)
    assert layer.kept().tolist() == [True, True, False, False]
    layer.hold_width(None)
    assert float(layer.keep_prob()[3]) == pytest.approx(0.25)


def test_linear_autoencoder_recovers_principal_components():
    """Every prefix of the code spans what as many principal components span."""
    scales = torch.tensor([3.0, 2.0, 1.4, 0.9, 0.5, 0.3])
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    x = torch.randn(400, 6) * scales @ rotation
    x = x - x.mean(0)
    encoder, decoder = nn.Linear(6, 4, bias=False), nn.Linear(4, 6, bias=False)
    code = bd.NestedDropout(4)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.02)
    steps = 1200
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        optimiser.zero_grad()
        (decoder(code(encoder(x))) - x).square().mean().backward()
        optimiser.step()
    components = torch.linalg.svd(x, full_matrices=False).Vh
    for width in range(1, 5):
        found = torch.linalg.qr(decoder.weight[:, :width].detach()).Q
        cosines = torch.linalg.svdvals(components[:width] @ found)
        angle = math.degrees(math.acos(min(1.0, float(cosines.min()))))
        assert angle < 3.0, (width, angle)


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="unknown law 'unifrom'.*'uniform'"):
        bd.NestedDropout(4, law="unifrom")
    with pytest.raises(ConfigError, match="0 < continue_prob < 1"):
        bd.NestedDropout(4, continue_prob=1.0)
    with pytest.raises(ConfigError, match="always_kept < num_groups"):
        bd.NestedDropout(4, num_groups=2, always_kept=2)
    for given in ({"num_groups": 2.5}, {"always_kept": 1.5}, {"num_groups": "4"}):
        with pytest.raises(ConfigError, match="ints 1 <= num_groups"):
            bd.NestedDropout(4, **given)
    with pytest.raises(ConfigError, match="unknown ordering"):
        bd.NestedDropout(4, ordering="size")
    with pytest.raises(ShapeError, match="one importance for each of the 4 units"):
        bd.NestedDropout(4).rank_units(torch.ones(3))
    with pytest.raises(ConfigError, match="NaN"):
        bd.NestedDropout(2).rank_units([1.0, math.nan])


def test_a_share_of_any_float_type_is_a_share():
    layer = bd.NestedDropout(8)
    assert layer.groups_at(np.float32(0.5)) == layer.groups_at(0.5) == 4
    for width in (torch.tensor(0.5), "half", 2.0):
        with pytest.raises(ConfigError, match=r"a share in \(0, 1\]"):
            layer.groups_at(width)
        with pytest.raises(ConfigError, match=r"a share in \(0, 1\]"):
            bd.compression.hold_width(layer, width)


@pytest.mark.parametrize("law", ["uniform", "geometric"])
def test_full_width_can_have_a_probability_of_its_own(law):
    plain, raised = bd.NestedDropout(6, law=law), bd.NestedDropout(6, law=law, full_prob=0.4)
    tails = [OrderedMask(layer.order_probs()).tail_probs for layer in (plain, raised)]
    assert tails[1][-1].item() == pytest.approx(0.4)
    assert tails[1].sum().item() == pytest.approx(1.0)
    ratio = tails[1][:-1] / tails[0][:-1]
    torch.testing.assert_close(ratio, ratio[:1].expand(5))
    learned = bd.VariationalNestedDropout(
        6, prior_continue_prob=None, init_continue_prob=None, prior_full_prob=0.4
    )
    if law == "uniform":
        torch.testing.assert_close(learned.order_prior().tail_probs, tails[1])
        assert learned.kl_divergence().item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("prob", [0.0, 1.0, -0.1])
def test_a_bad_full_prob_is_refused(prob):
    with pytest.raises(ConfigError, match="0 < full_prob < 1"):
        bd.NestedDropout(4, full_prob=prob)
    with pytest.raises(ConfigError, match="0 < full_prob < 1"):
        bd.VariationalNestedDropout(4, prior_full_prob=prob)
