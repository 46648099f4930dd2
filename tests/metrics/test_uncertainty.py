import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import (
    error_percent,
    example_table,
    least_uncertain,
    most_uncertain,
    negative_log_likelihood,
    table_by_class,
    variance_parts,
)


def example(samples=6, rows=200, classes=4):
    return (2 * torch.randn(samples, rows, classes)).softmax(-1), torch.arange(rows) % classes


def test_entropies_agree_with_scipy():
    samples, _ = example()
    parts = bd.metrics.entropy_parts(samples)
    total = entropy(samples.mean(0).numpy(), axis=-1)
    expected = entropy(samples.numpy(), axis=-1).mean(0)
    np.testing.assert_allclose(parts.predictive_entropy, total)
    np.testing.assert_allclose(parts.expected_entropy, expected)
    np.testing.assert_allclose(parts.mutual_information, total - expected, atol=1e-14)
    assert parts.num_samples == 6


def test_mutual_information_is_the_average_divergence_from_the_mean():
    samples, _ = example()
    divergence = (samples * (samples / samples.mean(0)).log()).sum(-1).mean(0)
    torch.testing.assert_close(bd.metrics.entropy_parts(samples).mutual_information, divergence)


def test_samples_that_agree_carry_no_information():
    samples, _ = example()
    same = samples[:1].expand(5, -1, -1)
    parts = bd.metrics.entropy_parts(same)
    assert (parts.mutual_information >= 0).all()
    torch.testing.assert_close(parts.mutual_information, torch.zeros(200))
    one = bd.metrics.entropy_parts(samples[:1])
    assert torch.equal(one.mutual_information, torch.zeros(200))


def test_certain_samples_that_disagree_carry_all_of_it():
    parts = bd.metrics.entropy_parts(torch.eye(4)[:, None])
    assert float(parts.expected_entropy) == 0.0
    assert float(parts.mutual_information) == pytest.approx(math.log(4))


def test_a_bayesian_networks_prediction_has_the_same_parts():
    net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
    prediction = bd.predict(bnn, torch.randn(20, 4), num_samples=8)
    parts = bd.metrics.entropy_parts(prediction.samples)
    for name in ("mean", "predictive_entropy", "expected_entropy", "mutual_information"):
        torch.testing.assert_close(getattr(parts, name), getattr(prediction, name))


def test_float32_arrays_are_taken():
    samples, _ = example()
    parts = bd.metrics.entropy_parts(samples.float().numpy())
    exact = bd.metrics.entropy_parts(samples)
    assert parts.mutual_information.dtype == torch.float64
    torch.testing.assert_close(
        parts.mutual_information, exact.mutual_information, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(7, 50), (7, 50, 3), (1, 5)])
def test_total_variance_is_that_of_the_mixture(shape):
    means, variances = torch.randn(shape), torch.rand(shape)
    parts = variance_parts(means, variances)
    assert torch.equal(parts.variance, parts.aleatoric_variance + parts.epistemic_variance)
    # E[y^2] - E[y]^2 of the mixture.
    exact = (means.square() + variances).mean(0) - means.mean(0).square()
    torch.testing.assert_close(parts.variance, exact)
    assert parts.mean.shape == shape[1:]


