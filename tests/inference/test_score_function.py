"""Laws of training without a relaxation: unbiased by enumeration, in the order of variances."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.inference.objectives import ARM, DisARM, Reinforce
from bayesdrop.nn import ExactMasks
from bayesdrop.testing import assert_mean_close
from tests.inference.test_fit import assert_same_bits, fit, make_data

OBJECTIVES = [ARM(), DisARM(), Reinforce(), Reinforce("examples"), Reinforce("none")]
KINDS = {
    "neural-plasticity": {"init_score": 0.1},
    "beta-bernoulli": {"init_concentration1": 1.0},
    "indian-buffet": {},
    "concrete": {"init_drop_prob": 0.3, "per_unit": True},
}
NUM_DATA, ROWS, K = 40, 8, 4


def classifier(key="neural-plasticity", units=K, **options):
    layers = [bd.nn.make(key, units, **options), nn.Linear(units, 3)]
    bnn = bd.BayesianNetwork(nn.Sequential(*layers), bd.Categorical(), NUM_DATA)
    return bnn.train()


def batch(rows=ROWS):
    return torch.randn(rows, K), torch.randint(3, (rows,))


def gradient(loss, bnn):
    found = torch.autograd.grad(loss, list(bnn.parameters()))
    return torch.cat([g.flatten() for g in found])


ALL = torch.tensor(list(itertools.product((0.0, 1.0), repeat=K)))


def enumerated(bnn, x, y, seed):
    """Return the expected loss over all masks, given the latents that a seed draws first."""
    layer, rest = bnn.network
    torch.default_generator.manual_seed(seed)
    drawn = ExactMasks(len(x))
    drawn.draw_jointly(bnn.network)
    logits = layer.keep_logits(drawn._draw(layer), x).expand(len(x), K)[:, None]
    kept = ALL.to(x)
    probs = torch.where(kept > 0, logits.sigmoid(), (-logits).sigmoid()).prod(-1)
    output = rest(x[:, None] * layer.mask_where(kept)).transpose(1, 2)
    losses = cross_entropy(output, y[:, None].expand(-1, len(kept)), reduction="none")
    return NUM_DATA / len(x) * (probs * losses).sum() + drawn.kl_divergence(bnn.network)


def errors(objective, bnn, x, y, seeds=40):
    """Return the errors of the loss and of its gradient, a row for each seed."""
    found = []
    for seed in range(seeds):
        torch.default_generator.manual_seed(seed)
        pair = objective(bnn, x, y).loss, enumerated(bnn, x, y, seed)
        rows = [torch.cat([loss.detach()[None], gradient(loss, bnn)]) for loss in pair]
        found.append(rows[0] - rows[1])
    return torch.stack(found)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("key", KINDS)
def test_loss_and_gradient_are_those_of_the_expected_loss_over_all_masks(key, objective):
    bnn, data = classifier(key, **KINDS[key]), batch()
    assert_mean_close(errors(objective, bnn, *data), 0.0)


@pytest.mark.parametrize("key", ["neural-plasticity", "contextual"])
def test_the_weight_counts_for_all_divergences_those_of_examples_too(key):
    bnn, (x, y) = classifier(key), batch()
    losses = []
    for bnn.kl_weight in (1.0, 0.25):
        torch.manual_seed(0)
        losses.append(Reinforce("none")(bnn, x, y).loss.detach())
    layer = bnn.network[0]
    whole = bd.kl_divergence(layer).detach()
    if layer.input_dependent:
        whole = whole + NUM_DATA / ROWS * layer.divergence_by_example(x).sum().detach()
    assert whole > 0.1
    torch.testing.assert_close(losses[0] - losses[1], 0.75 * whole)


BERNOULLI = [
    key
    for key, cls in bd.nn.registered(bd.BayesianDropout).items()
    if issubclass(cls, bd.nn.TwoValuedMask) and cls.__module__.startswith("bayesdrop.")
]


@pytest.mark.parametrize("key", BERNOULLI)
def test_every_prior_of_bernoulli_masks_is_trained_without_a_relaxation(key):
    network = nn.Sequential(
        nn.Linear(K, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    network = bd.convert(network, key, trained=False)
    bnn = bd.BayesianNetwork(network, bd.Categorical(), NUM_DATA).train()
    Reinforce()(bnn, *batch()).loss.backward()
    for name, parameter in bnn.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("objective", OBJECTIVES[2:], ids=repr)
def test_reinforce_is_unbiased_where_masks_look_at_their_input(objective):
    bnn, (x, y) = classifier("dependent-beta-bernoulli", momentum=1e-300), batch()
    bnn.network[0](x)  # the first pass sets the running statistics
    assert_mean_close(errors(objective, bnn, x, y), 0.0)


def test_the_golden_gradient_of_arm():
    """Four gates of slope 7: k E[(f(1[u > s(-l)]) - f(1[u < s(l)])) (u - 1/2)] by hand."""
    bnn, (x, y) = classifier(cost_per_parameter=0.0), batch(1)
    layer, rest = bnn.network
    with torch.no_grad():
        layer.scores.copy_(torch.tensor([0.1, -0.1, 0.3, 0.0]))
    torch.manual_seed(3)
    (found,) = torch.autograd.grad(ARM()(bnn, x, y).nll, layer.scores)
    torch.manual_seed(3)
    u, g = torch.rand(1, K), torch.sigmoid(7 * layer.scores)
    losses = [cross_entropy(rest(x * z.to(x)), y) for z in (u > 1 - g, u < g)]
    expected = NUM_DATA * 7 * (losses[0] - losses[1]) * (u[0] - 0.5)
    torch.testing.assert_close(found, expected)


def test_losses_that_are_equal_leave_nothing_above_the_mean_of_the_other_examples():
    bnn = classifier(cost_per_parameter=0.0)
    x, y = torch.zeros(ROWS, K), torch.zeros(ROWS).long()  # no mask changes the output
    (found,) = torch.autograd.grad(Reinforce("examples")(bnn, x, y).nll, bnn.network[0].scores)
    torch.testing.assert_close(found, torch.zeros(K))


def test_disarm_varies_least_and_reinforce_without_a_baseline_most():
    bnn, (x, y) = classifier(), batch(1)
    x, y = x.expand(2000, K), y.expand(2000)
    layer = bnn.network[0]
    variances = []
    for objective in (DisARM(), ARM(), Reinforce("none")):
        masks = ExactMasks(len(x))

        def run(masks):
            with masks:
                return cross_entropy(bnn.network(x), y, reduction="none")

        with torch.no_grad():
            (estimate,) = objective.log_odds_gradients(masks, run(masks), run)
        assert estimate.shape == (2000, layer.num_units)
        variances.append(estimate.var(0).sum())
    assert variances == sorted(variances)


def test_a_sleeping_unit_gets_no_gradient():
    bnn, data = classifier(init_awake=2), batch()
    for objective in OBJECTIVES:
        objective(bnn, *data).loss.backward()
    scores = bnn.network[0].scores.grad
    assert (scores != 0).tolist() == [True, True, False, False]


def test_both_passes_are_in_the_mode_of_training():
    bnn = classifier()
    norm = nn.BatchNorm1d(K)
    bnn.network.insert(0, norm)
    ARM()(bnn.train(), *batch())
    assert int(norm.num_batches_tracked) == 2
    before = norm.running_mean.clone()
    loss = ARM()(bnn.eval(), *batch()).loss
    assert torch.equal(norm.running_mean, before) and loss.isfinite()


def test_gradients_are_the_same_under_gradient_checkpointing():
    class Checkpointed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    bnn, (x, y) = classifier(), batch()
    twin = bd.BayesianNetwork(Checkpointed(bnn.network), bd.Categorical(), NUM_DATA)
    found = []
    for network in (bnn, twin):
        torch.manual_seed(0)
        found.append(gradient(DisARM()(network, x, y).loss, network))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("objective", [ARM(), Reinforce("examples")], ids=repr)
def test_fit_trains_and_resumes_to_the_bit(objective, tmp_path):
    def start():
        torch.manual_seed(1)
        layers = [bd.BetaBernoulliDropout(6), nn.Linear(6, 5), nn.Tanh()]
        layers += [bd.nn.NeuralPlasticityDropout(5), nn.Linear(5, 2)]
        return bd.BayesianNetwork(nn.Sequential(*layers), bd.Categorical(), 60)

    data = make_data(60)
    options = {"objective": objective, "learning_rate": 1e-2, "seed": 3, "schedule": ()}
    whole, part = start(), start()
    result = fit(whole, data, epochs=4, **options)
    assert result.history[-1]["nll"] < result.history[0]["nll"]
    fit(part, data, epochs=2, checkpoint_dir=tmp_path, **options)
    fit(part, data, epochs=4, checkpoint_dir=tmp_path, **options)
    assert_same_bits(whole, part)


def test_what_has_no_such_mask_is_refused():
    data = batch()
    with pytest.raises(ConfigError, match="Bernoulli given its latents, got GaussianDropout"):
        ARM()(classifier("gaussian"), *data)
    with pytest.raises(ConfigError, match="do not look at their input"):
        DisARM()(classifier("dependent-beta-bernoulli"), *data)
    with pytest.raises(ConfigError, match="unknown baseline 'mean'"):
        Reinforce("mean")
    vae = bd.networks.vae(NUM_DATA, input_shape=K, latent_size=2)
    with pytest.raises(ConfigError, match="latents of their own"):
        ARM()(vae, *data)
