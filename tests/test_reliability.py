"""Smaller forms of the trials in ``benchmarks/reliability``, and what their results must say."""

import gc
import json
import random
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import bayesdrop

ROOT = Path(__file__).parent.parent
TRIALS = ROOT / "benchmarks" / "reliability"
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def script(monkeypatch):
    """Import a trial by name, and forget it again."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.syspath_prepend(str(TRIALS))
    known = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - known:
        if (TRIALS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in TRIALS.glob("*.py")))
def test_a_trial_imports_what_is_there(script, name):
    script(name)


def test_runs_that_are_killed_in_a_write_lose_nothing(script):
    kills = script("kills")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kills.ended(kills.start(lambda: kills.train(folder / "reference")))
        found = kills.finish("in a write", 2, folder, 1.0, random.Random(1))
    assert found["kills"] == 2 and found["lost"] == found["failed"] == found["files_left"] == 0


@pytest.mark.parametrize("kind", ["sparse weights", "torch.export", "regression set"])
def test_no_flipped_bit_passes(script, kind):
    found = script("bit_flips").flip(kind, 15, random.Random(1))
    assert set(found) <= {"refused", "harmless"} and found["refused"]


@pytest.mark.parametrize("action", ["compact", "new networks"])
def test_nothing_is_kept_of_what_is_done_again_and_again(script, action):
    memory = script("memory")
    gc.freeze()  # what other tests left: to look through it takes longer than all the rest
    with tempfile.TemporaryDirectory() as folder:
        again = memory.actions(Path(folder))[action]
        found = [memory.count(again, 9, samples=3) for _ in range(2)]
    # What is kept grows both times; what other tests left may come or go once.
    assert min(row["objects"] for row in found) < 0.5
    assert min(row["parameters_in_store"] for row in found) < 0.5


def result(name):
    return json.loads((RESULTS / f"reliability-{name}.json").read_text())["rows"]


def test_the_committed_trials_lost_nothing():
    rows = result("kills").values()
    assert sum(row["kills"] for row in rows) >= 100
    assert all(row["lost"] == row["failed"] == row["files_left"] == 0 for row in rows)
    flips = result("bit-flips").values()
    assert sum(sum(row.values()) for row in flips) >= 300
    assert {name for row in flips for name in row} <= {"refused", "harmless"}
    level = json.loads((RESULTS / "reliability-memory.json").read_text())["level_bytes"]
    for row in result("memory").values():
        assert row["bytes"] < level and abs(row["objects"]) < 0.5
        assert row["parameters_in_store"] == 0
    found = json.loads((RESULTS / "reliability-determinism.json").read_text())
    for name, row in found["rows"].items():
        assert row["same_bits"] or "thread" in name, name
        assert row["difference"] <= found["tolerance"], name


def test_each_missing_extra_was_named_by_the_wheel_alone():
    found = json.loads((RESULTS / "reliability-package.json").read_text())
    for name, message in found["wheel"]["extras"].items():
        assert f"bayesdrop[{name}]" in message
    assert found["sdist"]["collected"]["exit"] == 0
    for name, step in found["sdist"]["run"].items():
        assert step["failures"] == step["errors"] == 0, name


def requirements():
    text = (ROOT / "setup.cfg").read_text()
    return [Requirement(line) for line in re.findall(r"^\s+([\w-]+>=[\d.]+)$", text, re.MULTILINE)]


def test_lower_bounds_are_versions_that_the_tests_ran_with():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.lower().split("==") for line in lines if "==" in line)
    assert len(requirements()) > 15
    for requirement in requirements():
        version = Version(tested[requirement.name.lower()])
        assert version in requirement.specifier, requirement
        (bound,) = requirement.specifier
        assert Version(bound.version).release[:2] == version.release[:2], requirement


def test_the_conda_recipe_asks_for_the_same():
    recipe = yaml.safe_load((ROOT / "conda" / "meta.yaml").read_text())
    config = (ROOT / "setup.cfg").read_text()
    asked = re.search(r"install_requires = *\n((?:[ \t]+.*\n)+)", config)[1].split()
    named = {
        line.replace(" ", "").replace("pytorch>", "torch>")
        for line in recipe["requirements"]["run"]
    }
    assert named == {"python>=3.11", *asked}
    assert recipe["package"]["version"] == bayesdrop.__version__


def test_the_sdist_has_what_its_tests_read():
    manifest = (ROOT / "MANIFEST.in").read_text()
    for name in ("tests", "tutorials", "docs", "benchmarks"):
        assert f"graft {name}\n" in manifest
    assert "CHANGELOG.md" in manifest and "constraints.txt" in manifest
