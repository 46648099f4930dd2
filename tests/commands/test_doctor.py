import importlib.metadata
import json
import re

import pytest

import bayesdrop as bd
from bayesdrop.commands import doctor
from bayesdrop.data import registry
from tests.commands.runner import invoke


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BAYESDROP_DATA", raising=False)
    return tmp_path


def checks(*arguments, code=0):
    found = json.loads(invoke("doctor", *arguments, "--json", code=code).stdout)
    return {check["what"]: check for check in found}


def test_all_is_well_here_and_every_data_set_is_looked_for(here):
    found = checks()
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    assert found["a network"]["found"] == "trains, predicts, and is cut exactly"
    assert {f"data {name}" for name in registry} <= set(found)
    assert found["data digits"]["found"] == "1,197 + 600 images, read"
    assert found["data mnist"]["state"] == "note" and "not there" in found["data mnist"]["found"]
    assert found["folder of runs"]["found"].startswith(str(here))
    assert "trains, predicts" in invoke("doctor").stdout


def test_a_damaged_data_set_breaks_when_it_is_read(here):
    pytest.importorskip("PIL")
    archive = here / "data" / "CIFAR10-jpeg75" / "cifar10-jpeg75.tar.xz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"no archive")
    (here / "data" / "uci").mkdir()
    (here / "data" / "uci" / "yacht.npz").write_bytes(b"no archive")
    assert checks()["data cifar10-jpeg75"]["state"] == "ok"
    found = checks("--read-data", code=1)
    assert found["data cifar10-jpeg75"]["state"] == found["data uci/..."]["state"] == "BROKEN"
    assert "yacht" in found["data uci/..."]["found"]


def test_a_mistyped_data_folder_is_broken(here):
    found = checks("--data-dir", here / "nowhere", code=1)
    assert found["data folder"]["state"] == "BROKEN"


def test_a_package_that_is_missing_or_too_old_is_broken_and_an_extra_a_note(monkeypatch):
    lines = ["typer>=99.5", "rich>=1", "no-such>=1.0", 'matplotlib>=99; extra == "plots"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    found = checks(code=1)
    assert "too old" in found["typer"]["found"] and "'typer>=99.5'" in found["typer"]["hint"]
    assert found["no-such"]["found"] == "not installed"
    states = {name: check["state"] for name, check in found.items()}
    assert states["typer"] == states["no-such"] == "BROKEN"
    assert (states["rich"], states["extra plots"]) == ("ok", "note")
    assert "bayesdrop[plots]" in found["extra plots"]["hint"]


def test_a_network_that_does_not_work_is_broken(monkeypatch, here):
    monkeypatch.setattr(bd, "predict", None)
    found = checks(code=1)
    assert found["a network"]["state"] == "BROKEN" and "TypeError" in found["a network"]["found"]


def test_a_folder_that_cannot_be_written_is_broken(tmp_path):
    (tmp_path / "file").write_text("")
    check = doctor._folder("folder of runs", tmp_path / "file")
    assert check.state is doctor.State.BROKEN and re.search("--out", check.hint)
