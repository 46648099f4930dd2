"""Bad inputs of constructors, of ``bnn.loss`` and of ``convert``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from bad_inputs import Input
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from typing_extensions import override

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ConversionError, ConversionWarning, DataError, ShapeError

N = 20
NAN, INF = float("nan"), float("inf")
X, Y = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 2
IMAGES = torch.randn(N, 3, 8, 8)


class Returns(nn.Module):
    """Applies a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    @override
    def forward(self, x: Any) -> Any:
        return self.function(x)


def program(*layers: nn.Module, likelihood: Any = None, **options: Any) -> bd.BayesianNetwork:
    layers = layers or (nn.Linear(4, 6), bd.BetaBernoulliDropout(6), nn.Linear(6, 2))
    settings = {"num_data": N, **options}
    return bd.BayesianNetwork(nn.Sequential(*layers), likelihood or bd.Categorical(), **settings)


def loss(x: Any, y: Any = Y, *layers: nn.Module, likelihood: Any = None, mode: bool = True) -> Any:
    return program(*layers, likelihood=likelihood).train(mode).loss(x, y)


def images(*layers: nn.Module) -> tuple[nn.Module, ...]:
    return (nn.Conv2d(3, 4, 3), *layers, nn.Flatten(), nn.Linear(144, 2))


def tokens() -> tuple[nn.Module, ...]:
    return (nn.Embedding(5, 2), nn.Flatten(), nn.Linear(8, 2))


def finite(value: Any) -> bool:
    return bool(torch.isfinite(value.loss))


def wrapped(function: Callable[[Any], Any]) -> tuple[nn.Module, ...]:
    return (nn.Linear(4, 2), Returns(function))


CONSTRUCTORS = [
    *(
        Input(f"num_data={value!r}", lambda v=value: program(num_data=v), ConfigError)
        for value in (None, "60", NAN, INF, 0, -5, 2.5, True, [60])
    ),
    *(
        Input(f"kl_weight={value!r}", lambda v=value: program(kl_weight=v), ConfigError)
        for value in (None, "1", 0.0, -1.0, NAN, INF, True)
    ),
    *(
        Input(
            f"network={value!r}",
            lambda v=value: bd.BayesianNetwork(v, bd.Categorical(), N),
            ConfigError,
        )
        for value in (None, nn.Linear, torch.relu, "lenet", [nn.Linear(2, 2)])
    ),
    *(
        Input(
            f"likelihood={value!r}",
            lambda v=value: bd.BayesianNetwork(nn.Linear(2, 2), v, N),
            ConfigError,
        )
        for value in (None, bd.Categorical, "categorical", nn.CrossEntropyLoss(), N)
    ),
    *(
        Input(f"BetaBernoulliDropout({v!r})", lambda v=v: bd.BetaBernoulliDropout(v), ConfigError)
        for v in (0, -3, 3.5, "3", None, True, NAN)
    ),
    *(
        Input(
            f"BetaBernoulliDropout(4, {name}={value!r})",
            lambda n=name, v=value: bd.BetaBernoulliDropout(4, **{n: v}),
            ConfigError,
        )
        for name, values in {
            "kl_scale": (-1.0, NAN, INF, "1"),
            "temperature": (0.0, -1.0, NAN),
            "unit_dim": (1.5, "last"),
        }.items()
        for value in values
    ),
    Input("a misspelt option", lambda: bd.BetaBernoulliDropout(4, temprature=1), TypeError),
    Input("a misspelt option of make", lambda: bd.nn.make("l0", 4, foo=1), ConfigError),
    Input("a misspelt layer", lambda: bd.nn.make("beta-bernouli", 4), ConfigError),
    Input("a layer of no name", lambda: bd.nn.make(None, 4), ConfigError),
    *(
        Input(
            f"Gaussian({args}, {options})",
            lambda a=args, o=options: bd.Gaussian(*a, **o),
            ConfigError,
        )
        for args, options in (
            ((0.0,), {}),
            ((-1.0,), {}),
            ((NAN,), {}),
            (("fixed",), {}),
            ((True,), {}),
            ((), {"num_outputs": 0}),
            ((), {"num_outputs": 1.5}),
            ((), {"init_scale": NAN}),
            ((), {"init_scale": 0.0}),
            ((), {"min_scale": -1.0}),
        )
    ),
    *(
        Input(
            f"Categorical(ignore_index={value!r})",
            lambda v=value: bd.Categorical(ignore_index=v),
            ConfigError,
        )
        for value in (1.5, "none", None, True)
    ),
]

