"""What a step draws jointly and multiplies at once is what it draws and multiplies one by one."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import LatentOwner, TrainingPass
from bayesdrop.nn.masks.bernoulli import BernoulliDropout
from bayesdrop.testing.programs import gradients

KEYS = [key for key, cls in bd.nn.layers.items() if cls.__module__.startswith("bayesdrop.")]
MASKS = [key for key in KEYS if issubclass(bd.nn.layers[key], bd.BayesianDropout)]


def dense(key, **options):
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    return bd.convert(plain, key, **options)


def maps(key):
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), bd.nn.make(key, 4, unit_dim=-3), nn.Flatten()),
        *(bd.nn.make(key, 16), nn.Linear(16, 3)),
    )


def without_joint(monkeypatch):
    monkeypatch.setattr(TrainingPass, "draw_jointly", lambda self, network: None)
    monkeypatch.setattr(BernoulliDropout, "_latents_of_product", lambda self, x: None)


def loss_and_gradients(bnn, x, y, **options):
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # of noise that is not patched
    nll, kl = bnn.loss(x, y, **options)
    found = gradients(nll + kl, bnn)
    (found["x"],) = torch.autograd.grad(bnn.loss(x, y, **options).loss, x)
    return {"nll": nll.detach(), "kl": kl.detach(), **found}


@pytest.fixture
def compare(monkeypatch, same_noise):
    def compare(network, x, *, likelihood=None, tolerance=None, **options):
        bnn = bd.BayesianNetwork(network, bd.Categorical(), 40, kl_weight=0.5)
        y = torch.randint(3, (len(x),))
        for parameter in bnn.parameters():
            nn.init.normal_(parameter, std=0.5)
        state = {name: value.clone() for name, value in bnn.state_dict().items()}
        together = loss_and_gradients(bnn, x, y, **options)
        bnn.load_state_dict(state)  # running statistics
        without_joint(monkeypatch)
        alone = loss_and_gradients(bnn, x, y, **options)
        torch.testing.assert_close(together, alone, **(tolerance or {}))

    return compare


@pytest.mark.parametrize("num_masks", [1, 3])
@pytest.mark.parametrize("key", KEYS)
def test_value_and_gradient_are_those_of_one_layer_after_the_other(key, num_masks, compare):
    if num_masks > 1 and key not in MASKS:
        pytest.skip("several masks need weights that are drawn once")
    compare(dense(key, kl_scale=1.5), torch.randn(10, 6), num_masks=num_masks)


@pytest.mark.parametrize("key", MASKS)
def test_the_same_holds_for_maps(key, compare):
    compare(maps(key), torch.randn(5, 1, 4, 4))


@pytest.mark.parametrize("key", ["beta-bernoulli", "hierarchical-indian-buffet"])
def test_the_same_holds_in_single_precision(key, compare):
    tolerance = {"rtol": 2e-4, "atol": 2e-4}
    compare(dense(key).float(), torch.randn(10, 6).float(), tolerance=tolerance)


def test_each_layer_keeps_its_own_prior_and_scale(compare):
    network = nn.Sequential(
        bd.BetaBernoulliDropout(6, prior_concentration1=0.1),
        nn.Linear(6, 5),
        bd.BetaBernoulliDropout(5, prior_concentration0=2.0, kl_scale=3.0),
        nn.Linear(5, 4),
        bd.BetaBernoulliDropout(4, relaxation="straight-through"),
        nn.Linear(4, 3),
    )
    compare(network, torch.randn(10, 6))


def test_second_derivatives_are_those_of_one_layer_after_the_other(monkeypatch, same_noise):
    bnn = bd.BayesianNetwork(dense("beta-bernoulli"), bd.Categorical(), 40)
    x, y = torch.randn(10, 6), torch.randint(3, (10,))
    parameters = list(bnn.parameters())

    def second():
        first = torch.autograd.grad(bnn.loss(x, y).loss, parameters, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), parameters)

    together = second()
    without_joint(monkeypatch)
    torch.testing.assert_close(together, second())


def test_a_layer_in_evaluation_mode_keeps_its_mean_mask(compare):
    network = dense("beta-bernoulli")
    next(m for m in network.modules() if isinstance(m, bd.BetaBernoulliDropout)).eval()
    network.train = lambda mode=True: network  # as with a frozen part
    compare(network, torch.randn(10, 6))


class Doubled(bd.BetaBernoulliDropout):
    key = "doubled"

    def kl_divergence(self, *args, **options):
        return 2 * super().kl_divergence(*args, **options)


class Open(bd.BetaBernoulliDropout):
    key = "open"

    def mask_distribution(self, latents, x=None):
        fn = super().mask_distribution(latents, x)
        return bd.distributions.BinaryConcrete(0.1, logits=fn.base_dist.logits + 50.0).to_event(1)


def test_what_a_class_below_says_otherwise_counts():
    torch.manual_seed(0)
    x, y = torch.ones(4, 3), torch.zeros(4, dtype=torch.long)
    loss = {}
    for cls in (bd.BetaBernoulliDropout, Doubled):
        bnn = bd.BayesianNetwork(nn.Sequential(cls(3), nn.Linear(3, 2)), bd.Categorical(), 40)
        loss[cls] = bnn.loss(x, y).kl
    torch.testing.assert_close(loss[Doubled], 2 * loss[bd.BetaBernoulliDropout])
    assert bool((Open(50)(torch.ones(20, 50)) > 0.99).all())


def test_a_mask_that_was_multiplied_at_once_can_be_asked_for():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.out = bd.BetaBernoulliDropout(3), nn.Linear(3, 2)

        def forward(self, x):
            masked = self.gate(x)
            self.seen = bd.nn.active_context().mask_of(self.gate)
            torch.testing.assert_close(masked, x * self.seen)
            return self.out(x * self.seen)

    pair = Pair()
    bnn = bd.BayesianNetwork(pair, bd.Categorical(), 40)
    bnn.loss(torch.randn(5, 3), torch.zeros(5, dtype=torch.long)).nll.backward()
    assert bool((pair.gate.location.grad != 0).any())


JOINT = {"beta-bernoulli": {}, "variational-nested": {"num_groups": 4}}


@pytest.mark.parametrize("key", JOINT)
def test_the_owners_of_a_joint_draw_are_those_of_its_class(key):
    bnn = bd.BayesianNetwork(dense(key, **JOINT[key]), bd.Categorical(), 40)
    draws = TrainingPass(4)
    draws.draw_jointly(bnn.network)
    owners = {m for m in bnn.modules() if isinstance(m, LatentOwner)}
    assert draws._joint == owners and len(owners) == 3


def test_orders_of_as_many_groups_keep_their_own_law(compare):
    network = dense("variational-nested", num_groups=4)
    for number, layer in enumerate(
        m for m in network.modules() if isinstance(m, bd.nn.layers["variational-nested"])
    ):
        layer.prior_logits += number
        layer.kl_scale = 1.0 + number
    compare(network, torch.randn(10, 6))


def test_layers_that_share_sticks_draw_them_once(compare):
    network = dense("hierarchical-indian-buffet", concentration=5.0, layer_concentration=3.0)
    layers = [m for m in network.modules() if isinstance(m, bd.HierarchicalIndianBuffetDropout)]
    layers[0].kl_scale = 3.0
    layers[1].rank_units(torch.arange(layers[1].num_units).float())
    compare(network, torch.randn(10, 6))


class Lone(bd.HierarchicalIndianBuffetDropout):
    key = "lone"

    def posterior(self):
        return super().posterior()


def test_sticks_drawn_jointly_serve_layers_that_draw_alone(compare):
    """The divergence of a layer given its sticks is that given the sticks that were drawn."""
    sticks = bd.nn.IndianBuffetSticks(6)
    layers = [cls(6, sticks=sticks) for cls in (Lone, bd.HierarchicalIndianBuffetDropout)]
    compare(nn.Sequential(*layers, nn.Linear(6, 3)), torch.randn(10, 6))


def test_each_layer_keeps_its_own_temperature(compare):
    network = dense("beta-bernoulli")
    for number, layer in enumerate(
        m for m in network.modules() if isinstance(m, bd.BetaBernoulliDropout)
    ):
        layer.temperature.fill_(0.3 + number)
    compare(network, torch.randn(10, 6))


def test_a_second_call_of_a_layer_has_a_mask_of_its_own():
    gate = bd.BetaBernoulliDropout(50, init_concentration1=1.0)
    draws = TrainingPass(4)
    draws.draw_jointly(gate)
    with draws:
        first, second = gate(torch.ones(4, 50)), gate(torch.ones(4, 50))
    assert first.shape == second.shape and not torch.equal(first, second)


def test_a_second_call_under_gradient_checkpointing_is_refused():
    gate = bd.BetaBernoulliDropout(5)
    draws = TrainingPass(4)
    draws.draw_jointly(gate)
    with draws, pytest.raises(ConfigError, match="sample_mask"):
        checkpoint(lambda x: gate(gate(x)), torch.ones(4, 5), use_reentrant=False)


@pytest.mark.parametrize("key", ["beta-bernoulli", "generalized", "contextual", "mc-dropout"])
def test_reentrant_checkpointing_is_refused_where_it_would_draw_another_mask(key):
    def gradient(reentrant):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(6, 8), bd.nn.make(key, 8))
        bnn = bd.BayesianNetwork(Checkpointed(body, reentrant), bd.Categorical(), num_data=16)
        bnn.loss(torch.randn(16, 6), torch.randint(2, (16,))).loss.backward()
        return body[0].weight.grad

    expected = gradient(None)
    torch.testing.assert_close(gradient(False), expected)
    if key == "mc-dropout":  # nothing is drawn before the layer runs
        torch.testing.assert_close(gradient(True), expected)
        return
    with pytest.raises(ConfigError, match="use_reentrant=False"):
        gradient(True)


class Checkpointed(nn.Module):
    """A layer behind a part that gradient checkpointing runs again; None runs it once."""

    def __init__(self, body, reentrant):
        super().__init__()
        self.body, self.last, self.reentrant = body, nn.Linear(8, 2), reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.last(self.body(x))
        return self.last(checkpoint(self.body, x.requires_grad_(), use_reentrant=self.reentrant))
