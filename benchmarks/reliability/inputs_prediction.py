"""Bad inputs of prediction, evaluation, likelihoods, metrics and compression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bad_inputs import Input
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

import bayesdrop as bd
from bayesdrop import compression, metrics
from bayesdrop.errors import (
    CompactionError,
    ConfigError,
    DataError,
    DataWarning,
    DivergenceError,
    ShapeError,
)

NAN, INF = float("nan"), float("inf")
X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
P = X[:, :3].softmax(1)
ANY = (ConfigError, DataError, ShapeError)


class Returns(nn.Module):
    """Applies a function to what a masked network makes of its input."""

    def __init__(self, function: Callable[[Any], Any], outputs: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 6), bd.BetaBernoulliDropout(6), nn.Linear(6, outputs)
        )
        self.function = function

    @override
    def forward(self, x: Any) -> Any:
        return self.function(self.net(x))


class Two(Returns):
    """Needs two inputs."""

    @override
    def forward(self, x: Any, other: Any) -> Any:  # type: ignore[override]
        return self.net(x + other)


class Tokens(nn.Module):
    """Takes integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))

    @override
    def forward(self, x: Any) -> Any:
        return self.net(self.embed(x).mean(1))


def program(function: Any = None, likelihood: Any = None, outputs: int = 3) -> bd.BayesianNetwork:
    torch.manual_seed(0)
    network = Returns(function or (lambda out: out), outputs)
    return bd.BayesianNetwork(network, likelihood or bd.Categorical(), num_data=20)


def predict(data: Any = X, function: Any = None, likelihood: Any = None, **options: Any) -> Any:
    outputs = options.pop("outputs", 3)
    settings = {"num_samples": 3, "seed": 0, **options}
    return bd.predict(program(function, likelihood, outputs), data, **settings)


def evaluate(data: Any, function: Any = None, likelihood: Any = None, **options: Any) -> Any:
    outputs = options.pop("outputs", 3)
    settings = {"num_samples": 3, "seed": 0, **options}
    return bd.evaluate(program(function, likelihood, outputs), data, **settings)


def changed(value: float) -> torch.Tensor:
    x = X.clone()
    x[7, 1] = value
    return x


def same(data: Any, x: torch.Tensor = X) -> bool:
    found, expected = predict(data).mean, predict(x).mean
    return bool(torch.allclose(found, expected, atol=1e-6))


def sums_to_one(prediction: Any) -> bool:
    total = prediction.mean.sum(1)
    return prediction.mean.dtype == torch.float32 and bool((total - 1).abs().max() < 1e-5)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X), **options)


def tokens(x: torch.Tensor) -> Any:
    bnn = bd.BayesianNetwork(Tokens(), bd.Categorical(), num_data=20)
    return bd.predict(bnn, x, num_samples=3)


def autocast(dtype: torch.dtype) -> Any:
    with torch.autocast("cpu", dtype=dtype):
        return evaluate((X, Y)).prediction


def logit_gap(gap: float) -> float:
    bnn = bd.BayesianNetwork(nn.Identity(), bd.Categorical(), num_data=20)
    nll = bd.evaluate(bnn, (torch.tensor([[0.0, gap]]), torch.zeros(1).long())).nll
    return abs(nll / gap - 1)


