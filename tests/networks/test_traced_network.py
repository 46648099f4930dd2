"""Copies and files of converted networks: the same call, hooks and all."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import bayesdrop as bd


class Scaled(nn.Module):
    """A layer with a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.outer = nn.Linear(8, 3)
        self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return self.outer(torch.relu(self.inner(x * self.scale))) + shift


def doubled(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return 2 * output


def shifted(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict) -> tuple:
    return args, {"shift": kwargs.get("shift", 0.0) + 1}


def pickled(network: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(network))


@pytest.fixture
def converted() -> nn.Module:
    torch.manual_seed(0)
    return bd.convert(Scaled(), "beta-bernoulli").eval()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_is_called_with_the_hooks(copied, converted):
    x = torch.randn(2, 4)
    plain = converted(x)
    converted.register_forward_hook(doubled)
    converted.register_forward_pre_hook(shifted, with_kwargs=True)
    twin = copied(converted)
    torch.testing.assert_close(twin(x), 2 * (plain + 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(copied(twin)(x), 2 * (plain + 1), rtol=0, atol=1e-6)
    assert list(twin.state_dict()) == list(converted.state_dict())
    assert not twin.training


def test_a_hook_on_a_copy_is_its_own(converted):
    for twin in (copy.copy(converted), copy.deepcopy(converted), pickled(converted)):
        twin.register_forward_hook(doubled)
    x = torch.randn(2, 4)
    torch.testing.assert_close(2 * converted(x), twin(x), rtol=0, atol=1e-6)
    assert not converted._forward_hooks


def test_a_copy_keeps_what_was_set_on_the_network(converted):
    converted.classes = ["a", "b", "c"]
    converted.probe = nn.Linear(3, 1)
    for twin in (copy.copy(converted), copy.deepcopy(converted), pickled(converted)):
        assert twin.classes == converted.classes
        assert list(twin.state_dict()) == list(converted.state_dict())
    assert copy.deepcopy(converted).probe is not converted.probe


def test_the_backward_hooks_of_a_copy_run(converted):
    seen = []
    converted.register_full_backward_hook(lambda module, _, after: seen.append(after[0].shape))
    copy.deepcopy(converted)(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert seen == [torch.Size([2, 3])]


def test_a_copy_of_a_bayesian_network_has_the_hooks(converted):
    converted.register_forward_hook(doubled)
    bnn = bd.BayesianNetwork(converted, bd.Categorical(), num_data=10).eval()
    x = torch.randn(2, 4)
    torch.testing.assert_close(copy.deepcopy(bnn).network(x), bnn.network(x), rtol=0, atol=0)