LOSS = [
    Input("float64 into float32", lambda: loss(X.double()), DataError),
    Input("float64, evaluation", lambda: loss(X.double(), mode=False), DataError),
    Input("float16 into float32", lambda: loss(X.half()), DataError),
    Input("bytes", lambda: loss(X.abs().byte()), DataError),
    Input("integers", lambda: loss(X.long()), DataError),
    Input("booleans", lambda: loss(X > 0), DataError),
    Input("float64 images", lambda: loss(IMAGES.double(), Y, *images()), DataError),
    Input("byte images", lambda: loss(IMAGES.abs().byte(), Y, *images()), DataError),
    Input("float64, batch norm", lambda: loss(X.double(), Y, nn.BatchNorm1d(4)), DataError),
    Input("float64, layer norm", lambda: loss(X.double(), Y, nn.LayerNorm(4)), DataError),
    Input("float tokens", lambda: loss(X, Y, *tokens()), DataError),
    Input("tokens out of range", lambda: loss(torch.full((N, 4), 9), Y, *tokens()), DataError),
    Input("fewer features", lambda: loss(X[:, :3]), ShapeError),
    Input("one feature", lambda: loss(X[:, 0]), ShapeError),
    Input(
        "fewer features, mask", lambda: loss(X[:, :3], Y, bd.BetaBernoulliDropout(4)), ShapeError
    ),
    Input("one channel", lambda: loss(IMAGES[:, :1], Y, *images()), ShapeError),
    Input("channels last", lambda: loss(IMAGES.movedim(1, 3), Y, *images()), ShapeError),
    Input("flat images", lambda: loss(IMAGES.flatten(1), Y, *images()), ShapeError),
    Input("larger images", lambda: loss(torch.randn(N, 3, 9, 9), Y, *images()), ShapeError),
    Input("tiny images", lambda: loss(torch.randn(N, 3, 2, 2), Y, *images()), ShapeError),
    Input("no batch", lambda: loss(IMAGES[0], Y[:1], *images()), (DataError, ShapeError)),
    Input("an empty batch", lambda: loss(X[:0], Y[:0]), DataError),
    Input("a number", lambda: loss(torch.tensor(1.0), Y), DataError),
    Input("no inputs", lambda: loss(None), DataError),
    Input("no targets", lambda: loss(X, None), DataError),
    Input("array", lambda: loss(X.numpy()), DataError),
    Input("array of targets", lambda: loss(X, Y.numpy()), DataError),
    Input("list", lambda: loss(X.tolist()), DataError),
    Input("tuple of inputs", lambda: loss((X, X)), ConfigError),
    Input("sparse", lambda: loss(X.to_sparse()), DataError),
    Input("complex", lambda: loss(X + 0j), DataError),
    Input("complex targets", lambda: loss(X, Y + 0j), DataError),
    Input("fewer targets", lambda: loss(X, Y[:5]), ShapeError),
    Input("one-hot labels", lambda: loss(X, nn.functional.one_hot(Y)), DataError),
    Input("float labels", lambda: loss(X, Y.float()), DataError),
    Input("labels from 1", lambda: loss(X, Y + 1), DataError),
    Input("labels (N, 1)", lambda: loss(X, Y[:, None]), DataError),
    Input("negative labels", lambda: loss(X, Y - 1), DataError),
    Input("missing labels", lambda: loss(X, torch.where(Y == 0, -100, Y)), finite),
    Input(
        "targets of 2 for Bernoulli",
        lambda: loss(X, 2 * Y[:, None].repeat(1, 2), likelihood=bd.Bernoulli()),
        DataError,
    ),
    Input("(N,) against (N, 2)", lambda: loss(X, Y.float(), likelihood=bd.Gaussian()), ShapeError),
    Input("NaN targets", lambda: loss(X, X[:, :2] * NAN, likelihood=bd.Gaussian()), DataError),
    Input(
        "infinite targets", lambda: loss(X, X[:, :2] * INF, likelihood=bd.Gaussian()), DataError
    ),
    Input("a network of one class", lambda: loss(X, 0 * Y, nn.Linear(4, 1)), ShapeError),
    Input(
        "odd heteroscedastic",
        lambda: loss(X, X[:, :1], nn.Linear(4, 3), likelihood=bd.Gaussian("heteroscedastic")),
        ShapeError,
    ),
    Input("a tuple returned", lambda: loss(X, Y, *wrapped(lambda h: (h, h))), ConfigError),
    Input("a dict returned", lambda: loss(X, Y, *wrapped(lambda h: {"a": h})), ConfigError),
    Input("nothing returned", lambda: loss(X, Y, *wrapped(lambda h: None)), ConfigError),
    Input("an average returned", lambda: loss(X, Y, *wrapped(lambda h: h.mean(0))), ShapeError),
    Input("a number returned", lambda: loss(X, Y, *wrapped(lambda h: h.sum())), ShapeError),
    Input(
        "squeeze() of one row",
        lambda: loss(
            X[:1], Y[:1], nn.Linear(4, 1), Returns(lambda h: h.squeeze()), likelihood=bd.Gaussian()
        ),
        ShapeError,
    ),
    Input(
        "one row, batch norm",
        lambda: loss(X[:1], Y[:1], nn.Linear(4, 2), nn.BatchNorm1d(2)),
        DataError,
    ),
    Input(
        "one row, batch norm, evaluation",
        lambda: loss(X[:1], Y[:1], nn.Linear(4, 2), nn.BatchNorm1d(2), mode=False),
        finite,
    ),
    Input("more rows than num_data", lambda: loss(X.repeat(2, 1), Y.repeat(2)), DataError),
    Input("more held-out rows", lambda: loss(X.repeat(2, 1), Y.repeat(2), mode=False), finite),
    Input("num_masks=0", lambda: program().loss(X, Y, num_masks=0), ConfigError),
    Input("num_masks='all'", lambda: program().loss(X, Y, num_masks="all"), ConfigError),
    Input("num_masks=1.5", lambda: program().loss(X, Y, num_masks=1.5), ConfigError),
    Input("float64 in SVI", lambda: step(X.double()), DataError),
    Input("too many rows in SVI", lambda: step(X.repeat(2, 1), Y.repeat(2)), DataError),
    Input("a layer added later", lambda: sites_of_a_late_layer(), lambda s: {"1.pi", "1.z"} <= s),
]


