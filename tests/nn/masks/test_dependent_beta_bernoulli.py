import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

import bayesdrop as bd
from bayesdrop import BetaBernoulliDropout, DependentBetaBernoulliDropout
from bayesdrop.errors import ConfigError, ConversionError, DataError, ShapeError
from bayesdrop.inference.pruning import prune_unused_units
from bayesdrop.testing import assert_mean_close, assert_means_equal


def trained(num_units=4, **options):
    """A beta-Bernoulli layer with different units, the first of them pruned."""
    layer = BetaBernoulliDropout(num_units, **options)
    with torch.no_grad():
        layer.set_posterior(torch.linspace(-9.0, 4.0, num_units).exp())
    return layer


def always_open(layer):
    """The layer's gates at phi = 1 for every input."""
    with torch.no_grad():
        layer.slope.zero_()
        layer.shift_loc.fill_(20.0)
        layer.raw_shift_scale.fill_(-20.0)
    return layer


# -- golden values and limit laws -----------------------------------------------------------------


def test_initial_values_are_the_papers():
    layer = DependentBetaBernoulliDropout(3)
    q, p = layer.posterior()["shift"].base_dist, layer.prior()["shift"].base_dist
    torch.testing.assert_close(q.loc, torch.ones(3))
    torch.testing.assert_close(q.scale, torch.ones(3))
    torch.testing.assert_close(p.scale, torch.full((3,), math.sqrt(5.0)))
    # log(sqrt(rho) / kappa) + (kappa^2 + eta^2) / (2 rho) - 1/2 with rho = 5, kappa = eta = 1.
    golden = math.log(math.sqrt(5.0)) + 2.0 / 10.0 - 0.5
    torch.testing.assert_close(
        kl_divergence(layer.posterior()["shift"], layer.prior()["shift"]),
        torch.tensor(3 * golden),
    )


def test_an_open_gate_gives_beta_bernoulli_dropout():
    source = trained()
    layer = always_open(DependentBetaBernoulliDropout.from_beta_bernoulli(source)).eval()
    x = torch.randn(5, 4)
    torch.testing.assert_close(layer.mean_mask(x), source.mean_mask().expand(5, 4))
    pi = {"pi": torch.tensor([0.1, 0.3, 0.5, 0.9])}
    latents = {**pi, **{"shift": layer.posterior()["shift"].mean}}
    for training in (True, False):
        layer.train(training)
        source.train(training)
        ours, theirs = layer.mask_distribution(latents, x), source.mask_distribution(pi)
        logits = ours.base_dist.logits[0]
        torch.testing.assert_close(logits[1:], theirs.base_dist.logits[1:])


def test_the_mask_is_bernoulli_with_the_product_of_rates():
    layer = DependentBetaBernoulliDropout(2).eval()
    with torch.no_grad():
        layer.running_mean.copy_(torch.tensor([1.0, 0.0]))
        layer.running_var.copy_(torch.tensor([4.0, 1.0]) - 1e-5)
        layer.slope.copy_(torch.tensor([0.5, 1.0]))
    latents = {"pi": torch.tensor([0.8, 0.5]), "shift": torch.tensor([0.25, 0.4])}
    x = torch.tensor([[2.0, 0.3], [-9.0, 9.0]])
    # 0.5 (2 - 1) / 2 + 0.25 = 0.5 and 0.3 + 0.4 = 0.7; clamped at both ends in the second row.
    expected = torch.tensor([[0.4, 0.35], [0.8e-10, 0.5]])
    fn = layer.mask_distribution(latents, x)
    torch.testing.assert_close(fn.mean, expected)
    assert fn.batch_shape == (2,)
    assert fn.event_shape == (2,)
    samples = fn.sample((20_000,))
    assert_mean_close(samples[:, 0], expected[0])
    assert bool((samples[:, 1, 0] == 0).all())


def test_relaxed_masks_tend_to_bernoulli_as_the_temperature_falls():
    layer = DependentBetaBernoulliDropout(3, temperature=1e-3)
    latents = {"pi": torch.full((3,), 0.6), "shift": torch.tensor([0.5, 0.9, 0.2])}
    with torch.no_grad():
        layer.slope.zero_()
    z = layer.mask_distribution(latents, torch.zeros(20_000, 3)).rsample()
    hard = (z - z.round()).abs() < 0.01
    assert float(hard.double().mean()) > 0.99
    assert_means_equal(z.round(), torch.bernoulli(0.6 * latents["shift"].expand(20_000, 3)))


# -- the mean mask --------------------------------------------------------------------------------


