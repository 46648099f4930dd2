"""``bayesdrop doctor``: what is installed, found and writable here, and what is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bayesdrop.commands.options import DataDir, Json
from bayesdrop.commands.terminal import print_json, print_table

_REQUIREMENT = re.compile(
    r"([\w.-]+)\s*(?:>=\s*([\d.]+))?[^;]*(?:;\s*extra == ['\"]([\w-]+)['\"])?"
)
_FOR_DEVELOPERS = ("all", "dev", "testing", "study", "encoders")


class State(StrEnum):
    """How a thing is."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        what: The thing.
        found: What it is here.
        state: Whether that is well.
        hint: What to do, if anything.
    """

    what: str
    found: str
    state: State = State.OK
    hint: str = ""


def doctor(
    data_dir: DataDir = None,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read every data set that is there, to the end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at versions, extras, threads, GPU, data and folders; code 1 if something is broken."""
    checks = list(_checks(data_dir, read_data))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        cells = [[check.what, check.found, check.state, check.hint] for check in checks]
        print_table(None, ["", "found", "", "what to do"], cells)
    if any(check.state is State.BROKEN for check in checks):
        raise typer.Exit(1)


def _checks(data_dir: Path | None, read_data: bool) -> Iterator[Check]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    old = sys.version_info < (3, 11)
    yield Check("Python", python, State.BROKEN if old else State.OK, "3.11 or later" * old)
    packages = list(_packages())
    yield from packages
    if any(check.state is State.BROKEN for check in packages):
        return  # of which the rest would say the same, less clearly
    try:
        yield _works()
    except Exception as error:  # whatever a broken installation raises
        hint = "Install into a fresh environment: pip install bayesdrop."
        yield Check("a network", f"{type(error).__name__}: {error}", State.BROKEN, hint)
        return
    yield from _threads()
    yield _accelerator()
    yield from _data(data_dir, read_data)
    yield from _folders()


