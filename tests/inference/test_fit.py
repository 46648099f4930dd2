"""Laws of the training loop: what it minimises, what it records, and that nothing is lost."""

import os
import signal
import warnings

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import (
    BayesdropWarning,
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
)
from bayesdrop.inference import schedules
from tests.forked import run_code


def make_data(rows=120):
    x = torch.randn(rows, 6)
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0).long()


def make_bnn(rows=120, seed=3):
    torch.manual_seed(seed)
    network = nn.Sequential(
        bd.BetaBernoulliDropout(6), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)
    )
    return bd.BayesianNetwork(network, bd.Categorical(), num_data=rows)


def fit(bnn, data, **options):
    settings = {"epochs": 4, "batch_size": 32, "progress": False, "seed": 7}
    return bd.fit(bnn, data, **{**settings, **options})


def assert_same_bits(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_training_lowers_the_loss_and_records_nll_and_kl_apart():
    data = make_data(1000)
    result = fit(make_bnn(1000), data, epochs=15, learning_rate=1e-2, validation=data)
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    for record in result.history:
        assert record["loss"] == pytest.approx(record["nll"] + record["kl"], rel=1e-12)
        assert record["kl"] > 0 and len(record["units"]) == 1
        assert 0 <= record["val_error"] <= 100
    assert [record["epoch"] for record in result.history] == list(range(1, 16))


def test_a_network_without_bayesian_layers_has_no_kl():
    plain = bd.BayesianNetwork(nn.Linear(6, 2), bd.Categorical(), num_data=120)
    result = fit(plain, make_data())
    assert all(record["kl"] == 0 and record["units"] == [] for record in result.history)


def test_the_optimizer_is_replaceable_and_decays_network_weights_only():
    groups = []

    def factory(parameters):
        groups.extend(parameters)
        return torch.optim.SGD(parameters)

    bnn = make_bnn()
    bnn.likelihood = bd.Categorical()
    fit(bnn, make_data(), optimizer=factory, weight_decay=0.1, variational_learning_rate=0.5)
    weights, variational = groups
    assert (weights["weight_decay"], variational["weight_decay"]) == (0.1, 0.0)
    assert variational["initial_lr"] == 0.5
    assert {id(p) for p in variational["params"]} == {id(p) for p in bnn.network[0].parameters()}


def test_schedules_drive_rates_buffers_and_kl_weight():
    bnn = make_bnn()
    result = fit(
        bnn,
        make_data(),
        epochs=4,
        schedule=schedules.steps(2, factor=0.5),
        buffers={"temperature": schedules.linear(0.8, 0.2)},
        kl_weight=schedules.warm_up(0.5),
    )
    assert [record["learning_rate"] for record in result.history] == [1e-3, 1e-3, 5e-4, 5e-4]
    assert [record["kl_weight"] for record in result.history] == [0.5, 1.0, 1.0, 1.0]
    temperatures = [record["temperature"] for record in result.history]
    torch.testing.assert_close(torch.tensor(temperatures), torch.tensor([0.8, 0.6, 0.4, 0.2]))


def test_clip_norm_bounds_the_update():
    start, bnn = make_bnn(32), make_bnn(32)
    fit(
        bnn,
        make_data(32),
        epochs=1,
        clip_norm=1e-3,
        optimizer=torch.optim.SGD,
        learning_rate=1.0,
        variational_learning_rate=1.0,
        weight_decay=0.0,
    )
    moved = [(a - b).flatten() for a, b in zip(bnn.parameters(), start.parameters(), strict=True)]
    # One step of SGD with rate 1 moves by the clipped gradient.
    assert 0 < torch.cat(moved).norm() <= 1e-3 * (1 + 1e-6)


def test_a_fraction_holds_out_data_and_sets_num_data():
    bnn = make_bnn()
    data = make_data()
    result = fit(bnn, data, validation=0.25)
    assert bnn.num_data == 90
    assert "val_nll" in result.history[-1]
    still = {"validation": 0.25, "schedule": lambda epoch, epochs: 0.0, "epochs": 1}
    found = [fit(make_bnn(), data, seed=seed, **still).history[0]["val_nll"] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]  # the seed says which rows


def test_early_stopping_returns_the_best_weights():
    data = make_data()
    held_out = (data[0], 1 - data[1])  # learning makes this worse, so the first epoch is best
    states = []
    bnn = make_bnn()
    result = fit(
        bnn,
        data,
        epochs=50,
        learning_rate=1e-2,
        validation=held_out,
        patience=3,
        callbacks=[
            lambda b, record: states.append({k: v.clone() for k, v in b.state_dict().items()})
        ],
    )
    assert result.stopped_early and len(result.history) == result.best_epoch + 3
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, states[result.best_epoch - 1][name])


def test_of_equally_good_epochs_the_first_is_the_best():
    data = make_data()
    options = {"validation": data, "schedule": lambda epoch, epochs: 0.0, "patience": 2}
    result = fit(make_bnn(), data, epochs=9, **options)
    assert (result.best_epoch, len(result.history)) == (1, 3)


