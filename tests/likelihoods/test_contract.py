"""What every likelihood keeps: its distribution, objective, prediction and evaluation agree."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import Bernoulli, Categorical, NegativeBinomial, Normal, Poisson, StudentT
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.inference.validation import validate
from bayesdrop.likelihoods import Likelihood
from bayesdrop.testing import assert_mean_close
from tests.compression.networks import close_every_other_unit

ROWS, FEATURES, STEPS = 12, 5, 4


@dataclass(frozen=True)
class Case:
    """A likelihood, the output it takes, and torch's distribution of single elements."""

    name: str
    likelihood: Likelihood
    width: int
    torch: Any
    missing: int | None = None
    class_dim: int | None = None  # of a sequence; None for one output of each example

    @property
    def network(self) -> nn.Module:
        mask = bd.BetaBernoulliDropout(8, init_concentration1=2.0)
        if self.class_dim is None:
            return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), mask, nn.Linear(8, self.width))
        if self.class_dim == -1:
            return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), mask, nn.Linear(8, self.width))
        mask = bd.BetaBernoulliDropout(8, unit_dim=-2, init_concentration1=2.0)
        return nn.Sequential(
            nn.Conv1d(FEATURES, 8, 1), nn.Tanh(), mask, nn.Conv1d(8, self.width, 1)
        )

    def program(self, num_data: int = 3 * ROWS) -> bd.BayesianNetwork:
        return bd.BayesianNetwork(self.network, self.likelihood, num_data=num_data)

    def x(self, rows: int = ROWS) -> torch.Tensor:
        if self.class_dim is None:
            return torch.randn(rows, FEATURES)
        shape = (rows, STEPS, FEATURES) if self.class_dim == -1 else (rows, FEATURES, STEPS)
        return torch.randn(shape)

    def y(self, output: torch.Tensor) -> torch.Tensor:
        y = self.torch(output.detach()).sample()
        if self.missing is not None:
            y[torch.rand(y.shape) < 0.3] = self.missing
        return y

    def __str__(self) -> str:
        return self.name


def halves(output):
    return output.chunk(2, 1)


CASES = [
    Case("categorical", bd.Categorical(), 3, lambda f: Categorical(logits=f)),
    Case(
        "categorical-pixels",
        bd.Categorical(ignore_index=255),
        3,
        lambda f: Categorical(logits=f.movedim(1, -1)),
        missing=255,
        class_dim=1,
    ),
    Case(
        "categorical-last",
        bd.Categorical(class_dim=-1),
        3,
        lambda f: Categorical(logits=f),
        missing=-100,
        class_dim=-1,
    ),
    Case("bernoulli", bd.Bernoulli(), 3, lambda f: Bernoulli(logits=f)),
    Case(
        "bernoulli-missing",
        bd.Bernoulli(ignore_index=-1),
        3,
        lambda f: Bernoulli(logits=f),
        missing=-1,
    ),
    Case("gaussian", bd.Gaussian(0.5), 2, lambda f: Normal(f, 0.5)),
    Case(
        "gaussian-two-outputs",
        bd.Gaussian("heteroscedastic", min_scale=0.0),
        4,
        lambda f: Normal(halves(f)[0], F.softplus(halves(f)[1])),
    ),
    Case("student-t", bd.likelihoods.StudentT(0.5, df=6.0), 2, lambda f: StudentT(6.0, f, 0.5)),
    Case(
        "student-t-two-outputs",
        bd.likelihoods.StudentT("heteroscedastic", df=6.0, min_scale=0.0),
        4,
        lambda f: StudentT(6.0, halves(f)[0], F.softplus(halves(f)[1])),
    ),
    Case("poisson", bd.likelihoods.Poisson(), 2, lambda f: Poisson(f.exp())),
    Case(
        "negative-binomial",
        bd.likelihoods.NegativeBinomial(0.5),
        2,
        lambda f: NegativeBinomial(2.0, logits=f + math.log(0.5)),
    ),
    Case(
        "negative-binomial-two-outputs",
        bd.likelihoods.NegativeBinomial("heteroscedastic", min_dispersion=0.0),
        4,
        lambda f: NegativeBinomial(
            1 / F.softplus(halves(f)[1]), logits=halves(f)[0] + F.softplus(halves(f)[1]).log()
        ),
    ),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)
# One of a kind, for what takes a second each.
few = pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case.name
        in ("categorical-last", "bernoulli-missing", "student-t-two-outputs", "negative-binomial")
    ],
    ids=str,
)
regressions = pytest.mark.parametrize(
    "case", [case for case in CASES if not case.likelihood.is_classifier], ids=str
)


