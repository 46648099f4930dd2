"""Private training is ordinary training with clipped gradients, Poisson samples and noise."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import CheckpointError, ConfigError, DataError
from bayesdrop.inference.private import Private, PrivateSteps, private_steps
from tests.inference.test_fit import assert_same_bits

N = 40
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = (X.sum(1) > 0).long()


def program(*layers, dropout=True):
    torch.manual_seed(0)
    masks = [bd.BetaBernoulliDropout(6)] if dropout else []
    return bd.BayesianNetwork(
        nn.Sequential(nn.Linear(4, 6), *layers, nn.Tanh(), *masks, nn.Linear(6, 2)),
        bd.Categorical(),
        N,
    )


def fit(bnn, private, data=(X, Y), **options):
    options = {"epochs": 2, "batch_size": 10, "progress": False, "seed": 0, **options}
    return bd.fit(bnn, data, private=private, **options)


def gradient_of(steps, bnn, x, y):
    bnn.zero_grad()
    (steps(bnn, x, y).loss / N).backward()


def noisy(**options):
    return Private(**{"clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-3, **options})


def test_without_noise_and_bounds_it_is_full_batch_gradient_descent():
    ours, plain = program(dropout=False), program(dropout=False)
    options = {"batch_size": N, "optimizer": torch.optim.SGD, "epochs": 3}
    found = fit(ours, noisy(clip_norm=math.inf, noise_multiplier=0.0), **options)
    fit(plain, None, **options)
    for parameter, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)
    assert found.privacy.epsilon == math.inf
    assert found.privacy.steps == 3


def test_the_divergence_is_neither_clipped_nor_noisy():
    bnn = program()
    steps = PrivateSteps(noisy(noise_multiplier=0.0), bnn, (X, Y), 10, 1, 1)
    gradient_of(steps, bnn, X[:0], Y[:0])
    expected = torch.autograd.grad(
        bd.kl_divergence(bnn.network) / N, list(bnn.parameters()), allow_unused=True
    )
    for parameter, gradient in zip(bnn.parameters(), expected, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter.grad, gradient)


def test_one_example_moves_the_gradient_by_at_most_the_clip_norm():
    bnn = program(dropout=False)
    steps = PrivateSteps(noisy(noise_multiplier=0.0, clip_norm=0.1), bnn, (X, Y), 10, 1, 1)

    def gradient(rows):
        gradient_of(steps, bnn, X[rows] * 100, Y[rows])
        return torch.cat([p.grad.flatten() for p in bnn.parameters()])

    with_all = gradient(torch.arange(8))
    for left_out in range(8):
        rows = torch.tensor([n for n in range(8) if n != left_out])
        assert float((with_all - gradient(rows)).norm()) <= 0.1 / 10 * (1 + 1e-9)


def test_the_noise_is_normal_with_the_deviation_it_should_have():
    bnn = program(nn.Linear(6, 40), nn.Linear(40, 6), dropout=False)
    steps = PrivateSteps(noisy(noise_multiplier=3.0, clip_norm=0.5), bnn, (X, Y), 10, 1, 1)
    steps.generator.manual_seed(3)
    gradient_of(steps, bnn, X[:0], Y[:0])
    values = torch.cat([p.grad.flatten() for p in bnn.parameters()]) * 10 / (3.0 * 0.5)
    assert kstest(values.numpy(), "norm").pvalue > 2e-5


def test_the_loss_is_that_of_the_batch_under_as_many_masks():
    network = nn.Sequential(bd.nn.NeuralPlasticityDropout(4, init_score=0.1), nn.Linear(4, 2))
    bnn = bd.BayesianNetwork(network, bd.Categorical(), N)
    steps = PrivateSteps(noisy(), bnn, (X, Y), 10, 1, "exact")
    ours, plain = steps(bnn, X[:7], Y[:7]), bnn.loss(X[:7], Y[:7], num_masks="exact")
    torch.testing.assert_close(ours.loss, plain.loss)


def test_each_batch_is_a_poisson_sample():
    steps = PrivateSteps(noisy(seed=0), program(), (X, torch.arange(N)), 10, 1, 1)
    assert steps.steps_per_epoch == 4
    chosen = torch.zeros(N)
    sizes = []
    for _ in range(100):
        for _, y in steps.batches:
            assert len(set(y.tolist())) == len(y)
            chosen[y] += 1
            sizes.append(len(y))
    # 400 draws with probability 1/4: mean 100, deviation 8.7; sizes have mean 10, deviation 2.7.
    assert bool(((chosen - 100).abs() < 4.5 * 8.7).all())
    assert abs(torch.tensor(sizes).double().std() - math.sqrt(7.5)) < 0.5


def test_epsilon_is_met_and_told_everywhere(tmp_path):
    bnn = program()
    found = fit(bnn, Private(clip_norm=0.5, epsilon=4.0, delta=1e-3), epochs=2)
    assert found.privacy.steps == 8 and 0.98 * 4.0 <= found.privacy.epsilon <= 4.0
    assert found.privacy.epsilon <= found.privacy.epsilon_rdp
    assert found.privacy.secret_seed
    assert bnn.privacy == found.privacy
    assert "differential privacy" in found.privacy.promise
    bd.save(bnn, tmp_path / "model.pt")
    assert bd.load(program(), tmp_path / "model.pt").privacy == found.privacy
    fit(bnn, None, epochs=1)
    assert bnn.privacy is None


def test_a_seed_that_others_may_know_is_told():
    found = fit(program(), noisy(seed=1), epochs=1)
    assert found.privacy.promise.endswith("if the noise's seed is secret")


def test_the_noise_is_a_secret_unless_it_has_a_seed():
    def gradient(**options):
        torch.manual_seed(0)
        bnn = program(dropout=False)
        gradient_of(PrivateSteps(noisy(**options), bnn, (X, Y), 10, 1, 1), bnn, X, Y)
        return bnn.network[0].weight.grad

    assert not torch.equal(gradient(), gradient())
    assert torch.equal(gradient(seed=1), gradient(seed=1))
    assert not torch.equal(gradient(seed=1), gradient(seed=2))


def test_a_resumed_run_has_the_bits_and_the_account_of_an_uninterrupted_one(tmp_path):
    whole = program()
    expected = fit(whole, noisy(seed=7), epochs=4, schedule=[2])
    for epochs in (2, 4):
        bnn = program()
        found = fit(bnn, noisy(seed=7), epochs=epochs, schedule=[2], checkpoint_dir=tmp_path)
    assert_same_bits(bnn, whole)
    assert found.privacy == expected.privacy


def test_a_run_resumes_only_under_the_same_promise(tmp_path):
    fit(program(), noisy(), epochs=1, checkpoint_dir=tmp_path)
    for other in (noisy(clip_norm=0.6), noisy(noise_multiplier=0.9), noisy(delta=1e-4), None):
        with pytest.raises(CheckpointError, match="private"):
            fit(program(), other, epochs=2, checkpoint_dir=tmp_path)


class Rows(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, row):
        return X[row], Y[row]


@pytest.mark.parametrize("data", [TensorDataset(X, Y), Rows(), (X.numpy(), Y.numpy())])
def test_data_sets_give_the_batches_of_tensors(data):
    batches = [PrivateSteps(noisy(seed=7), program(), d, 1, 1, 1).batches for d in ((X, Y), data)]
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_pruned_units_may_leave_training():
    bnn = program()
    layer = bnn.network[2]
    layer.set_posterior(torch.tensor([1e-4] * 3 + [10.0] * 3))
    assert layer.kept().sum() == 3
    fit(bnn, noisy(), epochs=1, compact_every=1)
    before = bnn.network[0].weight.detach().clone()
    fit(bnn, noisy(), epochs=2, compact_every=1)
    moved = (bnn.network[0].weight != before).any(1)
    assert moved[3:].all()


def test_num_masks_and_a_regression_train():
    bnn = bd.BayesianNetwork(
        nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 1)), bd.Gaussian(), N
    )
    found = fit(bnn, noisy(), (X, X[:, :1]), epochs=1, num_masks=2)
    assert math.isfinite(found.history[-1]["loss"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"patience": 1, "validation": (X, Y)}, "early stopping|best epoch"),
        ({"validation": 0.2}, "held out of the private data"),
        ({"objective": lambda bnn, x, y: bnn.loss(x, y)}, "sum over examples"),
        ({"clip_norm": 1.0}, "clips each example"),
        ({"autocast": torch.bfloat16}, "own dtype"),
        ({"distributed": True}, "one process"),
    ],
)
def test_what_would_break_the_promise_is_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        fit(program(), noisy(), **options)


def test_layers_that_mix_examples_are_refused_unless_frozen():
    bnn = program(nn.BatchNorm1d(6))
    with pytest.raises(ConfigError, match="normalises an example by the others"):
        fit(bnn, noisy())
    bnn.network[1].eval()
    fit(bnn, noisy(), epochs=1)
    images = nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten())
    with pytest.raises(ConfigError, match="keeps statistics of the data"):
        fit(bd.BayesianNetwork(images, bd.Categorical(), N), noisy())


def test_a_loader_is_refused():
    with pytest.raises(DataError, match="same probability"):
        fit(program(), noisy(), DataLoader(TensorDataset(X, Y), 10))


def test_delta_must_not_allow_to_publish_an_example():
    with pytest.raises(ConfigError, match="delta < 1 / N"):
        fit(program(), noisy(delta=0.05))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epsilon": 1.0}, "one of epsilon and noise_multiplier"),
        ({"noise_multiplier": None}, "one of epsilon and noise_multiplier"),
        ({"noise_multiplier": None, "epsilon": 0.0}, "epsilon > 0"),
        ({"noise_multiplier": None, "epsilon": 1e3}, "at most 50"),
        ({"noise_multiplier": -1.0}, "noise_multiplier >= 0"),
        ({"clip_norm": math.inf}, "finite clip_norm"),
        ({"clip_norm": 0.0}, "finite clip_norm"),
        ({"delta": 1.0}, "0 < delta < 1"),
        ({"seed": 1.5}, "an int"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        noisy(**options)


def test_other_settings_are_refused():
    with pytest.raises(ConfigError, match="bd.inference.private.Private"):
        private_steps(3.0, program(), (X, Y), 10, 1, 1)