OUTPUTS = [
    *(
        Input(f"a network that returns {name}", lambda f=f: predict(function=f), error)
        for name, f, error in (
            ("a tuple", lambda out: (out, out), ConfigError),
            ("a list", lambda out: [out], ConfigError),
            ("a dict", lambda out: {"logits": out}, ConfigError),
            ("None", lambda out: None, ConfigError),
            ("a number", lambda out: 1.0, ConfigError),
            ("an array", lambda out: out.numpy(), ConfigError),
            ("classes", lambda out: out.argmax(1), ConfigError),
            ("booleans", lambda out: out > 0, ConfigError),
            ("complex numbers", lambda out: out.cfloat(), ConfigError),
            ("squeezed outputs", lambda out: out[:, :1].squeeze(), ShapeError),
            ("a mean over the batch", lambda out: out.mean(0), ShapeError),
            ("a sum", lambda out: out.sum(), ShapeError),
            ("each row twice", lambda out: torch.cat([out, out]), ShapeError),
            ("NaN", lambda out: out * NAN, DivergenceError),
            ("infinite logits", lambda out: out + INF, DivergenceError),
        )
    ),
    Input(
        "one output without its dimension",
        lambda: evaluate(
            (X, torch.zeros(20)), lambda out: out.squeeze(-1), bd.Gaussian(0.5), outputs=1
        ),
        lambda result: result.rmse >= 0,
    ),
    Input("a network with two inputs", lambda: bd.predict(
        bd.BayesianNetwork(Two(None), bd.Categorical(), num_data=20), X  # type: ignore[arg-type]
    ), ConfigError),
    Input("a module without a program", lambda: bd.predict(nn.Linear(4, 3), X), ConfigError),  # type: ignore[arg-type]
]  # fmt: skip

DATA = [
    *(
        Input(f"inputs: {name}", lambda v=value: predict(v), error)
        for name, value, error in (
            ("float64", X.double(), DataError),
            ("uint8", X.byte(), DataError),
            ("int64", X.long(), DataError),
            ("half of a float32 network", X.half(), DataError),
            ("complex", X.cfloat(), DataError),
            ("another width", torch.zeros(20, 9), ShapeError),
            ("one dimension", torch.zeros(20), ShapeError),
            ("NaN", changed(NAN), DataError),
            ("infinity", changed(-INF), DataError),
            ("none", X[:0], DataError),
            ("a number", torch.tensor(1.0), ANY),
            ("three tensors", (X, X, X), DataError),
            ("more targets", (X, Y[:5]), DataError),
            ("None", None, DataError),
            ("a string", "x", DataError),
            ("a shuffled loader", loader(shuffle=True), DataWarning),
            ("a loader that drops rows", loader(batch_size=6, drop_last=True), DataWarning),
            ("a loader that drops all", loader(batch_size=30, drop_last=True), DataError),
        )
    ),
    *(
        Input(f"inputs: {name}", lambda v=value: v, same)
        for name, value in (
            ("transposed memory", X.T.contiguous().T),
            ("every other row of more", X.repeat_interleave(2, 0)[::2]),
            ("a loader in order", loader(batch_size=7)),
            ("gradients", X.clone().requires_grad_()),
        )
    ),
    Input("tokens", lambda: tokens(torch.randint(0, 5, (20, 6))), lambda p: len(p.mean) == 20),
    Input("tokens as floats", lambda: tokens(torch.zeros(20, 6)), DataError),
    Input("tokens out of range", lambda: tokens(torch.full((20, 6), 5)), DataError),
    Input("bfloat16 under autocast", lambda: autocast(torch.bfloat16), sums_to_one),
    Input("float16 under autocast", lambda: autocast(torch.float16), sums_to_one),
    *(
        Input(f"a logit gap of {gap:g}", lambda g=gap: logit_gap(g), lambda error: error < 1e-6)
        for gap in (100.0, 103.0, 105.0, 120.0, 900.0)
    ),
]

OPTIONS = [
    *(
        Input(f"{name}={value!r}", lambda n=name, v=value: predict(**{n: v}), ConfigError)
        for name, value in (
            ("num_samples", 0),
            ("num_samples", -3),
            ("batch_size", 0),
            ("memory_limit", 0),
            ("memory_limit", 10),
            ("shared_by", "batches"),
            ("shared_by", None),
        )
    ),
    Input("one sample, unbiased", lambda: predict(num_samples=1, unbiased=True), ConfigError),
    *(
        Input(f"ood: {name}", lambda v=value: evaluate((X, Y), ood=v), error)
        for name, value, error in (
            ("a tensor", X, ConfigError),
            ("a list", [X], ConfigError),
            ("a pair", (X, Y), ConfigError),
            ("none of its examples", {"far": X[:0]}, DataError),
            ("another width", {"far": X[:, :2]}, ShapeError),
            ("NaN", {"far": changed(NAN)}, DataError),
        )
    ),
    Input("ood with labels of others", lambda: evaluate((X, Y), ood={"far": (X, Y + 7)}),
          lambda result: "far" in result.ood),
    Input("ood of a regression", lambda: evaluate(
        (X, X[:, :1]), None, bd.Gaussian(), outputs=1, ood={"far": X}), ConfigError),
    Input("no targets", lambda: evaluate(X), DataError),
]  # fmt: skip

