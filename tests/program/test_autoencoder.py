import copy
import math
import warnings

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError, TruncationWarning
from bayesdrop.testing import assert_mean_close, assert_means_equal

NUM_DATA, BATCH, PIXELS, SIZE = 40, 10, 6, 3
MASKS = {
    "plain": lambda: None,
    "indian-buffet": lambda: bd.IndianBuffetDropout(SIZE, concentration=2.0, temperature=0.3),
    "beta-bernoulli": lambda: bd.BetaBernoulliDropout(SIZE, temperature=0.3),
    "straight-through": lambda: bd.IndianBuffetDropout(
        SIZE, temperature=0.3, relaxation="straight-through"
    ),
}
ELBOS = [Trace_ELBO, TraceMeanField_ELBO]


def autoencoder(mask="indian-buffet", likelihood=None, **options):
    layer = MASKS[mask]()
    parts = 2 if layer is None else 3
    return bd.VariationalAutoencoder(
        nn.Sequential(nn.Linear(PIXELS, 5), nn.Tanh(), nn.Linear(5, parts * SIZE)),
        nn.Sequential(nn.Linear(SIZE, 5), nn.Tanh(), nn.Linear(5, PIXELS)),
        bd.Bernoulli() if likelihood is None else likelihood,
        NUM_DATA,
        latent_dropout=layer,
        latent_size=SIZE,
        **options,
    )


def batch(rows=BATCH):
    return torch.bernoulli(torch.full((rows, PIXELS), 0.4))


def sites(program, x):
    return {
        name: node
        for name, node in poutine.trace(program).get_trace(x).nodes.items()
        if node["type"] == "sample" and name != "data"
    }


def without_offset(vae):
    """Make the encoder's offsets and code those of the prior: d = 0, mean 0, scale 1."""
    last = vae.network.encoder[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return vae


# -- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True}])
def test_svi_trains_every_parameter(mask, elbo, options):
    vae, x = autoencoder(mask), batch()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), elbo(**options))
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert [n for n, p in vae.named_parameters() if torch.equal(p, before[n])] == []


