"""What a network is given and returns: errors name the layer and the remedy."""

from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import BayesdropError, CheckpointError, ConfigError, DataError, ShapeError

N = 12


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


class LastStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 8, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


def images():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))


def features(*layers):
    return nn.Sequential(*layers, bd.BetaBernoulliDropout(4), nn.Linear(4, 2))


def tokens():
    return nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), features())


def table(*shape):
    return torch.randn(N, *shape, dtype=torch.float64)


X64 = "x of torch.float64"
WRONG_INPUTS = {
    "float64": (features, table(4), DataError, f"float32, .* got {X64}. Pass x.float"),
    "float64 linear": (lambda: nn.Linear(4, 2), table(4), DataError, r"Pass x.float\(\)"),
    "float64 images": (images, table(3, 8, 8), DataError, r"Pass x.float\(\)"),
    "float64 norm": (lambda: features(nn.LayerNorm(4)), table(4), DataError, X64),
    "float64 batch norm": (lambda: features(nn.BatchNorm1d(4)), table(4), DataError, X64),
    "float64 sequence": (lambda: nn.Sequential(LastStep()), table(5, 4), DataError, X64),
    "bytes": (images, torch.ones(N, 3, 8, 8).byte(), DataError, "uint8.*divide by 255"),
    "bytes and a mask": (features, torch.ones(N, 4).byte(), DataError, "uint8.*divide by 255"),
    "bytes and a dropout": (
        lambda: nn.Sequential(nn.Dropout(), nn.Linear(4, 2)),
        torch.ones(N, 4).byte(),
        DataError,
        "uint8.*divide by 255",
    ),
    "eight bits": (features, table(4).to(torch.float8_e4m3fn), DataError, r"Pass x.float\(\)"),
    "booleans": (lambda: nn.Linear(4, 2), table(4) > 0, DataError, "got x of torch.bool"),
    "float tokens": (tokens, table(2).float(), DataError, r"integers in 0..4, .*x.long\(\)"),
    "small tokens": (tokens, torch.ones(N, 2).short(), DataError, r"x of torch.int16.*x.long\(\)"),
    "foreign tokens": (tokens, torch.full((N, 2), 7), DataError, "0..4, .*got x from 7 to 7"),
    "features": (features, table(3).float(), ShapeError, "expected 4 units"),
    "features linear": (
        lambda: nn.Sequential(nn.Linear(4, 2)),
        table(3).float(),
        ShapeError,
        r"Linear '0': expected an input with 4 features .* x of shape \(12, 3\)",
    ),
    "channels": (images, table(1, 8, 8).float(), ShapeError, "Conv2d '0': .* 3 channels"),
    "no channels": (images, table(8).float(), ShapeError, "Conv2d '0'"),
    "size": (images, table(3, 9, 9).float(), ShapeError, "Linear '2': .* with 144 features"),
    "tiny": (images, table(3, 2, 2).float(), ShapeError, "Conv2d '0'"),
    "width of a sequence": (
        lambda: nn.Sequential(LastStep()),
        table(5, 3).float(),
        ShapeError,
        "GRU '0.rnn': expected an input with 4 features",
    ),
    "array": (features, table(4).numpy(), DataError, "x to be a tensor, got a ndarray"),
    "none": (features, None, DataError, "x to be a tensor, got None"),
    "sparse": (features, table(4).to_sparse(), DataError, r"dense tensor, .*Pass x.to_dense\(\)"),
    "complex": (features, table(4) + 0j, DataError, "x to be real"),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_an_input_that_does_not_fit_is_named(case):
    make, x, error, message = WRONG_INPUTS[case]
    torch.set_default_dtype(torch.float32)
    bnn = bd.BayesianNetwork(make(), bd.Categorical(), num_data=N)
    with pytest.raises(error, match=message):
        bnn.loss(x, torch.arange(N) % 2)
    if isinstance(x, torch.Tensor):
        with pytest.raises(error, match=message):
            bnn.eval().loss(x, torch.arange(N) % 2)
        with pytest.raises(error, match=message):
            bnn.model(x, torch.arange(N) % 2)
        with pytest.raises(error, match=message):
            bnn(x)


def test_numbers_of_another_type_that_the_network_turns_into_its_own_are_right():
    network = nn.Sequential(Returns(lambda x: x.double() / 255), nn.Linear(4, 2))
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=N)
    bytes_, y = torch.randint(255, (N, 4)).byte(), torch.arange(N) % 2
    expected = nn.functional.cross_entropy(network[1](bytes_.double() / 255), y, reduction="sum")
    torch.testing.assert_close(bnn.loss(bytes_, y).nll, expected)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda h: (h, h), ConfigError, "returns one tensor, got a tuple of 2"),
        (lambda h: {"logits": h}, ConfigError, "got a dict of 1"),
        (lambda h: None, ConfigError, "got None. Does forward lack a return"),
        (lambda h: h.mean(0), ShapeError, "one network output for each of 12 inputs"),
        (lambda h: h.mean(), ShapeError, r"got output of shape \(\)"),
    ],
)
def test_an_output_that_is_not_a_row_for_each_input_is_refused(function, error, message):
    bnn = bd.BayesianNetwork(
        nn.Sequential(nn.Linear(4, 2), Returns(function)), bd.Categorical(), num_data=N
    )
    x, y = table(4), torch.arange(N) % 2
    for run in (bnn.loss, bnn.model):
        with pytest.raises(error, match=message):
            run(x, y)


