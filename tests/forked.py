"""Run a script in a process of its own in which torch, Pyro and this package are imported already.

Importing them takes longer than most scripts; a server imports them once and forks.
"""

import contextlib
import io
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import sys
import traceback

_PROCESSES = multiprocessing.get_context("forkserver")
_IMPORTED = ["torch", "pyro", "sklearn.datasets", "matplotlib.pyplot", "bayesdrop.surface"]
# As by `python -W error`, and with one thread, which a fork may have.
_SETTINGS = {"PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def run_script(path, folder, environment):
    """Return what an exception in a script said, or an empty string.

    Args:
        path: The script.
        folder: Where it runs.
        environment: Its environment variables.
    """
    _start()
    ours, theirs = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_run, args=(path, folder, environment, theirs))
    process.start()
    theirs.close()
    process.join(300)
    if process.is_alive():
        process.kill()
        return f"{path} takes more than 300 s"
    return ours.recv() if process.exitcode == 0 else f"exit status {process.exitcode}"


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


def _run(path, folder, environment, answer):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(path)]
    said = ""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(path), run_name="__main__")
    except BaseException:
        said = traceback.format_exc()
    answer.send(said)
