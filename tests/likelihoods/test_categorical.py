"""Laws of classes in dimension 1: torch's shapes, missing labels count nowhere."""

import math

import pyro
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.inference.validation import validate

ROWS, CLASSES, HEIGHT, WIDTH = 6, 3, 4, 5


def dense_network(ignore_index=-100):
    network = nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.ReLU(),
        bd.BetaBernoulliDropout(4, unit_dim=-3),
        nn.Conv2d(4, CLASSES, 1),
    )
    return bd.BayesianNetwork(network, bd.Categorical(ignore_index=ignore_index), num_data=60)


def images():
    return torch.randn(ROWS, 2, HEIGHT, WIDTH)


def labels(ignore_index=None):
    y = torch.randint(CLASSES, (ROWS, HEIGHT, WIDTH))
    if ignore_index is not None:
        y[torch.rand(y.shape) < 0.4] = ignore_index
    return y


@pytest.mark.parametrize("ignore_index", [-100, 255, 1])
@pytest.mark.parametrize("shape", [(), (HEIGHT,), (HEIGHT, WIDTH)])
def test_nll_and_log_prob_are_torchs_cross_entropy(shape, ignore_index):
    likelihood = bd.Categorical(ignore_index=ignore_index)
    output, y = torch.randn(ROWS, CLASSES, *shape), torch.randint(CLASSES, (ROWS, *shape))
    y[:2] = ignore_index
    each = F.cross_entropy(output, y, reduction="none", ignore_index=ignore_index)
    torch.testing.assert_close(likelihood.nll(output, y), each.sum())
    log_prob = likelihood.distribution(output).log_prob(likelihood.target(output, y))
    torch.testing.assert_close(log_prob, -each.reshape(ROWS, -1).sum(1))
    assert bool((log_prob[:2] == 0).all())
    torch.testing.assert_close(likelihood.log_prob(output, y), log_prob)


def test_moments_are_the_softmax_over_dimension_1():
    output = torch.randn(ROWS, CLASSES, HEIGHT)
    probabilities, variance = bd.Categorical().moments(output)
    torch.testing.assert_close(probabilities, output.softmax(1))
    assert variance is None
    many = torch.randn(300, CLASSES)  # which go another way
    torch.testing.assert_close(bd.Categorical().moments(many)[0], many.softmax(1))


def test_samples_are_classes_and_never_missing():
    likelihood = bd.Categorical(ignore_index=255)
    y = likelihood.distribution(torch.randn(ROWS, CLASSES, HEIGHT)).expand((9, ROWS)).sample()
    assert y.shape == (9, ROWS, HEIGHT)
    assert bool(((y >= 0) & (y < CLASSES)).all())


def test_missing_labels_change_neither_the_loss_nor_its_gradient():
    """Whatever the network says where nothing was observed."""
    y, likelihood = labels(255), bd.Categorical(ignore_index=255)
    output = torch.randn(ROWS, CLASSES, HEIGHT, WIDTH, requires_grad=True)
    likelihood.nll(output, y).backward()
    missing = (y == 255)[:, None].expand_as(output)
    assert bool((output.grad[missing] == 0).all()) and bool((output.grad[~missing] != 0).all())


@pytest.mark.parametrize("ignore_index", [None, 255])
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_dense_targets_fit_into_the_data_plate(elbo, particles, ignore_index):
    bnn = dense_network(255 if ignore_index else -100)
    x, y = images(), labels(ignore_index)
    estimator = elbo(num_particles=particles, vectorize_particles=particles > 1)
    loss = estimator.differentiable_loss(bnn.model, bnn.guide, x, y)
    assert math.isfinite(loss.detach())
    trace = pyro.poutine.trace(bnn.model).get_trace(x, y)
    trace.compute_log_prob()
    assert trace.nodes["obs"]["fn"].batch_shape == (ROWS,)
    assert trace.nodes["obs"]["log_prob"].shape == (ROWS,)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_dense_labels(parallel):
    bnn = dense_network().eval()
    drawn = Predictive(bnn.model, guide=bnn.guide, num_samples=7, parallel=parallel)(images())
    assert drawn["obs"].shape == (7, ROWS, HEIGHT, WIDTH)