def one_unit(scale, keep=0.98, **options):
    """A gate of slope 1 and mean shift 1, whose inputs are standardised already."""
    layer = DependentBetaBernoulliDropout(
        1, init_shift=1.0, init_slope=1.0, init_shift_scale=scale, threshold=0.0, **options
    ).eval()
    layer.running_var.fill_(1.0 - 1e-5)
    layer.keep_prob = lambda: torch.tensor([keep])
    return layer


@pytest.mark.parametrize(
    ("scale", "x", "golden"),
    [
        (1.0, -1.0, 0.309),
        (1.0, 0.0, 0.671),
        (0.5, -1.0, 0.191),
        (0.5, 0.0, 0.789),
        (0.1, -1.0, 0.039),
        (0.1, 0.0, 0.941),
    ],
)
def test_the_mean_mask_averages_over_the_shift(scale, x, golden):
    layer = one_unit(scale)
    assert layer.mean_mask(torch.tensor([[x]])).item() == pytest.approx(golden, abs=5e-4)
    naive = one_unit(scale, gate_mean="naive").mean_mask(torch.tensor([[x]])).item()
    assert naive == pytest.approx(0.98 * (1.0 if x == 0.0 else 1e-10))


@pytest.mark.parametrize("sampled", [False, True], ids=["their rates", "zeros and ones"])
def test_the_mean_mask_is_the_mean_of_masks(sampled):
    layer = DependentBetaBernoulliDropout(4, init_shift_scale=0.7).eval()
    with torch.no_grad():
        layer.slope.copy_(torch.tensor([1.0, -2.0, 0.3, 5.0]))
        layer.shift_loc.copy_(torch.tensor([0.5, 1.2, -0.2, 3.0]))
        x = torch.tensor([[-1.5, 0.3, 2.0, -0.4]])
        expected = layer.mean_mask(x)[0]
        draws = []
        for _ in range(1500):
            latents = layer.draw_latents()
            z = layer.mask_distribution(latents, x)
            draws.append(z.sample()[0] if sampled else z.base_dist.probs[0])
        assert_mean_close(torch.stack(draws), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_mask_tends_to_the_naive_one_as_the_shift_is_known(dtype):
    exact, naive = (
        DependentBetaBernoulliDropout(5, init_shift=0.3, gate_mean=way, threshold=0.0)
        .to(dtype)
        .eval()
        for way in ("exact", "naive")
    )
    x = torch.linspace(-30.0, 30.0, 201, dtype=dtype).unsqueeze(1).expand(-1, 5)
    for raw in (-12.0, -60.0, -200.0):
        with torch.no_grad():
            exact.raw_shift_scale.fill_(raw)
            mean = exact.mean_mask(x)
        assert bool(((mean >= 0) & (mean <= 1)).all())
        torch.testing.assert_close(mean, naive.mean_mask(x), rtol=1e-5, atol=1e-5)


def test_units_in_use_are_those_that_samples_keep():
    """A gate whose mean shift closes it, and which samples open in a third of the cases."""
    nets = {
        way: nn.Sequential(one_unit(1.0, gate_mean=way), nn.Linear(1, 1))
        for way in ("exact", "naive")
    }
    x, pruned = torch.full((20, 1), -1.0), {}
    for way, net in nets.items():
        net[0].threshold = 1e-3
        bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), 20).eval()
        cost = bd.compression.measure_per_input(net, x)
        pruned[way] = (cost.units["0"], prune_unused_units(bnn, x)["0"])
    masks = torch.stack([nets["exact"][0].draw_mask(nets["exact"][0].draw_latents(), x)
                         for _ in range(50)])  # fmt: skip
    assert bool((masks > 0).any())
    assert pruned == {"exact": (1.0, 0), "naive": (0.0, 1)}


# -- the input ------------------------------------------------------------------------------------


def test_maps_are_averaged_over_positions():
    layer = DependentBetaBernoulliDropout(3, unit_dim=-3).eval()
    x = torch.randn(2, 3, 4, 5)
    flat = DependentBetaBernoulliDropout(3).eval()
    torch.testing.assert_close(layer.mean_mask(x), flat.mean_mask(x.mean((2, 3))))
    assert layer(x).shape == x.shape


def test_sequences_are_averaged_over_steps():
    layer = DependentBetaBernoulliDropout(3).eval()
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(layer.mean_mask(x), layer.mean_mask(x.mean(1)))


def test_no_gradient_reaches_the_input_through_the_gate():
    x = (torch.rand(2, 3) - 1.0).requires_grad_()  # gates inside (0, 1), which have a slope in x
    for gate_mean in ("exact", "naive"):
        layer = DependentBetaBernoulliDropout(3, gate_mean=gate_mean).eval()
        (grad,) = torch.autograd.grad(layer(x).sum(), x)
        mean = layer.mean_mask(x).detach()
        assert bool(((mean > 0.01) & (mean < 0.82)).all())
        torch.testing.assert_close(grad, mean)


