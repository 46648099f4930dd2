"""Laws of a smaller network that keeps the posterior of its units."""

import copy
import pickle

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression.rounding import rounded

INDEPENDENT = [
    *(key for key, cls in bd.nn.layers.items() if getattr(cls, "per_unit", ())),
    *("mc-dropout", "gaussian", "concrete"),  # which prune nothing, and stay whole
]
PRUNED = (0, 3, 4)


class Net(nn.Module):
    """Pixels, maps and features with masks, a batch norm behind one, and a residual sum."""

    def __init__(self, make):
        super().__init__()
        self.mask0, self.conv1 = make(2, unit_dim=-3), nn.Conv2d(2, 6, 3, padding=1)
        self.mask1, self.norm = make(6, unit_dim=-3), nn.BatchNorm2d(6)
        self.conv2, self.mask2 = nn.Conv2d(6, 6, 3, padding=1), make(6, unit_dim=-3)
        self.fc1, self.mask3, self.fc2 = nn.Linear(54, 9), make(9), nn.Linear(9, 9)
        self.mask4, self.head = make(9), nn.Linear(9, 3)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        maps = self.mask1(torch.relu(self.conv1(self.mask0(x))))
        maps = self.mask2(torch.relu(self.conv2(self.norm(maps))))
        features = self.mask3(torch.relu(self.fc1(nn.functional.max_pool2d(maps, 2).flatten(1))))
        return self.head(self.mask4(torch.relu(self.fc2(features)) + features))


def prune(layer, units=PRUNED):
    """Let a layer be nearly certain that units are closed."""
    units = [unit for unit in units if unit < layer.num_units]
    if isinstance(layer, bd.BetaBernoulliDropout):
        concentration = torch.full((layer.num_units,), 3.0)
        concentration[units] = 1e-5
        layer.set_posterior(concentration)
    elif layer.input_dependent:
        layer.prune(torch.isin(torch.arange(layer.num_units), torch.tensor(units)))
    elif isinstance(layer, bd.HardConcreteDropout):
        layer.logits.data[units] = -20.0
    elif isinstance(layer, bd.StructuredBayesianPruningDropout):
        layer.log_scale.data[units] = 3.0
        layer.loc.data[units] = -3.0


def network(key="beta-bernoulli"):
    net = Net(lambda size, **options: bd.nn.make(key, size, **options))
    for _, layer in bd.nn.named_dropout_layers(net):
        prune(layer)
    return net.eval()


def bayesian(key="beta-bernoulli"):
    return bd.BayesianNetwork(network(key), bd.Categorical(), num_data=20, kl_weight=0.5).eval()


@pytest.mark.parametrize("key", INDEPENDENT)
def test_outputs_under_any_masks_are_those_of_the_full_network_with_pruned_units_closed(key):
    net, x = network(key), torch.randn(5, 2, 6, 6)
    small = bd.compact(net, x, keep_posterior=True)
    layers = dict(bd.nn.named_dropout_layers(net))
    for _ in range(3):
        full, part = {}, {}
        for name, _ in bd.nn.named_dropout_layers(small):
            kept = layers[name].kept()
            values = torch.rand(5, layers[name].num_units)
            full[name], part[name] = values * kept, values[:, kept]
        with torch.no_grad(), bd.impose_masks(net, full):
            expected = net(x)
        with torch.no_grad(), bd.impose_masks(small, part):
            torch.testing.assert_close(small(x), expected)


@pytest.mark.parametrize("key", INDEPENDENT)
def test_units_that_are_left_have_their_prior_and_posterior(key):
    net, x = network(key), torch.randn(5, 2, 6, 6)
    small = bd.compact(net, x, keep_posterior=True)
    layers = dict(bd.nn.named_dropout_layers(net))
    for name, layer in bd.nn.named_dropout_layers(small):
        kept = layers[name].kept()
        assert layer.num_units == kept.sum()
        assert torch.equal(layer.keep_prob(), layers[name].keep_prob()[kept])
        assert layer.kept().all()
        if kept.all():
            continue
        rest = copy.deepcopy(layers[name])
        bd.nn.restrict_units(rest, (~kept).nonzero().flatten())
        total = layer.kl_divergence() + rest.kl_divergence()
        torch.testing.assert_close(total, layers[name].kl_divergence())