def _packages() -> Iterator[Check]:
    """Yield the required packages one by one, and the extras each in a line."""
    from bayesdrop import __version__

    yield Check("bayesdrop", __version__)
    try:
        lines = importlib.metadata.requires("bayesdrop") or []
    except importlib.metadata.PackageNotFoundError:
        hint = "pip install -e . tells pip of it."
        yield Check("installation", "a folder, not a package", State.NOTE, hint)
        return
    extras: dict[str, list[Check]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is None:
            continue
        name, bound, extra = match.groups()
        if extra is None:
            yield _package(name, bound)
        elif extra not in _FOR_DEVELOPERS:
            extras.setdefault(extra, []).append(_package(name, bound))
    for extra, parts in extras.items():
        found = ", ".join(f"{part.what} {part.found}" for part in parts)
        whole = all(part.state is State.OK for part in parts)
        hint = "" if whole else f"pip install 'bayesdrop[{extra}]', if you need it."
        yield Check(f"extra {extra}", found, State.OK if whole else State.NOTE, hint)


def _package(name: str, bound: str | None) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "not installed", State.BROKEN, f"pip install '{name}>={bound}'")
    if bound is not None and _numbers(version) < _numbers(bound):
        hint = f"pip install '{name}>={bound}'"
        return Check(name, f"{version}, too old", State.BROKEN, hint)
    return Check(name, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _works() -> Check:
    """Train a step, predict, and cut a network: what everything else is made of."""
    import torch

    import bayesdrop as bd

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
        bnn = bd.BayesianNetwork(bd.convert(net), bd.Categorical(), num_data=8)
        x, y = torch.randn(8, 4), torch.arange(8) % 3
        loss = bnn.loss(x, y).loss
        loss.backward()
        bnn.eval()
        rows = bd.predict(bnn, x, num_samples=2).mean.sum(1)
        with torch.no_grad():
            gap = float((bd.compact(bnn, x)(x) - bnn(x)).abs().max())
    if not bool(loss.isfinite()) or float((rows - 1.0).abs().max()) > 1e-4 or gap > 1e-4:
        got = f"loss {float(loss):g}, compact network off by {gap:g}"
        return Check("a network", got, State.BROKEN, "Please report it, with this table.")
    return Check("a network", "trains, predicts, and is cut exactly")


def _threads() -> Iterator[Check]:
    import torch

    threads, cores = (
        torch.get_num_threads(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
    many = threads > cores
    yield Check(
        "threads",
        f"{threads} of torch's, on {cores} cores",
        State.NOTE if many else State.OK,
        "More threads than cores wait for one another: --threads, or OMP_NUM_THREADS."
        if many
        else "",
    )
    variables = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
    said = {name: os.environ[name] for name in variables if name in os.environ}
    passive = said.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" or threads == 1
    yield Check(
        "OpenMP",
        ", ".join(f"{name}={value}" for name, value in said.items()) or "nothing set",
        State.OK if passive else State.NOTE,
        ""
        if passive
        else "export OMP_WAIT_POLICY=PASSIVE, where other programs use the cores too.",
    )


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        try:
            ones = torch.ones(64, 64, device="cuda")
            works = float((ones @ ones).sum()) == 64.0**3
        except RuntimeError as error:
            hint = "Do the driver and this build of torch go together?"
            return Check("GPU", f"{names[0]}: {error}", State.BROKEN, hint)
        state = State.OK if works else State.BROKEN
        return Check("GPU", f"{', '.join(names)}: --device cuda", state)
    if torch.backends.mps.is_available():
        return Check("GPU", "Apple's: --device mps")
    built = torch.version.cuda
    if built is not None and Path("/dev/nvidia0").exists():
        hint = f"torch is built for CUDA {built}: does the driver know it?"
        return Check("GPU", "there, but torch cannot use it", State.NOTE, hint)
    return Check("GPU", "none that torch can use; the CPU is enough for the smaller recipes")


def _data(data_dir: Path | None, read_data: bool) -> Iterator[Check]:
    from bayesdrop.data import registry, regression_sets
    from bayesdrop.data.sources import data_root
    from bayesdrop.errors import DataError

    root = data_root(data_dir)
    asked = data_dir is not None or "BAYESDROP_DATA" in os.environ
    if not root.is_dir():
        yield Check(
            "data folder",
            f"{root}: not there",
            State.BROKEN if asked else State.NOTE,
            "Make it, or set BAYESDROP_DATA to the folder of the data files.",
        )
    else:
        yield Check("data folder", str(root.resolve()))
    for name, source in registry.items():
        if source.folder and not (root / source.folder).exists():
            where = "torchvision fetches it." if source.origin == "torchvision" else source.origin
            yield Check(f"data {name}", "not there", State.NOTE, where)
            continue
        if not read_data and source.folder:
            yield Check(f"data {name}", f"{root / source.folder}")
            continue
        try:
            (images, _), (test, _) = source.read(root, False)
            yield Check(f"data {name}", f"{len(images):,} + {len(test):,} images, read")
        except (DataError, ImportError) as error:
            yield Check(f"data {name}", str(error), State.BROKEN)
    yield _tables(root, list(regression_sets), read_data)


def _tables(root: Path, names: list[str], read_data: bool) -> Check:
    from bayesdrop.data import load_data, regression_sets
    from bayesdrop.errors import DataError

    there = [n for n in names if (root / "uci" / f"{regression_sets[n].file}.npz").exists()]
    found = f"{len(there)} of {len(names)}"
    for name in there if read_data else ():
        try:
            load_data(name, data_dir=root)
        except DataError as error:
            return Check("data uci/...", str(error), State.BROKEN)
    found += ", read" if there and read_data else ""
    hint = "" if there else "See bd.load_data for their format."
    return Check("data uci/...", found, State.OK if there else State.NOTE, hint)


def _folders() -> Iterator[Check]:
    yield _folder("folder of runs", Path("runs") if Path("runs").exists() else Path())
    yield _folder("temporary files", Path(tempfile.gettempdir()))


def _folder(what: str, path: Path) -> Check:
    where = str(path.resolve())
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(1024))
    except OSError as error:
        hint = "Choose another: --out" if what == "folder of runs" else "Set TMPDIR."
        return Check(what, f"{where}: {error.strerror}", State.BROKEN, hint)
    return Check(what, f"{where}: can be written")
