import copy
import math

import pyro
import pytest
import torch
from pyro.infer import Predictive
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import (
    ConfigError,
    DataError,
    DataWarning,
    DivergenceError,
    ReliabilityWarning,
    ShapeError,
)
from bayesdrop.testing import assert_means_equal

NUM_FEATURES = 4
LIKELIHOODS = {
    "categorical": (bd.Categorical, 3, 3),
    "bernoulli": (bd.Bernoulli, 2, 2),
    "fixed": (lambda: bd.Gaussian(0.3), 2, 2),
    "learned": (lambda: bd.Gaussian("learned", num_outputs=2), 2, 2),
    "heteroscedastic": (lambda: bd.Gaussian("heteroscedastic"), 4, 2),
}


def network(num_outputs=3, dropout="beta-bernoulli"):
    return nn.Sequential(
        bd.nn.make(dropout, NUM_FEATURES),
        nn.Linear(NUM_FEATURES, 5),
        nn.Tanh(),
        bd.nn.make(dropout, 5),
        nn.Linear(5, num_outputs),
    )


def bayesian(likelihood="categorical", dropout="beta-bernoulli"):
    make, num_outputs, _ = LIKELIHOODS[likelihood]
    return bd.BayesianNetwork(network(num_outputs, dropout), make(), num_data=100)


def inputs(rows=7):
    return torch.randn(rows, NUM_FEATURES, generator=torch.Generator().manual_seed(1)) * 2


def labelled(rows=7):
    return inputs(rows), torch.arange(rows) % 3


def assert_same(prediction, other):
    for name, value in vars(prediction).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, getattr(other, name), msg=lambda m, n=name: n + m)


class PlainDataset(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


# -- the distribution is Pyro's ------------------------------------------------------------------


def stock_predictive(bnn, x, num_samples, sites=("_RETURN",)):
    bnn.eval()
    options = {"num_samples": num_samples, "return_sites": sites, "parallel": True}
    with torch.no_grad():
        return Predictive(bnn.model, guide=bnn.guide, **options)(x)


NOISY = [key for key in bd.nn.registered(bd.BayesianDropout) if key != "group-lasso"]


@pytest.mark.parametrize("dropout", NOISY)
def test_samples_have_the_distribution_of_stock_predictive(dropout):
    bnn, x = bayesian(dropout=dropout), inputs(4)
    with torch.no_grad():
        bnn.network[-1].weight.mul_(8)  # so that the mean mask is visibly an approximation
        for _, layer in bnn.named_dropout_layers():
            for name in ("log_scale", "log_variance", "log_variance_a"):
                if hasattr(layer, name):
                    getattr(layer, name).zero_()  # it starts with hardly any noise
    probabilities = stock_predictive(bnn, x, 500)["_RETURN"].softmax(-1)
    assert probabilities.shape == (500, 4, 3)
    one_pass = bd.predict(bnn, x, sample=False).mean
    for shared_by in ("batch", "example"):
        samples = bd.predict(bnn, x, num_samples=500, shared_by=shared_by).samples
        assert_means_equal(samples, probabilities)
        assert_means_equal(samples.square(), probabilities.square())
        with pytest.raises(AssertionError):
            assert_means_equal(samples, one_pass.expand(2, -1, -1))


def test_sequential_predictive_has_the_same_distribution():
    bnn, x = bayesian(), inputs(4)
    prediction = bd.predict(bnn.train(), x, num_samples=1000)
    bnn.eval()
    stock = Predictive(bnn.model, guide=bnn.guide, num_samples=300, return_sites=("_RETURN",))
    with torch.no_grad():
        assert_means_equal(prediction.samples, stock(x)["_RETURN"].softmax(-1))


def test_regression_samples_have_the_distribution_of_stock_predictive():
    bnn, x = bayesian("heteroscedastic"), inputs(4)
    prediction = bd.predict(bnn, x, num_samples=2000)
    drawn = stock_predictive(bnn, x, 5_000, ("_RETURN", "obs"))
    assert_means_equal(prediction.samples, drawn["_RETURN"][..., :2])
    # A new observation spreads by the total variance about the mean.
    noise = prediction.aleatoric_variance.sqrt() * torch.randn(2000, 4, 2)
    assert_means_equal(
        (prediction.samples + noise - prediction.mean).square(),
        (drawn["obs"] - drawn["obs"].mean(0)).square(),
    )


def test_shared_masks_are_shared_by_all_inputs_and_per_example_masks_are_not():
    bnn, x = bayesian(), inputs(1).expand(5, -1)
    shared = bd.predict(bnn, x, num_samples=8)
    torch.testing.assert_close(shared.samples, shared.samples[:, :1].expand(-1, 5, -1))
    own = bd.predict(bnn, x, num_samples=8, shared_by="example")
    assert not torch.allclose(own.samples, own.samples[:, :1].expand(-1, 5, -1))


# -- one pass ------------------------------------------------------------------------------------


def test_mean_mask_is_the_evaluation_mode_network():
    bnn, x = bayesian(), inputs()
    prediction = bd.predict(bnn, x, sample=False)
    with torch.no_grad():
        expected = bnn.network.eval()(x).softmax(-1)
    assert torch.equal(prediction.mean, expected)
    assert prediction.num_samples == 1
    assert torch.equal(prediction.mutual_information, torch.zeros(7))
    regression = bd.predict(bayesian("fixed"), x, sample=False)
    assert torch.equal(regression.epistemic_variance, torch.zeros(7, 2))


def test_network_without_bayesian_dropout_runs_once():
    net = nn.Sequential(nn.Linear(NUM_FEATURES, 3), nn.Dropout(0.5))
    passes = []
    net.register_forward_hook(lambda module, args, output: passes.append(len(output)))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
    prediction = bd.predict(bnn, inputs())
    assert prediction.num_samples == 1
    assert prediction.samples.shape == (1, 7, 3)
    assert passes == [1, 1, 7]  # two probes with one row, and the pass


# -- chunks, memory and data ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"memory_limit": 1200}])
@pytest.mark.parametrize("likelihood", ["categorical", "heteroscedastic"])
def test_chunks_do_not_change_the_result(options, likelihood):
    bnn, x = bayesian(likelihood), inputs()
    whole = bd.predict(bnn, x, num_samples=5, seed=3, keep_samples=False)
    assert_same(whole, bd.predict(bnn, x, num_samples=5, seed=3, keep_samples=False, **options))


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "heteroscedastic"])
def test_moments_do_not_depend_on_keeping_samples(likelihood):
    bnn, x = bayesian(likelihood), inputs()
    kept = bd.predict(bnn, x, num_samples=5, seed=3)
    streamed = bd.predict(bnn, x, num_samples=5, seed=3, keep_samples=False)
    assert streamed.samples is None
    assert_same(streamed, kept)


