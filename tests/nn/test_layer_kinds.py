import copy

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn import LAYER_KINDS, BayesianWeights, Dropconnect, SparseVariational, registered

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "no bias": (lambda: nn.Linear(6, 4, bias=False), (3, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, stride=2, dilation=2), (3, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 4, (3, 2), 2, 1, groups=2), (3, 6, 7, 6)),
    "conv2d, same": (lambda: nn.Conv2d(6, 4, 3, padding="same", bias=False), (3, 6, 5, 5)),
    "conv2d, reflect": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
                        (3, 6, 5, 5)),
    "conv2d, circular": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
                         (3, 6, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(6, 4, 2, groups=2), (3, 6, 3, 3, 4)),
}  # fmt: skip
EVERY = pytest.mark.parametrize("build, shape", LAYERS.values(), ids=list(LAYERS))


@EVERY
@pytest.mark.parametrize("cls", registered(BayesianWeights).values())
def test_the_mean_weights_are_the_plain_layer(cls, build, shape):
    plain, x = build(), torch.randn(shape)
    random = cls(plain)
    torch.testing.assert_close(random.operate(x, random.weight, random.bias), plain(x))
    torch.testing.assert_close(random.eval()(x), random.to_plain()(x))
    torch.testing.assert_close(random.to_plain(prune=False)(x), plain(x))
    assert repr(random.to_plain()) == repr(plain) and repr(plain) in repr(random)
    parameters = {name for name, _ in plain.named_parameters()}
    assert parameters <= random.state_dict().keys()


@EVERY
@torch.no_grad()
def test_weights_of_particles_and_of_examples_are_those_given(build, shape):
    plain, x = build(), torch.randn(shape)
    random = Dropconnect(plain)
    weights = torch.randn(len(x), *plain.weight.shape)
    rows = []
    for row, weight in zip(x, weights, strict=True):
        plain.weight.copy_(weight)
        rows.append(plain(row[None]))
    with bd.nn.PosteriorSample({random: {"weight": weights}}, shared=True):
        torch.testing.assert_close(random(x), torch.cat(rows))


@EVERY
def test_local_noise_has_the_variance_of_the_weights(build, shape):
    random, x = SparseVariational(build(), init_log_variance=-1.0), torch.randn(shape)
    one = random.operate(x, torch.zeros_like(random.weight), random.bias)
    with torch.no_grad():
        random.weight.zero_()
        draws = torch.stack([random(x) for _ in range(1000)])
    variance = random.operate(x.square(), random.log_variance.exp(), None)
    bd.testing.assert_mean_close((draws - one).square(), variance)


@EVERY
def test_the_layer_is_copied_and_its_settings_kept(build, shape):
    plain = build().eval().to(torch.float32)
    plain.weight.requires_grad_(False)
    before = copy.deepcopy(plain.state_dict())
    random = SparseVariational(plain)
    assert random.weight.dtype == random.log_variance.dtype == torch.float32
    assert not random.training and not random.weight.requires_grad
    assert random.log_variance.requires_grad
    with torch.no_grad():
        random.weight.fill_(7.0)
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in before.items())
    back = random.to_plain(prune=False)
    assert type(back) is type(plain) and not back.training and not back.weight.requires_grad


@pytest.mark.parametrize("cls", LAYER_KINDS)
def test_convert_takes_every_kind_and_masks_go_in_beside(cls):
    dims = -1 - LAYER_KINDS[cls].unit_dim
    layer = cls(4, 4, 1) if dims else cls(4, 4)
    x = torch.randn(3, 4, *[2] * dims)
    net = nn.Sequential(layer, nn.ReLU()).eval()
    random = bd.convert(net, "sparse-variational")
    assert [type(m) for _, m in bd.nn.named_weight_layers(random)] == [SparseVariational]
    both = bd.convert(random, "beta-bernoulli", output_dropout=True)
    assert [m.num_units for _, m in bd.nn.named_dropout_layers(both)] == [4]
    torch.testing.assert_close(bd.without_dropout(both)(x), net(x))
    masked = bd.convert(net, "hard-concrete", output_dropout=True)
    later = bd.convert(masked, "sparse-variational")
    (mask,), (weights,) = bd.nn.named_dropout_layers(later), bd.nn.named_weight_layers(later)
    assert mask[1].bound[0] is weights[1]
    bnn = bd.BayesianNetwork(both, bd.Gaussian(), num_data=9)
    torch.testing.assert_close(bd.compact(bnn, x)(x), bnn.eval()(x))


def test_kl_by_unit_counts_the_units_of_either_side():
    layer = SparseVariational(nn.Conv3d(2, 3, 2))
    for dim, units in ((0, 3), (1, 2)):
        by_unit = layer.kl_by_unit(dim)
        assert by_unit.shape == (units,)
        torch.testing.assert_close(by_unit.sum(), layer.kl_divergence())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_what_has_no_random_weights_is_refused():
    class Other(nn.Linear):
        pass

    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    for layer in (nn.ReLU(), Other(3, 2), nn.ConvTranspose2d(1, 1, 3), weighted):
        assert not BayesianWeights.takes(layer)
        with pytest.raises(ConfigError, match="Dropconnect: expected an nn.Linear, nn.Conv1d"):
            Dropconnect(layer)
    with pytest.raises(ConfigError, match="at least one unit in every dimension"):
        Dropconnect(nn.Linear(0, 2))
    with pytest.raises(ConfigError, match="kl_scale > 0"):
        Dropconnect(nn.Linear(3, 2), kl_scale=0.0)
    with pytest.raises(ConfigError, match="unknown shared_by of Dropconnect 'exampel'"):
        Dropconnect(nn.Linear(3, 2), shared_by="exampel")
    with pytest.raises(ShapeError, match="expected 2 units in dimension -2"):
        Dropconnect(nn.Conv1d(2, 2, 1))(torch.ones(4, 3, 5))


def test_a_number_and_a_layer_are_not_mixed_up():
    assert bd.nn.make("mc-dropout", 3).num_units == 3
    assert isinstance(bd.nn.make("dropconnect", nn.Linear(3, 2)), Dropconnect)
    with pytest.raises(ConfigError, match="MonteCarloDropout: expected a number of units"):
        bd.nn.make("mc-dropout", nn.Linear(3, 2))
    with pytest.raises(ConfigError, match="Dropconnect: expected a torch.nn layer.*got 3"):
        bd.nn.make("dropconnect", 3)


def test_repr_shows_the_layer_and_what_is_not_the_default():
    plain = nn.Linear(3, 2)
    assert repr(SparseVariational(plain)) == f"SparseVariational({plain!r})"
    options = "granularity='unit', prior='cubic', noise='weights', kl_scale=2.0"
    layer = SparseVariational(
        plain, kl_scale=2.0, noise="weights", prior="cubic", granularity="unit"
    )
    assert repr(layer) == f"SparseVariational({plain!r}, {options})"
    assert repr(Dropconnect(plain)) == f"Dropconnect({plain!r}, drop_prob=0.5)"


def test_the_layer_is_not_held_on_to():
    plain = nn.Linear(3, 2)
    random = Dropconnect(plain)
    assert not any(plain is value for value in random.__dict__.get("_given", {}).values())
    assert all(p.is_meta for p in random.plain.parameters())