def test_closed_form_loss_is_the_mean_field_elbo():
    bnn, x, y = dense_network(255), images(), labels(255)
    pyro.set_rng_seed(3)
    loss = bnn.loss(x, y).loss
    pyro.set_rng_seed(3)
    expected = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y)
    torch.testing.assert_close(loss, expected)


def test_prediction_has_classes_in_dimension_1_and_a_number_for_each_pixel():
    bnn, x = dense_network(), images()
    prediction = bd.predict(bnn, (x, labels()), num_samples=8, batch_size=4)
    assert prediction.mean.shape == (ROWS, CLASSES, HEIGHT, WIDTH)
    assert prediction.samples.shape == (8, ROWS, CLASSES, HEIGHT, WIDTH)
    torch.testing.assert_close(prediction.mean.sum(1), torch.ones(ROWS, HEIGHT, WIDTH))
    torch.testing.assert_close(prediction.confidence, prediction.mean.amax(1))
    torch.testing.assert_close(
        prediction.predictive_entropy, torch.special.entr(prediction.mean).sum(1)
    )
    for name in ("expected_entropy", "mutual_information", "energy", "logit_norm"):
        assert getattr(prediction, name).shape == (ROWS, HEIGHT, WIDTH)


def test_a_pixel_of_a_dense_prediction_is_the_prediction_of_that_pixel():
    """Through 1 x 1 convolutions an image is as many rows as it has pixels."""
    bnn, x = dense_network(), images()
    whole = bd.predict(bnn, x, num_samples=5, seed=0)
    pixels = x.movedim(1, -1).reshape(-1, 2, 1, 1)
    single = bd.predict(bnn, pixels, num_samples=5, seed=0)
    for name in ("confidence", "mutual_information", "energy", "logit_norm"):
        torch.testing.assert_close(
            getattr(whole, name).flatten(), getattr(single, name).flatten(), msg=name
        )


def test_missing_labels_count_in_no_figure():
    """Evaluation sees the labelled pixels, each an example."""
    bnn, x, y = dense_network(255), images(), labels(255)
    result = bd.evaluate(bnn, (x, y), num_samples=8)
    probabilities, flat = bnn.likelihood.flatten_labels(result.prediction.mean, y)
    seen = y.flatten() != 255
    expected = result.prediction.mean.movedim(1, -1).reshape(-1, CLASSES)[seen]
    torch.testing.assert_close(probabilities, expected)
    assert torch.equal(flat, y.flatten()[seen])
    wrong = (expected.argmax(1) != flat).double().mean()
    assert result.error == pytest.approx(100 * float(wrong))
    nll = -expected.gather(1, flat[:, None]).log().sum() / ROWS
    assert result.nll == pytest.approx(float(nll))


def test_validation_counts_labelled_pixels():
    bnn, x, y = dense_network(255), images(), labels(255)
    figures = validate(bnn, (x, y), batch_size=4)
    output = bnn.eval()(x).detach()
    seen = y != 255
    wrong = (output.argmax(1) != y)[seen].double().mean()
    assert figures["val_error"] == pytest.approx(100 * float(wrong))
    nll = F.cross_entropy(output, y, reduction="sum", ignore_index=255) / ROWS
    assert figures["val_nll"] == pytest.approx(float(nll))


def test_fit_trains_a_dense_network_with_missing_labels():
    x = torch.randn(60, 2, HEIGHT, WIDTH)
    y = (x[:, 0] > 0).long()
    hidden = y.clone()
    hidden[torch.rand(y.shape) < 0.5] = -100
    bnn = dense_network()
    result = bd.fit(bnn, (x, hidden), epochs=40, batch_size=20, learning_rate=0.02, progress=False)
    assert result.history[-1]["nll"] < 0.5 * result.history[0]["nll"]
    assert validate(bnn, (x, y))["val_error"] < 10