def test_activations_stay_within_the_memory_limit():
    bnn, x = bayesian(), inputs(200)
    rows, live = [], []
    net = bnn.network
    net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    net[1].register_forward_hook(lambda module, args, output: live.append(output.nbytes))
    limit = 20_000
    bd.predict(bnn, x, num_samples=2, memory_limit=limit, keep_samples=False)
    # Input, two masks, two linear layers, tanh, and the Sequential's own output; float64.
    per_row = 8 * (4 + 4 + 5 + 5 + 5 + 3 + 3)
    assert max(rows) == limit // (2 * per_row)
    assert max(rows) * per_row <= limit


def test_kept_samples_beyond_the_memory_limit_are_refused_before_any_sampling():
    bnn, rows = bayesian(), []
    bnn.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    with pytest.raises(ConfigError, match="at most memory_limit=5000 bytes.*keep_samples=False"):
        bd.predict(bnn, inputs(100), memory_limit=5000)
    assert rows == []
    assert bd.predict(bnn, inputs(100), memory_limit=5000, keep_samples=False).samples is None
    # A regression keeps a mean and a variance: 3 x 10 x 2 of each.
    options = {"num_samples": 3, "batch_size": 5}
    kept = bd.predict(bayesian("fixed"), inputs(10), memory_limit=960, **options)
    assert kept.samples.shape == kept.sample_variances.shape == (3, 10, 2)
    with pytest.raises(ConfigError, match="at most memory_limit=959 bytes.*960 bytes"):
        bd.predict(bayesian("fixed"), inputs(10), memory_limit=959, **options)


def test_every_kind_of_data_gives_the_same_prediction():
    bnn, (x, y) = bayesian(), labelled()
    expected = bd.predict(bnn, (x, y), num_samples=5, seed=3)
    assert torch.equal(expected.y, y)
    kinds = [
        TensorDataset(x, y),
        PlainDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=3),
        DataLoader(PlainDataset(x, y), batch_size=2),
    ]
    for data in kinds:
        assert_same(expected, bd.predict(bnn, data, num_samples=5, seed=3))
    alone = bd.predict(bnn, x, num_samples=5, seed=3)
    assert alone.y is None
    assert torch.equal(alone.mean, expected.mean)


