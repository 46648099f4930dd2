"""Bad inputs of the same kinds in other places: modes, files, counts, seeds and tables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_inputs import Input
from torch import nn
from torch.utils.data import Dataset
from trials import fit, small_data, small_network
from typing_extensions import override

import bayesdrop as bd
from bayesdrop import compression, metrics
from bayesdrop.errors import (
    CheckpointError,
    ConfigError,
    ConversionError,
    DataError,
    ShapeError,
)

X, Y = small_data()
P = X[:, :3].softmax(1)
MASK = "network.0_dropout"


class Rows(Dataset):
    """Examples, nobody knows how many."""

    @override
    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


class Ragged(Rows):
    """Examples of several widths."""

    def __len__(self) -> int:
        return len(X)

    @override
    def __getitem__(self, index: int) -> Any:
        return X[index, : 3 + index % 3], Y[index]


def predict(data: Any = X, network: Any = None, **options: Any) -> Any:
    bnn = small_network() if network is None else network
    return bd.predict(bnn, data, **{"num_samples": 2, "progress": False, **options})


def within(mode: Any, call: Any) -> Any:
    with mode:
        return call()


def trained(result: Any) -> bool:
    return len(result.history) == 2


def mask(*size: int) -> Any:
    return bd.impose_masks(small_network(), {MASK: torch.ones(*size)})


def half(layer: str) -> bool:
    network = bd.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), layer).half()
    (network(X[:, :4].half()).sum() + bd.kl_divergence(network)).backward()
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())


def steps_first() -> bd.BayesianNetwork:
    """Return a network that takes time steps for examples, unless it is told otherwise."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask, self.last = bd.BetaBernoulliDropout(4), nn.Linear(4, 2)

        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.mask(x.transpose(0, 1)).mean(0))

    return bd.BayesianNetwork(Net(), bd.Categorical(), num_data=9)


def tables(metric: Any, order: slice) -> Any:
    import pandas

    frame = pandas.DataFrame(P.numpy(), index=range(7, 67))
    return metric(frame, pandas.Series(Y.numpy(), index=frame.index)[order])


def saved(name: str, network: Any = None) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return bd.save(small_network() if network is None else network, Path(folder) / name)


MODES = [
    Input("fit in no_grad", lambda: within(torch.no_grad(), fit_small), ConfigError),
    Input("fit in inference_mode", lambda: within(torch.inference_mode(), fit_small), ConfigError),
    Input(
        "built in inference_mode",
        lambda: fit(within(torch.inference_mode(), small_network)),
        ConfigError,
    ),
    Input(
        "data of inference_mode",
        lambda: fit(small_network(), within(torch.inference_mode(), lambda: (X * 1, Y))),
        trained,
    ),
    Input("fit on the meta device", lambda: fit(small_network().to("meta")), ConfigError),
    Input("predict on meta", lambda: predict(network=small_network().to("meta")), ConfigError),
    Input(
        "convert on the meta device",
        lambda: bd.convert(nn.Linear(2, 2, device="meta")),
        ConversionError,
    ),
    Input(
        "steps first, by example",
        lambda: predict(steps(), steps_first(), shared_by="example"),
        ShapeError,
    ),
    *(
        Input(f"16 bits of {layer}", lambda k=layer: half(k), lambda finite: finite)
        for layer in ("sparse-variational", "normal-jeffreys", "gaussian-weights")
    ),
]


def fit_small() -> Any:
    return fit(small_network())


def steps() -> torch.Tensor:
    return torch.randn(9, 9, 4)


DATA = [
    Input(
        "data with a graph",
        lambda: fit(small_network(), (X.clone().requires_grad_() * 2, Y)),
        trained,
    ),
    Input("a parameter for data", lambda: fit(small_network(), (nn.Parameter(X), Y)), trained),
    Input("a list of labels", lambda: fit(small_network(), (X, Y.tolist())), DataError),
    Input("a Dataset without length", lambda: fit(small_network(), Rows()), DataError),
    Input("examples of several shapes", lambda: fit(small_network(), Ragged()), DataError),
    Input("no label but ignored ones", lambda: fit(small_network(), (X, Y * 0 - 100)), DataError),
    Input(
        "a nested tensor",
        lambda: fit(
            small_network(),
            (torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged), Y[:2]),
        ),
        DataError,
    ),
]