def test_a_callback_sees_every_record_and_can_stop():
    seen = []
    result = fit(
        make_bnn(), make_data(), callbacks=[lambda b, r: seen.append(r) or r["epoch"] == 2]
    )
    assert len(seen) == 2 and result.stopped_early


def test_five_and_five_epochs_are_bit_equal_to_ten(tmp_path):
    data, constant = make_data(), schedules.constant(1.0)
    options = {"schedule": constant, "validation": data, "patience": 9}
    whole = make_bnn()
    expected = fit(whole, data, epochs=10, **options)
    fit(make_bnn(), data, epochs=5, checkpoint_dir=tmp_path, **options)
    torch.manual_seed(999)  # a resumed run must not depend on the state it finds
    resumed = make_bnn(seed=5)
    result = fit(resumed, data, epochs=10, checkpoint_dir=tmp_path, **options)
    assert_same_bits(whole, resumed)
    keys = ("loss", "nll", "kl", "val_nll", "units")
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert [ours[key] for key in keys] == [theirs[key] for key in keys]


TRAIN = """
import os, signal, sys
import torch
torch.set_default_dtype(torch.float64)
from tests.inference.test_fit import fit, make_bnn, make_data
folder, kill_at = sys.argv[1], int(sys.argv[2])
torch.manual_seed(11)
data = make_data()
saves = 0
original = torch.save
def save(payload, file, **options):
    global saves
    saves += 1
    if saves == kill_at:
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(payload, file, **options)
torch.save = save
bnn = make_bnn()
fit(bnn, data, epochs=6, checkpoint_dir=folder)
original(bnn.state_dict(), folder + "/final.pt")
"""


def run_training(folder, kill_at):
    ended = run_code(TRAIN, folder.parent, [folder, kill_at])
    assert ended.error == ""
    return ended.status


def test_a_run_killed_during_a_save_ends_with_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert run_training(whole, kill_at=0) == 0
    assert run_training(broken, kill_at=3) == -signal.SIGKILL
    assert run_training(broken, kill_at=2) == -signal.SIGKILL
    leftovers = [name for name in os.listdir(broken) if name.startswith(".training")]
    assert len(leftovers) == 1  # the first one was swept away by the second session
    assert run_training(broken, kill_at=0) == 0
    expected = torch.load(whole / "final.pt", weights_only=True)
    for name, value in torch.load(broken / "final.pt", weights_only=True).items():
        assert torch.equal(value, expected[name]), name
    assert sorted(os.listdir(broken)) == ["final.pt", "training.pt"]


def test_resume_refuses_other_settings_and_other_networks(tmp_path):
    data = make_data()
    fit(make_bnn(), data, checkpoint_dir=tmp_path)
    before = (tmp_path / "training.pt").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"a run with learning_rate=0.5, got one with .*0.001"
    ):
        fit(make_bnn(), data, checkpoint_dir=tmp_path, learning_rate=0.5)
    other = bd.BayesianNetwork(nn.Linear(6, 2), bd.Categorical(), num_data=120)
    with pytest.raises(CheckpointError, match="same architecture"):
        fit(other, data, checkpoint_dir=tmp_path)
    assert (tmp_path / "training.pt").read_bytes() == before


@pytest.mark.parametrize("num_masks", [3, "exact"])
def test_several_masks_are_recorded_and_resumed_to_the_bit(num_masks, tmp_path):
    data, whole, halves = make_data(), make_bnn(), make_bnn()
    result = fit(whole, data, num_masks=num_masks)
    assert [record["num_masks"] for record in result.history] == [num_masks] * 4
    with pytest.raises(StopHereError):
        fit(halves, data, num_masks=num_masks, checkpoint_dir=tmp_path, callbacks=[stop_at_2])
    again = make_bnn()
    with pytest.raises(CheckpointError, match=f"num_masks=1, got one with num_masks={num_masks}"):
        fit(again, data, checkpoint_dir=tmp_path)
    fit(again, data, num_masks=num_masks, checkpoint_dir=tmp_path)
    assert_same_bits(whole, again)


class StopHereError(Exception):
    pass


def stop_at_2(bnn, record):
    if record["epoch"] == 3:
        raise StopHereError


def test_a_checkpoint_from_before_there_were_several_masks_had_one(tmp_path):
    data, path = make_data(), tmp_path / "training.pt"
    fit(make_bnn(), data, checkpoint_dir=tmp_path)
    payload = torch.load(path, weights_only=True)
    del payload["settings"]["num_masks"]
    torch.save(payload, path)
    assert len(fit(make_bnn(), data, checkpoint_dir=tmp_path).history) == 4
    with pytest.raises(CheckpointError, match="num_masks=2, got one with num_masks=1"):
        fit(make_bnn(), data, checkpoint_dir=tmp_path, num_masks=2)


