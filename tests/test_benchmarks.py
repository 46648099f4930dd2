"""The benchmarks add to their result files and lose nothing that is there."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by name, and forget it again."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    known = set(sys.modules)

    def load(name):
        return __import__(name)

    yield load
    for name in set(sys.modules) - known:
        if not name.startswith(("bayesdrop", "torch", "matplotlib")):
            monkeypatch.delitem(sys.modules, name)


def test_a_recipe_keeps_the_runs_of_its_other_seeds(script):
    mnist = script("mnist")
    earlier = {
        "command": "first",
        "settings": {"epochs": 3},
        "runs": [{"seed": 0, "error": 1.0}, {"seed": 1, "error": 2.0}],
    }
    new = [{"seed": 1, "error": 3.0, "command": "second"}]
    assert mnist.merged(earlier, {"epochs": 3}, new) == [
        {"seed": 0, "error": 1.0, "command": "first"},
        {"seed": 1, "error": 3.0, "command": "second"},
    ]
    assert mnist.merged(earlier, {"epochs": 4}, new) == new
    assert mnist.merged(None, {"epochs": 3}, new) == new


def test_a_candidate_is_replaced_by_the_same_one_only(script):
    nested = script("nested")
    run = {"network": "n", "data": "d", "method": "vnd", "seed": 0, "epochs": 3}
    earlier = [run, {**run, "epochs": 4}, {**run, "full_prob": 0.5}]
    again = {**run, "full_prob": None, "area": 90.0}
    assert nested.added(earlier, [again]) == [*earlier[1:], again]


@pytest.mark.parametrize("method", ["vnd", "vnd-shared", "nested-uniform", "vnd-bayesian"])
def test_trainings_with_other_settings_have_other_files(script, method):
    nested = script("nested")
    settings = {"network": "lenet-500-300", "data": "mnist", "epochs": 2, "validation": 0}
    settings |= {"order_kl_scale": None, "weight_kl_scale": 0.1, "full_prob": None}

    def name(**changes):
        return nested.name_of(method, None, 0, SimpleNamespace(**{**settings, **changes}))

    changed = {
        "epochs": 3,
        "validation": 100,
        "order_kl_scale": 0.5 if method != "nested-uniform" else None,
        "weight_kl_scale": 0.2 if method == "vnd-bayesian" else 0.1,
        "full_prob": 0.5 if method == "vnd-shared" else None,
    }
    others = {name(**{key: value}) for key, value in changed.items() if value != settings[key]}
    assert name() not in others
    assert len(others) == sum(value != settings[key] for key, value in changed.items())


def test_an_auto_encoder_is_replaced_by_the_same_one_only(script):
    ibp_vae = script("ibp_vae")
    run = {"method": "s-ibp", "seed": 0, "mode": "test", "epochs": 3, "milestones": [0.5]}
    run |= {"decay": 0.3, "stick_learning_rate": 0.01}
    earlier = [run, {**run, "method": "plain"}, {**run, "epochs": 4}, {**run, "milestones": [0.6]}]
    again = {**run, "final_loss": 90.0}
    assert ibp_vae.added(earlier, [again]) == [*earlier[1:], again]


def test_a_regression_is_replaced_by_the_same_one_only(script):
    uci = script("uci")
    run = {"set": "yacht", "epochs": 4, "num_samples": 10, "method": "concrete", "split": 0}
    run |= {"rmse": 1.0, "rmse_mean_mask": 1.0, "log_likelihood": -1.0}
    earlier = [run, {**run, "split": 1}, {**run, "epochs": 8}, {**run, "method": "mc-dropout"}]
    again = {**run, "rmse": 3.0}
    assert uci.added(earlier, [again]) == [*earlier[1:], again]


def test_means_over_splits_are_of_one_setting(script):
    uci = script("uci")
    run = {"set": "yacht", "epochs": 4, "num_samples": 10, "method": "concrete", "split": 0}
    run |= {"rmse": 1.0, "rmse_mean_mask": 2.0, "log_likelihood": -1.0}
    runs = [run, {**run, "split": 1, "rmse": 3.0}, {**run, "epochs": 8, "rmse": 9.0}]
    short, long = uci.summary([*runs, {**run, "set": "boston"}])[1:]
    assert short["set"] == long["set"] == "yacht"
    assert short["epochs"] == 4
    assert short["methods"]["concrete"]["rmse"] == [2.0, 1.0]
    assert short["methods"]["concrete"]["splits"] == 2
    assert long["methods"]["concrete"]["rmse"][0] == 9.0
    assert short["differences"] == {}


def test_methods_are_compared_on_the_same_splits(script):
    uci = script("uci")
    run = {"set": "yacht", "epochs": 4, "num_samples": 10, "method": "concrete"}
    run |= {"rmse_mean_mask": 2.0, "log_likelihood": -1.0}
    runs = [{**run, "split": split, "rmse": 1.0 + split} for split in range(3)]
    runs += [{**run, "method": "mc-dropout", "split": s, "rmse": 2.0 * s} for s in (0, 2)]
    (row,) = uci.summary(runs)
    assert row["differences"]["concrete"]["rmse"] == [0.0, 1.0]
    assert row["differences"]["concrete"]["log_likelihood"] == [0.0, 0.0]


def test_results_hold_no_path_of_a_machine():
    for path in (BENCHMARKS / "results").glob("*.json"):
        assert re.search(r'[ "=]/\w+/', path.read_text()) is None, path


def test_medians_take_runs_of_earlier_versions(script):
    mnist = script("mnist")
    run = {key: {"mean_mask": 1.0} for key in ("error", "nll", "brier", "ece")}
    run |= {"minutes": 2.0, "units": [3, 4], "flops_speedup": 2.0, "params": 7, "per_input": None}
    run["ood_by_method"] = {"mean_mask": {"fashion-mnist": {"entropy": {"auroc": 0.9}}}}
    median = mnist.median_of([run, {**run, "weights": [], "units": [5, 8]}])
    assert median["units"] == [4, 6]
    assert "compression" not in median
