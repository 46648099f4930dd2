"""Runs that an earlier version of the package saved still load, and give the same outputs.

``tests/data/old_runs`` holds folders of ``bayesdrop train`` as they were before the package was
rearranged, for a network small enough to keep, each with what that version computed from it.
"""

import dataclasses
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.networks import registry
from bayesdrop.recipes import load_run, run_recipe
from bayesdrop.recipes.folder import claim
from bayesdrop.recipes.recipe import Recipe

ROOT = Path(__file__).parent / "data" / "old_runs"
FINISHED = sorted(path.parent.name for path in ROOT.glob("*/model.pt"))


def tiny(num_classes=10, in_features=64, *, dropout=0.0):
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(in_features, 12),
            relu1=nn.ReLU(),
            dropout2=nn.Dropout(0.5),
            fc2=nn.Linear(12, 8),
            relu2=nn.ReLU(),
            fc3=nn.Linear(8, num_classes),
        )
    )


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setitem(registry._entries, "tiny", tiny)


def expected(name):
    return json.loads((ROOT / name / "expected.json").read_text())


@pytest.mark.parametrize("name", FINISHED)
def test_a_run_saved_before_still_loads(name):
    want = expected(name)
    run = load_run(ROOT / name)
    assert sorted(run.bnn.state_dict()) == want["sites"]
    assert run.bnn.units() == want["units"]
    assert run.bnn.units_total() == want["units_total"]
    assert run.bnn.kept().get("weights", []) == want["weights"]
    images = bd.load_data("digits").test[0][:5]
    with torch.no_grad():
        logits = run.bnn.eval()(images)
    torch.testing.assert_close(logits, torch.tensor(want["logits"]), rtol=1e-4, atol=1e-5)


def test_a_dependent_run_that_names_no_mean_of_the_gates_has_the_one_of_its_time(tmp_path):
    saved = json.loads((ROOT / "dependent" / "recipe.json").read_text())
    assert "gate_mean" not in saved["recipe"]["dependent_options"]
    recipe = Recipe.from_dict(saved["recipe"])
    assert recipe.dependent_options["gate_mean"] == "naive"
    # Continued by the same recipe, and told from one with the exact mean, which says so.
    for name in ("recipe.json", "model.pt"):
        shutil.copy(ROOT / "dependent" / name, tmp_path)
    run = {name: saved[name] for name in ("data", "validation", "seed")}
    claim(tmp_path, {"recipe": recipe.to_dict(), **run}, {})
    options = {k: v for k, v in recipe.dependent_options.items() if k != "gate_mean"}
    today = dataclasses.replace(recipe, dependent_options=options)
    assert Recipe.from_dict(today.to_dict()) == today
    with pytest.raises(ConfigError, match="with recipe.dependent_options.gate_mean=naive"):
        claim(tmp_path, {"recipe": today.to_dict(), **run}, {})


def test_a_run_interrupted_before_still_continues(tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ROOT / "interrupted", out)
    saved = json.loads((out / "recipe.json").read_text())
    recipe = Recipe.from_dict(saved["recipe"])
    run = run_recipe(recipe, out=out, seed=saved["seed"], progress=False)
    want = expected("interrupted")
    assert run.bnn.units() == want["units"]
    assert len(run.history["beta-bernoulli"]) == 4
    weight = run.bnn.network.fc3.bias.detach()
    torch.testing.assert_close(weight, torch.tensor(want["weight"]), rtol=1e-3, atol=1e-4)


def test_options_by_their_earlier_names_describe_the_same_run(tmp_path):
    saved = json.loads((ROOT / "nested" / "recipe.json").read_text())
    assert saved["recipe"]["dropout_options"]["widths"] == "shared"
    recipe = Recipe.from_dict(saved["recipe"])
    assert recipe.dropout_options["share_widths"] is True
    assert recipe.dropout_options["shared_by"] == "example"
    assert recipe.dropout_options["gradient"] == "straight-through"
    shutil.copy(ROOT / "nested" / "recipe.json", tmp_path)
    (tmp_path / "model.pt").touch()
    run = {name: saved[name] for name in ("data", "validation", "seed")}
    claim(tmp_path, {"recipe": recipe.to_dict(), **run}, {})
    with pytest.raises(ConfigError, match="with recipe.dropout_options.share_widths=True"):
        other = {**recipe.dropout_options, "share_widths": False}
        claim(tmp_path, {"recipe": {**recipe.to_dict(), "dropout_options": other}, **run}, {})
