"""Errors in training and validation name the data set's row, the step, the site and the cause."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import BayesdropWarning, DataError, DivergenceError
from bayesdrop.inference.validation import validate

N, ROW = 30, 17
NAN, INF = float("nan"), float("inf")


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


FORMS = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "tensor dataset": TensorDataset,
    "dataset": Pairs,
    "loader": lambda x, y: DataLoader(Pairs(x, y), batch_size=8, shuffle=True),
    "loader of tensors": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True),
    "part": lambda x, y: Subset(TensorDataset(x, y), range(N)),
}
LIKELIHOODS = {
    "Gaussian": lambda: bd.Gaussian(),
    "fixed": lambda: bd.Gaussian(0.5),
    "Bernoulli": lambda: bd.Bernoulli(),
}


def program(likelihood="Gaussian"):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), bd.BetaBernoulliDropout(6), nn.Linear(6, 1))
    return bd.BayesianNetwork(net, LIKELIHOODS[likelihood](), num_data=N)


def data(x_value=None, y_value=None):
    x, y = torch.randn(N, 4), (torch.randn(N, 1) > 0).double()
    if x_value is not None:
        x[ROW, 2] = x_value
    if y_value is not None:
        y[ROW] = y_value
    return x, y


def fit(bnn, pair, **options):
    return bd.fit(bnn, pair, **{"epochs": 2, "batch_size": 8, "progress": False, **options})


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("form", FORMS)
def test_a_bad_input_is_named_by_its_row_of_the_data_set(form, value):
    bnn = program()
    with pytest.raises(
        DataError, match=rf"finite inputs, got .* row {ROW} of the data set at step"
    ):
        fit(bnn, FORMS[form](*data(x_value=value)))
    assert all(bool(torch.isfinite(p).all()) for p in bnn.parameters())


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("form", FORMS)
def test_a_bad_target_is_named_by_its_row_of_the_data_set(form, value):
    message = rf"finite targets, got .* row {ROW} of the data set at step \d, site 'obs'"
    with pytest.raises(DataError, match=message):
        fit(program(), FORMS[form](*data(y_value=value)))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_bad_target_of_any_likelihood_is_named(likelihood):
    with pytest.raises(DataError, match=rf"row {ROW} of the data set at step 1"):
        fit(program(likelihood), data(y_value=NAN), batch_size=N)


def test_the_row_is_that_of_the_users_data_where_a_fraction_is_held_out():
    for seed in range(3):  # held out in some, trained on in others
        with pytest.raises(DataError, match=r"row \d+ of the data set"):
            fit(program(), data(y_value=NAN), validation=0.5, seed=seed)


def test_a_bad_target_under_a_pyro_objective_is_named():
    import pyro

    with pytest.raises(DataError, match=rf"row {ROW} of the data set"):
        fit(program(), data(y_value=NAN), objective=pyro.infer.Trace_ELBO())


def test_a_row_that_only_augmentation_made_is_one_of_the_batch():
    class Noisy(Pairs):
        calls = 0

        def __getitem__(self, index):
            Noisy.calls += 1
            return self.x[index] * (NAN if Noisy.calls == 5 else 1.0), self.y[index]

    with pytest.raises(DataError, match=r"row \d of the batch at step 1"):
        fit(program(), Noisy(*data()))


@pytest.mark.parametrize(
    ("pair", "what"), [(data(x_value=NAN), "inputs"), (data(y_value=INF), "targets")]
)
@pytest.mark.parametrize("form", FORMS)
def test_bad_validation_data_are_refused_by_their_row(form, pair, what):
    pair = tuple(part.to(torch.get_default_dtype()) for part in pair)
    message = rf"validation data: expected finite {what}, got .* row {ROW} of the data set"
    with pytest.raises(DataError, match=message):
        fit(program(), data(), validation=FORMS[form](*pair), patience=3, epochs=20)


def test_a_network_that_handles_missing_inputs_may_have_them():
    net = nn.Sequential(Filled(), nn.Linear(4, 6), bd.BetaBernoulliDropout(6), nn.Linear(6, 1))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(), num_data=N)
    result = fit(bnn, data(x_value=NAN), validation=data(x_value=NAN))
    assert all(bool(torch.isfinite(torch.tensor(r["val_nll"]))) for r in result.history)


class Filled(nn.Module):
    def forward(self, x):
        return x.nan_to_num()


@pytest.mark.parametrize(
    ("pair", "what"),
    [
        (data(y_value=1e30), "targets of size 1e"),
        (data(x_value=1e30), "inputs of size 1e"),
    ],
)
def test_numbers_out_of_range_are_not_blamed_on_the_learning_rate(pair, what):
    torch.set_default_dtype(torch.float32)
    with pytest.raises(DataError, match=f"{what}.*Standardise") as caught:
        fit(program(), tuple(part.float() for part in pair))
    assert "learning rate" not in str(caught.value)
    with pytest.raises(DataError, match=f"validation data.*{what}.*Standardise"):
        good = tuple(part.float() for part in data())
        fit(program(), good, validation=tuple(part.float() for part in pair))


def test_a_diverged_network_is_not_blamed_on_the_validation_data():
    def breaks(bnn, record):
        with torch.no_grad():
            bnn.network[2].weight.fill_(INF)

    bnn = program()
    fit(bnn, data(), epochs=1, callbacks=[breaks])
    with pytest.raises(DivergenceError, match="with finite inputs and targets"):
        validate(bnn, data())
    with pytest.raises(DivergenceError, match="site 'network.2.weight'"):
        fit(bnn, data())


@pytest.mark.parametrize(
    ("last", "likelihood", "message"),
    [
        (nn.Softmax(1), bd.Categorical(), "sums to 1. bd.Categorical takes logits"),
        (nn.Sigmoid(), bd.Bernoulli(), "ends in a sigmoid. bd.Bernoulli takes logits"),
    ],
)
def test_a_network_that_ends_in_what_the_likelihood_applies_is_warned_of_once(
    last, likelihood, message
):
    net = nn.Sequential(nn.Linear(4, 6), bd.BetaBernoulliDropout(6), nn.Linear(6, 3), last)
    bnn = bd.BayesianNetwork(net, likelihood, num_data=N)
    y = torch.arange(N) % 3
    targets = y if isinstance(last, nn.Softmax) else nn.functional.one_hot(y).double()
    with pytest.warns(BayesdropWarning, match=message) as caught:
        fit(bnn, (torch.randn(N, 4), targets))
    assert len(caught) == 1


@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Identity(), nn.ReLU(), nn.Sigmoid()])
def test_what_only_looks_alike_is_not_warned_of(last):
    # The softmax of a log-softmax is the softmax: LogSoftmax is right.
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3), last)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=N)
    fit(bnn, (torch.randn(N, 4), torch.arange(N) % 3))
    assert not bnn.network._forward_hooks


class Detached(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.inner, self.how = nn.Linear(3, 1), how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.inner(x)
        output = self.inner(x)
        return output.detach() if self.how == "detach" else torch.tensor(output.tolist())


@pytest.mark.parametrize("how", ["detach", "no_grad", "tensor"])
def test_weights_that_get_no_gradient_are_doubted(how):
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    bnn = bd.BayesianNetwork(Detached(how), bd.Gaussian(), num_data=8)  # its noise is trained
    with pytest.warns(BayesdropWarning, match="no gradient, so that 'inner.weight' would not be"):
        bd.fit(bnn, (x, y), epochs=1, progress=False)


def test_frozen_weights_are_not_doubted():
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    net = nn.Sequential(nn.Linear(3, 1).requires_grad_(False), bd.nn.make("nested", 1))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(), num_data=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bd.fit(bnn, (x, y), epochs=1, progress=False)
