"""Executes the tutorials into notebooks, ``build/notebooks/NN_name.ipynb``: ``make notebooks``.

    python docs/notebooks.py [--full] [NAME ...]

The short form of a tutorial is what the tests run; ``--full`` takes all epochs and samples. A
notebook is made anew only if its tutorial, the package or the form has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "notebooks"
TIMEOUT = 1800  # seconds for one cell; the longest full form takes some minutes


def find_tutorials(names: Sequence[str] = ()) -> list[Path]:
    """Return the tutorials whose file names begin with one of ``names``; of none, all."""
    scripts = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
    unknown = [name for name in names if not any(s.name.startswith(name) for s in scripts)]
    if unknown:
        raise SystemExit(f"no tutorial begins with {unknown[0]!r}: the last is {scripts[-1].name}")
    return [s for s in scripts if not names or s.name.startswith(tuple(names))]


def digest_of(script: Path, full: bool) -> str:
    """Return what a notebook depends on: tutorial, package and form, not what is installed."""
    digest = hashlib.sha256(f"full={full}".encode())
    for path in [script, *sorted((ROOT / "bayesdrop").rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current(notebook: Path, digest: str) -> bool:
    """Return whether a notebook was made from what has this digest, without an error."""
    if not notebook.exists():
        return False
    return nbformat.read(notebook, as_version=4).metadata.get("made_from") == digest


def execute(script: Path, *, full: bool) -> nbformat.NotebookNode:
    """Run a tutorial, cell by cell, in a kernel of this Python.

    Raises:
        CellExecutionError: If a cell fails.
        CellTimeoutError: If a cell takes too long.
        DeadKernelError: If the kernel dies, for example of too little memory.
    """
    notebook = jupytext.read(script)
    # None but this Python's own kernel: one of the same name may be installed elsewhere.
    specs = KernelSpecManager(kernel_dirs=[])
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("BAYESDROP_DATA", None)  # a tutorial needs no local data
    environment.pop("BAYESDROP_SMOKE", None)
    environment.pop("MPLBACKEND", None)  # pictures go into the notebook
    if not full:
        environment["BAYESDROP_SMOKE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, km=manager, timeout=TIMEOUT, resources={"metadata": {"path": folder}}
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    notebook.metadata.kernelspec = {"display_name": "Python 3", "name": "python3"}
    return notebook


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the notebooks; return the number of tutorials that failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of file names, such as 04; all")
    parser.add_argument("--full", action="store_true", help="all epochs and samples")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the notebooks")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for script in find_tutorials(options.names):
        path, digest = options.out / f"{script.stem}.ipynb", digest_of(script, options.full)
        if is_current(path, digest):
            print(f"{path.name}: unchanged", flush=True)
            continue
        path.unlink(missing_ok=True)  # what is there is of another tutorial
        start = time.perf_counter()
        try:
            notebook = execute(script, full=options.full)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed += 1
            print(f"{path.name}: FAILED\n{error}", file=sys.stderr, flush=True)
            continue
        notebook.metadata.made_from = digest
        unfinished = path.with_suffix(".part")
        nbformat.write(notebook, unfinished)
        unfinished.replace(path)  # an interrupted run leaves no half of a notebook
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main() and 1)