def test_targets_stay_with_their_rows_in_a_shuffled_loader():
    bnn = bayesian()
    x = torch.eye(4)
    expected = bd.predict(bnn, x, num_samples=5, seed=3).mean
    loader = DataLoader(TensorDataset(x, torch.arange(4)), batch_size=3, shuffle=True)
    prediction = bd.predict(bnn, loader, num_samples=5, seed=3)
    torch.testing.assert_close(prediction.mean, expected[prediction.y])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": True}, "a DataLoader that shuffles"),
        ({"batch_size": 3, "drop_last": True}, "expected all 7 examples, got 6"),
    ],
)
def test_rows_in_an_unknown_order_and_rows_left_out_are_warned_of(options, message):
    loader = DataLoader(TensorDataset(inputs()), **options)
    with pytest.warns(DataWarning, match=message) as caught:
        bd.predict(bayesian(), loader, num_samples=2)
    assert caught[0].filename == __file__


def test_convolutions_with_batch_norm():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        bd.BetaBernoulliDropout(4, unit_dim=-3),
        nn.Flatten(),
        nn.Linear(4 * 9, 3),
    )
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100).train()
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    for shared_by in ("batch", "example"):
        prediction = bd.predict(bnn, torch.randn(6, 1, 5, 5), num_samples=4, shared_by=shared_by)
        torch.testing.assert_close(prediction.mean.sum(1), torch.ones(6))
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_float32_moments_are_finite_where_probabilities_saturate():
    bnn = bayesian().float()
    with torch.no_grad():
        bnn.network[-1].weight.mul_(1e4)
    prediction = bd.predict(bnn, inputs().float(), num_samples=16)
    assert prediction.mean.dtype == torch.float32
    for value in (prediction.predictive_entropy, prediction.mutual_information):
        assert torch.isfinite(value).all()
        assert (value >= 0).all()


# -- no side effects -----------------------------------------------------------------------------


def test_every_module_gets_its_mode_back_even_after_an_error():
    bnn = bayesian().train()
    bnn.network[1].eval()
    before = [module.training for module in bnn.modules()]
    bd.predict(bnn, inputs(), num_samples=2)
    assert [module.training for module in bnn.modules()] == before
    with pytest.raises(ShapeError, match="expected 4 units"):
        bd.predict(bnn, torch.zeros(2, 9), num_samples=2)
    assert [module.training for module in bnn.modules()] == before
    assert not any(module._forward_hooks for module in bnn.modules())


def test_seed_is_reproducible_and_leaves_the_global_generator_alone():
    bnn, x = bayesian(), inputs()
    state = torch.get_rng_state()
    first = bd.predict(bnn, x, num_samples=5, seed=3).samples
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(bd.predict(bnn, x, num_samples=5, seed=3).samples, first)
    assert not torch.equal(bd.predict(bnn, x, num_samples=5, seed=4).samples, first)
    assert not torch.equal(bd.predict(bnn, x, num_samples=5).samples, first)
    assert not torch.equal(torch.get_rng_state(), state)


def test_prediction_needs_no_gradient_and_no_parameter_store():
    prediction = bd.predict(bayesian(), inputs(), num_samples=3)
    assert not prediction.samples.requires_grad
    assert not prediction.mean.is_inference()
    assert len(pyro.get_param_store()) == 0


@pytest.mark.gpu
def test_results_of_a_network_on_an_accelerator_are_on_the_cpu():
    bnn, (x, y) = bayesian().cuda(), labelled()
    for shared_by in ("batch", "example"):
        prediction = bd.predict(bnn, (x, y), num_samples=3, shared_by=shared_by, seed=0)
        again = bd.predict(bnn, (x, y), num_samples=3, shared_by=shared_by, seed=0)
        assert prediction.samples.device.type == prediction.y.device.type == "cpu"
        assert torch.equal(prediction.samples, again.samples)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_non_finite_inputs_name_the_row(bad, batch_size):
    x = inputs()
    x[5, 2] = bad
    with pytest.raises(DataError, match="expected finite inputs, got nan or infinity.* row 5"):
        bd.predict(bayesian(), x, num_samples=2, batch_size=batch_size)


@pytest.mark.parametrize("likelihood", ["categorical", "heteroscedastic"])
def test_non_finite_outputs_name_the_row(likelihood):
    bnn, x = bayesian(likelihood), inputs()
    with torch.no_grad():
        bnn.network[-1].bias[-1] = math.nan
    with pytest.raises(DivergenceError, match="expected finite predictions.* row 0"):
        bd.predict(bnn, x, num_samples=2)


@pytest.mark.parametrize("option", ["num_samples", "batch_size", "memory_limit"])
def test_sizes_below_one_are_refused(option):
    with pytest.raises(ConfigError, match="predict: expected num_samples, batch_size and memory"):
        bd.predict(bayesian(), inputs(), **{option: 0})
    with pytest.raises(ConfigError, match="predict: expected num_samples, batch_size and memory"):
        bd.predict(bayesian(), inputs(), **{option: math.nan})