def test_a_damaged_checkpoint_is_refused_and_left_alone(tmp_path):
    data = make_data()
    fit(make_bnn(), data, checkpoint_dir=tmp_path)
    path = tmp_path / "training.pt"
    path.write_bytes(path.read_bytes()[:1000])
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="expected a whole file written by bayesdrop"):
        fit(make_bnn(), data, epochs=6, checkpoint_dir=tmp_path)
    assert path.read_bytes() == before


def test_nan_pixels_are_named_and_the_weights_kept():
    x, y = make_data(32)
    x[5, 2] = float("nan")
    bnn = make_bnn(rows=32)
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    with pytest.raises(DataError, match="NaN or infinity in row .* at step 1"):
        fit(bnn, (x, y))
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("site", ["0.pi", "network.1.weight", "obs"])
def test_divergence_names_the_step_and_the_site(site):
    bnn = make_bnn()
    with torch.no_grad():
        if site == "0.pi":
            bnn.network[0].prior_concentration1.fill_(float("inf"))
        elif site == "obs":
            bnn.network[1].weight.fill_(1e308)
        else:
            bnn.network[1].weight[0, 0] = float("nan")
    with pytest.raises(DivergenceError, match=rf"at step 1, site '{site}'"):
        fit(bnn, make_data())


def test_a_wrong_num_data_is_warned_about():
    with pytest.warns(BayesdropWarning, match="num_data=100, but there are 120"):
        fit(make_bnn(rows=100), make_data())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "expected epochs >= 1"),
        ({"batch_size": 0}, "expected batch_size >= 1"),
        ({"patience": 3}, "validation data for early stopping"),
        ({"monitor": "accuracy"}, "val_nll, val_error or val_rmse"),
        ({"monitor": "val_rmse", "validation": 0.2}, "val_error is for classifiers"),
        ({"validation": 1.5}, "a validation fraction"),
        ({"kl_weight": 0.0}, "kl_weight > 0"),
        ({"schedule": (1.5,)}, "fractions of the run"),
        ({"num_masks": 0}, "num_masks >= 1 or 'exact'"),
        ({"num_masks": 2, "objective": lambda *_: None}, "num_masks=1 with an objective of your"),
    ],
)
def test_senseless_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        fit(make_bnn(), make_data(), **options)


def test_frozen_networks_are_refused():
    bnn = make_bnn()
    bnn.requires_grad_(False)
    with pytest.raises(ConfigError, match="expected parameters to train"):
        fit(bnn, make_data())


def test_labels_out_of_range_are_refused():
    x, y = make_data()
    with pytest.raises(DataError, match=r"labels in 0..1, got labels from 0 to 7"):
        fit(make_bnn(), (x, torch.where(y == 1, 7, 0)))


def test_targets_are_required():
    x, _ = make_data()
    with pytest.raises(DataError, match="expected inputs and targets"):
        fit(make_bnn(), x)


def test_progress_and_tensorboard_show_the_run(tmp_path, capfd, monkeypatch):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # there are bars on terminals alone
        monkeypatch.setenv(name, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own deprecations
        data = make_data()
        history = fit(
            make_bnn(), data, progress=True, tensorboard=tmp_path, validation=data
        ).history
        events = event_accumulator.EventAccumulator(str(tmp_path)).Reload().Scalars("nll")
    assert "val error" in capfd.readouterr().err
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert [event.value for event in events] == pytest.approx([r["nll"] for r in history])
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="TensorBoard folder .*can be written"):
        fit(make_bnn(), data, tensorboard=tmp_path / "file" / "x")


def test_regression_is_fitted_and_reports_rmse():
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = x[:, 0] - 2 * x[:, 1] + 0.1 * torch.randn(200)
    network = nn.Sequential(bd.BetaBernoulliDropout(3), nn.Linear(3, 1))
    bnn = bd.BayesianNetwork(network, bd.Gaussian("learned"), num_data=200)
    result = fit(bnn, (x, y), epochs=60, learning_rate=3e-2, validation=(x, y))
    assert result.history[-1]["val_rmse"] < 0.5 * result.history[0]["val_rmse"]


def test_the_rmse_of_several_outputs_is_over_all_of_them():
    x, y = torch.randn(20, 3), torch.randn(20, 2)
    bnn = bd.BayesianNetwork(nn.Linear(3, 2), bd.Gaussian("learned", num_outputs=2), num_data=20)
    found = fit(bnn, (x, y), epochs=1, validation=(x, y)).history[0]["val_rmse"]
    expected = (bnn.eval()(x) - y).square().mean().sqrt()
    assert found == pytest.approx(expected.item())


def test_no_weight_is_left_in_the_range_of_denormals():
    bnn = make_bnn()
    weight = next(p for p in bnn.network.parameters() if p.ndim == 2)

    def decay(bnn, record):
        with torch.no_grad():
            weight[0] = 1e-40

    fit(bnn, make_data(), epochs=1, callbacks=(decay,))
    assert bool((weight[0] == 0.0).all()) and bool((weight[1] != 0.0).any())
