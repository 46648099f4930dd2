"""Monte Carlo error of figures: checked against the spread over seeds, which it estimates."""

import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import DataError, ShapeError
from bayesdrop.inference.predict import predict_in_groups
from bayesdrop.metrics import SampleGroups, jackknife_error, monte_carlo_errors


def groups_of(values, number=16):
    """Return groups of samples of one number each, which serves as mean and likelihood."""
    parts = [values[g::number] for g in range(number)]
    mean = torch.stack([part.mean() for part in parts])[:, None]
    return SampleGroups(torch.tensor([len(part) for part in parts]), mean, mean.abs().log())


@pytest.mark.parametrize("num_samples", [16, 40, 64])
def test_error_of_an_average_is_its_standard_error(num_samples):
    errors = []
    for _ in range(60):
        values = 5.0 + 0.3 * torch.randn(num_samples)
        found = monte_carlo_errors(
            groups_of(values), lambda g: {"mean": float(g.mean), "log": float(g.log_likelihood)}
        )
        errors.append((found["mean"], 5.0 * found["log"]))  # the log has the slope 1 / 5
    root_mean_square = torch.tensor(errors).square().mean(0).sqrt()
    # One error is off by a fifth or so: 15 degrees of freedom, and 50 resamples.
    relative = math.sqrt(1 / 30 + 1 / 98) / math.sqrt(60)
    expected = 0.3 / math.sqrt(num_samples)
    assert (root_mean_square / expected - 1).abs().max() < 4.3 * relative + 0.02


def test_a_group_counts_by_its_samples():
    groups, weights = SampleGroups(torch.tensor([1, 3]), torch.eye(2)), set()
    monte_carlo_errors(groups, lambda one: weights.add(round(float(one.mean[0, 0]), 9)) or {})
    assert weights == {0.0, 0.25, 1.0}  # neither, both or only the smaller was drawn


def classifier(dropout="beta-bernoulli"):
    mask = bd.nn.make(dropout, 24)
    net = nn.Sequential(nn.Linear(5, 24), nn.Tanh(), mask, nn.Linear(24, 4, bias=False))
    with torch.no_grad():
        net[-1].weight.mul_(6)
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=100)


def quadrants(x):
    return (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0)


def regression():
    net = nn.Sequential(nn.Linear(5, 24), nn.Tanh(), bd.BetaBernoulliDropout(24), nn.Linear(24, 1))
    return bd.BayesianNetwork(net, bd.Gaussian(0.3), num_data=100)


@pytest.mark.parametrize(
    ("make", "shared_by", "names"),
    [
        (
            classifier,
            "batch",
            ("error", "nll", "brier", "ece", "aurc", "predictive_entropy")
            + ("auroc far", "aupr far", "aupr_in far", "fpr95 far", "detection_error far"),
        ),
        (classifier, "example", ("nll", "brier")),
        (regression, "batch", ("rmse", "nll", "coverage 0.9", "crps", "width 0.9")),
    ],
)
def test_errors_of_an_evaluation_are_the_spread_over_seeds(make, shared_by, names):
    bnn, x = make(), torch.randn(250, 5)
    y = x[:, 0] + torch.randn(250) if make is regression else quadrants(x)
    values, errors = [], []
    options = {"num_samples": 16, "shared_by": shared_by}
    if make is regression:
        options["keep_samples"] = True
    elif shared_by == "batch":
        options["ood"] = {"far": 1.3 * torch.randn(250, 5)}
    for seed in range(16):
        result = bd.evaluate(bnn, (x, y), seed=seed, **options)
        figures = result.to_dict()
        if make is regression:
            figures["coverage 0.9"] = result.coverage[0.9]
            figures["width 0.9"] = result.width[0.9]
        elif result.ood:
            scores = result.ood["far"]["entropy"]
            figures |= {f"{metric} far": value for metric, value in scores.items()}
        values.append([figures[name] for name in names])
        errors.append([result.monte_carlo_error[name] for name in names])
    spread = torch.tensor(values).std(0)
    reported = torch.tensor(errors).square().mean(0).sqrt()
    # A spread over 16 seeds is known to 18 %; that of the error, a step function of the means, is
    # overrated besides.
    ratio = dict(zip(names, (reported / spread).tolist(), strict=True))
    assert all(0.6 < value < 1.9 for value in ratio.values()), ratio