TARGETS = [
    *(
        Input(f"labels: {name}", lambda v=value: evaluate((X, v)), (DataError, ShapeError))
        for name, value in (
            ("one-hot", nn.functional.one_hot(Y)),
            ("floats", Y.float()),
            ("from 1", Y + 1),
            ("negative", Y - 1),
            ("a column", Y[:, None]),
            ("all missing", torch.full((20,), -100)),
            ("complex", Y.cfloat()),
        )
    ),
    *(
        Input(
            f"targets: {name}",
            lambda v=value: evaluate((X, v), None, bd.Gaussian(), outputs=1),
            (DataError, ShapeError),
        )
        for name, value in (
            ("NaN", changed(NAN)[:, 1:2]),
            ("infinite", changed(INF)[:, 1:2]),
            ("two columns", X[:, :2]),
            ("a matrix for a column", X),
        )
    ),
    *(
        Input(
            f"binary targets: {name}",
            lambda v=value: evaluate((X, v), None, bd.Bernoulli(), outputs=1),
            (DataError, ShapeError),
        )
        for name, value in (
            ("2", torch.full((20, 1), 2)),
            ("half", torch.full((20, 1), 0.5)),
            ("NaN", torch.full((20, 1), NAN)),
            ("two columns", torch.zeros(20, 2)),
        )
    ),
    *(
        Input(f"Gaussian({value!r})", lambda v=value: bd.Gaussian(v), ConfigError)
        for value in (0.0, -1.0, NAN, INF, "learnt", True, None)
    ),
    *(
        Input(f"Categorical(ignore_index={value!r})",
              lambda v=value: bd.Categorical(ignore_index=v), ConfigError)
        for value in (None, 1.5, "255", True)
    ),
]  # fmt: skip


def nll(p: Any = P, y: Any = Y) -> Any:
    return metrics.negative_log_likelihood(p, y)


def right_nll(value: float) -> bool:
    return abs(value - float(-P.double().gather(1, Y[:, None]).log().mean())) < 1e-6


RIGHT = {
    "reversed views": (P.flip(0).numpy()[::-1], Y.flip(0).numpy()[::-1]),
    "big-endian arrays": (P.numpy().astype(">f4"), Y.numpy().astype(">i8")),
    "lists of tensors": (list(P), list(Y)),
    "nested lists": (P.tolist(), Y.tolist()),
    "uint64 labels": (P, Y.numpy().astype("uint64")),
    "float labels": (P, Y.double()),
    "Fortran order": (np.asfortranarray(P.numpy()), Y),
    "rounding above one": (P * (1 + 1e-7), Y),
    "sparse": (P.to_sparse(), Y),
}

