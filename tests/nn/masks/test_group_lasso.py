"""Group lasso: its penalty, its proximal step, and what both leave alone."""

import copy
import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError

N, P, Q = 64, 6, 3


def regression(cost, bias=False, **options):
    """Return a linear network under a group lasso of its inputs."""
    linear = nn.Linear(P, Q, bias=bias)
    masks = bd.nn.GroupLassoDropout(P, cost_per_norm=cost, **options)
    masks.bind_weights(linear, 1)
    return bd.BayesianNetwork(nn.Sequential(masks, linear), bd.Gaussian(1.0), N)


def data(orthogonal=True):
    x = torch.randn(N, P)
    if orthogonal:
        x = torch.linalg.qr(x)[0] * math.sqrt(N)
    weights = torch.randn(P, Q) * torch.tensor([1.0, 0.6, 0.3, 0.1, 0.02, 0.0])[:, None]
    return x, x @ weights + 0.1 * torch.randn(N, Q)


def fitted(bnn, pair, optimizer=torch.optim.Adam, epochs=100, **options):
    settings = {"learning_rate": 0.05, "weight_decay": 0.0, "progress": False, "batch_size": N}
    settings |= {"schedule": bd.schedules.cosine(1e-4), "optimizer": optimizer}
    bd.fit(bnn, pair, epochs=epochs, **(settings | options))
    return bnn.network[1].weight.detach().T


# -- what it is -----------------------------------------------------------------------------------


def test_the_penalty_is_the_price_of_the_norms():
    linear = nn.Linear(4, 3)
    inputs, outputs = bd.nn.GroupLassoDropout(4, cost_per_norm=2.0), bd.nn.GroupLassoDropout(3)
    inputs.bind_weights(linear, 1)
    outputs.bind_weights(linear, 0)
    torch.testing.assert_close(inputs.penalty(), 2.0 * linear.weight.norm(dim=0).sum())
    rows = torch.cat([linear.weight, linear.bias[:, None]], 1)
    torch.testing.assert_close(outputs.penalty(), 10.0 * rows.norm(dim=1).sum())
    assert bd.nn.GroupLassoDropout(4).penalty() is None


def test_without_the_proximal_step_the_penalty_has_its_gradient_and_none_at_zero():
    linear = nn.Linear(4, 3)
    nn.init.zeros_(linear.weight[:, 1])
    masks = bd.nn.GroupLassoDropout(4, cost_per_norm=2.0, proximal=False)
    masks.bind_weights(linear, 1)
    (gradient,) = torch.autograd.grad(masks.penalty(), linear.weight)
    expected = 2.0 * linear.weight / linear.weight.norm(dim=0)
    torch.testing.assert_close(gradient, expected.nan_to_num(0.0))


def test_a_unit_is_kept_exactly_where_its_weights_are_not_zero():
    linear = nn.Linear(4, 3)
    nn.init.zeros_(linear.weight[:, 1])
    masks = bd.nn.GroupLassoDropout(4).eval()
    masks.bind_weights(linear, 1)
    assert masks.kept().tolist() == [True, False, True, True]
    assert masks.keep_prob().tolist() == masks.mean_mask().tolist() == [1.0, 0.0, 1.0, 1.0]
    x = torch.randn(5, 4)
    torch.testing.assert_close(linear(masks(x)), linear(x))
    assert bool((masks.train()(x) == x).all())  # the weights that are zero get their gradient


# -- the proximal step ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adam,
        lambda groups: torch.optim.Adam(groups, amsgrad=True),
        lambda groups: torch.optim.SGD(groups, momentum=0.9),
        lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
    ],
    ids=["Adam", "AMSGrad", "momentum", "Nesterov"],
)
def test_on_an_orthogonal_design_training_ends_at_the_closed_form(optimizer):
    (x, y), cost = data(), 12.0
    least_squares = x.T @ y / N
    norms = least_squares.norm(dim=1, keepdim=True)
    closed = (1 - cost / (N * norms)).clamp(min=0) * least_squares
    bnn = regression(cost)
    found = fitted(bnn, (x, y), optimizer, epochs=250)
    torch.testing.assert_close(found, closed, rtol=0, atol=1e-4)
    assert torch.equal(bnn.network[0].kept(), (closed != 0).any(1))
    assert 0 < int(bnn.network[0].kept().sum()) < P


def test_on_any_design_zero_is_in_the_subdifferential():
    (x, y), cost = data(orthogonal=False), 15.0
    bnn = regression(cost, kl_scale=2.0)
    bnn.kl_weight = 0.5  # the factors of the loss are those of the step
    weights = fitted(bnn, (x, y), epochs=200)
    gradient = x.T @ (x @ weights - y)
    kept = bnn.network[0].kept()
    assert 0 < int(kept.sum()) < P
    pull = weights[kept] / weights[kept].norm(dim=1, keepdim=True)
    torch.testing.assert_close(gradient[kept], -cost * pull, rtol=0, atol=0.02 * cost)
    assert bool((gradient[~kept].norm(dim=1) <= cost).all())