def test_samples_take_turns_in_the_groups():
    bnn, x = regression(), torch.randn(7, 5)
    options = {"num_samples": 11, "num_groups": 4, "seed": 0}
    prediction, groups = predict_in_groups(bnn, (x, x[:, 0]), **options)
    assert groups.sizes.tolist() == [3, 3, 3, 2]
    for group in range(4):
        own = prediction.samples[group::4]
        torch.testing.assert_close(groups.mean[group], own.mean(0))
        each = torch.distributions.Normal(own, 0.3).log_prob(x[:, :1])
        expected = each.logsumexp(0)[:, 0] - math.log(len(own))
        torch.testing.assert_close(groups.log_likelihood[group], expected)
        below = torch.distributions.Normal(own, 0.3).cdf(x[:, :1]).mean(0)
        torch.testing.assert_close(groups.pit[group], below)


def test_noise_of_shared_masks_does_not_shrink_with_the_test_set():
    # Labels that the network does not fit: where it does, the NLL is level in its masks.
    # A rate that is fixed: what is drawn for all examples is a mask, or nothing.
    bnn, x = classifier("mc-dropout"), torch.randn(3200, 5)
    y = quadrants(x)

    def error(shared_by, rows):
        data = x[:rows], y[:rows]
        result = bd.evaluate(bnn, data, num_samples=64, seed=0, shared_by=shared_by)
        return result.monte_carlo_error["nll"]

    assert error("batch", 3200) > 0.5 * error("batch", 200)
    assert error("example", 3200) < 0.5 * error("example", 200)


@pytest.mark.parametrize(
    "options", [{"sample": False}, {"num_samples": 7}, {"memory_limit": 5000}]
)
def test_without_enough_samples_or_memory_there_is_no_error(options):
    x, y = torch.randn(30, 5), torch.arange(30) % 4
    whole = bd.evaluate(classifier(), (x, y), num_samples=8)
    assert whole.monte_carlo_error and whole.to_dict()["monte_carlo_error"]["nll"] > 0
    result = bd.evaluate(classifier(), (x, y), ood={"far": x}, **{"num_samples": 8, **options})
    assert result.monte_carlo_error == {}


@pytest.mark.parametrize("values", [[], [1.0], 1.0, [1.0, math.nan], None])
def test_a_jackknife_of_fewer_than_two_numbers_is_refused(values):
    with pytest.raises((DataError, ShapeError), match="jackknife_error: expected"):
        jackknife_error(values)


def test_sets_that_meet_samples_of_their_own_have_the_noise_of_both():
    bnn, x = classifier(), torch.randn(60, 5)
    data, ood = (x, quadrants(x)), {"same": x, "far": 2.0 * x}
    apart, together = (bd.evaluate(bnn, data, ood=ood, num_samples=32, seed=s) for s in (None, 0))
    # The same inputs with the same samples have the same scores, whichever are drawn.
    assert together.monte_carlo_error["auroc same"] == 0.0 < apart.monte_carlo_error["auroc same"]
    assert 0.0 < together.monte_carlo_error["auroc far"]
    assert "±" in next(line for line in repr(apart).splitlines() if "AUROC" in line)


def test_an_example_with_many_labels_has_one_score():
    net = nn.Sequential(bd.BetaBernoulliDropout(2, unit_dim=-3), nn.Conv2d(2, 3, 1))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    x, y = torch.randn(40, 2, 2, 2), torch.randint(3, (40, 2, 2))
    ood = {"far": 1.5 * torch.randn(30, 2, 2, 2)}
    result = bd.evaluate(bnn, (x, y), ood=ood, num_samples=16, seed=0)
    assert 0.0 < result.monte_carlo_error["auroc far"] < 0.5