@pytest.mark.parametrize("mask_posterior", ["structured", "mean-field"])
@pytest.mark.parametrize("prior_temperature", [None, 0.25])
def test_both_elbos_agree_in_expectation(mask_posterior, prior_temperature):
    vae = autoencoder(prior_temperature=prior_temperature, mask_posterior=mask_posterior)
    x = batch()

    @torch.no_grad()
    def loss(elbo, seed):
        torch.manual_seed(seed)
        return elbo().loss(vae.model, vae.guide, x)

    differences = [loss(Trace_ELBO, s) - loss(TraceMeanField_ELBO, s) for s in range(60)]
    assert_mean_close(torch.tensor(differences), 0.0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("prior_temperature", [None, 0.25])
@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_loss_is_the_svi_step(mask, prior_temperature, kl_weight):
    vae = autoencoder(mask, prior_temperature=prior_temperature, kl_weight=kl_weight)
    x, parameters = batch(), list(vae.parameters())
    torch.manual_seed(1)
    theirs = TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    ours = vae.loss(x).loss
    torch.testing.assert_close(ours, theirs)
    torch.manual_seed(1)
    split = vae.data_term(x) * (NUM_DATA / BATCH) + vae.shared_divergence()
    torch.testing.assert_close(split, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_kl_scale_counts_the_rates_divergence_in_both_losses_and_no_other():
    vae, x = autoencoder(), batch()
    whole = vae.code.mask.kl_divergence().item()
    values = []
    for kl_scale in (1.0, 0.1):
        vae.code.mask.kl_scale = kl_scale
        torch.manual_seed(1)
        theirs = TraceMeanField_ELBO().loss(vae.model, vae.guide, x)
        torch.manual_seed(1)
        values.append(vae.loss(x))
        assert values[-1].loss.item() == pytest.approx(theirs, rel=1e-10)
    assert (values[0].kl - values[1].kl).item() == pytest.approx(0.9 * whole, rel=1e-10)
    assert torch.equal(values[0].nll, values[1].nll)


def test_loss_in_evaluation_mode_is_the_elbo_of_the_exact_model():
    vae, x = autoencoder().eval(), batch()
    theirs = [Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(150)]
    ours = [vae.loss(x).loss.item() for _ in range(150)]
    assert_means_equal(torch.tensor(ours), torch.tensor(theirs))


def test_latents_are_real_sites_of_model_and_guide():
    vae, x = autoencoder(), batch()
    local = {"code.mask.logits", "code.h"}
    for mode, names in ((True, local), (False, {"code.mask.z", "code.h"})):
        vae.train(mode)
        model, guide = sites(vae.model, x), sites(vae.guide, x)
        assert set(guide) == {"code.mask.v", *names}
        for program in (model, guide):
            rates = program["code.mask.v"]
            assert rates["value"].shape == (SIZE,) and rates["scale"] == 1.0
            assert not rates["cond_indep_stack"]
            for name in names:
                node = program[name]
                assert node["value"].shape == (BATCH, SIZE)
                assert node["fn"].batch_shape == (BATCH,) and node["fn"].event_shape == (SIZE,)
                assert [frame.name for frame in node["cond_indep_stack"]] == ["data"]
                assert not node["is_observed"]
                assert node["scale"] == NUM_DATA / BATCH
        assert model["obs"]["is_observed"] and model["obs"]["scale"] == NUM_DATA / BATCH


def test_the_mask_is_in_the_trace_in_both_modes():
    vae, x = autoencoder(), batch()
    relaxed = sites(vae.model, x)["code.mask.z"]["value"]
    exact = sites(vae.eval().model, x)["code.mask.z"]["value"]
    assert bool(((relaxed > 0) & (relaxed < 1)).all())
    assert bool(((exact == 0) | (exact == 1)).all())


def test_model_and_guide_share_the_sticks():
    vae, x = autoencoder(prior_temperature=None), batch()
    without_offset(vae)
    trace = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, trace)).get_trace(x)
    logits = [t.nodes["code.mask.logits"]["fn"].base_dist.logits for t in (trace, model)]
    torch.testing.assert_close(*(values.expand(BATCH, SIZE) for values in logits))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_predictive_draws_the_latents_of_the_guide(parallel, training):
    vae, x = autoencoder().train(training), batch(4)
    model = poutine.uncondition(vae.model)
    draws = Predictive(model, guide=vae.guide, num_samples=200, parallel=parallel)(x)
    assert draws["code.mask.z"].shape == draws["code.h"].shape == (200, 4, SIZE)
    assert draws["obs"].shape == (200, 4, PIXELS)
    assert_mean_close(draws["code.h"], vae.network.encode(x).mean)
    z = (draws["code.mask.z"] > 0.5).double()
    again = [vae.code.posterior(vae.network.encode(x), vae.draw_rates()) for _ in range(200)]
    name = "code.mask.logits" if training else "code.mask.z"
    expected = torch.stack([fn[name[5:]].base_dist.logits.sigmoid() for fn in again])
    assert_means_equal(z, expected)


def test_condition_imposes_a_mask():
    vae, x = autoencoder().eval(), batch()
    closed = {"code.mask.z": torch.zeros(BATCH, SIZE)}
    output = poutine.condition(vae.model, closed)(x)
    torch.testing.assert_close(output, vae.network.decoder(torch.zeros(BATCH, SIZE)))


def test_two_autoencoders_do_not_share_parameters():
    first, second, x = autoencoder(), autoencoder(), batch()
    for vae in (first, second, copy.deepcopy(first)):
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
    assert len({name.split(".")[0] for name in pyro.get_param_store()}) == 3


# -- limit laws -----------------------------------------------------------------------------------


def test_kl_of_the_mask_is_zero_without_offsets():
    vae = without_offset(autoencoder(prior_temperature=None))
    x = batch()
    for training in (True, False):
        vae.train(training)
        rates = vae.draw_rates()
        posterior, prior = vae.code.posterior(vae.network.encode(x), rates), vae.code.prior(rates)
        latents = {name: fn.sample() for name, fn in posterior.items()}
        assert vae.code.kl_divergence(posterior, prior, latents).abs() < 1e-15
        # What is left is the divergence of the sticks, once.
        torch.testing.assert_close(vae.loss(x).kl, bd.kl_divergence(vae.network))