def test_unknown_shared_by_is_refused():
    with pytest.raises(ConfigError, match="unknown shared_by of predict 'share'"):
        bd.predict(bayesian(), inputs(), shared_by="share")


def test_plain_module_is_refused():
    with pytest.raises(ConfigError, match="expected a BayesianNetwork or .*, got Sequential"):
        bd.predict(network(), inputs())


def test_empty_data_is_refused():
    with pytest.raises(DataError, match="expected at least one example"):
        bd.predict(bayesian(), torch.zeros(0, NUM_FEATURES))
    loader = DataLoader(TensorDataset(inputs(3)), batch_size=5, drop_last=True)
    with pytest.raises(DataError, match="expected at least one batch, got none"):
        bd.predict(bayesian(), loader)


def test_network_that_loses_rows_is_refused():
    net = nn.Sequential(
        bd.BetaBernoulliDropout(NUM_FEATURES), nn.Flatten(0), nn.Unflatten(0, (4, -1))
    )
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
    with pytest.raises(ShapeError, match="expected one network output for each of 1 input"):
        bd.predict(bnn, inputs(), num_samples=2)


# -- corrected for the number of samples ---------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "fixed"])
def test_unbiased_multiplies_what_samples_disagree_on_by_s_over_s_minus_1(likelihood):
    bnn, x = bayesian(likelihood), inputs()
    plain = bd.predict(bnn, x, num_samples=5, seed=3)
    other = bd.predict(bnn, x, num_samples=5, seed=3, unbiased=True)
    assert (plain.unbiased, other.unbiased) == (False, True)
    name = "epistemic_variance" if likelihood == "fixed" else "mutual_information"
    torch.testing.assert_close(getattr(other, name), 1.25 * getattr(plain, name))
    torch.testing.assert_close(other.mean, plain.mean)
    if likelihood == "fixed":
        unbiased = plain.samples.var(0)
        torch.testing.assert_close(other.epistemic_variance, unbiased)
        torch.testing.assert_close(other.variance, other.aleatoric_variance + unbiased)


def test_unbiased_needs_two_samples_or_nothing_to_sample():
    bnn = bayesian()
    with pytest.raises(ConfigError, match="at least two samples for unbiased=True"):
        bd.predict(bnn, inputs(), num_samples=1, unbiased=True)
    one = bd.predict(bnn, inputs(), sample=False, num_samples=1, unbiased=True)
    assert torch.equal(one.mutual_information, torch.zeros(7))


# -- 16 bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "learned"])
def test_moments_of_16_bit_outputs_are_in_float32(dtype, likelihood):
    if dtype == torch.float16 and likelihood != "categorical":
        pytest.skip("one likelihood suffices")
    exact = bd.predict(bayesian(likelihood).float(), inputs().float(), sample=False)
    bnn = bayesian(likelihood).to(dtype)
    bnn.load_state_dict(bayesian(likelihood).state_dict())
    prediction = bd.predict(bnn, inputs().to(dtype), num_samples=3)
    assert prediction.mean.dtype == prediction.samples.dtype == torch.float32
    if likelihood == "categorical":
        torch.testing.assert_close(prediction.mean.sum(1), torch.ones(7).float())
    assert prediction.mean.shape == exact.mean.shape


def test_evaluation_under_autocast_is_that_in_float32_but_for_rounding():
    bnn = bayesian().float()
    x, y = inputs().float(), labelled()[1]
    exact = bd.evaluate(bnn, (x, y), num_samples=16, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = bd.evaluate(bnn, (x, y), num_samples=16, seed=0)
    assert result.prediction.mean.dtype == torch.float32
    assert result.nll == pytest.approx(exact.nll, rel=0.02)


@pytest.mark.parametrize("masked", [False, True])
def test_noise_that_is_no_masks_is_told(masked):
    class AlwaysOn(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5)

    layers = [bd.BetaBernoulliDropout(8)] if masked else []
    network = nn.Sequential(*layers, nn.Linear(8, 64), AlwaysOn(), nn.Linear(64, 3))
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=10)
    with pytest.warns(ReliabilityWarning, match="more of its own in every pass"):
        bd.predict(bnn, torch.rand(5, 8), num_samples=2)


def test_a_compiled_network_is_evaluated_as_the_one_it_was_made_of():
    network = bd.convert(nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.ReLU(), nn.Linear(8, 3)))
    bnn, data = bd.BayesianNetwork(network, bd.Categorical(), num_data=10), labelled()
    ways = [{"sample": False}, {"num_samples": 4, "seed": 0}]
    plain = copy.deepcopy(bnn)
    bnn.network = torch.compile(bnn.network, backend="eager")
    found = [bd.evaluate(bnn, data, **way).nll for way in ways]
    assert found == pytest.approx([bd.evaluate(plain, data, **way).nll for way in ways])