def test_an_examples_mask_does_not_depend_on_its_batch():
    layer, x = DependentBetaBernoulliDropout(3), torch.randn(6, 3)
    layer(x)
    layer.eval()
    torch.testing.assert_close(layer.mean_mask(x)[:2], layer.mean_mask(x[:2]))


def test_statistics_are_the_first_batchs_then_a_running_average():
    layer = DependentBetaBernoulliDropout(3, momentum=0.25)
    first, second = torch.randn(50, 3) * 2 + 1, torch.randn(50, 3)
    layer(first)
    torch.testing.assert_close(layer.running_mean, first.mean(0))
    torch.testing.assert_close(layer.running_var, first.var(0, correction=0))
    layer(second)
    torch.testing.assert_close(layer.running_mean, 0.75 * first.mean(0) + 0.25 * second.mean(0))
    of_first, of_second = (x.var(0, correction=0) for x in (first, second))
    torch.testing.assert_close(layer.running_var, 0.75 * of_first + 0.25 * of_second)


def test_evaluation_mode_freezes_the_statistics():
    layer = DependentBetaBernoulliDropout(3).eval()
    before = copy.deepcopy(layer.state_dict())
    layer(torch.randn(5, 3))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


# -- never denser ---------------------------------------------------------------------------------


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        trained(4, unit_dim=-3),
        nn.Flatten(),
        trained(64),
        nn.Linear(64, 3),
    )


def test_no_input_has_a_unit_that_was_pruned():
    source = network()
    dependent = bd.to_dependent(source)
    data = torch.randn(200, 1, 6, 6), torch.randint(3, (200,))
    bnn = bd.BayesianNetwork(dependent, bd.Categorical(), 200)
    bd.fit(bnn, data, epochs=3, variational_learning_rate=0.1, progress=False)
    for index, shape in ((2, (40, 4, 4, 4)), (4, (40, 64))):
        dead = ~source[index].kept()
        assert bool(dead.any())
        x = 10 * torch.randn(shape)
        mask = dependent[index].mean_mask(x)
        assert bool((mask[:, dead] == 0).all())
        assert bool((mask <= source[index].mean_mask() + 1e-12).all())
        torch.testing.assert_close(dependent[index].location, source[index].location)


def test_to_dependent_copies():
    source = network()
    before = copy.deepcopy(source.state_dict())
    dependent = bd.to_dependent(source, init_shift=0.5)
    assert not dependent[2].location.requires_grad
    assert source[2].location.requires_grad
    torch.testing.assert_close(dependent[4].shift_loc, torch.full((64,), 0.5))
    with torch.no_grad():
        dependent[5].weight.zero_()
    torch.testing.assert_close(source.state_dict(), before, rtol=0, atol=0)


def test_the_second_stage_keeps_what_the_first_was_made_with():
    source = trained(
        unit_dim=-3, batch_dim=1, threshold=0.2, kl_scale=3.0, prior_concentration1=0.3,
        prior_concentration0=2.0, temperature=0.5, relaxation="straight-through",
        parametrization="log",
    ).eval()  # fmt: skip
    new = DependentBetaBernoulliDropout.from_beta_bernoulli(source)
    plain = ("unit_dim", "batch_dim", "threshold", "kl_scale", "relaxation", "parametrization")
    for name in (*plain, "training"):
        assert getattr(new, name) == getattr(source, name), name
    for name, value in source.state_dict().items():
        assert torch.equal(new.state_dict()[name], value), name
    assert new.open.tolist() == source.kept().tolist() == [False, False, True, True]


def test_overrides_reach_only_the_layers_that_match():
    common = {"init_shift": 2.0, "init_slope": 0.7}
    net = bd.to_dependent(network(), overrides={"2": {"init_shift": 0.5}}, **common)
    assert [float(net[i].shift_loc[0].detach()) for i in (2, 4)] == [0.5, 2.0]
    assert [float(net[i].slope[0].detach()) for i in (2, 4)] == [0.7, 0.7]
    with pytest.raises(ConfigError, match="unknown dropout layer"):
        bd.to_dependent(network(), overrides={"conv*": {"init_shift": 0.5}})