def test_no_label_at_all_is_an_error_and_no_nan():
    bnn, x = dense_network(), images()
    y = torch.full((ROWS, HEIGHT, WIDTH), -100)
    with pytest.raises(DataError, match="at least one label, got 6 examples"):
        validate(bnn, (x, y))
    with pytest.raises(DataError, match="at least one label, got 6 examples"):
        bd.evaluate(bnn, (x, y))


@pytest.mark.parametrize("ignore_index", [1.0, None, True])
def test_a_label_for_missing_ones_is_an_integer(ignore_index):
    with pytest.raises(ConfigError, match="Categorical: expected an integer ignore_index"):
        bd.Categorical(ignore_index=ignore_index)


WEIGHTS = (0.5, 2.0, 0.0)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_dim", [1, -1])
def test_weighted_objective_is_torchs_cross_entropy(weights, smoothing, class_dim):
    likelihood = bd.Categorical(
        ignore_index=255, class_dim=class_dim, class_weights=weights, label_smoothing=smoothing
    )
    output, y = torch.randn(ROWS, CLASSES, HEIGHT), torch.randint(CLASSES, (ROWS, HEIGHT))
    y[:2] = 255
    each = F.cross_entropy(
        output,
        y,
        None if weights is None else torch.tensor(weights),
        ignore_index=255,
        reduction="none",
        label_smoothing=smoothing,
    )
    given = output if class_dim == 1 else output.movedim(1, -1)
    torch.testing.assert_close(likelihood.nll(given, y), each.sum())
    torch.testing.assert_close(likelihood.log_prob(given, y), -each.sum(1))
    fn = likelihood.distribution(given)
    torch.testing.assert_close(fn.log_prob(likelihood.target(given, y)), -each.sum(1))
    several = likelihood.distribution(given.expand(4, *given.shape), batch_ndim=2)
    torch.testing.assert_close(several.expand((4, ROWS)).log_prob(y)[3], -each.sum(1))
    plain = -F.cross_entropy(output, y, ignore_index=255, reduction="none")
    torch.testing.assert_close(likelihood.label_log_prob(given, y), plain)
    torch.testing.assert_close(likelihood.log_density(given, y), plain.sum(1))
    assert likelihood.is_density == (weights is None and not smoothing)


def test_what_is_reported_knows_no_weights():
    """Training minimises the weighted NLL; evaluation and validation report that of the labels."""
    plain, x = dense_network(), images()
    y = labels(-100)
    likelihood = bd.Categorical(class_weights=WEIGHTS, label_smoothing=0.1)
    weighted = bd.BayesianNetwork(plain.network, likelihood, num_data=60)
    expected = bd.evaluate(plain, (x, y), sample=False)
    assert bd.evaluate(weighted, (x, y), sample=False).nll == pytest.approx(expected.nll)
    assert validate(weighted, (x, y))["val_nll"] == pytest.approx(expected.nll)
    assert float(weighted.eval().loss(x, y).nll.detach()) != pytest.approx(10 * expected.nll)


def test_leave_one_out_of_a_weighted_likelihood_is_refused():
    bnn = bd.BayesianNetwork(
        dense_network().network, bd.Categorical(label_smoothing=0.1), num_data=ROWS
    )
    with pytest.raises(ConfigError, match="loo: expected a likelihood that is a density of y"):
        bd.loo(bnn, (images(), labels()))
    with pytest.raises(ConfigError, match="log_likelihood of to_inference_data: expected a likel"):
        bd.to_inference_data(bnn, images(), labels(), num_samples=2, num_masks=2)
    found = bd.to_inference_data(bnn, images(), num_samples=2, num_masks=2)
    assert not hasattr(found, "log_likelihood")


def test_weights_are_saved_with_the_network_and_follow_its_device():
    likelihood = bd.Categorical(class_weights=WEIGHTS)
    assert likelihood.state_dict()["class_weights"].tolist() == list(WEIGHTS)
    assert bd.Categorical().state_dict() == {}
    assert likelihood.to("meta").class_weights.device.type == "meta"
    assert "class_weights=[0.5, 2.0, 0.0]" in repr(bd.Categorical(class_weights=WEIGHTS))


