"""Laws of several threads: predictions of a seed, modes and other draws do not disturb another."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.ops.seeding import seeded

NUM_CALLS = 6


def bayesian(dropout="beta-bernoulli"):
    net = nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), bd.nn.make(dropout, 16), nn.Linear(16, 3)
    )
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=100)


@pytest.mark.parametrize("shared_by", ["batch", "example"])
def test_predictions_of_several_threads_are_those_of_one_after_the_other(shared_by):
    bnn, x = bayesian(), torch.randn(50, 4)

    def run(seed):
        return bd.predict(bnn, x, num_samples=8, seed=seed, shared_by=shared_by).samples

    expected = [run(seed) for seed in range(NUM_CALLS)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for one, other in zip(expected, pool.map(run, range(NUM_CALLS)), strict=True):
                assert torch.equal(one, other)


def test_training_beside_predictions_is_that_alone_to_the_bit():
    """Modes and the global generator are the training thread's own."""

    def train(bnn, x, y):
        optimizer = torch.optim.SGD(bnn.parameters(), lr=0.01)
        for _ in range(15):
            rows = torch.randperm(len(x))[:20]
            optimizer.zero_grad()
            bnn.train().loss(x[rows], y[rows]).loss.backward()
            optimizer.step()
        return [p.detach().clone() for p in bnn.parameters()]

    bnn, x, y = bayesian(), torch.randn(50, 4), torch.arange(50) % 3
    start = {name: value.clone() for name, value in bnn.state_dict().items()}
    torch.manual_seed(1)
    alone = train(bnn, x, y)
    bnn.load_state_dict(start)
    done = threading.Event()

    def predict():
        count = 0
        while not done.is_set():
            bd.predict(bnn, x, num_samples=2, seed=0)
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(predict)
        torch.manual_seed(1)
        beside = train(bnn, x, y)
        done.set()
        assert counted.result() > 0
    assert bnn.network.training
    for one, other in zip(alone, beside, strict=True):
        assert torch.equal(one, other)


class Waits(nn.Module):
    """A network that, in evaluation mode, says so and waits."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.seen = []

    def forward(self, x):
        self.seen.append(self.training)
        if not self.training:
            self.inside.set()
            self.go_on.wait(10)
        return self.head(x)


@pytest.mark.parametrize("entry", ["loss", "call", "model", "train"])
def test_a_pass_in_another_thread_waits_for_the_end_of_a_prediction(entry):
    network = Waits()
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=100).train()
    x, y = torch.zeros(5, 4), torch.zeros(5).long()
    calls = {
        "loss": lambda: bnn.loss(x, y),
        "call": lambda: bnn(x),
        "model": lambda: bnn.model(x, y),
        "train": bnn.train,
    }
    with ThreadPoolExecutor(2) as pool:
        prediction = pool.submit(bd.predict, bnn, x)
        network.inside.wait(10)
        other = pool.submit(calls[entry])
        with pytest.raises(TimeoutError):
            other.result(0.05)
        network.go_on.set()
        prediction.result()
        other.result()
    assert network.seen[:3] == [False, False, False] and all(network.seen[3:])
    assert network.training


def test_a_block_within_a_block_does_not_wait_for_itself():
    net = nn.Sequential(nn.Dropout(0.5))
    with evaluation_mode(net), evaluation_mode(net):
        assert not net[0].training
    assert net[0].training


DRAWS = {
    "rand": lambda: torch.rand(3),
    "like": lambda: torch.rand_like(torch.ones(3)) + torch.randn_like(torch.ones(3)),
    "randn": lambda: torch.randn(3),
    "normal": lambda: torch.distributions.Normal(0.0, torch.ones(3)).sample(),
    "bernoulli": lambda: torch.distributions.Bernoulli(torch.full((9,), 0.5)).sample(),
    "categorical": lambda: torch.distributions.Categorical(torch.ones(9)).sample((5,)),
    "beta": lambda: torch.distributions.Beta(torch.ones(3), 2.0).rsample(),
    "gamma": lambda: torch.distributions.Gamma(torch.ones(3), 2.0).sample(),
    "poisson": lambda: torch.distributions.Poisson(torch.ones(9)).sample(),
    "binomial": lambda: torch.distributions.Binomial(9, torch.tensor(0.5)).sample((5,)),
    "exponential": lambda: torch.distributions.Exponential(torch.ones(3)).sample(),
    "permutation": lambda: torch.randperm(9),
    "many": lambda: bd.nn.make("hard-concrete", 20_000).float().draw_mask({}),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_gives_what_manual_seed_gives_and_leaves_the_global_generator(name):
    draw, before = DRAWS[name], torch.get_rng_state()
    with seeded(5), seeded(None):
        first = draw()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(draw(), first)
