"""Laws of a loop of Accelerate with the term, against the real library."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import bayesdrop as bd
from bayesdrop.inference.optimizers import parameter_groups
from bayesdrop.integrations import KLTerm
from tests.integrations.page import run_block
from tests.integrations.test_kl_term import X, Y, by_hand, network

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def its_state():
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_loop_with_accelerate_is_the_plain_loop(accumulated):
    schedules = {"kl_weight": bd.schedules.warm_up(0.9)}
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    net = network()
    optimizer = torch.optim.Adam(parameter_groups(net, learning_rate=0.1))
    term = KLTerm(net, len(X), **schedules)
    generator = torch.Generator()
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, generator=generator)
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    term.attach(optimizer, scaler=accelerator.scaler)
    steps, stepped = 6 // accumulated, []
    term.after_step = stepped.append
    torch.manual_seed(2)
    for _ in range(2):
        for x, y in loader:
            with accelerator.accumulate(model):
                term.at(len(stepped), steps)
                with term:
                    nll = F.cross_entropy(model(x), y)
                accelerator.backward(nll + term())
                optimizer.step()
                optimizer.zero_grad()
    assert len(stepped) == steps
    theirs = by_hand(network(), accumulated, **schedules)
    for name, value in theirs.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_the_example_of_the_page_trains():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    term = KLTerm(net, len(X))
    term.attach(optimizer)
    stepped = []
    term.after_step = stepped.append
    loader = DataLoader(TensorDataset(X, Y), batch_size=2)
    run_block("Accelerator", F=F, net=net, optimizer=optimizer, loader=loader, term=term)
    assert len(stepped) == 2  # of two batches, and of the last one