def test_predictions_are_those_of_the_full_network():
    """Pruned units are open once in a hundred thousand draws: the same distribution."""
    bnn, x = bayesian(), torch.randn(5, 2, 6, 6)
    small = bd.compact(bnn, x, keep_posterior=True)
    assert small.kept() == small.total() == bnn.kept() == {"units": [1, 3, 3, 6, 6]}
    assert (small.num_data, small.kl_weight) == (20, 0.5)
    options = {"num_samples": 400, "keep_samples": True}
    found, expected = (bd.predict(net, x, **options).samples for net in (small, bnn))
    error = (found.var(0) / 400 + expected.var(0) / 400).sqrt()
    assert ((found.mean(0) - expected.mean(0)).abs() < 5 * error).all()
    mean, full = (bd.predict(net, x, sample=False).mean for net in (small, bnn))
    torch.testing.assert_close(mean, full)


def test_weights_are_cut_and_the_other_network_is_not_changed():
    bnn, x = bayesian(), torch.randn(5, 2, 6, 6)
    before = copy.deepcopy(bnn.state_dict())
    small = bd.compact(bnn, x, keep_posterior=True)
    assert small.network.get_submodule("fc2").weight.shape == (6, 6)
    assert small.network.get_submodule("conv1").weight.shape == (3, 1, 3, 3)
    assert small.network.get_submodule("mask3").location.shape == (6,)
    assert all(torch.equal(before[name], value) for name, value in bnn.state_dict().items())


def test_modules_have_their_own_mode_and_the_next_fit_freezes_the_same():
    bnn, x = bayesian().train(), torch.randn(20, 2, 6, 6)
    bnn.network.norm.eval()
    bnn.feature_names = ("pixels",)
    small = bd.compact(bnn, x, keep_posterior=True)
    assert [name for name, m in small.named_modules() if not m.training] == ["network.norm"]
    bd.fit(bnn, (x, torch.arange(20) % 3), epochs=1, batch_size=10, progress=False)
    for again in (small, bd.compact(bnn, x, keep_posterior=True)):
        before = again.network.norm.running_mean.clone()
        bd.fit(again, (x, torch.arange(20) % 3), epochs=1, batch_size=10, progress=False)
        assert torch.equal(again.network.norm.running_mean, before)
        assert again.feature_names == ("pixels",)


def test_fit_goes_on_and_files_restore_it(tmp_path):
    bnn, x = bayesian(), torch.randn(20, 2, 6, 6)
    small = bd.compact(bnn, x, keep_posterior=True)
    start = copy.deepcopy(small.state_dict())
    bd.fit(small, (x, torch.arange(20) % 3), epochs=1, batch_size=10, progress=False)
    assert any(not torch.equal(start[name], value) for name, value in small.state_dict().items())
    torch.save(small.state_dict(), tmp_path / "small.pt")
    other = bd.compact(bnn, x, keep_posterior=True)
    other.load_state_dict(torch.load(tmp_path / "small.pt"))
    copied = pickle.loads(pickle.dumps(small.network))
    with torch.no_grad():
        expected = small.eval()(x)
        assert torch.equal(other.eval()(x), expected)
        assert torch.equal(copied.eval()(x), expected)
    again = bd.compact(small, x)
    torch.testing.assert_close(again(x), expected)


def test_a_layer_of_which_all_is_pruned_goes_with_its_posterior():
    net, x = network(), torch.randn(5, 2, 6, 6)
    prune(net.mask3, range(9))
    small = bd.compact(net, x, keep_posterior=True)
    assert "mask3" not in dict(bd.nn.named_dropout_layers(small))
    torch.testing.assert_close(small(x), net(x))


def test_a_layer_that_is_called_twice_keeps_one_set_of_units():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask, self.first, self.head = (
                bd.BetaBernoulliDropout(6),
                nn.Linear(6, 6),
                nn.Linear(6, 2),
            )

        def forward(self, x):
            return self.head(self.mask(self.first(self.mask(x))))

    net, x = Twice().eval(), torch.randn(4, 6)
    prune(net.mask)
    small = bd.compact(net, x, keep_posterior=True)
    assert small.get_submodule("mask").num_units == 3
    torch.testing.assert_close(small(x), net(x))