def by_hand(case, output, y):
    """Torch's log-probability of each element, 0 where the label is missing."""
    missing = torch.zeros_like(y, dtype=torch.bool)
    if case.missing is not None:
        missing = y == case.missing
    terms = case.torch(output).log_prob(y.masked_fill(missing, 0))
    return terms.masked_fill(missing, 0.0), missing


@cases
def test_log_prob_is_torchs(case):
    output = case.network(case.x()).detach()
    y = case.y(output)
    terms, _ = by_hand(case, output, y)
    expected = terms.reshape(ROWS, -1).sum(1)
    likelihood = case.likelihood
    for found in (
        likelihood.log_prob(output, y),
        likelihood.log_density(output, y),
        likelihood.distribution(output).log_prob(likelihood.target(output, y)),
    ):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(likelihood.nll(output, y), -expected.sum())
    if likelihood.is_classifier:
        torch.testing.assert_close(likelihood.label_log_prob(output, y), terms)


@cases
def test_the_batch_is_the_data_plate_and_all_else_is_event(case):
    output = case.network(case.x()).detach()
    event = case.y(output).shape[1:]
    fn = case.likelihood.distribution(output)
    assert (fn.batch_shape, fn.event_shape) == ((ROWS,), event)
    several = case.likelihood.distribution(output.expand(7, *output.shape), batch_ndim=2)
    assert (several.batch_shape, several.event_shape) == ((7, ROWS), event)


@cases
@pytest.mark.parametrize("num_masks", [1, 3])
def test_the_loss_is_that_of_svi(case, num_masks):
    bnn, x = case.program(), case.x()
    y = case.y(bnn(x))
    options = {"num_masks": num_masks} if num_masks > 1 else {}
    pyro.set_rng_seed(0)
    expected = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y, **options)
    pyro.set_rng_seed(0)
    torch.testing.assert_close(bnn.loss(x, y, **options).loss, expected)


@cases
def test_examples_are_scaled_to_the_data_set_and_not_their_elements(case):
    bnn, x = case.program(num_data=3 * ROWS), case.x()
    y = case.y(bnn(x))
    trace = pyro.poutine.trace(bnn.model).get_trace(x, y)
    assert trace.nodes["obs"]["scale"] == 3.0
    trace.compute_log_prob()
    assert trace.nodes["obs"]["log_prob"].shape == (ROWS,)
    loss = Trace_ELBO(num_particles=2, vectorize_particles=True).differentiable_loss(
        bnn.model, bnn.guide, x, y
    )
    assert math.isfinite(float(loss.detach()))


@cases
def test_pyro_draws_what_the_target_looks_like(case):
    bnn, x = case.program().eval(), case.x()
    y = case.y(bnn(x))
    drawn = Predictive(bnn.model, guide=bnn.guide, num_samples=5, parallel=True)(x)["obs"]
    assert drawn.shape == (5, *y.shape)
    bnn.likelihood.target(bnn(x), drawn[0])  # takes its own draws
    if case.missing is not None:
        assert not bool((drawn == case.missing).any())


@cases
def test_moments_are_those_of_its_draws(case):
    output = case.network(case.x(3)).detach()
    mean, variance = case.likelihood.moments(output)
    draws = case.likelihood.distribution(output).sample((4000,)).double()
    if variance is None and case.likelihood.has_logits:
        draws = F.one_hot(draws.long(), mean.shape[1]).movedim(-1, 2).double()
    assert_mean_close(draws, mean)
    if variance is not None:
        assert_mean_close((draws - mean).square(), variance)


@cases
def test_the_predicted_mean_is_the_average_over_masks_in_closed_form(case):
    """With every mask shared by the batch, as many passes as samples, averaged by hand."""
    bnn, x = case.program(), case.x()
    output = bnn.eval()(x).detach()
    once = bd.predict(bnn, x, sample=False)
    fn = case.torch(output)
    expected = fn.mean
    if case.likelihood.has_logits:
        expected = fn.probs.movedim(-1, 1)
    torch.testing.assert_close(once.mean, expected)
    if not case.likelihood.is_classifier:
        torch.testing.assert_close(once.variance, fn.variance)
    several = bd.predict(bnn, x, num_samples=9, seed=0)
    torch.testing.assert_close(several.samples.mean(0), several.mean)


