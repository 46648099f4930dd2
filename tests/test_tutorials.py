"""Every tutorial runs, in smoke mode, and none can escape: the list is the folder."""

import os
import re
from pathlib import Path

import pytest

from tests.forked import run_code, run_script

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted(path.name for path in (ROOT / "tutorials").glob("*.py"))


def first_cell(name):
    text = (ROOT / "tutorials" / name).read_text().split("# %%")[1]
    return " ".join(text.replace("\n#", " ").split())


def test_the_folder_holds_numbered_tutorials_and_their_index_only():
    others = {path.name for path in (ROOT / "tutorials").iterdir()} - {"__pycache__", "README.md"}
    assert others == set(TUTORIALS) and len(TUTORIALS) >= 9
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+\.py", name) for name in TUTORIALS)


def test_the_index_has_each_tutorial_with_its_title_and_question():
    index = (ROOT / "tutorials" / "README.md").read_text()
    rows = re.findall(r"^\| \[(\d\d) (.+)\]\((.+)\) \| (.+) \|$", index, re.MULTILINE)
    assert [name for _, _, name, _ in rows] == TUTORIALS
    for number, title, name, question in rows:
        assert name.startswith(number), name
        assert f" # {title} **Question.** {question} **Answer.** " in first_cell(name), name


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_runs_and_its_claim_holds(name, tmp_path):
    environment = {**os.environ, "BAYESDROP_SMOKE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("BAYESDROP_DATA", None)  # a tutorial needs no local data
    assert run_script(ROOT / "tutorials" / name, tmp_path, environment) == ""


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_follows_the_house_rules(name):
    text = (ROOT / "tutorials" / name).read_text()
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert len(text.splitlines()) <= 200
    assert "**Question.**" in cells[1] and "**Answer.**" in cells[1]
    assert "assert " in cells[-1], "the last cell checks the claim"
    assert not re.search(r"bayesdrop\.(ops|inference|program|conversion)\b", text), "public API"


@pytest.mark.slow
def test_the_prior_of_tutorial_10_keeps_the_contract(tmp_path):
    text = (ROOT / "tutorials" / "10_write_your_own_prior.py").read_text()
    plugin, rest = text.split("# %% [markdown]\n# ## Train it", 1)
    assert "bd.nn.register(SmoothFieldDropout)" in plugin and "bd.fit" in rest
    (tmp_path / "test_smooth_field.py").write_text(
        f"{plugin}\n\nfrom bayesdrop.testing import MaskContract\n\n\n"
        'class TestSmoothField(MaskContract):\n    key = "smooth-field"\n'
    )
    program = "import pytest, sys\nassert pytest.main(sys.argv[1:]) == 0"
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", tmp_path]
    ended = run_code(program, tmp_path, options)  # no checkout is needed
    assert not ended.error and " passed" in ended.output, ended.output[-3000:]
