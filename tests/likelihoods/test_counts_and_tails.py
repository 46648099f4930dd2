"""Limits of the laws of counts and of heavy tails, and what they refuse."""

import math

import pytest
import torch

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.likelihoods import NegativeBinomial, Poisson, StudentT


def test_without_dispersion_counts_are_poisson():
    output, y = torch.randn(6, 2), torch.randint(5, (6, 2))
    near = NegativeBinomial(1e-7)
    torch.testing.assert_close(near.nll(output, y), Poisson().nll(output, y), rtol=1e-6, atol=0.0)
    for found, expected in zip(near.moments(output), Poisson().moments(output), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)


def test_with_many_degrees_of_freedom_tails_are_normal():
    output, y = torch.randn(6, 2), torch.randn(6, 2)
    nll = StudentT(0.7, df=1e7).nll(output, y)
    torch.testing.assert_close(nll, bd.Gaussian(0.7).nll(output, y), rtol=1e-5, atol=0.0)


def test_an_outlier_pulls_less_than_under_normal_noise():
    y = torch.tensor([[0.0], [100.0]])
    pull = {}
    for likelihood in (StudentT(1.0), bd.Gaussian(1.0)):
        output = torch.zeros(2, 1, requires_grad=True)
        likelihood.nll(output, y).backward()
        pull[type(likelihood)] = float(output.grad[1].abs())
    assert pull[StudentT] < 0.1 and pull[bd.Gaussian] == 100.0


def test_a_rate_that_underflows_still_has_a_gradient():
    output = torch.full((1, 1), -200.0, dtype=torch.float32, requires_grad=True)
    Poisson().nll(output, torch.tensor([[3]])).backward()
    assert output.grad.item() == pytest.approx(-3.0)


@pytest.mark.parametrize("dispersion", [0.2, 1.5])
def test_learned_dispersion_is_found(dispersion):
    likelihood = NegativeBinomial(init_dispersion=0.7)
    log_mean = torch.full((4000, 1), 1.5)
    y = NegativeBinomial(dispersion).distribution(log_mean).sample()
    optimiser = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = likelihood.nll(log_mean, y) / len(y)
        loss.backward()
        return loss

    optimiser.step(closure)
    mean, variance = likelihood.moments(log_mean[:1])
    found = float(((variance - mean) / mean.square()).detach())
    # Of 40 such sets the estimates' relative standard deviations were 0.049 and 0.027; 4.3 times.
    assert found == pytest.approx(dispersion, rel=0.21)


def test_learned_degrees_of_freedom_have_a_variance():
    likelihood = StudentT(df="learned")
    assert float(likelihood.df.detach()) == pytest.approx(4.0)
    with torch.no_grad():
        likelihood.raw_df.fill_(-100.0)
        assert 2.0 < float(likelihood.df)
        assert math.isfinite(float(likelihood.moments(torch.zeros(1, 1))[1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentT(df=2.0), "df >= 2.001 or 'learned', got df=2.0"),
        (lambda: StudentT(df=math.nan), "df >= 2.001"),
        (lambda: StudentT(df="free"), "got df='free'"),
        (lambda: StudentT(0.0), "StudentT: expected a positive noise scale"),
        (lambda: NegativeBinomial(-1.0), "NegativeBinomial: expected a positive dispersion"),
        (lambda: NegativeBinomial(init_dispersion=0.0), "init_dispersion > min_dispersion >= 0"),
        (lambda: NegativeBinomial(num_outputs=0), "num_outputs >= 1"),
    ],
)
def test_an_argument_without_a_law_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial()], ids=["poisson", "nb"])
@pytest.mark.parametrize("value", [-1.0, 0.5, math.nan, math.inf])
def test_a_target_that_is_no_count_is_named(likelihood, value):
    y = torch.ones(4, 1)
    y[2] = value
    with pytest.raises(DataError, match=f"whole numbers >= 0, got {value:g} in row 2 of the"):
        likelihood.nll(torch.zeros(4, 1), y)


def test_a_sequence_with_halves_in_the_last_dimension_is_refused():
    with pytest.raises(ShapeError, match=r"even number of outputs in dimension 1.*movedim"):
        NegativeBinomial("heteroscedastic").nll(torch.zeros(3, 5, 2), torch.zeros(3, 5, 1))
    with pytest.raises(ShapeError, match=r"targets of shape \(3, 2, 2\), got \(3, 4, 1\)"):
        StudentT("heteroscedastic").nll(torch.zeros(3, 4, 2), torch.zeros(3, 4, 1))


@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial", "StudentT"])
def test_who_looks_for_it_at_the_top_is_told_where_it_is(name):
    with pytest.raises(AttributeError, match=f"it is bayesdrop.likelihoods.{name}"):
        getattr(bd, name)