def test_to_dependent_keeps_site_names_and_prior():
    bnn = bd.BayesianNetwork(
        nn.Sequential(
            BetaBernoulliDropout(4, prior_concentration1=0.3, kl_scale=2.0), nn.Linear(4, 3)
        ),
        bd.Categorical(),
        10,
    )
    dependent = bd.to_dependent(bnn)
    layer = dependent.network[0]
    assert layer.path == "0"
    assert layer.kl_scale == 2.0
    assert float(layer.prior_concentration1) == 0.3
    assert dependent.model(torch.zeros(2, 4)).shape == (2, 3)


def test_unused_units_are_closed_without_changing_the_outputs():
    net = bd.to_dependent(network())
    with torch.no_grad():
        net[4].slope.zero_()
        net[4].raw_shift_scale.fill_(-5.0)
        net[4].shift_loc[:20] = -1.0
        net[4].shift_loc[20:] = 1.0
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 50).eval()
    x = torch.randn(50, 1, 6, 6)
    before, kept = bnn(x), int(net[4].kept()[20:].sum())
    closed = prune_unused_units(bnn, x)
    assert closed["4"] > 0
    assert bnn.units()[1] == kept
    torch.testing.assert_close(bnn(x), before, rtol=0, atol=0)
    with torch.no_grad():
        net[4].shift_loc.fill_(1.0)
    assert bool((net[4].mean_mask(torch.randn(5, 64))[:, :20] == 0).all())
    assert prune_unused_units(bnn, x)["4"] == 0


# -- trained masks --------------------------------------------------------------------------------


def test_masks_differ_by_class_on_digits():
    splits = bd.load_data("digits")
    net = bd.convert(
        bd.networks.lenet_500_300(in_features=64), "dependent-beta-bernoulli", kl_scale=0.1
    )
    bnn = bd.BayesianNetwork(net, bd.Categorical(), len(splits.train[1]))
    bd.fit(
        bnn, splits.train, epochs=8, batch_size=50, variational_learning_rate=0.05, seed=0,
        progress=False,
    )  # fmt: skip
    x, y = splits.test
    layer = net.fc3_dropout
    masks = layer.mean_mask(net.relu2(net.fc2(net.fc2_dropout(hidden(net, x)))))
    between = torch.stack([masks[y == c].mean(0) for c in range(10)]).var(0).sum()
    within = torch.stack([masks[y == c].var(0) for c in range(10)]).mean(0).sum()
    shuffled = y[torch.randperm(len(y))]
    chance = torch.stack([masks[shuffled == c].mean(0) for c in range(10)]).var(0).sum()
    assert between > 5 * chance
    assert within > 0


def hidden(net, x):
    return net.relu1(net.fc1(net.fc1_dropout(net.flatten(x))))


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"shift_variance": 0.0},
        {"init_shift_scale": -1.0},
        {"momentum": 0.0},
        {"momentum": 1.5},
        {"init_shift": math.nan},
        {"init_slope": math.inf},
    ],
)
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"DependentBetaBernoulliDropout.*got {name}="):
        DependentBetaBernoulliDropout(3, **options)


def test_an_unknown_mean_is_refused():
    with pytest.raises(ConfigError, match="unknown gate_mean 'nave'. Did you mean 'naive'"):
        DependentBetaBernoulliDropout(3, gate_mean="nave")


def test_a_unit_that_any_call_of_its_layer_uses_is_not_pruned():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask, self.head = DependentBetaBernoulliDropout(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.mask(x) + self.mask(torch.full_like(x, -5.0)))

    bnn = bd.BayesianNetwork(Twice(), bd.Categorical(), 50).eval()
    x = torch.randn(50, 4)
    before = bnn(x)
    assert bool((bnn.network.mask.mean_mask(torch.full_like(x, -5.0)) == 0).all())
    assert prune_unused_units(bnn, x.numpy()) == {"mask": 0}
    torch.testing.assert_close(bnn(x), before, rtol=0, atol=0)
    with pytest.raises(DataError, match="prune_unused_units: .*infinity in input row 3"):
        prune_unused_units(bnn, x.index_fill(0, torch.tensor([3]), math.nan))
    assert bool(bnn.network.mask.kept().all())


def test_a_mask_without_its_input_is_refused():
    with pytest.raises(ShapeError, match="expected the layer's input, got None"):
        DependentBetaBernoulliDropout(3).mean_mask()


def test_networks_without_beta_bernoulli_layers_are_refused():
    with pytest.raises(ConversionError, match="to_dependent: expected a network with"):
        bd.to_dependent(nn.Linear(2, 2))
    bnn = bd.BayesianNetwork(nn.Linear(2, 2), bd.Categorical(), 10)
    with pytest.raises(ConfigError, match="prune_unused_units: expected a network with"):
        prune_unused_units(bnn, torch.zeros(2, 2))
