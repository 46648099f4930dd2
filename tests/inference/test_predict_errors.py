import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import (
    BayesdropError,
    ConfigError,
    DataError,
    DivergenceError,
    ShapeError,
)


class Returns(nn.Module):
    """A network of one layer, and what is made of its output."""

    def __init__(self, make, width=4):
        super().__init__()
        self.dropout = bd.BetaBernoulliDropout(width)
        self.head = nn.Linear(width, 3)
        self.make = make

    def forward(self, x):
        return self.make(self.head(self.dropout(x)))


class TwoInputs(Returns):
    def forward(self, x, other):
        return self.head(self.dropout(x + other))


def bayesian(network, likelihood=None):
    return bd.BayesianNetwork(network.float(), likelihood or bd.Categorical(), num_data=60)


X = torch.zeros(6, 4, dtype=torch.float32)

OUTPUTS = {
    "tuple": (lambda out: (out, out), ConfigError, "got a tuple of 2.*logits.*alone"),
    "dict": (lambda out: {"out": out}, ConfigError, "got a dict of 1"),
    "None": (lambda out: None, ConfigError, "got None.*lack a return"),
    "classes": (
        lambda out: out.argmax(1),
        ConfigError,
        "got numbers of torch.int64.*Return logits",
    ),
    "squeezed": (lambda out: out[:, :1].squeeze(), ShapeError, r"squeeze\(-1\) keeps"),
    "squeezed logits": (lambda out: out.squeeze(), ShapeError, r"squeeze\(-1\) keeps"),
    "mean of the batch": (lambda out: out.mean(0), ShapeError, "for each of 1 inputs"),
    "lost": (lambda out: torch.cat([out, out]), ShapeError, "Does the network keep the first"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("call", [bd.predict, bd.evaluate])
def test_an_output_that_is_no_prediction_is_refused_by_name(kind, call):
    make, error, message = OUTPUTS[kind]
    bnn = bayesian(Returns(make)).train()
    with pytest.raises(error, match=message):
        call(bnn, (X, torch.zeros(6).long()), num_samples=2)
    assert all(module.training for module in bnn.network.modules())


INPUTS = {
    "float64": (
        X.double(),
        DataError,
        r"inputs of torch.float32.*got x of torch.float64.*x.float\(\)",
    ),
    "complex": (X.cfloat(), DataError, r"complex64"),
    "width": (torch.zeros(6, 9).float(), ShapeError, r"\(1, 9\)"),
    "no feature": (torch.zeros(6).float(), ShapeError, r"shape \(1,\)"),
}


@pytest.mark.parametrize("first", ["dropout", "linear"])
@pytest.mark.parametrize("kind", INPUTS)
def test_an_input_that_the_network_cannot_take_is_refused_by_its_dtype_or_shape(kind, first):
    x, error, message = INPUTS[kind]
    layers = [nn.Linear(4, 4), bd.BetaBernoulliDropout(4), nn.Linear(4, 3)]
    network = nn.Sequential(*layers[1 if first == "dropout" else 0 :])
    with pytest.raises(error, match=message):
        bd.predict(bayesian(network), x, num_samples=2)


@pytest.mark.parametrize("first", ["dropout", "linear"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integers_are_refused_by_a_linear_layer_and_by_a_mask(dtype, first):
    layers = [nn.Linear(4, 4), bd.BetaBernoulliDropout(4), nn.Linear(4, 3)]
    network = nn.Sequential(*layers[1 if first == "dropout" else 0 :])
    with pytest.raises(DataError, match=rf"got \w+ of {dtype}.*x.float\(\)"):
        bd.predict(bayesian(network), X.to(dtype), num_samples=2)


@pytest.mark.parametrize("call", [bd.predict, bd.evaluate])
def test_a_posterior_that_is_not_finite_is_named(call):
    bnn = bayesian(nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3)))
    name, parameter = next((n, p) for n, p in bnn.network.named_parameters() if n[:2] == "0.")
    parameter.data[1] = float("nan")
    with pytest.raises(DivergenceError, match=f"NaN or infinity in '{name}'"):
        call(bnn, (X, torch.zeros(6).long()), num_samples=2)


def test_convolutions_say_what_shape_they_were_given():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    network(torch.zeros(1, 3, 8, 8))
    with pytest.raises(
        ShapeError, match=r"Conv2d .0.: expected an input with 3 channels.*\(1, 1, 8, 8\)"
    ):
        bd.predict(bayesian(network), torch.zeros(2, 1, 8, 8).float())


def test_one_input_of_a_network_that_needs_two_is_refused():
    with pytest.raises(ConfigError, match="got 1: TwoInputs, whose forward needs 2"):
        bd.predict(bayesian(TwoInputs(None)), X, num_samples=2)


def test_an_error_of_the_users_own_code_passes_as_it_is():
    def fail(out):
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="^my own$") as caught:
        bd.predict(bayesian(Returns(fail)), X, num_samples=2)
    assert not isinstance(caught.value, BayesdropError)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.dropout = bd.BetaBernoulliDropout(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.dropout(self.embed(x).mean(1)))


def test_tokens_are_predicted_and_floats_in_their_place_refused():
    bnn = bayesian(Tokens())
    tokens = torch.randint(0, 11, (6, 5))
    assert bd.evaluate(bnn, (tokens, tokens[:, 0] % 3), num_samples=8).num_examples == 6
    with pytest.raises(DataError, match=r"expected integers in 0..10.*x.long\(\)"):
        bd.predict(bnn, tokens.float())


def test_outputs_without_a_dimension_of_outputs_are_right():
    """squeeze(-1): as many numbers as examples, also for one."""
    network = Returns(lambda out: out[:, :1].squeeze(-1))
    bnn = bayesian(network, bd.Gaussian(0.5))
    assert bd.evaluate(bnn, (X, torch.zeros(6)), num_samples=8).rmse is not None


def test_a_norm_over_a_single_place_is_named():
    net = nn.Sequential(nn.Conv2d(1, 4, 8), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    data = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    with pytest.raises(ShapeError, match="more than one place in a map, for InstanceNorm2d '1'"):
        bd.fit(bd.BayesianNetwork(net, bd.Categorical(), 6), data, epochs=1, progress=False)
