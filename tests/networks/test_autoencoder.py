import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError


def widths(module):
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return [linear[0].in_features, *(m.out_features for m in linear)]


def test_defaults_are_those_of_the_paper():
    vae = bd.networks.vae(60_000, latent_dropout="indian-buffet")
    assert widths(vae.network.encoder) == [784, 500, 300]
    assert widths(vae.network.decoder) == [100, 500, 784]
    mask = vae.code.mask
    assert isinstance(mask, bd.IndianBuffetDropout)
    assert float(mask.sticks.concentration) == 10.0
    assert float(mask.temperature) == 0.3 and vae.code.prior_temperature == 0.25


def test_plain_has_means_and_variances_only():
    vae = bd.networks.vae(100, latent_size=7, hidden=(20, 10))
    assert widths(vae.network.encoder) == [784, 20, 10, 14]
    assert widths(vae.network.decoder) == [7, 10, 20, 784]
    assert vae.named_dropout_layers() == []


@pytest.mark.parametrize("shape", [9, (9,), (1, 3, 3)])
@pytest.mark.parametrize("dropout", [None, "indian-buffet", "beta-bernoulli"])
def test_output_has_the_shape_of_the_input(shape, dropout):
    vae = bd.networks.vae(
        50, input_shape=shape, latent_size=4, hidden=(6,), latent_dropout=dropout
    )
    x = torch.zeros(5, *((shape,) if isinstance(shape, int) else shape))
    assert vae(x).shape == vae.sample(5).shape == x.shape
    assert bool(vae.loss(x).loss.isfinite())


def test_a_layer_brings_its_own_size_and_temperature():
    gates = bd.IndianBuffetDropout(4, temperature=0.7)
    vae = bd.networks.vae(50, input_shape=9, latent_dropout=gates, prior_temperature=None)
    assert vae.code.mask is gates and vae.latent_size == 4
    rates = vae.draw_rates()
    assert float(vae.code.prior(rates)["mask.logits"].base_dist.temperature[0]) == 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dropout": "indian-bufet"}, "Did you mean 'indian-buffet'"),
        ({"latent_options": {"concentration": 1.0}}, "latent_options beside the name"),
        ({"latent_size": 0}, "sizes of at least 1"),
        ({"hidden": (0,)}, "sizes of at least 1"),
        ({"latent_dropout": "dependent-beta-bernoulli"}, "a mask of its own"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        bd.networks.vae(100, **options)
