"""No flipped bit of a file changes a result silently.

    python benchmarks/reliability/bit_flips.py --flips 300

One random bit of one file is flipped and the file is used as usual. It is refused, or it changes
nothing that comes out; a change that passes is silent, an error that is not ours is raw.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from trials import digest, fit, publish, small_data, small_network

import bayesdrop as bd
from bayesdrop import recipes
from bayesdrop.errors import BayesdropError
from bayesdrop.recipes import load_run, run_recipe

Use = Callable[[], str]


def plain_network() -> torch.nn.Module:
    return bd.compact(small_network(), torch.zeros(2, 6)).eval()


def model_file(folder: Path) -> tuple[Path, Use]:
    bnn = small_network()
    fit(bnn)
    path = folder / "model.pt"
    bd.save(bnn, path)
    return path, lambda: digest(bd.load(small_network(1), path))


def training_file(folder: Path) -> tuple[Path, Use]:
    fit(
        small_network(), checkpoint_dir=folder, epochs=4, callbacks=[lambda *_: _[1]["epoch"] == 2]
    )
    path = folder / "training.pt"
    whole = path.read_bytes()

    def use() -> str:
        bnn, flipped = small_network(), path.read_bytes()
        try:
            result = fit(bnn, checkpoint_dir=folder, epochs=4)
        finally:
            path.write_bytes(flipped)
        return digest([bnn, result.history])

    path.write_bytes(whole)
    return path, use


def sparse_file(folder: Path) -> tuple[Path, Use]:
    path = folder / "weights.sparse"
    bd.save_plain(plain_network(), path, format="sparse")
    return path, lambda: digest(bd.load_plain(path, plain_network()))


def exported(folder: Path, form: str) -> tuple[Path, Use]:
    path, x = folder / f"net.{form}", small_data()[0][:8]
    bd.save_plain(plain_network(), path, x, format=form)
    return path, lambda: digest(bd.load_plain(path)(x))


def run_file(folder: Path, name: str) -> tuple[Path, Use]:
    recipe = recipes.get("digits-mlp-bb").override(epochs=1, pretrain_epochs=1)
    settings = {"data": "digits:0-1", "progress": False}
    if not (folder / "run").exists():
        run_recipe(recipe, out=folder / "run", **settings)

    def use() -> str:
        # Evaluating it, and calling it again.
        found = []
        for run in (load_run(folder / "run"), run_recipe(recipe, out=folder / "run", **settings)):
            told = [run.recipe.to_dict(), run.data, run.seed, run.validation, run.image_shape]
            found.append(digest([run.bnn, run.plain, run.history, *told]))
        return " ".join(found)

    return folder / "run" / name, use


def regression_file(folder: Path) -> tuple[Path, Use]:
    path = folder / "uci" / "yacht.npz"
    path.parent.mkdir()
    noise = np.random.default_rng(0)
    arrays = {f"test_index_{i}": np.arange(31) for i in range(20)}
    np.savez(path, x=noise.normal(size=(308, 6)), y=noise.normal(size=308), **arrays)

    def use() -> str:
        split = bd.load_data("uci/yacht", data_dir=folder)
        return digest([split.train, split.test, split.y_mean, split.y_scale])

    return path, use


KINDS: dict[str, Callable[[Path], tuple[Path, Use]]] = {
    "model.pt": model_file,
    "training.pt": training_file,
    "sparse weights": sparse_file,
    "torch.export": lambda folder: exported(folder, "export"),
    "ONNX": lambda folder: exported(folder, "onnx"),
    "recipe.json": lambda folder: run_file(folder, "recipe.json"),
    "a stage's history.json": lambda folder: run_file(folder, "plain/history.json"),
    "a run's model.pt": lambda folder: run_file(folder, "plain/model.pt"),
    "regression set": regression_file,
}


def outcome(use: Use, expected: str, kept: Path) -> str:
    """Return what came of using a file, and restore its folder."""
    try:
        found = "harmless" if use() == expected else "silent"
    except BayesdropError:
        found = "refused"
    except Exception as error:
        found = f"raw {type(error).__name__}"
    folder = kept.with_name("work")
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    return found


def flip(kind: str, count: int, chance: random.Random) -> Counter[str]:
    """Flip ``count`` bits of a kind of file, one at a time."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work, kept = Path(name) / "work", Path(name) / "kept"
        work.mkdir()
        path, use = KINDS[kind](work)
        expected = use()
        shutil.copytree(work, kept)
        whole = path.read_bytes()
        for _ in range(count):
            flipped = bytearray(whole)
            flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            found[outcome(use, expected, kept)] += 1
    return found


def trial(flips: int, seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> dict:
    chance = random.Random(seed)
    counts = {kind: -(-flips // len(kinds)) for kind in kinds}
    return {
        "seed": seed,
        "rows": {kind: dict(flip(kind, n, chance)) for kind, n in counts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    publish("bit-flips", trial(options.flips, options.seed), options.out)


if __name__ == "__main__":
    main()
