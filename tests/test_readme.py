"""The README's Python blocks run, in order, in one namespace; its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(tmp_path):
    assert len(BLOCKS) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(BLOCKS))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("BAYESDROP_DATA", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_command_the_readme_names_exists():
    from typer.main import get_command

    from bayesdrop.cli import app

    known = set(get_command(app).commands)
    used = set(re.findall(r"^(?:\.venv/bin/)?bayesdrop (\w+)", README, flags=re.MULTILINE))
    assert used and used <= known
    verbs = set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert verbs and all(re.search(rf"^{verb}:", makefile, re.MULTILINE) for verb in verbs)


def test_every_figure_file_the_readme_names_exists():
    for page in (ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        for path in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / path).exists(), path


def test_the_readmes_show_what_the_committed_results_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    shown = []
    for page in tables.PAGES:
        text = page.read_text()
        assert tables.rewrite(text) == text, page
        shown += tables.names(text)
    assert sorted(shown) == sorted(tables.TABLES)