@cases
def test_evaluation_counts_labels_that_are_there(case):
    bnn, x = case.program(), case.x()
    y = case.y(bnn(x))
    result = bd.evaluate(bnn, (x, y), sample=False)
    output = bnn.eval()(x).detach()
    terms, missing = by_hand(case, output, y)
    assert result.nll == pytest.approx(-float(terms.sum()) / ROWS)
    figures = validate(bnn, (x, y), batch_size=5)
    assert figures["val_nll"] == pytest.approx(result.nll)
    fn = case.torch(output)
    if case.likelihood.is_classifier:
        guess = fn.probs.argmax(-1) if case.likelihood.has_logits else fn.probs.round()
        wrong = float((guess != y)[~missing].double().mean())
        assert result.error == pytest.approx(100 * wrong)
        assert figures["val_error"] == pytest.approx(100 * wrong)
        flat, labels = bnn.likelihood.flatten_labels(result.prediction.mean, y)
        assert len(flat) == len(labels) == int((~missing).sum())
        sets = bd.metrics.conformal_sets(flat, labels, miscoverage=0.2)
        assert sets.num_examples == len(labels)
        outside = bd.evaluate(bnn, (x, y), ood={"far": 9 * case.x(7)}, num_samples=4).ood["far"]
        assert 0 <= outside["entropy"]["auroc"] <= 1
    else:
        squares = (fn.mean - y).square().mean()
        assert result.rmse == pytest.approx(float(squares.sqrt()))
        assert set(result.coverage) == {0.5, 0.9, 0.95}


@regressions
def test_cdf_is_scipys_mid_distribution_function(case):
    output = case.network(case.x()).detach()
    y = case.y(output)
    fn = case.torch(output)
    if isinstance(fn, Normal):
        expected = scipy.stats.norm.cdf(y, fn.loc, fn.scale)
    elif isinstance(fn, StudentT):
        expected = scipy.stats.t.cdf(y, 6.0, fn.loc, fn.scale)
    elif isinstance(fn, Poisson):
        law = scipy.stats.poisson(fn.rate.numpy())
        expected = law.cdf(y - 1) + law.pmf(y) / 2
    else:
        law = scipy.stats.nbinom(fn.total_count.numpy(), 1 - fn.probs.numpy())
        expected = law.cdf(y - 1) + law.pmf(y) / 2
    found = case.likelihood.cdf(output, case.likelihood.target(output, y))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7)


@regressions
def test_intervals_of_the_true_law_hold_their_share(case):
    """PIT values of draws are uniform, up to an atom, so a 90 % interval has about 90 %."""
    output = case.network(case.x(400)).detach() + 2.0
    y = case.torch(output).sample()
    pit = case.likelihood.cdf(output, case.likelihood.target(output, y))
    covered = ((pit > 0.05) & (pit < 0.95)).double()
    atom = 0.08 if isinstance(case.torch(output), Poisson | NegativeBinomial) else 0.0
    error = math.sqrt(0.9 * 0.1 / covered.numel())
    assert abs(float(covered.mean()) - 0.9) < atom + 4.3 * error


@few
def test_arviz_and_leave_one_out_take_examples(case):
    bnn, x = case.program(num_data=ROWS), case.x()
    y = case.y(bnn(x))
    found = bd.to_inference_data(bnn, x, y, num_samples=4, num_masks=2)
    assert found.log_likelihood["obs"].shape == (1, 4, ROWS)
    sizes = dict(found.posterior_predictive["obs"].sizes)
    assert sizes["draw"] == 4 and math.prod(sizes.values()) == 4 * y.numel()


@few
def test_the_compact_network_predicts_the_same(case):
    bnn, x = case.program().eval(), case.x()
    for _, layer in bnn.named_dropout_layers():
        close_every_other_unit(layer)
    small = bd.compact(bnn, x)
    with torch.no_grad():
        torch.testing.assert_close(small(x), bnn(x))
        assert bnn.units() == [4]
        assert bd.compression.count_flops(small, x) < bd.compression.count_flops(bnn, x)


def test_a_network_of_pixels_is_saved_and_loaded(tmp_path):
    case = next(case for case in CASES if case.name == "categorical-pixels")
    bnn, x = case.program().eval(), case.x()
    small = bd.compact(bnn, x)
    bd.save_plain(small, tmp_path / "small.pt2", x)
    with torch.no_grad():
        torch.testing.assert_close(bd.load_plain(tmp_path / "small.pt2")(x[:5]), bnn(x[:5]))


@few
def test_a_report_of_any_output_is_written(case, tmp_path):
    bnn, x = case.program(), case.x()
    y = case.y(bnn(x))
    found = bd.report(bnn, (x, y), num_samples=2, shift=False)
    assert math.isfinite(found.results["mean_mask"].figures.nll)
    paths = bd.reporting.write_report(found, tmp_path, figures=False)
    assert all(path.exists() for path in paths)


@few
def test_training_lowers_the_objective_of_learnable_data(case):
    torch.manual_seed(0)
    bnn, x = case.program(num_data=20), case.x(20)
    with torch.no_grad():
        y = case.y(3 * case.program()(x))
    result = bd.fit(bnn, (x, y), epochs=8, learning_rate=0.1, progress=False)
    assert result.history[-1]["nll"] < result.history[0]["nll"]