def test_open_sticks_give_the_plain_autoencoder():
    plain = autoencoder("plain").eval()
    gates = bd.IndianBuffetDropout(SIZE, init_concentration1=1e9)
    encoder = copy.deepcopy(plain.network.encoder)
    last = encoder[-1]
    encoder[-1] = nn.Linear(5, 3 * SIZE)
    with torch.no_grad():
        encoder[-1].weight.copy_(torch.cat([torch.zeros(SIZE, 5), last.weight]))
        encoder[-1].bias.copy_(torch.cat([torch.zeros(SIZE), last.bias]))
    gated = bd.VariationalAutoencoder(
        encoder, plain.network.decoder, bd.Bernoulli(), NUM_DATA, latent_dropout=gates
    ).eval()
    x = batch()
    torch.testing.assert_close(gated(x), plain(x), rtol=1e-6, atol=1e-6)
    local = [
        vae.loss(x).loss - bd.kl_divergence(vae.network)
        for vae in (gated, plain)
        for _ in range(150)
    ]
    assert_means_equal(torch.stack(local[:150]), torch.stack(local[150:]))


def test_mean_field_ignores_the_sticks():
    vae, x = autoencoder(mask_posterior="mean-field"), batch()
    encoding = vae.network.encode(x)
    logits = [
        vae.code.posterior(encoding, vae.draw_rates())["mask.logits"].base_dist.logits
        for _ in range(2)
    ]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], encoding.offset)
    assert torch.equal(vae.feature_probs(x), torch.sigmoid(encoding.offset))


def test_straight_through_masks_are_zero_or_one_with_a_gradient():
    vae = autoencoder("straight-through")
    logits = torch.randn(BATCH, SIZE, requires_grad=True)
    z = vae.code.mask_value({"mask.logits": logits})
    assert torch.equal(z, (logits > 0).double())
    (gradient,) = torch.autograd.grad(z.sum(), logits)
    torch.testing.assert_close(gradient, torch.sigmoid(logits) * torch.sigmoid(-logits))


def test_training_sees_the_data_once_per_example():
    # N / B times a batch twice as large, with every example repeated, is the same expectation.
    vae, x = autoencoder(), batch()
    single = torch.stack([vae.loss(x).loss.detach() for _ in range(150)])
    double = torch.stack([vae.loss(torch.cat([x, x])).loss.detach() for _ in range(150)])
    assert_means_equal(single, double)


def test_far_sticks_stay_finite_in_float32():
    gates = bd.IndianBuffetDropout(200, concentration=1.0, init_concentration1=1e-3)
    vae = bd.networks.vae(
        NUM_DATA, input_shape=PIXELS, hidden=(8,), latent_dropout=gates, prior_temperature=0.25
    ).float()
    x = batch().float()
    for training in (True, False):
        loss = vae.train(training).loss(x).loss
        assert bool(loss.isfinite())
        loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in vae.parameters())
    assert bool(vae.feature_probs(x).isfinite().all())


# -- what it says ---------------------------------------------------------------------------------


def test_feature_probs_are_those_of_the_posterior_at_the_mean_sticks():
    vae, x = autoencoder().eval(), batch(4)
    sticks = vae.code.mask.posterior()["v"].mean
    posterior = vae.code.posterior(vae.network.encode(x), {"v": sticks})
    torch.testing.assert_close(vae.feature_probs(x), posterior["mask.z"].base_dist.probs)
    assert_mean_close(posterior["mask.z"].sample((5000,)), vae.feature_probs(x))
    assert bool((vae.keep_prob().diff() < 0).all())


def test_plain_features_are_all_in_use():
    vae = autoencoder("plain")
    assert torch.equal(vae.feature_probs(batch()), torch.ones(BATCH, SIZE))
    assert torch.equal(vae.keep_prob(), torch.ones(SIZE))
    assert vae.draw_rates() == {}


@pytest.mark.parametrize("mask", MASKS)
def test_samples_and_reconstructions_are_means_of_pixels(mask):
    vae, x = autoencoder(mask).eval(), batch()
    for images in (vae.sample(BATCH), vae.reconstruct(x), vae.reconstruct(x, num_samples=3)):
        assert images.shape == x.shape
        assert bool(((images > 0) & (images < 1)).all())
    assert vae(x).shape == vae.train()(x).shape == x.shape