@pytest.mark.parametrize("keep_posterior", [False, True])
def test_numbers_of_units_are_rounded_up_and_outputs_stay(keep_posterior):
    net, x = network(), torch.randn(5, 2, 6, 6)
    net.mask3.set_posterior(torch.tensor([1e-5, 3.0, 3.0, 1e-4, 1e-6, 3.0, 3.0, 3.0, 3.0]))
    small = bd.compact(net, x, keep_posterior=keep_posterior, multiple_of=4)
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x))
    assert small.get_submodule("conv1").weight.shape == (4, 2, 3, 3)
    assert small.get_submodule("head").weight.shape == (3, 8)
    if keep_posterior:
        likely = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])
        mask = small.get_submodule("mask3")
        assert torch.equal(mask.keep_prob(), net.mask3.keep_prob()[likely])
    else:
        assert bd.compression.count_params(small) > bd.compression.count_params(bd.compact(net, x))


def test_rounding_takes_the_most_probable_and_never_more_than_there_are():
    kept, probs = torch.tensor([True, False, False]), torch.tensor([0.9, 0.1, 0.2])
    assert rounded(kept, probs, 2).tolist() == [True, False, True]
    assert rounded(kept, probs, 8).tolist() == [True, True, True]
    assert not rounded(torch.zeros(3, dtype=torch.bool), probs, 2).any()


def test_units_that_cannot_be_taken_apart_are_refused_where_one_is_pruned():
    layer = bd.IndianBuffetDropout(4, threshold=0.9)
    net = nn.Sequential(layer, nn.Linear(4, 3))
    with pytest.raises(bd.errors.CompactionError, match="can be taken apart.*IndianBuffet.* '0'"):
        bd.compact(net, torch.randn(2, 4), keep_posterior=True)
    layer.threshold = 0.0
    small = bd.compact(net, torch.randn(2, 4), keep_posterior=True)
    torch.testing.assert_close(bd.kl_divergence(small), bd.kl_divergence(net))


@pytest.mark.parametrize("dead", ["0", "3"])
@pytest.mark.parametrize("key", ["mc-dropout", "concrete", "group-lasso"])
def test_masks_of_one_rate_keep_their_units_where_weights_are_zero(key, dead):
    options = {"length_scale": 1.0} if key == "concrete" else {}
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), bd.nn.make(key, 8, **options), nn.Linear(8, 3))
    net[2].bind_weights(net[3], 1)
    with torch.no_grad():
        if dead == "0":
            net[0].weight[:3] = net[0].bias[:3] = 0.0
        else:
            net[3].weight[:, :3] = 0.0
    if key == "group-lasso" and dead == "3":
        with pytest.raises(bd.errors.CompactionError, match="GroupLasso.* '2', which prunes 3"):
            bd.compact(net, torch.randn(2, 4), keep_posterior=True)
        return
    small, x = bd.compact(net.eval(), torch.randn(2, 4), keep_posterior=True), torch.randn(5, 4)
    torch.testing.assert_close(small(x), net(x))
    torch.testing.assert_close(bd.kl_divergence(small), bd.kl_divergence(net))


@pytest.mark.parametrize("options", [{"multiple_of": 0}, {"multiple_of": 2.5}])
def test_a_multiple_is_a_whole_number(options):
    with pytest.raises(bd.errors.ConfigError, match="expected a whole multiple_of >= 1"):
        bd.compact(network(), torch.randn(2, 2, 6, 6), **options)


def test_per_input_and_a_posterior_exclude_each_other():
    with pytest.raises(bd.errors.ConfigError, match="one of per_input"):
        bd.compact(network(), torch.randn(2, 2, 6, 6), per_input=True, keep_posterior=True)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_works_whatever_the_dtypes_of_the_network_and_of_torch(default, dtype):
    torch.set_default_dtype(default)
    net, x = network().to(dtype), torch.randn(5, 2, 6, 6, dtype=dtype)
    small = bd.compact(net, x, keep_posterior=True)
    assert small.get_submodule("conv1").out_channels == 3
    torch.testing.assert_close(small(x), net(x))
