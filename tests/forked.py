"""Run a script in a process of its own in which torch, Pyro and this package are imported already.

Importing them takes longer than most scripts; a server imports them once and forks. Only a test of
what is not imported needs a process from the start.
"""

import contextlib
import io
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

_PROCESSES = multiprocessing.get_context("forkserver")
# torch._dynamo: the first optimiser of a process imports it, which takes seconds.
_IMPORTED = [
    *("torch", "torch._dynamo", "pyro", "sklearn.datasets", "matplotlib.pyplot"),
    *("bayesdrop.surface", "pytest"),
]
# As by `python -W error`, and with one thread, which a fork may have.
_SETTINGS = {"PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


class Ended(NamedTuple):
    """How a process ended: what a shell would say of it, its exception, and what it printed."""

    status: int
    error: str
    output: str


class Started:
    """A process that runs a script.

    Args:
        path: The script.
        folder: Where it runs.
        environment: Its environment variables; those of this process where there are none.
        arguments: ``sys.argv[1:]``.
    """

    def __init__(self, path, folder, environment=None, arguments=()):
        _start()
        self.path, (self.ours, theirs) = path, _PROCESSES.Pipe(duplex=False)
        environment = dict(os.environ) if environment is None else environment
        settings = (str(path), str(folder), environment, [str(a) for a in arguments], theirs)
        self.process = _PROCESSES.Process(target=_run, args=settings)
        self.process.start()
        theirs.close()

    def wait(self):
        """Return how it ended."""
        try:
            answer = self.ours.recv() if self.ours.poll(300) else None
        except EOFError:  # it was killed
            answer = ("", "")
        if answer is None:
            self.process.kill()
            return Ended(1, f"{self.path} takes more than 300 s", "")
        self.process.join()
        return Ended(self.process.exitcode, *answer)


def run_script(path, folder, environment=None, arguments=()):
    """Return what an exception in a script said, or an empty string; see ``Started``."""
    ended = Started(path, folder, environment, arguments).wait()
    return ended.error or (f"exit status {ended.status}" if ended.status else "")


def run_code(code, folder, arguments=()):
    """Run a program that is given as text in a folder, and return how it ended."""
    path = Path(folder) / "program.py"
    path.write_text(code)
    ended = Started(path, folder, arguments=arguments).wait()
    path.unlink()
    return ended


def _start():
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    try:
        _PROCESSES.set_forkserver_preload(_IMPORTED)
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(path, folder, environment, arguments, answer):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [path, *arguments]
    said, printed = "", io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(path, run_name="__main__")
    except BaseException:
        said = traceback.format_exc()
    answer.send((said, printed.getvalue()))