def test_variances_broadcast_and_none_is_no_noise():
    means = torch.randn(5, 8, 2)
    per_output = variance_parts(means, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(
        per_output.aleatoric_variance, torch.tensor([0.5, 2.0]).expand(8, 2)
    )
    assert float(variance_parts(means).aleatoric_variance.abs().max()) == 0.0


def test_ranks_are_stable_and_mirror_each_other():
    scores = torch.tensor([0.3, 0.9, 0.3, 0.1, 0.9])
    assert most_uncertain(scores).tolist() == [1, 4, 0, 2, 3]
    assert least_uncertain(scores.numpy()).tolist() == [3, 0, 2, 1, 4]
    assert most_uncertain(scores, k=1).tolist() == [1]


def test_class_rows_average_to_the_whole():
    samples, labels = example()
    labels[labels == 2] = 1
    table = table_by_class(samples, labels)
    rows = {row.label: row for row in table.rows}
    assert rows[2].count == 0 and rows[2].error is None and rows[2].nll is None
    filled = [row for row in table.rows if row.count]
    mean = samples.mean(0)
    parts = bd.metrics.entropy_parts(samples)
    for name, whole in {
        "error": error_percent(mean, labels),
        "nll": negative_log_likelihood(mean, labels),
        "confidence": float(mean.amax(1).mean()),
        "predictive_entropy": float(parts.predictive_entropy.mean()),
        "mutual_information": float(parts.mutual_information.mean()),
    }.items():
        total = sum(row.count * getattr(row, name) for row in filled) / 200
        assert total == pytest.approx(whole), name
    errors = [row.calibration_error for row in table.rows]
    assert np.mean(errors) == pytest.approx(bd.metrics.classwise_calibration_error(mean, labels))


def test_example_rows_say_what_was_predicted():
    samples, labels = example()
    mean = samples.mean(0)
    row = example_table(samples, labels, indices=torch.tensor([7])).rows[0]
    assert (row.index, row.label, row.predicted) == (7, 3, int(mean[7].argmax()))
    assert row.confidence == pytest.approx(float(mean[7].amax()))
    assert row.label_probability == pytest.approx(float(mean[7, 3]))
    bare = example_table(mean, indices=[7]).rows[0]
    masked = example_table(mean, indices=torch.arange(len(mean)) == 7)
    assert masked.rows == (bare,)
    assert bare.label is None and bare.mutual_information is None
    assert bare.predictive_entropy == pytest.approx(row.predictive_entropy)


def test_tables_are_plain_json_and_text():
    samples, labels = example()
    for table in (table_by_class(samples, labels), example_table(samples, indices=[3, 1])):
        assert len(json.loads(json.dumps(table.to_dict()))) == len(table.rows)
        assert {len(line) for line in table.cells()} == {len(table.header)}
    assert example_table(samples, indices=[3]).cells()[0][:2] == ["3", "–"]


S, Y = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]] * 2), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bd.metrics.entropy_parts(S[0]), ShapeError,
         r"posterior samples, N, .*got \(2, 2\)"),
        (lambda: bd.metrics.entropy_parts(S[:0]), ShapeError, r"got \(0, 2, 2\)"),
        (lambda: bd.metrics.entropy_parts(S * torch.tensor([1, 0.9])[:, None, None]), DataError,
         "entropy_parts, sample 1: .*sum to one in every row, got a sum of 0.9 in row 0"),
        (lambda: bd.metrics.entropy_parts(S.log()), DataError, r"in \[0, 1\].*Are these logits"),
        (lambda: bd.metrics.entropy_parts(S * math.nan), DataError, "nan or infinity in row 0"),
        (lambda: table_by_class(S, Y[:1]), ShapeError, "table_by_class: expected 2 labels"),
        (lambda: example_table(S, Y, indices=[2]), ConfigError, r"indices in 0\.\.1, .* got 2 to"),
        (lambda: example_table(S, Y, indices=[0.5]), ConfigError, "integers, got 0.5 to 0.5"),
        (lambda: example_table(S, Y, indices=[True]), ConfigError, "integers, got True to True"),
        (lambda: example_table(S, Y, indices=[]), ConfigError, r"indices in 0\.\.1, .* got none"),
        (lambda: most_uncertain(torch.zeros(3), k=0), ConfigError, "most_uncertain: .*k >= 1"),
        (lambda: most_uncertain(torch.zeros(3), k=2.5), ConfigError, "an int, got k=2.5"),
        (
            lambda: table_by_class(S, Y, mutual_information=torch.rand(3)),
            ShapeError,
            "expected 2 values of mutual information, one for each label, got 3",
        ),
        (lambda: least_uncertain(S), ShapeError, "least_uncertain: .*uncertainty scores of shape"),
        (lambda: variance_parts(torch.zeros(3)), ShapeError, r"\(S, N, outputs\), got"),
        (lambda: variance_parts(torch.zeros(2, 0)), DataError, "at least one example"),
        (lambda: variance_parts(torch.zeros(2, 3), -1.0), DataError,
         "variances >= 0, got -1"),
        (lambda: variance_parts(torch.zeros(2, 3), torch.ones(4)), ShapeError,
         r"variances that broadcast to \(2, 3\), got \(4,\)"),
        (lambda: variance_parts(torch.tensor([[0.0, math.inf]])), DataError,
         "finite samples, got nan or infinity in row 1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("num_samples", [2, 4, 8, 16, 64])
def test_unbiased_mutual_information_is_that_of_the_posterior(num_samples):
    """Probabilities with a Dirichlet posterior, of which the mutual information is known."""
    concentration = torch.tensor([1.0, 1.0, 2.0])
    share = concentration / concentration.sum()
    expected = torch.special.digamma(concentration.sum() + 1)
    expected = expected - (share * torch.special.digamma(concentration + 1)).sum()
    true = float(torch.special.entr(share).sum() - expected)
    samples = torch.distributions.Dirichlet(concentration).sample((num_samples, 20_000))
    plain, unbiased = (bd.metrics.entropy_parts(samples, unbiased=u) for u in (False, True))
    assert float(plain.mutual_information.mean()) / true == pytest.approx(
        1 - 1 / num_samples, abs=0.02
    )
    assert float(unbiased.mutual_information.mean()) / true == pytest.approx(1.0, abs=0.025)
    variance = bd.metrics.variance_parts(samples, unbiased=True).epistemic_variance
    torch.testing.assert_close(variance, samples.var(0))


def test_unbiased_parts_of_one_sample_are_refused():
    for split, one in (
        (bd.metrics.entropy_parts, torch.full((1, 3, 2), 0.5)),
        (variance_parts, torch.ones(1, 3)),
    ):
        with pytest.raises(ConfigError, match="at least two samples for unbiased=True"):
            split(one, unbiased=True)
