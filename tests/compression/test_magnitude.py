"""Pruning by magnitude: what goes, what stays, and that any network will do."""

import copy

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import prune_by_magnitude, sweep_magnitudes
from bayesdrop.errors import ConfigError
from tests.compression.networks import randomise


def dense():
    return nn.Sequential(
        nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def data(rows=40):
    return torch.randn(rows, 6), torch.arange(rows) % 3


def without_small(network, share):
    """Return the network with the units of the smallest outgoing norms at zero, by hand."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        for linear in list(network)[2::2]:
            norms = linear.weight.norm(dim=0)
            gone = norms.argsort()[: int(share * len(norms) + 1e-9)]
            result.get_submodule(str(list(network).index(linear))).weight[:, gone] = 0.0
    return result


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_units_with_the_smallest_weights_behind_them_go(share):
    net, (x, _) = dense(), data()
    small = prune_by_magnitude(net, share, example_input=x)
    torch.testing.assert_close(small(x), without_small(net, share)(x))
    widths = [m.in_features for m in small.modules() if isinstance(m, nn.Linear)]
    assert widths == [6, 20 - round(20 * share), 10 - round(10 * share)]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_smallest_weights_of_each_output_unit_are_zero(share):
    net, (x, _) = dense(), data()
    small = prune_by_magnitude(net, share, by="weight", example_input=x, exclude="4")
    for name in ("0", "2", "4"):
        before, after = (part.get_submodule(name).weight for part in (net, small))
        number = int(share * before.shape[1] + 1e-9) if name != "4" else 0
        assert (after == 0).sum(1).tolist() == [number] * len(before)
        assert torch.equal(after[after != 0], before[after != 0])
        if number:
            least = before.abs().masked_fill(after == 0, 9.0).amin(1)
            assert bool((before.abs().masked_fill(after != 0, 0.0).amax(1) <= least).all())


def test_what_masks_have_pruned_goes_first_and_none_of_the_rest():
    net = bd.convert(dense(), input_dropout=False)
    randomise(net)
    for layer in (net.get_submodule("2_dropout"), net.get_submodule("4_dropout")):
        layer.set_posterior(torch.where(torch.arange(layer.num_units) % 2 == 0, 1e-4, 5.0))
    bnn, (x, y) = bd.BayesianNetwork(net, bd.Categorical(), 40).eval(), data()
    torch.testing.assert_close(prune_by_magnitude(bnn, 0.5, example_input=x)(x), bnn(x))
    rows = sweep_magnitudes(bnn, (x, y), [0.0, 0.5, 0.9]).rows
    assert rows[0].error == rows[1].error == bd.evaluate(bnn, (x, y), sample=False).error
    assert rows[0].nll == pytest.approx(rows[1].nll)
    assert rows[1].params > rows[2].params


def test_what_a_posterior_of_weights_has_pruned_goes_first():
    net = bd.convert(dense(), "sparse-variational")
    with torch.no_grad():
        for _, layer in bd.nn.named_weight_layers(net):
            layer.log_variance[:, ::2] = 9.0
    bnn, pair = bd.BayesianNetwork(net, bd.Categorical(), 40).eval(), data()
    sweep = sweep_magnitudes(bnn, pair, [0.0, 0.5, 0.9], by="weight")
    assert sweep.rows[0].params == sweep.rows[1].params > sweep.rows[2].params
    assert sweep.rows[0].nll == pytest.approx(sweep.rows[1].nll)
    assert sweep.rows[0].nll == pytest.approx(bd.evaluate(bnn, pair, sample=False).nll)


@pytest.mark.parametrize("by", ["unit", "weight"])
def test_convolutions_and_batch_norm_are_pruned_too(by):
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 3),
    ).eval()  # fmt: skip
    randomise(net)
    x = torch.randn(5, 1, 4, 4)
    small = prune_by_magnitude(net, 0.5, by=by, example_input=x)
    if by == "weight":
        assert int((small.get_submodule("0").weight == 0).sum()) == 8 * 4
        return
    norms = net[0].weight.flatten(1).norm(dim=1)
    assert small.get_submodule("0").out_channels <= 4
    behind = bd.convert(
        nn.Sequential(*net[4:]), "targeted", drop_prob=1.0, targeted_share=0.5
    ).eval()
    kept = (norms > norms.sort().values[3]).double()[:, None, None]
    torch.testing.assert_close(small(x), behind(net[2](net[1](net[0](x))) * kept))


def test_a_network_that_was_trained_targeted_keeps_its_weights():
    net = bd.convert(dense(), "targeted-dropconnect", targeted_share=0.5, drop_prob=0.5)
    x = torch.randn(4, 6)
    torch.testing.assert_close(prune_by_magnitude(net, 0.0, example_input=x)(x), net.eval()(x))


def test_bad_arguments_are_named():
    bnn, pair = bd.BayesianNetwork(dense(), bd.Categorical(), 40), data()
    with pytest.raises(ConfigError, match=r"shares in \[0, 1\]"):
        sweep_magnitudes(bnn, pair, [0.5, 1.5])
    for shares in (0.5, "half", []):
        with pytest.raises(ConfigError, match="shares to be a sequence"):
            sweep_magnitudes(bnn, pair, shares)
    with pytest.raises(ConfigError, match="weigh"):
        sweep_magnitudes(bnn, pair, by="weights")
    with pytest.raises(ConfigError, match="classifies"):
        sweep_magnitudes(bd.BayesianNetwork(dense(), bd.Gaussian(1.0), 40), pair)
    with pytest.raises(ConfigError, match=r"shares in \[0, 1\]"):
        prune_by_magnitude(dense(), -0.1, example_input=pair[0])


def test_units_that_are_zero_already_count_as_pruned():
    net = bd.convert(dense(), "group-lasso", input_dropout=False)
    with torch.no_grad():
        for linear in (net.get_submodule("2"), net.get_submodule("4")):
            linear.weight[:, ::2] = 0.0
    bnn, pair = bd.BayesianNetwork(net, bd.Categorical(), 40).eval(), data()
    rows = sweep_magnitudes(bnn, pair, [0.0, 0.3, 0.5, 0.9]).rows
    assert rows[0].nll == pytest.approx(rows[1].nll)
    assert rows[0].nll == pytest.approx(rows[2].nll)
    assert rows[2].params > rows[3].params and rows[2].nll != pytest.approx(rows[3].nll)
