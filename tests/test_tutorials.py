"""Every tutorial runs, in smoke mode, and none can escape: the list is the folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KNOWN = {
    "01_from_dropout_to_masks.py",
    "02_model_and_guide.py",
    "03_can_i_trust_it.py",
    "05_masks_that_look_at_the_input.py",
    "06_one_network_many_widths.py",
    "07_how_many_units.py",
    "08_sparse_weights.py",
    "09_compare_with_arviz.py",
    "10_write_your_own_prior.py",
}
TUTORIALS = sorted((ROOT / "tutorials").iterdir())


def test_the_folder_holds_exactly_the_known_tutorials():
    names = {path.name for path in TUTORIALS if path.name != "__pycache__"}
    assert names == KNOWN


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_tutorial_runs_and_its_claim_holds(name, tmp_path):
    environment = {**os.environ, "BAYESDROP_SMOKE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("BAYESDROP_DATA", None)  # a tutorial needs no local data
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tutorials" / name)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_tutorial_follows_the_house_rules(name):
    text = (ROOT / "tutorials" / name).read_text()
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert len(text.splitlines()) <= 200
    assert "**Question.**" in cells[1] and "**Answer.**" in cells[1]
    assert "assert " in cells[-1], "the last cell checks the claim"
    assert not re.search(r"bayesdrop\.(ops|inference|compression|dropout)\b", text), "public API"


@pytest.mark.slow
def test_the_prior_of_tutorial_10_keeps_the_contract(tmp_path):
    text = (ROOT / "tutorials" / "10_write_your_own_prior.py").read_text()
    plugin, rest = text.split("# %% [markdown]\n# ## Train it", 1)
    assert "register_dropout(SmoothFieldDropout)" in plugin and "bd.fit" in rest
    (tmp_path / "smooth_field.py").write_text(plugin)
    arguments = ["-p", "smooth_field", "tests/test_contract.py", "-k", "smooth-field"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
