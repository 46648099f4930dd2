"""Laws of every code: what an auto-encoder asks of one, and which one a layer makes."""

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn.ordered_law import OrderedLaw
from bayesdrop.program.autoencoder import make_code
from bayesdrop.program.code import Code, draw
from bayesdrop.program.latent_code import LatentCode
from bayesdrop.program.nested_code import NestedCode

SIZE, ROWS = 3, 5
LAYERS = {
    "plain": lambda: None,
    "indian-buffet": lambda: bd.IndianBuffetDropout(SIZE),
    "beta-bernoulli": lambda: bd.BetaBernoulliDropout(SIZE),
    "nested": lambda: bd.NestedDropout(SIZE, num_groups=SIZE),
    "variational-nested": lambda: bd.VariationalNestedDropout(SIZE, num_groups=SIZE),
}


@pytest.fixture(params=LAYERS)
def code(request):
    return make_code(SIZE, LAYERS[request.param]())


def encoding(code):
    return code.encoding(torch.randn(ROWS, code.parts * SIZE))


def rates(code):
    return {} if code.mask is None else code.mask.draw_latents()


def test_codes_are_abstract_or_final():
    assert issubclass(LatentCode, Code) and issubclass(NestedCode, Code)
    assert not issubclass(NestedCode, LatentCode)
    with pytest.raises(TypeError, match="abstract"):
        Code(2)


@pytest.mark.parametrize("training", [True, False])
def test_prior_and_posterior_have_the_same_sites(code, training):
    code.train(training)
    prior, posterior = code.prior(rates(code)), code.posterior(encoding(code), rates(code))
    assert prior.keys() == posterior.keys() and "h" in prior
    assert all(fn.event_shape == (SIZE,) for fn in (*prior.values(), *posterior.values()))
    assert all(fn.batch_shape == (ROWS,) for fn in posterior.values())


@pytest.mark.parametrize("training", [True, False])
def test_a_code_is_zero_where_its_mask_is(code, training):
    code.train(training)
    latents = draw(code.posterior(encoding(code), rates(code)))
    mask = code.mask_value(latents)
    assert mask.shape == (ROWS, SIZE)
    assert bool(((mask >= 0) & (mask <= 1)).all())
    torch.testing.assert_close(code(latents) == 0, mask == 0)
    if not training:
        assert bool(((mask == 0) | (mask == 1)).all())


def test_divergence_vanishes_where_posterior_is_prior(code):
    values = rates(code)
    prior = code.prior(values)
    posterior = {name: fn.expand((ROWS,)) for name, fn in prior.items()}
    kl = code.kl_divergence(posterior, prior, draw(posterior))
    torch.testing.assert_close(kl, torch.zeros(()), atol=1e-12, rtol=0)


def test_mean_latents_keep_a_feature_by_its_probability(code):
    given = encoding(code)
    expected = given.mean * code.feature_probs(given)
    torch.testing.assert_close(code(code.mean_latents(given)), expected)


def test_the_encoder_gives_as_many_values_as_the_code_reads(code):
    with pytest.raises(ShapeError, match=rf"shape \(N, {code.parts} \* 3\)"):
        code.encoding(torch.zeros(ROWS, code.parts * SIZE + 1))


def test_a_layer_says_itself_which_code_it_makes():
    ordered = {name: make_code(SIZE, make()).is_ordered for name, make in LAYERS.items()}
    assert [name for name, value in ordered.items() if value] == ["nested", "variational-nested"]


class Fair(bd.MonteCarloDropout):
    """A layer of somebody else: ordered, fair coins, and not one of the package's nested ones."""

    def ordered_law(self):
        odds = torch.zeros(self.num_units - 1)
        return OrderedLaw(odds, odds + 1.0, always_kept=1, temperature=0.5)


def test_a_third_party_s_order_makes_an_ordered_code():
    code = make_code(SIZE, Fair(SIZE))
    torch.testing.assert_close(code.keep_prob(), torch.tensor([1.0, 0.5, 0.25]))
    given = code.encoding(torch.zeros(ROWS, 3 * SIZE))
    p = float(torch.sigmoid(torch.tensor(1.0)))
    torch.testing.assert_close(
        code.feature_probs(given), torch.tensor([1.0, p, p * p]).expand(ROWS, SIZE)
    )
    normal = torch.distributions.Normal(given.mean, given.scale)
    slabs = kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    kl = code.kl_divergence(code.posterior(given, {}), code.prior({}), {})
    assert float(slabs.abs().max()) < 1e-12 and float(kl) > 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: bd.MonteCarloDropout(SIZE), "units that are Bernoulli given its latents"),
        (lambda: bd.DependentBetaBernoulliDropout(SIZE), "a mask of its own"),
        (lambda: bd.HierarchicalIndianBuffetDropout(SIZE), "a mask of its own"),
        (lambda: bd.BetaBernoulliDropout(SIZE + 1), "a mask of 3 units, one for each feature"),
        (lambda: bd.NestedDropout(SIZE, num_groups=2), "num_groups=3, a group for each feature"),
    ],
)
def test_a_layer_that_makes_no_code_is_refused(layer, message):
    with pytest.raises(ConfigError, match=message):
        make_code(SIZE, layer())


def test_a_code_without_order_has_no_prefix():
    with pytest.raises(ConfigError, match="an ordered code for num_features"):
        LatentCode(2, None).prefix(None, 4, 1)


def test_names_of_layers_that_are_no_masks_are_unknown_to_the_auto_encoder():
    with pytest.raises(ConfigError, match="unknown latent_dropout 'sparse-variational'"):
        bd.networks.vae(10, input_shape=4, latent_dropout="sparse-variational")


def test_the_network_is_told_which_part_must_not_be_bayesian():
    encoder = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="an encoder and a decoder without Bayesian layers"):
        bd.VariationalAutoencoder(encoder, nn.Linear(2, 4), bd.Bernoulli(), 10, latent_size=2)