def test_samples_have_the_mean_of_the_model():
    vae = autoencoder().eval()
    draws = 500
    guide = {"code.mask.v": torch.stack([vae.draw_rates()["v"] for _ in range(draws)])}
    model = poutine.uncondition(vae.model)
    drawn = Predictive(model, guide, return_sites=("_RETURN",))(batch(1))["_RETURN"].squeeze(1)
    assert_means_equal(vae.sample(draws), drawn.sigmoid())


def test_a_convolutional_decoder_keeps_its_shape_with_particles():
    decoder = nn.Sequential(
        nn.Linear(SIZE, 4), nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 1, 3)
    )
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3 * SIZE))
    vae = bd.VariationalAutoencoder(
        encoder, decoder, bd.Gaussian(0.5), NUM_DATA, latent_dropout=bd.IndianBuffetDropout(SIZE)
    )
    x = torch.randn(BATCH, 1, 3, 3)
    elbo = TraceMeanField_ELBO(num_particles=4, vectorize_particles=True)
    assert math.isfinite(elbo.loss(vae.model, vae.guide, x))
    assert vae.reconstruct(x).shape == x.shape


# -- fit, save, bad input -------------------------------------------------------------------------


def test_fit_save_and_load_work_as_for_any_network(tmp_path):
    vae, x = autoencoder(), batch(NUM_DATA)
    start = sum(vae.loss(x).loss.item() for _ in range(50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        result = bd.fit(
            vae, (x, x), epochs=30, batch_size=20, seed=0, progress=False, validation=(x, x)
        )
    assert {"val_nll", "units"} <= set(result.history[-1])
    assert sum(vae.train().loss(x).loss.item() for _ in range(50)) < start
    bd.save(vae, tmp_path / "vae.pt")
    again = bd.load(autoencoder(), tmp_path / "vae.pt")
    torch.testing.assert_close(again.eval()(x), vae.eval()(x))


def test_grey_values_are_refused():
    with pytest.raises(DataError, match="targets of 0 and 1"):
        autoencoder().loss(torch.rand(BATCH, PIXELS))


def test_a_batch_larger_than_the_data_set_is_refused():
    vae = autoencoder()
    for call in (vae.loss, vae.model, vae.guide):
        with pytest.raises(DataError, match="at most num_data=40"):
            call(batch(41))


@pytest.mark.parametrize("mask", ["plain", "indian-buffet"])
def test_encoder_of_the_wrong_size_is_refused(mask):
    layer = MASKS[mask]()
    vae = bd.VariationalAutoencoder(
        nn.Linear(PIXELS, 4),
        nn.Linear(SIZE, PIXELS),
        bd.Bernoulli(),
        NUM_DATA,
        latent_dropout=layer,
        latent_size=SIZE,
    )
    with pytest.raises(ShapeError, match=f"encoder output of shape \\(N, {2 + bool(layer)} \\* 3"):
        vae.loss(batch())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "latent_size >= 1, or a latent_dropout"),
        ({"latent_size": 0}, "latent_size >= 1"),
        ({"latent_size": 2, "prior_temperature": 0.0}, "finite prior_temperature > 0"),
        ({"latent_size": 2, "mask_posterior": "full"}, "unknown mask_posterior 'full'"),
        ({"latent_size": 2, "latent_dropout": MASKS["indian-buffet"]()}, "a mask of 2 units"),
        ({"latent_dropout": bd.DependentBetaBernoulliDropout(2)}, "a mask of its own"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        bd.VariationalAutoencoder(
            nn.Identity(), nn.Identity(), bd.Bernoulli(), NUM_DATA, **options
        )


def test_dropout_layers_elsewhere_are_refused():
    encoder = nn.Sequential(bd.BetaBernoulliDropout(PIXELS), nn.Linear(PIXELS, 4))
    with pytest.raises(ConfigError, match="encoder and a decoder without Bayesian layers"):
        bd.VariationalAutoencoder(encoder, nn.Identity(), bd.Bernoulli(), 10, latent_size=2)
