import pytest
import torch
from torch.distributions import Beta, kl_divergence

from bayesdrop.distributions import Kumaraswamy
from bayesdrop.distributions.kumaraswamy_step import draw_with_kl
from bayesdrop.ops.elementwise import NUMPY, TORCH, elementwise, expm1, log1p

SIZES = (3, 2)


@pytest.fixture(params=[NUMPY, TORCH], ids=["numpy", "torch"])
def arithmetic(request, monkeypatch):
    name = "bayesdrop.distributions.kumaraswamy_step.elementwise"
    monkeypatch.setattr(name, lambda parts: request.param)


def parameters():
    return [torch.randn(size).requires_grad_() for size in 2 * SIZES]


def draw(*values, located, **options):
    drawn = draw_with_kl(values[:2], values[2:], located=located, **options)
    return *drawn.values, *drawn.logits, *drawn[2:]


@pytest.mark.parametrize("c", [None, 0.3])
@pytest.mark.parametrize("located", [True, False])
def test_gradients_are_right_to_second_order(arithmetic, located, c):
    values = parameters()
    if not located:
        values = [x.detach().exp().requires_grad_() for x in values]
    options = {
        "c": None if c is None else torch.tensor(c),
        "uniform": torch.rand(sum(SIZES)),
        "weight": torch.rand(sum(SIZES)),
    }

    def function(*values):
        return draw(*values, located=located, **options)

    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


def test_values_are_those_of_the_distribution(arithmetic):
    a, b = [torch.rand(5) * 3 + 0.2 for _ in range(2)]
    u, c = torch.rand(5), torch.rand(5) + 0.1
    options = {"c": c, "uniform": u, "weight": None}
    drawn = draw_with_kl([a], [b], located=False, **options)
    q = Kumaraswamy(a, b)
    torch.testing.assert_close(drawn.values[0], q.icdf(1 - u))
    torch.testing.assert_close(drawn.logits[0], torch.logit(drawn.values[0]))
    torch.testing.assert_close(drawn.kl, kl_divergence(q, Beta(c, torch.ones(5))).sum())


@pytest.mark.parametrize("extreme", [-80.0, 80.0])
def test_extreme_parameters_have_finite_values_and_gradients(arithmetic, extreme):
    first = torch.tensor([extreme, 0.0, extreme], dtype=torch.float32, requires_grad=True)
    second = torch.tensor([0.0, extreme, extreme], dtype=torch.float32, requires_grad=True)
    uniform = torch.tensor([1e-7, 0.5, 1 - 1e-7], dtype=torch.float32)
    c = torch.tensor(1e-4, dtype=torch.float32)
    drawn = draw_with_kl([first], [second], located=True, c=c, uniform=uniform, weight=None)
    outputs = [*drawn.values, *drawn.logits, drawn.kl]
    assert all(bool(x.isfinite().all()) for x in outputs)
    sum(x.sum() for x in outputs).backward()
    assert bool(first.grad.isfinite().all()) and bool(second.grad.isfinite().all())


def test_numpy_is_for_short_plain_vectors_on_a_cpu():
    assert elementwise([torch.zeros(3)]) is NUMPY
    for other in (torch.zeros(()), torch.zeros(3).half(), torch.zeros(3, device="meta")):
        assert elementwise([other]) is TORCH
    assert elementwise([torch.zeros(1 << 15), torch.zeros(1)]) is TORCH


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_faster_functions_are_torchs(dtype):
    x = torch.tensor([[-0.9, 0.0, 1e-30], [1e-6, 3.0, 800.0]], dtype=dtype).T
    torch.testing.assert_close(log1p(x), torch.log1p(x))
    torch.testing.assert_close(expm1(x), torch.expm1(x))