FILES = [
    Input("save(nn.Module)", lambda: saved("a.pt", nn.Linear(2, 2)), ConfigError),
    Input("save, arguments swapped", lambda: bd.save("a.pt", small_network()), ConfigError),
    Input("load, arguments swapped", lambda: bd.load("a.pt", small_network()), ConfigError),
    Input("save to a device", lambda: bd.save(small_network(), "/dev/null"), CheckpointError),
    Input("save to a folder", lambda: saved("."), CheckpointError),
    Input("checkpoint_dir=''", lambda: fit(small_network(), checkpoint_dir=""), ConfigError),
]

NUMBERS = [
    *(
        Input(f"predict({name}={value!r})", lambda n=name, v=value: predict(**{n: v}), ConfigError)
        for name, value in (
            ("num_samples", "4"),
            ("num_samples", True),
            ("num_samples", 10**8),
            ("memory_limit", "1GB"),
            ("seed", "a"),
            ("seed", 2**70),
        )
    ),
    Input(
        "predict(seed=numpy.int64(3))",
        lambda: [predict(seed=seed).mean for seed in (3, np.int64(3))],
        lambda means: torch.equal(*means),
    ),
    *(
        Input(
            f"{layer.__name__}({option}={value!r})",
            lambda k=layer, n=option, v=value: k(4, **{n: v}),
            ConfigError,
        )
        for layer, option, value in (
            (bd.BetaBernoulliDropout, "temperature", "x"),
            (bd.BetaBernoulliDropout, "prior_concentration1", "x"),
            (bd.MonteCarloDropout, "drop_prob", "x"),
            (bd.GaussianDropout, "drop_prob", None),
        )
    ),
    Input("impose_masks of 5 units", lambda: mask(5), ShapeError),
    Input(
        "impose_masks of no units",
        lambda: bd.impose_masks(small_network(), {MASK: 1.0}),
        ShapeError,
    ),
    Input(
        "thresholds of words",
        lambda: compression.sweep_thresholds(small_network(), (X, Y), ["a"]),
        ConfigError,
    ),
    Input(
        "miscoverage='0.1'", lambda: metrics.conformal_sets(P, Y, miscoverage="0.1"), ConfigError
    ),
    Input("bootstrap of a tensor", lambda: metrics.bootstrap_metrics(P, Y), ConfigError),
    Input(
        "loo(num_samples='a')",
        lambda: bd.loo(small_network(), (X, Y), num_samples="a"),
        ConfigError,
    ),
    Input(
        "check_elbo(num_samples='a')",
        lambda: bd.check_elbo(small_network(), X, Y, num_samples="a"),
        ConfigError,
    ),
    Input("load_data(None)", lambda: bd.load_data(None), ConfigError),
    Input(
        "load_data(validation='a')", lambda: bd.load_data("digits", validation="a"), ConfigError
    ),
    Input("a recipe of no name", lambda: bd.recipes.get(None), ConfigError),
    Input(
        "override(epoch=1)", lambda: bd.recipes.get("digits-mlp").override(epoch=1), ConfigError
    ),
]

TABLES = [
    *(
        Input(f"tables in two orders, {name}", lambda m=metric: tables(m, slice(None, None, -1)),
              DataError)
        for name, metric in (
            ("Brier", metrics.brier_score),
            ("figures", metrics.ClassifierFigures.from_predictions),
            ("temperature", metrics.fit_temperature),
        )
    ),
    Input(
        "tables in one order",
        lambda: tables(metrics.brier_score, slice(None)),
        lambda score: score == metrics.brier_score(P, Y),
    ),
]  # fmt: skip

INPUTS = [*MODES, *DATA, *FILES, *NUMBERS, *TABLES]
