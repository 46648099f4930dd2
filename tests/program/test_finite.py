"""In one's own loop, too, a value that is not finite is named by its row."""

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import DataError, DivergenceError
from bayesdrop.nn import IndianBuffetDropout

N, K = 12, 4
LIKELIHOODS = [bd.Gaussian(), bd.Bernoulli(), bd.likelihoods.StudentT()]
NAN, INF = float("nan"), float("inf")


def network(likelihood):
    net = nn.Sequential(nn.Linear(K, 8), nn.ReLU(), bd.BetaBernoulliDropout(8), nn.Linear(8, 1))
    return bd.BayesianNetwork(net, likelihood, num_data=N)


def autoencoder():
    encoder = nn.Linear(K, 9)
    code = IndianBuffetDropout(3)
    return bd.VariationalAutoencoder(
        encoder, nn.Linear(3, K), bd.Gaussian(), N, latent_dropout=code
    )


def step(program, *data, **options):
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
    return svi.step(*data, **options)


def loss(program, *data, **options):
    return program.loss(*data, **options)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda fn: type(fn).__name__)
@pytest.mark.parametrize("run", [loss, step])
@pytest.mark.parametrize("num_masks", [1, 3])
def test_the_row_of_a_bad_input_is_named(run, likelihood, value, num_masks):
    x, y = torch.randn(N, K), torch.zeros(N, 1)
    x[7, 1] = value
    with pytest.raises(
        DataError, match="finite inputs, got NaN or infinity in row 7 of the batch"
    ):
        run(network(likelihood), x, y, num_masks=num_masks)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda fn: type(fn).__name__)
@pytest.mark.parametrize("run", [loss, step])
@pytest.mark.parametrize("num_masks", [1, 3])
def test_the_row_of_a_bad_target_is_that_of_the_batch_however_many_masks(
    run, likelihood, num_masks
):
    x, y = torch.randn(N, K), torch.zeros(N, 1)
    y[5] = NAN
    with pytest.raises(DataError, match="in row 5 of the batch"):
        run(network(likelihood), x, y, num_masks=num_masks)


def test_the_evaluated_loss_and_the_data_term_name_it_too():
    x, y = torch.randn(N, K), torch.zeros(N, 1)
    x[2] = NAN
    bnn = network(bd.Gaussian())
    with pytest.raises(DataError, match="row 2 of the batch"):
        bnn.data_term(x, y)
    with pytest.raises(DataError, match="row 2 of the batch"):
        bnn.eval().loss(x, y)


@pytest.mark.parametrize("run", [loss, step])
def test_an_autoencoder_names_it(run):
    x = torch.randn(N, K)
    x[3, 0] = NAN
    with pytest.raises(DataError, match=r"VariationalAutoencoder.*finite inputs.*row 3 of the"):
        run(autoencoder(), x)


@pytest.mark.parametrize("run", [loss, step])
def test_weights_that_are_not_finite_are_not_blamed_on_the_data(run):
    bnn = network(bd.Gaussian())
    nn.init.constant_(bnn.network[0].weight, NAN)
    with pytest.raises(DivergenceError, match="12 of 12. The inputs are finite. Are the weights"):
        run(bnn, torch.randn(N, K), torch.zeros(N, 1))


def test_fit_names_the_weights_that_are_not_finite():
    bnn = network(bd.Gaussian())
    nn.init.constant_(bnn.network[0].weight, NAN)
    with pytest.raises(DivergenceError, match="at step 1, site 'network.0.weight'"):
        bd.fit(bnn, (torch.randn(N, K), torch.zeros(N, 1)), epochs=1, progress=False)


def test_whoever_reads_the_rows_says_so_in_its_own_name():
    x, y = torch.randn(110, K), torch.arange(110) % 2
    x[105, 2] = INF
    net = nn.Sequential(bd.DependentBetaBernoulliDropout(K), nn.Linear(K, 2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=110)
    runs = {
        "predict": lambda: bd.predict(bnn, x, batch_size=25),
        "prune_unused_units": lambda: bd.prune_unused_units(bnn, x),
        "class_averaged_masks": lambda: bd.diagnostics.class_averaged_masks(bnn, (x, y)),
        "check_elbo": lambda: bd.check_elbo(bnn, x, y),
        "to_inference_data": lambda: bd.to_inference_data(bnn, x, num_samples=2),
        "log_likelihood_bound": lambda: bd.diagnostics.log_likelihood_bound(autoencoder(), x),
    }
    for who, run in runs.items():
        with pytest.raises(DataError, match=f"^{who}: expected finite inputs, .* row 105"):
            run()
