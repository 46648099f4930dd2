"""What is frozen stays frozen: in training, in validation, and in the next fit."""

import copy

import pytest
import torch
from torch import nn

import bayesdrop as bd


class Spy(nn.Module):
    """Notes the mode it runs in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(self.training)
        return x


def data(rows=24):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(rows) % 2


def network(norm=nn.BatchNorm1d):
    backbone = nn.Sequential(nn.Linear(4, 6), norm(6, track_running_stats=True), Spy())
    return nn.Sequential(backbone, bd.BetaBernoulliDropout(6), Spy(), nn.Linear(6, 2))


def fitted(net, rows=24, **options):
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=rows)
    settings = {"epochs": 2, "batch_size": 8, "seed": 0, "progress": False}
    bd.fit(bnn, data(rows), **{**settings, **options})
    return bnn


def statistics(net):
    return [b.clone() for m in net.modules() if hasattr(m, "running_mean") for b in m.buffers()]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d, nn.SyncBatchNorm])
def test_a_frozen_part_keeps_its_statistics_and_its_mode(norm):
    if norm is nn.InstanceNorm1d:
        net = nn.Sequential(
            nn.Sequential(
                nn.Unflatten(1, (2, 2)), norm(2, track_running_stats=True), nn.Flatten()
            ),
            bd.BetaBernoulliDropout(4),
            nn.Linear(4, 2),
        )
    else:
        net = network(norm)
    net[0].eval().requires_grad_(False)
    before = statistics(net[0])
    bnn = fitted(net, validation=data())
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(net[0]), strict=True))
    assert not any(module.training for module in bnn.modules())


def test_modes_are_those_of_the_start_in_training_and_evaluation_in_validation():
    net = network()
    net[0].eval()
    fitted(net, validation=data())
    assert net[0][2].seen == [False] * 8
    assert net[2].seen == ([True] * 3 + [False]) * 2


def test_the_next_fit_freezes_the_same_until_the_user_says_otherwise():
    net = network()
    net[0].eval()
    bnn = fitted(net)
    for make, frozen in (
        (lambda: bnn, True),
        (lambda: copy.deepcopy(bnn), True),
        (bnn.train, False),
    ):
        again = make()
        spies = again.network[0][2].seen, again.network[2].seen
        for seen in spies:
            seen.clear()
        bd.fit(again, data(), epochs=1, batch_size=8, progress=False)
        assert spies == ([not frozen] * 3, [True] * 3)


def test_a_network_that_was_loaded_in_evaluation_mode_is_trained_whole():
    net = network().eval()
    before = statistics(net)
    fitted(net)
    assert net[0][2].seen == net[2].seen == [True] * 6
    assert not torch.equal(before[0], statistics(net)[0])


def test_batch_norm_with_frozen_parameters_is_frozen():
    net = network()
    net[0].requires_grad_(False)
    before = statistics(net)
    fitted(net)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(net), strict=True))
    assert net[0][2].seen == [True] * 6  # another module's mode is the user's to choose


def test_a_callback_may_evaluate_and_forget_the_mode():
    net = network()
    net[0].eval()
    fitted(
        net, callbacks=[lambda bnn, record: bnn.eval() if record["epoch"] == 1 else bnn.train()]
    )
    assert net[0][2].seen == [False] * 6 and net[2].seen == [True] * 6


def test_every_module_has_its_mode_back_after_an_error_in_validation():
    class Fails(nn.Module):
        def forward(self, x):
            if not self.training:
                raise KeyError("mine")
            return x

    net = network().append(Fails())
    net[0].eval()
    modes = {name: module.training for name, module in net.named_modules()}
    with pytest.raises(KeyError, match="mine"):
        fitted(net, validation=data())
    assert modes == {name: module.training for name, module in net.named_modules()}


@pytest.mark.parametrize("rows", [9, 17, 33])
@pytest.mark.parametrize("form", ["tensors", "loader", "dataset"])
def test_a_single_last_example_of_batch_norm_joins_the_batch_before(rows, form):
    net, pair = network(), data(rows)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=rows)
    dataset = [(x, y) for x, y in zip(*pair, strict=True)]
    sources = {
        "tensors": pair,
        "loader": torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True),
        "dataset": torch.utils.data.StackDataset(*pair),
    }
    sizes = []
    net[2].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    result = bd.fit(bnn, sources[form], epochs=1, batch_size=8, progress=False, seed=0)
    assert sizes == [8] * (rows // 8 - 1) + [9]
    assert all(torch.isfinite(torch.tensor([result.history[0][k] for k in ("nll", "kl")])))


def test_without_batch_norm_a_single_last_example_is_a_batch_as_before():
    sizes = []
    for frozen in (True, False):
        net = network(nn.BatchNorm1d if frozen else lambda n, **_: nn.LayerNorm(n))
        net[0][1].train(not frozen)
        net[2].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
        fitted(net, rows=17, epochs=1)
    assert sizes == [8, 8, 1] * 2


def test_the_loss_of_a_joined_batch_is_an_unbiased_estimate():
    # One step over all nine rows: the record is the loss of the whole set.
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    pair = data(9)
    expected = nn.functional.cross_entropy(net.train()(pair[0]), pair[1])
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=9)
    result = bd.fit(bnn, pair, epochs=1, batch_size=8, progress=False)
    assert result.history[0]["nll"] == pytest.approx(expected.item())


def test_a_single_example_cannot_be_normalised_by_its_batch():
    with pytest.raises(bd.errors.DataError, match="at least two examples in a batch"):
        fitted(network(), rows=1)
    with pytest.raises(bd.errors.DataError, match="at least two .* Choose another batch_size"):
        fitted(network(), rows=4, batch_size=1)