def test_a_unit_comes_back_when_the_loss_pulls_harder_than_the_price():
    x, y = data()
    bnn = regression(12.0)
    nn.init.zeros_(bnn.network[1].weight)
    expected = fitted(regression(12.0), (x, y)).ne(0).any(1)
    assert torch.equal(fitted(bnn, (x, y)).ne(0).any(1), expected)


def test_without_a_price_it_is_plain_training_to_the_bit():
    x, y = data()
    free = regression(0.0)
    plain = bd.BayesianNetwork(copy.deepcopy(free.network), bd.Gaussian(1.0), N)
    plain.network[0] = nn.Identity()
    assert torch.equal(*(fitted(bnn, (x, y), epochs=20, seed=0) for bnn in (free, plain)))


def test_the_price_can_be_scheduled():
    x, y = data()
    bnn = regression(0.0)
    fitted(bnn, (x, y), buffers={"cost_per_norm": bd.schedules.linear(0.0, 1e6)}, epochs=30)
    assert bnn.units() == [0]


def test_a_loop_of_ones_own_needs_to_say_no_factor():
    x, y = data()
    bnn = regression(12.0)
    optimizer = torch.optim.Adam(bnn.parameters(), lr=0.05)
    masks, steps = bnn.network[0], 250
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        nll = 0.5 * (bnn.network(x) - y).square().sum()
        ((nll + bd.kl_divergence(bnn.network)) / N).backward()
        optimizer.step()
        masks.after_step(optimizer)
    expected = fitted(regression(12.0), (x, y), epochs=250)
    torch.testing.assert_close(bnn.network[1].weight.detach().T, expected, rtol=0, atol=1e-3)


def test_a_loss_that_does_not_count_the_penalty_takes_no_step():
    x, y = data()
    bnn = regression(1e9)
    optimizer = torch.optim.SGD(bnn.parameters(), lr=0.01)
    (bnn.network(x) - y).square().mean().backward()
    bnn.network[0].penalty()
    optimizer.step()
    bnn.network[0].after_step(optimizer)
    assert bnn.units() == [P]


def test_passes_that_no_step_followed_leave_nothing_behind():
    x, y = data()
    bnn = regression(12.0)
    optimizer = torch.optim.SGD(bnn.parameters(), lr=1e-6)
    for _ in range(50):  # nobody calls after_step
        bnn.loss(x, y).loss.backward()
        optimizer.step()
    before = bnn.network[1].weight.detach().clone()
    optimizer.zero_grad()
    (bnn.loss(x, y).loss / N).backward()
    optimizer.step()
    bnn.network[0].after_step(optimizer)
    torch.testing.assert_close(bnn.network[1].weight.detach(), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("estimator", ["Trace_ELBO", "TraceMeanField_ELBO"])
def test_under_an_elbo_of_pyro_the_step_is_the_same(estimator):
    import pyro.infer

    x, y = data()
    elbo = getattr(pyro.infer, estimator)(num_particles=2)
    ours, theirs = (regression(12.0) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(
        fitted(ours, (x, y), epochs=10), fitted(theirs, (x, y), epochs=10, objective=elbo)
    )


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match=r"got RMSprop.*proximal=False"):
        fitted(regression(12.0), data(), torch.optim.RMSprop, epochs=1)


# -- networks -------------------------------------------------------------------------------------


def trained():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 12),
        nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip
    net = bd.convert(net, "group-lasso", cost_per_norm=6.0, trained=False)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 60)
    x = torch.randn(60, 1, 4, 4)
    pair = x, (x.mean((1, 2, 3)) > 0).long() + 2 * (x[:, 0, 0, 0] > 1.2).long().clamp(max=0)
    bd.fit(bnn, pair, epochs=40, batch_size=20, learning_rate=0.02, progress=False, seed=0)
    return bnn, x


def test_compact_takes_out_what_is_zero_and_training_mode_agrees():
    bnn, x = trained()
    units, totals = bnn.units(), bnn.units_total()
    assert all(kept < total for kept, total in zip(units, totals, strict=True))
    small = bd.compact(bnn, x)
    torch.testing.assert_close(small(x), bnn(x), rtol=1e-6, atol=1e-6)
    linear = [m for m in small.modules() if isinstance(m, nn.Linear)]
    assert linear[-1].in_features <= units[-1]
    for _, masks in bnn.named_dropout_layers():
        masks.train()  # without batch norm's batches
    torch.testing.assert_close(small(x), bnn(x), rtol=1e-6, atol=1e-6)


def test_a_map_that_its_own_weights_have_switched_off_stays_off():
    bnn, x = trained()
    masks = dict(bnn.named_dropout_layers())["0_dropout"]
    off = ~masks.kept()
    assert bool(off.any())
    bd.fit(bnn, (x, torch.zeros(60).long()), epochs=1, progress=False)
    assert not bool(masks.kept()[off].any())


def test_bad_arguments_are_named():
    for cost in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="cost_per_norm"):
            bd.nn.GroupLassoDropout(3, cost_per_norm=cost)
    with pytest.raises(ConfigError, match="3 inputs"):
        bd.nn.GroupLassoDropout(3).bind_weights(nn.Linear(4, 3), 1)
    with pytest.raises(ConfigError, match="points"):
        bd.nn.GroupLassoDropout(4).bind_weights(bd.nn.SparseVariational(nn.Linear(4, 3)), 1)
