import pytest
import torch
from scipy.optimize import minimize

from bayesdrop.errors import ConfigError
from bayesdrop.ops.proximal import metric_of, shrink_groups


def test_in_a_round_metric_it_is_soft_thresholding_of_norms():
    value = torch.randn(7, 3)
    value[0] = 0.0
    norms = value.norm(dim=1, keepdim=True)
    expected = (1 - 0.8 / 2.0 / norms.clamp(min=1e-9)).clamp(min=0) * value
    torch.testing.assert_close(shrink_groups(value, torch.tensor(2.0), 0.8), expected)
    torch.testing.assert_close(shrink_groups(value, torch.tensor(2.0), 0.0), value)


def test_in_any_metric_it_is_the_minimum():
    value = torch.randn(6, 4) * torch.linspace(0.05, 1.0, 6)[:, None]
    metric = torch.rand(6, 4) ** 4 * 3 + 1e-4
    found = shrink_groups(value, metric, 0.7)
    stays = (metric * value).norm(dim=1) > 0.7
    assert 0 < int(stays.sum()) < 6
    assert torch.equal(found.norm(dim=1) > 0, stays)
    for u, c, w in zip(value[stays], metric[stays], found[stays], strict=True):
        # The gradient is zero there, and a solver that knows nothing of it ends there.
        torch.testing.assert_close(c * (w - u) + 0.7 * w / w.norm(), torch.zeros(4))
        u, c = u.numpy(), c.numpy()
        least = minimize(
            lambda x, u=u, c=c: 0.5 * (c * (x - u) ** 2).sum() + 0.7 * (x @ x) ** 0.5, u
        )
        torch.testing.assert_close(w, torch.from_numpy(least.x), rtol=1e-3, atol=1e-4)


def test_single_precision_and_metrics_of_many_sizes_give_finite_points():
    value = torch.randn(50, 30, dtype=torch.float32)
    metric = 10.0 ** torch.empty(50, 30, dtype=torch.float32).uniform_(-7, 4)
    for price in (1e-6, 1e-2, 1e2):
        exact = shrink_groups(value.double(), metric.double(), price)
        torch.testing.assert_close(
            shrink_groups(value, metric, price).double(), exact, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.8}),
        (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.5}),
        (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {"weight_decay": 0.0}),
    ],
)
def test_a_constant_gradient_moves_a_parameter_by_itself_over_the_metric(optimizer, options):
    parameter, gradient = torch.nn.Parameter(torch.randn(5)), torch.randn(5)
    made = optimizer([parameter], lr=0.01, **options)
    for _ in range(300):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        made.step()
    torch.testing.assert_close(
        before - parameter.detach(), gradient / metric_of(made, parameter), rtol=1e-6, atol=1e-9
    )


def test_what_was_not_moved_has_no_metric_and_an_unknown_optimizer_is_refused():
    one, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    one.grad = torch.ones(2)
    made = torch.optim.SGD([one], lr=0.1)
    assert metric_of(made, other) is None
    assert metric_of(torch.optim.SGD([one], lr=0.0), one) is None
    one.grad = None
    assert metric_of(made, one) is None
    one.grad = torch.ones(2)
    with pytest.raises(ConfigError, match="got RMSprop"):
        metric_of(torch.optim.RMSprop([one]), one)