@pytest.mark.parametrize(
    "options",
    [
        {"class_dim": 0},
        {"class_dim": 1.0},
        {"label_smoothing": 1.0},
        {"label_smoothing": True},
        {"label_smoothing": math.nan},
        {"class_weights": [1.0, -1.0]},
        {"class_weights": [0.0, 0.0]},
        {"class_weights": [1.0, math.inf]},
        {"class_weights": [[1.0, 2.0]]},
        {"class_weights": "balanced"},
        {"class_weights": 1.0},
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        bd.Categorical(**options)


@pytest.mark.parametrize(
    ("options", "output", "y", "message"),
    [
        ({"class_weights": WEIGHTS}, (2, 4), (2,), "a weight for each of 4 classes, got 3"),
        ({"class_dim": -1}, (2, 3, 5), (2, 5), r"shape \(2, 3\).*leave class_dim out"),
        ({"class_dim": 2}, (2, 3), (2,), "with classes in dimension 2, got"),
        ({"class_dim": -2}, (2, 3), (2,), "with classes in dimension -2, got"),
        ({"class_dim": -1}, (2, 3, 1), (2, 3), r"\(N, ..., classes\).*every loss is 0"),
    ],
)
def test_outputs_that_do_not_fit_are_named(options, output, y, message):
    with pytest.raises((ShapeError, DataError), match=message):
        bd.Categorical(**options).nll(torch.zeros(output), torch.zeros(y).long())


@pytest.mark.parametrize("shape", [(5,), (5, 1), ()])
def test_prediction_too_refuses_an_output_without_classes(shape):
    with pytest.raises(ShapeError, match="Categorical: expected network output of shape"):
        bd.Categorical().moments(torch.zeros(shape))


def test_a_softmax_in_any_dimension_is_doubted():
    output = torch.randn(ROWS, HEIGHT, CLASSES).softmax(-1)
    assert "leave out the network's own" in bd.Categorical(class_dim=-1).doubt(output)
    assert bd.Categorical().doubt(output) is None


@pytest.mark.parametrize(
    ("output", "y", "message"),
    [
        ((2, 4, 3), torch.zeros(2, 4).long(), r"shape \(2, 3\).*movedim\(-1, 1\)"),
        ((2, 3, 4), torch.zeros(2).long(), r"shape \(2, 4\), got torch.int64 of shape \(2,\)"),
        ((2, 3, 4), torch.full((2, 4), 255), r"in 0\.\.2, got .*-100 here, see ignore_index"),
        ((2, 3), torch.tensor([-1, 0]), r"labels from -1 to 0"),
    ],
)
def test_labels_that_do_not_fit_are_named(output, y, message):
    with pytest.raises(DataError, match=message):
        bd.Categorical().nll(torch.zeros(output), y)


def test_truth_values_are_labels_of_two_classes_alone():
    truth, law = torch.tensor([True, False, True]), bd.Categorical()
    output = torch.randn(3, 2)
    torch.testing.assert_close(law.nll(output, truth), law.nll(output, truth.long()))
    with pytest.raises(DataError, match="got torch.bool of shape .3,.*the labels of two classes"):
        law.nll(torch.randn(3, 4), truth)


@pytest.mark.parametrize("ignore_index", [-1, -100])
def test_a_negative_missing_label_is_no_label_of_unsigned_targets(ignore_index):
    likelihood = bd.Categorical(ignore_index=ignore_index)
    target = torch.tensor([0, 1, 256 + ignore_index], dtype=torch.uint8)
    with pytest.raises(DataError, match=rf"labels from 0 to {256 + ignore_index}"):
        likelihood.log_prob(torch.zeros(3, 10), target)
    seen = bd.Categorical(ignore_index=255).log_prob(
        torch.zeros(2, 10), target.new_tensor([1, 255])
    )
    torch.testing.assert_close(seen, torch.tensor([-math.log(10), 0.0]))
