"""Laws of making notebooks of tutorials: they hold the output, and a failure leaves none."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")
from docs import notebooks  # noqa: E402

ROOT = Path(__file__).parent.parent
TEXT = """# %% [markdown]
# # Two

# %%
import os

print("short" if "BAYESDROP_SMOKE" in os.environ else "full")
1 + 1
"""


# A process of its own, since ZeroMQ's sockets are closed when it ends.
PROGRAM = """
import sys
from pathlib import Path
from docs import notebooks

notebooks.ROOT = root = Path(sys.argv[1])
script, out = root / "tutorials" / "01_two.py", root / "out"
assert notebooks.main(["--out", str(out)]) == 0
made = (out / "01_two.ipynb").read_bytes()
print("again:")
assert notebooks.main(["--out", str(out)]) == 0
assert (out / "01_two.ipynb").read_bytes() == made
(root / "made.ipynb").write_bytes(made)
script.write_text(script.read_text() + "1 / 0\\n")
sys.exit(notebooks.main(["01", "--out", str(out)]))
"""


@pytest.mark.slow
def test_a_notebook_holds_what_its_cells_gave_until_something_changes(tmp_path):
    (tmp_path / "tutorials").mkdir()
    (tmp_path / "tutorials" / "01_two.py").write_text(TEXT)
    command = [sys.executable, "-c", PROGRAM, tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr, ended.stderr
    made = nbformat.read(tmp_path / "made.ipynb", as_version=4)
    stream, value = made.cells[1].outputs
    assert (stream.text, value.data["text/plain"]) == ("short\n", "2")
    assert ended.stdout.partition("again:\n")[2] == "01_two.ipynb: unchanged\n"
    assert not list((tmp_path / "out").iterdir())


def test_a_kernel_that_dies_fails_its_notebook_and_no_other(tmp_path, monkeypatch, capsys):
    def execute(script, *, full):
        if script.stem.startswith("02"):
            raise notebooks.DeadKernelError("Kernel died")
        return nbformat.v4.new_notebook()

    monkeypatch.setattr(notebooks, "execute", execute)
    assert notebooks.main(["01", "02", "03", "--out", str(tmp_path)]) == 1
    assert "02_model_and_guide.ipynb: FAILED\nKernel died" in capsys.readouterr().err
    assert sorted(path.name[:2] for path in tmp_path.iterdir()) == ["01", "03"]


def test_a_name_of_no_tutorial_is_refused():
    with pytest.raises(SystemExit, match="no tutorial begins with 'zz'"):
        notebooks.find_tutorials(["zz"])