ARRAYS = [
    *(
        Input(f"arrays: {name}", lambda v=value: nll(*v), right_nll)
        for name, value in RIGHT.items()
    ),
    *(
        Input(f"probabilities: {name}", lambda v=value: nll(v), ANY)
        for name, value in (
            ("logits", X[:, :3]),
            ("NaN", P * NAN),
            ("sum to two", 2 * P.clamp(max=0.5)),
            ("negative", P - 0.1),
            ("samples", P[None]),
            ("a column", P[:, :1]),
            ("none", P[:0]),
            ("strings", P.numpy().astype(str)),
            ("objects", P.numpy().astype(object)),
            ("long double", P.numpy().astype(np.longdouble)),
            ("complex", P.cfloat()),
            ("None", None),
            ("a dict", {"p": P}),
            ("ragged", [[0.5, 0.5], [1.0]]),
            ("no values", P.to("meta")),
        )
    ),
    *(
        Input(f"labels: {name}", lambda v=value: nll(P, v), ANY)
        for name, value in (
            ("too few", Y[:5]),
            ("out of range", Y + 1),
            ("negative", Y - 1),
            ("fractions", Y + 0.5),
            ("NaN", Y * NAN),
            ("one-hot", nn.functional.one_hot(Y)),
            ("class names", [str(int(y)) for y in Y]),
            ("masked", np.ma.masked_equal(Y.numpy(), 1)),
            ("dates", Y.numpy().astype("datetime64[D]")),
        )
    ),
    *(
        Input(f"num_bins={value!r} of {function.__name__}",
              lambda f=function, v=value: f(P, Y, num_bins=v), ConfigError)
        for value in (0, -1, 2.5, 10**9, "15", True)
        for function in (metrics.expected_calibration_error, metrics.reliability)
    ),
    Input("scores of one set NaN", lambda: metrics.ood_metrics(X[:, 0] * NAN, X[:, 1]), DataError),
    Input("negative variances", lambda: metrics.variance_parts(X, -1.0), DataError),
    Input("few resamples", lambda: metrics.bootstrap_metrics({"a": P}, Y, num_resamples=5),
          ConfigError),
    Input("a level of 95", lambda: metrics.bootstrap_metrics({"a": P}, Y, level=95), ConfigError),
    Input("8-bit images", lambda: metrics.corrupt(
        torch.zeros(2, 1, 8, 8).byte(), "contrast", 1), DataError),
    Input("images to 255", lambda: metrics.corrupt(
        255 * torch.rand(2, 1, 8, 8), "contrast", 1), DataError),
    Input("a severity of 6", lambda: metrics.corrupt(
        torch.rand(2, 1, 8, 8), "contrast", 6), ConfigError),
    Input("an unknown corruption", lambda: metrics.corrupt(
        torch.rand(2, 1, 8, 8), "contrst", 1), ConfigError),
    Input("bicubic overshoot", lambda: metrics.corrupt(
        nn.functional.interpolate(torch.rand(2, 1, 8, 8).round(), 12, mode="bicubic"),
        "contrast", 1), lambda x: bool(((x >= 0) & (x <= 1)).all())),
]  # fmt: skip


def ordered(width: Any) -> Any:
    net = nn.Sequential(nn.Linear(4, 64), bd.NestedDropout(64), nn.Linear(64, 3))
    return bd.compression.hold_width(
        bd.BayesianNetwork(net, bd.Categorical(), num_data=20), width
    ).units()


COMPRESSION = [
    *(
        Input(f"hold_width({width!r})", lambda v=width: ordered(v), ConfigError)
        for width in (0, -3, 65, 1.5, NAN, {"nosuch": 3}, {"1": 65})
    ),
    Input("hold_width(48)", lambda: ordered(48), lambda units: units == [48]),
    Input("compact without an example", lambda: bd.compact(program()), ConfigError),
    Input("compact of no example", lambda: bd.compact(program(), X[:0]), DataError),
    Input("compact of another width", lambda: bd.compact(program(), X[:, :2]), ANY),
    Input("save_plain of masks", lambda: bd.save_plain(
        program(), "/dev/null", X), CompactionError),
    Input("an unknown format", lambda: bd.save_plain(
        nn.Linear(4, 3), "/dev/null", X, format="zip"), ConfigError),  # type: ignore[arg-type]
    Input("no threshold", lambda: compression.choose_width(
        compression.WidthSweep((), 1, 1, 1)), ConfigError),
]  # fmt: skip

INPUTS = [*OUTPUTS, *DATA, *OPTIONS, *TARGETS, *ARRAYS, *COMPRESSION]
