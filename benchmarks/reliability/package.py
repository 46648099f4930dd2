"""The wheel works with the core dependencies alone, and the sdist can test itself.

    python benchmarks/reliability/package.py

Both are built by setuptools. The wheel is unpacked beside links to the core dependencies, and to
what these need, of the environment that runs this: nothing is downloaded. There it is imported,
trains a network, and asks for each extra. Then the sdist's tests are collected and run, a folder
or file at a time, some ten minutes; with ``--tests`` these only, and the file keeps its others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from trials import RESULTS, publish

ROOT = Path(__file__).parent.parent.parent
EXTRAS = {
    "vision": "bd.load_data('mnist', data_dir='.')",
    "plots": "bd.reporting.plots.plot_roc(x[:, 0], {'other': x[:, 1]})",
    "analysis": "bd.to_inference_data(bnn, x, y)",
    "onnx": "bd.save_plain(torch.nn.Linear(3, 2), 'a.onnx', x, format='onnx')",
    "tensorboard": "bd.fit(bnn, (x, y), epochs=1, progress=False, tensorboard='.')",
}
"""Extra to a call that needs it."""
SCRIPT = """
import json, torch, warnings
import bayesdrop as bd
import bayesdrop.reporting.plots
warnings.simplefilter("ignore")
x, y = torch.randn(8, 3), torch.arange(8) % 2
bnn = bd.BayesianNetwork(bd.convert(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(),
                         torch.nn.Linear(4, 2))), bd.Categorical(), num_data=8)
bd.fit(bnn, (x, y), epochs=1, progress=False)
bd.evaluate(bnn, (x, y), num_samples=2)
found = {}
for name, code in EXTRAS.items():
    try:
        exec(code)
        found[name] = "nothing was missing"
    except ImportError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def build(folder: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist, built from a copy of what is here."""
    copy = folder / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs"))
    code = "import setuptools.build_meta as b; b.build_wheel('..'); b.build_sdist('..')"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def needed(wheel: Path) -> set[str]:
    """Return the names of the core dependencies of a wheel, and of what these need."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith("METADATA"))
        lines = archive.read(name).decode().splitlines()
    waiting = [
        line.removeprefix("Requires-Dist: ")
        for line in lines
        if line.startswith("Requires-Dist: ")
    ]
    found: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found:
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


def link(names: set[str], place: Path) -> None:
    """Link all that belongs to some distributions, and nothing else."""
    for name in names:
        distribution = metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            if not (place / top).exists():
                (place / top).symlink_to(Path(str(distribution.locate_file(top))))


def try_wheel(wheel: Path, folder: Path) -> dict:
    place = folder / "site"
    place.mkdir()
    names = needed(wheel)
    link(names, place)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    code = f"import sys; sys.path.append({str(place)!r}); EXTRAS = {EXTRAS!r}\n{SCRIPT}"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {"dependencies": sorted(names), "extras": json.loads(done.stdout.splitlines()[-1])}


def all_tests(root: Path) -> list[str]:
    files = set(root.glob("tests/**/test_*.py"))
    return sorted({"/".join(path.relative_to(root).parts[:2]) for path in files})


def try_sdist(sdist: Path, folder: Path, tests: list[str]) -> dict:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    root = folder / sdist.name.removesuffix(".tar.gz")
    env = {**os.environ, "PYTHONPATH": str(root)}
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command = [*pytest, "--collect-only"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    counts = re.findall(r"^tests/\S+: (\d+)$", done.stdout, re.MULTILINE)
    rows: dict = {"collected": {"exit": done.returncode, "tests": sum(map(int, counts))}}
    rows["run"] = {}
    for path in tests or all_tests(root):
        command = [*pytest, f"--junitxml={folder / 'found.xml'}", path]
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
        suite = ElementTree.parse(folder / "found.xml").getroot()[0].attrib
        found = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
        rows["run"][path] = {"exit": done.returncode, **found}
        print(path, rows["run"][path], file=sys.stderr, flush=True)
        if done.returncode:
            print(done.stdout[-3000:], file=sys.stderr, flush=True)
    return rows


def trial(tests: list[str], out: Path) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        found = {"wheel": try_wheel(wheel, folder), "sdist": try_sdist(sdist, folder, tests)}
    if tests and out.exists():
        before = json.loads(out.read_text())
        known = {
            path: row for path, row in before["sdist"]["run"].items() if path in all_tests(ROOT)
        }
        found["sdist"]["run"] = known | found["sdist"]["run"]
        found["before"] = [*before.get("before", []), before["command"]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", nargs="*", default=[], help="only these [default: all]")
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability-package.json")
    options = parser.parse_args()
    publish("package", trial(options.tests, options.out), options.out)


if __name__ == "__main__":
    main()
