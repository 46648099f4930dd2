r"""What becomes of networks from elsewhere: convert, train, predict, compact, export.

    python benchmarks/networks.py                       # all of them, 20 minutes
    python benchmarks/networks.py "ResNet-18" "U-Net"   # these rows anew

Each network gets beta-Bernoulli masks by ``bd.convert``, four steps of ``bd.fit`` on random data,
and ``bd.predict`` with four samples. A random third of the units of each mask is then closed and
``bd.compact`` removes what it can. "exact" says that in float64 the outputs of the compact network
on other examples, in a batch of another size, differ from the mean-masked one's by less than 1e-8
of their spread. It is exported by ``torch.export`` and as ONNX, which are run on a third size of
batch in float32. What fails is recorded with what the package says.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from network_zoo import ZOO, Case
from result_files import added, write
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.errors import BayesdropError

OUT = Path(__file__).parent / "results" / "networks.json"
LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)


class Failure(Exception):
    """A step that failed, so that those after it cannot be made."""


class Trial:
    """One network on its way.

    Args:
        name: A key of ``ZOO``.
        seed: Of weights and data.
        formats: What it is exported as.
    """

    def __init__(
        self, name: str, seed: int = 0, *, formats: Sequence[str] = ("export", "onnx")
    ) -> None:
        self.case: Case = ZOO[name]
        self.formats = formats
        self.generator = torch.Generator().manual_seed(seed)
        self.row: dict = {"name": name, "group": self.case.group, "seed": seed}

    def run(self) -> dict:
        """Return the row: for each step ``"yes"``, or why not."""
        torch.manual_seed(self.row["seed"])
        self.network = self.case.make().float()
        self.x = self.case.inputs(8, self.generator)
        self.row["layers"] = _layers(self.network)
        try:
            self._step("convert", self._convert)
        except Failure:
            return self.row
        for name, step in {"train": self._train, "predict": self._predict}.items():
            try:
                self._step(name, step)
            except Failure:
                continue
        try:
            self._step("compact", self._compact)
            self._step("export", self._export)
        except Failure:
            pass
        return self.row

    def _step(self, name: str, step: Callable[[], None]) -> None:
        started = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step()
            self.row[name] = "yes"
        except BayesdropError as error:
            self.row[name] = str(error)
        except Exception as error:  # nobody's message: a fault, shown as one
            self.row[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        self.row.setdefault("cpu_seconds", {})[name] = round(time.process_time() - started, 1)
        if self.row[name] != "yes":
            raise Failure(name)

    def _convert(self) -> None:
        network = bd.convert(self.network)
        report = bd.conversion.conversion_report(network)
        self.row["masks"], self.row["units"] = (
            len(report.placed),
            sum(part.number for part in report.placed),
        )
        self.row["left"] = [[part.name, part.kind, part.why] for part in report.left]
        likelihood = bd.Gaussian() if self.case.target == "real" else bd.Categorical()
        self.bnn = bd.BayesianNetwork(network, likelihood, num_data=len(self.x))
        self.row["params"] = bd.compression.count_params(self.network)
        self.row["flops"] = bd.compression.count_flops(self.network, self.x[:1])

    def _train(self) -> None:
        with torch.no_grad():
            output = self.network.eval()(self.x)
        y = self.case.targets(self.x, output, self.generator)
        options = {"batch_size": 4, "seed": 0, "progress": False, "learning_rate": 1e-3}
        bd.fit(self.bnn, (self.x, y), epochs=2, **options)

    def _predict(self) -> None:
        prediction = bd.predict(self.bnn, self.x, num_samples=4, seed=0)
        mean = prediction.mean
        if self.case.target != "real":
            classes = 1 if mean.ndim > 2 else -1
            total = mean.sum(classes)
            if not torch.allclose(total, torch.ones_like(total), atol=1e-5):
                raise ValueError("the predicted probabilities do not sum to one")

    def _compact(self) -> None:
        self.masked = self.bnn.network.double().eval()
        for _, layer in bd.nn.named_dropout_layers(self.masked):
            closed = torch.rand(layer.num_units, generator=self.generator) < 1 / 3
            closed[0] = False
            kept = 1.0 + 4.0 * torch.rand(layer.num_units, generator=self.generator)
            layer.set_posterior(torch.where(closed, 1e-4, kept))
        x = _as_double(self.case.inputs(3, self.generator))
        with torch.no_grad():
            expected = self.masked(x)
        self.small = bd.compact(self.masked, _as_double(self.x[:2]))
        with torch.no_grad():
            got = self.small(x)
        difference = float((expected - got).abs().max() / expected.std().clamp(min=1e-30))
        self.row["difference"] = difference
        self.row["params_after"] = bd.compression.count_params(self.small)
        self.row["flops_after"] = bd.compression.count_flops(self.small, x)
        if not difference < 1e-8:
            raise ValueError(f"the outputs differ by {difference:.1e} of their spread")

    def _export(self) -> None:
        small = self.small.float()
        x = self.case.inputs(5, self.generator)
        with torch.no_grad():
            expected = small(x)
        with tempfile.TemporaryDirectory() as folder:
            for kind in self.formats:
                path = f"{folder}/network"
                bd.save_plain(small, path, self.x[:2], format=kind)
                with torch.no_grad():
                    got = bd.load_plain(path)(x)
                difference = float((expected - got).abs().max() / expected.std())
                self.row[f"difference_{kind}"] = difference
                if not difference < 1e-3:
                    raise ValueError(f"{kind}: outputs differ by {difference:.1e} of their spread")


def _as_double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _layers(network: nn.Module) -> int:
    """Return how many layers of a network have weights that units meet."""
    parts = [*network.modules()]
    return sum(isinstance(m, LAYERS) or type(m).__name__ == "Conv1D" for m in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="rows to make anew; all, if none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.names or ZOO:
        earlier = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
        row = Trial(name, args.seed).run()
        print({key: value for key, value in row.items() if key != "left"}, flush=True)
        runs = added(earlier, [row], ["name", "seed"])
        runs.sort(key=lambda run: list(ZOO).index(run["name"]))
        head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
        write({**head, "bayesdrop": bd.__version__, "threads": 1, "runs": runs}, args.out)
        gc.collect()


if __name__ == "__main__":
    main()