def test_a_single_row_that_was_squeezed_away_is_named():
    network = nn.Sequential(nn.Linear(4, 1), Returns(lambda h: h.squeeze()))
    bnn = bd.BayesianNetwork(network, bd.Gaussian(), num_data=N)
    assert bnn.loss(table(4), table()).nll.isfinite()
    with pytest.raises(ShapeError, match=r"squeeze\(-1\) keeps the first dimension"):
        bnn.loss(table(4)[:1], table()[:1])


def test_as_many_steps_as_examples_do_not_hide_a_wrong_dimension():
    def network(**options):
        layer = bd.BetaBernoulliDropout(4, **options)
        first, mean = Returns(lambda x: x.transpose(0, 1)), Returns(lambda h: h.mean(0))
        return nn.Sequential(first, layer, mean, nn.Linear(4, 2))

    x, y = table(N, 4), torch.arange(N) % 2
    bnn = bd.BayesianNetwork(network(), bd.Categorical(), num_data=N)
    by_example = partial(bd.predict, bnn, x, num_samples=2, shared_by="example")
    draws = partial(bd.to_inference_data, bnn, x, y, num_samples=2)
    for run in (*2 * [partial(bnn.loss, x, y)], partial(bnn.model, x, y), by_example, draws):
        with pytest.raises(ShapeError, match="Pass batch_dim=1"):
            run()
    torch.manual_seed(0)
    right = bd.BayesianNetwork(network(batch_dim=1), bd.Categorical(), num_data=N)
    state = torch.get_rng_state()
    first = right.loss(x, y).loss
    torch.set_rng_state(state)
    assert right.loss(x, y).loss == first  # the check draws nothing


def test_an_error_of_the_users_own_passes_unchanged():
    def fails(h):
        raise ValueError("mine")

    bnn = bd.BayesianNetwork(
        nn.Sequential(nn.Linear(4, 2), Returns(fails)), bd.Categorical(), num_data=N
    )
    with pytest.raises(ValueError, match="^mine$") as caught:
        bnn.loss(table(4), torch.arange(N) % 2)
    assert not isinstance(caught.value, BayesdropError)


def test_the_elbo_of_held_out_data_may_have_more_rows_than_the_training_set():
    bnn = bd.BayesianNetwork(features(), bd.Categorical(), num_data=N)
    x, y = torch.randn(5 * N, 4), torch.arange(5 * N) % 2
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    for run in (lambda: svi.step(x, y), lambda: bnn.loss(x, y)):
        with pytest.raises(DataError, match=r"at most num_data=12 .* held-out data .*eval\(\)"):
            run()
    bnn.eval()
    whole = bnn.loss(x, y)
    parts = [bnn.loss(a, b) for a, b in zip(x.chunk(5), y.chunk(5), strict=True)]
    # Both estimate the same sum over N rows.
    torch.testing.assert_close(whole.nll, sum(part.nll for part in parts) / 5)
    assert svi.evaluate_loss(x, y) > 0
    assert bd.check_elbo(bnn, x, y, num_samples=200, num_repeats=20).passed


def test_a_layer_has_the_name_of_the_network_that_runs():
    layer = bd.BetaBernoulliDropout(4)
    first = bd.BayesianNetwork(nn.Sequential(layer, nn.Linear(4, 2)), bd.Categorical(), num_data=N)
    second = bd.BayesianNetwork(
        nn.Sequential(nn.Tanh(), layer, nn.Linear(4, 2)), bd.Categorical(), num_data=N
    )
    late = bd.BayesianNetwork(nn.Sequential(nn.Tanh()), bd.Categorical(), num_data=N)
    late.network.append(bd.BetaBernoulliDropout(4)).append(nn.Linear(4, 2))
    for bnn, name in ((first, "0"), (second, "1"), (first, "0"), (late, "1")):
        trace = pyro.poutine.trace(bnn.model).get_trace(table(4), torch.arange(N) % 2)
        assert {f"{name}.pi", f"{name}.z"} <= set(trace.nodes)
        assert not {".z", "0.z", "1.z"} - {f"{name}.z"} & set(trace.nodes)