def step(x: torch.Tensor, y: torch.Tensor = Y) -> float:
    bnn = program()
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return float(svi.step(x, y))


def sites_of_a_late_layer() -> set[str]:
    bnn = program(nn.Tanh())
    bnn.network.append(bd.BetaBernoulliDropout(4)).append(nn.Linear(4, 2))
    return set(pyro.poutine.trace(bnn.model).get_trace(X, Y).nodes)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


CONVERT = [
    *(
        Input(f"convert({value!r})", lambda v=value: bd.convert(v), (ConfigError, ConversionError))
        for value in (None, nn.Linear, torch.relu, "net", 5)
    ),
    Input("convert, a misspelt layer", lambda: bd.convert(mlp(), "beta-bernouli"), ConfigError),
    Input("convert, layer=None", lambda: bd.convert(mlp(), None), (ConfigError, ConversionError)),
    Input(
        "convert, a misspelt option",
        lambda: bd.convert(mlp(), temprature=1),
        (ConfigError, TypeError),
    ),
    Input(
        "convert, nothing to convert",
        lambda: bd.convert(nn.ReLU()),
        (ConversionError, ConversionWarning),
    ),
    Input(
        "convert, a single layer",
        lambda: bd.convert(nn.Linear(4, 2)),
        (ConversionError, ConversionWarning),
    ),
    Input(
        "convert, lazy layers",
        lambda: bd.convert(nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))),
        ConversionError,
    ),
    Input(
        "convert, an LSTM",
        lambda: bd.convert(nn.LSTM(4, 8)),
        lambda network: any(True for _ in bd.nn.named_owners(network)),
    ),
    Input(
        "convert, converted",
        lambda: bd.convert(bd.convert(mlp())),
        (ConversionError, ConversionWarning),
    ),
    Input("convert, kl_scale=-1", lambda: bd.convert(mlp(), kl_scale=-1.0), ConfigError),
    Input(
        "convert, evaluation mode",
        lambda: {m.training for m in bd.convert(mlp().eval()).modules()},
        lambda modes: modes == {False},
    ),
    Input(
        "convert leaves its argument",
        lambda: [type(m).__name__ for m in unchanged()],
        lambda names: names == ["Sequential", "Linear", "ReLU", "Linear"],
    ),
]


def unchanged() -> list[nn.Module]:
    net = mlp()
    bd.convert(net)
    return list(net.modules())


INPUTS = [*CONSTRUCTORS, *LOSS, *CONVERT]