WRONG_PROGRAMS = {
    "num_data": [None, "60", float("nan"), float("inf"), True, 0, 2.5],
    "network": [None, nn.Linear, lambda x: x, "net"],
    "kl_weight": ["1", None, 0.0, -1.0, float("nan"), float("inf"), True],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, v) for name, values in WRONG_PROGRAMS.items() for v in values]
)
def test_an_argument_that_makes_no_program_is_refused_by_name(name, value):
    arguments = {"network": nn.Linear(2, 2), "num_data": 3, "kl_weight": 1.0, name: value}
    with pytest.raises(ConfigError, match=name):
        bd.BayesianNetwork(likelihood=bd.Categorical(), **arguments)


def test_one_output_is_no_distribution_over_classes():
    bnn = bd.BayesianNetwork(nn.Linear(4, 1), bd.Categorical(), num_data=N)
    with pytest.raises(ShapeError, match=r"every loss is 0: take two, or bd.Bernoulli\(\)"):
        bnn.loss(table(4), torch.zeros(N).long())


def classifier():
    network = features(nn.Linear(4, 4), nn.ReLU())
    return bd.BayesianNetwork(network, bd.Categorical(), num_data=N)


RUNS = {
    "compact": lambda bnn, x, y: bd.compact(bnn, x),
    "count_flops": lambda bnn, x, y: bd.compression.count_flops(bnn, x),
    "measure_compression": lambda bnn, x, y: bd.compression.measure_compression(
        bnn, bd.compact(bnn, torch.rand(2, 4)), x, repeats=1, batch_sizes=(1,)
    ),
    "sweep_thresholds": lambda bnn, x, y: bd.compression.sweep_thresholds(
        bnn, (x, y), thresholds=[0.1]
    ),
    "measure_per_input": lambda bnn, x, y: bd.compression.measure_per_input(bnn, x),
    "class_averaged_masks": lambda bnn, x, y: bd.diagnostics.class_averaged_masks(bnn, (x, y)),
    "check_elbo": bd.check_elbo,
    "to_inference_data": lambda bnn, x, y: bd.to_inference_data(
        bnn, x, y, num_samples=2, num_masks=2
    ),
    "loo": lambda bnn, x, y: bd.loo(bnn, (x, y)),
    "guide_diagnostic": lambda bnn, x, y: bd.guide_diagnostic(bnn, (x, y), num_samples=2),
    "evaluate": lambda bnn, x, y: bd.evaluate(bnn, (x, y)),
    "model": lambda bnn, x, y: bnn.model(x, y),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_whatever_runs_a_network_says_what_is_wrong_with_its_input(run):
    torch.set_default_dtype(torch.float32)
    x, y = torch.rand(N, 4), torch.zeros(N).long()
    wrong = [x[:, :3], x[:0], None]
    if run is not RUNS["check_elbo"]:  # which computes in float64
        wrong.append(x.double())
    if run not in [
        RUNS[name] for name in ("count_flops", "measure_compression", "measure_per_input")
    ]:
        wrong.append(x.index_fill(0, torch.tensor(2), torch.nan))
    for value in wrong:
        with pytest.raises(BayesdropError):
            run(classifier(), value, y)


def rounded(key):
    network = nn.Sequential(bd.nn.make(key, 6), nn.Linear(6, 2))
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=4)
    bd.predict(bnn, torch.ones(2, 6), num_samples=2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # in which 3 * 0.9 + 3 * 0.1 is 2.9999998
    try:
        for buffer in bnn.buffers():
            if not buffer.is_floating_point():
                buffer.copy_(buffer * 0.9 + buffer * (1 - 0.9))
    finally:
        torch.set_default_dtype(before)
    return bnn


ORDERED = ["nested", "variational-nested", "indian-buffet"]


@pytest.mark.parametrize("key", ORDERED)
@pytest.mark.parametrize("name", ["predict", "compact", "count_flops"])
def test_an_order_that_averaging_has_rounded_is_refused(key, name):
    run = bd.compression.count_flops if name == "count_flops" else getattr(bd, name)
    with pytest.raises(ConfigError, match=f"{name}: .*'0' in each of its 6 .*use_buffers=True"):
        run(rounded(key), torch.ones(2, 6))


@pytest.mark.parametrize("key", ORDERED)
def test_a_file_with_such_an_order_is_refused_and_changes_nothing(key, tmp_path, monkeypatch):
    bnn = rounded(key)
    with monkeypatch.context() as context:  # as a version that did not look has written it
        context.setattr("bayesdrop.inference.checkpoint.check_program", lambda who, bnn: None)
        bd.save(bnn, tmp_path / "rounded.pt")
    network = nn.Sequential(bd.nn.make(key, 6), nn.Linear(6, 2))
    other = bd.BayesianNetwork(network, bd.Categorical(), num_data=5)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"rounded.pt: load: .*'0' in each of its 6"):
        bd.load(other, tmp_path / "rounded.pt")
    assert other.num_data == 5
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
