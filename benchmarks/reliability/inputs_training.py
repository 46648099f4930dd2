"""Bad inputs of ``fit``: arguments, data, optimisers, schedules, other runs' checkpoints."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import numpy as np
import pyro
import torch
from bad_inputs import Input
from inputs_programs import INF, NAN, N, Returns, X, Y, program
from scipy.sparse import csr_matrix
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import BayesdropWarning, CheckpointError, ConfigError, DataError, ShapeError

PAIR = TensorDataset(X, Y)
REAL = X.sum(1, keepdim=True)


def fit(data: Any = None, bnn: Any = None, **options: Any) -> Any:
    bnn = program() if bnn is None else bnn
    settings = {"epochs": 1, "batch_size": 8, "progress": False, "seed": 0, **options}
    return bd.fit(bnn, (X, Y) if data is None else data, **settings)


def trained(result: Any) -> bool:
    return all(bool(torch.isfinite(torch.tensor(record["loss"]))) for record in result.history)


def regression(y: Any = REAL, **options: Any) -> Any:
    bnn = program(nn.Linear(4, 1), likelihood=bd.Gaussian())
    return fit((X, y), bnn, **options)


def changed(value: float) -> torch.Tensor:
    x = X.clone()
    x[7, 1] = value
    return x


def target(value: float) -> torch.Tensor:
    y = REAL.clone()
    y[7] = value
    return y


class Stream(IterableDataset):
    """Examples without a length."""

    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


class Empty(IterableDataset):
    """No examples."""

    def __iter__(self) -> Any:
        return iter(())


SETTINGS = [
    Input(f"fit({name}={value!r})", lambda n=name, v=value: fit(**{n: v}), ConfigError)
    for name, values in {
        "epochs": (0, -1, 1.5, "5", None, True),
        "batch_size": (0, 2.5, None, "all"),
        "checkpoint_every": (0, 0.5),
        "learning_rate": (-1.0, NAN, INF, "1e-3", None),
        "variational_learning_rate": (-1.0, NAN, "x"),
        "weight_decay": (-1.0, NAN),
        "clip_norm": (0.0, -1.0, NAN, "1"),
        "patience": (0, 1.5, 3),
        "monitor": ("accuracy", None),
        "validation": (True, 30, 1.5, 0.0),
        "seed": (2**65, 1.5, "0", True),
        "checkpoint_dir": (5, ["runs"]),
        "tensorboard": (5,),
        "callbacks": (print, 5, [5], None, [lambda record: None]),
        "buffers": (
            "temperature",
            {"temprature": 1.0},
            {"temperature": -1.0},
            {"temperature": "x"},
        ),
        "kl_weight": ("1", 0.0, -1.0, NAN, bd.schedules.warm_up),
        "schedule": (
            5,
            None,
            "cosine",
            (1.5,),
            (NAN,),
            bd.schedules.cosine,
            lambda epoch: 1.0,
            lambda epoch, epochs: NAN,
            lambda epoch, epochs: -1.0,
            lambda epoch, epochs: None,
        ),
        "objective": (5, "elbo", pyro.infer.Trace_ELBO, lambda bnn, x, y: 1.0),
        "num_masks": (0, "all"),
    }.items()
    for value in values
]

PROGRAMS = [
    Input("fit(nn.Module)", lambda: fit(bnn=nn.Linear(4, 2)), ConfigError),
    Input("fit(class)", lambda: fit(bnn=bd.BayesianNetwork), ConfigError),
    Input("fit, all frozen", lambda: fit(bnn=program().requires_grad_(False)), ConfigError),
    Input("num_data of another set", lambda: fit(bnn=program(num_data=99)), BayesdropWarning),
    Input("softmax", lambda: fit(bnn=program(nn.Linear(4, 2), nn.Softmax(1))), BayesdropWarning),
    Input("log-softmax", lambda: fit(bnn=program(nn.Linear(4, 2), nn.LogSoftmax(1))), trained),
    Input(
        "sigmoid",
        lambda: fit(
            (X, Y[:, None].float()),
            program(nn.Linear(4, 1), nn.Sigmoid(), likelihood=bd.Bernoulli()),
        ),
        BayesdropWarning,
    ),
    Input(
        "a tuple returned",
        lambda: fit(bnn=program(Returns(lambda h: (h, h)), nn.Identity(), nn.Identity())),
        ConfigError,
    ),
    Input("frozen batch norm moves", lambda: frozen_statistics(), lambda same: same),
]


def frozen_statistics() -> bool:
    norm = nn.BatchNorm1d(4).eval().requires_grad_(False)
    fit(bnn=program(norm, nn.Linear(4, 2)))
    return bool((norm.running_mean == 0).all()) and int(norm.num_batches_tracked or 0) == 0


DATA = [
    Input("float64", lambda: fit((X.double(), Y)), DataError),
    Input("bytes", lambda: fit((X.abs().byte(), Y)), DataError),
    Input("bytes and a mask", lambda: masked(X.abs().byte()), DataError),
    Input("integers and a mask", lambda: masked(X.long()), DataError),
    Input("booleans and a mask", lambda: masked(X > 0), DataError),
    Input("bytes and a dropout", lambda: masked(X.abs().byte(), nn.Dropout(0.1)), DataError),
    Input("floats of eight bits", lambda: fit((X.to(torch.float8_e4m3fn), Y)), DataError),
    Input("a masked array", lambda: fit((np.ma.masked_less(X.numpy(), 0), Y)), DataError),
    Input("a sparse matrix", lambda: fit((csr_matrix(X.numpy()), Y)), DataError),
    Input("class names", lambda: fit((X, np.array(["a", "b"] * 10))), DataError),
    Input("labels of 16 bits", lambda: fit((X, Y.to(torch.uint16))), trained),
    Input("a number", lambda: fit((torch.tensor(1.0), Y)), DataError),
    Input("fewer features", lambda: fit((X[:, :3], Y)), ShapeError),
    Input("float64 arrays", lambda: fit((X.double().numpy(), Y.numpy())), trained),
    Input("arrays", lambda: fit((X.numpy(), Y.numpy())), trained),
    Input("reversed arrays", lambda: fit((X.numpy()[::-1], Y.numpy()[::-1])), trained),
    Input("big-endian arrays", lambda: fit((X.numpy().astype(">f4"), Y.numpy())), trained),
    Input("strings", lambda: fit((X.numpy().astype(str), Y)), DataError),
    Input("inputs alone", lambda: fit(X), DataError),
    Input("no data", lambda: bd.fit(program(), None, epochs=1), DataError),
    Input("a path", lambda: fit("data/train"), DataError),
    Input("a dictionary", lambda: fit({"x": X, "y": Y}), DataError),
    Input("dictionaries", lambda: fit(DataLoader([{"x": 1.0}] * N)), DataError),
    Input("three tensors", lambda: fit((X, Y, Y)), DataError),
    Input("batches of three", lambda: fit(DataLoader(TensorDataset(X, Y, Y))), DataError),
    Input("a generator", lambda: fit(((a, b) for a, b in [(X, Y)])), DataError),
    Input("a list of pairs", lambda: fit(list(zip(X, Y, strict=True))), DataError),
    Input("fewer targets", lambda: fit((X, Y[:5])), DataError),
    Input("empty", lambda: fit((X[:0], Y[:0])), DataError),
    Input("an empty stream", lambda: fit(Empty()), DataError),
    Input("a stream", lambda: fit(Stream()), trained),
    Input("a loader of a stream", lambda: fit(DataLoader(Stream(), 8)), trained),
    Input("drop_last drops all", lambda: fit(DataLoader(PAIR, 50, drop_last=True)), DataError),
    Input("a subset, num_data right", lambda: subset(10), lambda said: not said),
    Input("a subset, num_data wrong", lambda: subset(N), lambda said: "there are 10" in said),
    Input("sparse", lambda: fit((X.to_sparse(), Y)), DataError),
    Input("meta", lambda: fit((X.to("meta"), Y)), DataError),
    Input("complex", lambda: fit((X + 0j, Y)), DataError),
    Input("complex targets", lambda: regression(REAL + 0j), DataError),
    *(
        Input(f"{value} in an input", lambda v=value: fit((changed(v), Y)), DataError)
        for value in (NAN, INF)
    ),
    *(
        Input(f"{value} in a target", lambda v=value: regression(target(v)), DataError)
        for value in (NAN, INF, 1e30)
    ),
    *(
        Input(
            f"{value} in a validation input",
            lambda v=value: fit(validation=(changed(v), Y), epochs=9, patience=2),
            DataError,
        )
        for value in (NAN, INF)
    ),
    *(
        Input(
            f"{value} in a validation target",
            lambda v=value: regression(validation=(X, target(v))),
            DataError,
        )
        for value in (NAN, INF, 1e30)
    ),
    Input("validation without targets", lambda: fit(validation=X), DataError),
    Input("validation of other width", lambda: fit(validation=(X[:, :3], Y)), ShapeError),
    Input("validation labels from 1", lambda: fit(validation=(X, Y + 1)), DataError),
    Input("val_rmse of classes", lambda: fit(validation=0.2, monitor="val_rmse"), ConfigError),
    Input("last batch of one", lambda: norm((X[:17], Y[:17])), trained),
    Input(
        "last batch of one, loader",
        lambda: norm(DataLoader(TensorDataset(X[:17], Y[:17]), 8)),
        trained,
    ),
    Input("batches of one", lambda: norm((X[:17], Y[:17]), batch_size=1), DataError),
]


def norm(data: Any, **options: Any) -> Any:
    return fit(data, program(nn.BatchNorm1d(4), nn.Linear(4, 2), num_data=17), **options)


def masked(x: Any, first: nn.Module | None = None) -> Any:
    return fit((x, Y), program(first or bd.BetaBernoulliDropout(4), nn.Linear(4, 2)))


def subset(num_data: int) -> str:
    loader = DataLoader(PAIR, 5, sampler=SubsetRandomSampler(range(10)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(loader, program(num_data=num_data))
    return " ".join(str(w.message) for w in caught if isinstance(w.message, BayesdropWarning))


def optimized(make: Any) -> Any:
    bnn = program()
    return fit(bnn=bnn, optimizer=make(bnn))


OPTIMIZERS = [
    Input("a class", lambda: optimized(lambda b: optim.AdamW), trained),
    Input("a function of groups", lambda: optimized(lambda b: lambda g: optim.SGD(g)), trained),
    Input(
        "a function that ignores them",
        lambda: optimized(lambda b: lambda _: optim.SGD(b.parameters(), lr=0.1)),
        lambda result: result.history[0]["learning_rate"] == 0.1,
    ),
    Input(
        "an object",
        lambda: optimized(lambda b: optim.SGD(b.parameters(), lr=0.1)),
        lambda result: result.history[0]["learning_rate"] == 0.1,
    ),
    Input(
        "one of another network",
        lambda: optimized(lambda b: optim.SGD(program().parameters())),
        ConfigError,
    ),
    Input("LBFGS", lambda: optimized(lambda b: optim.LBFGS), ConfigError),
    Input("LBFGS of groups", lambda: optimized(lambda b: lambda g: optim.LBFGS(g)), ConfigError),
    Input("LBFGS object", lambda: optimized(lambda b: optim.LBFGS(b.parameters())), ConfigError),
    Input("pyro.optim", lambda: optimized(lambda b: pyro.optim.Adam({"lr": 0.1})), ConfigError),
    Input("of matrices", lambda: optimized(lambda b: optim.Muon), ConfigError),
    Input("sparse gradients", lambda: optimized(lambda b: optim.SparseAdam), ConfigError),
    Input("a type", lambda: optimized(lambda b: int), ConfigError),
    Input("a name", lambda: optimized(lambda b: "adam"), ConfigError),
    Input("nothing returned", lambda: optimized(lambda b: lambda g: None), ConfigError),
    Input("no arguments", lambda: optimized(lambda b: lambda: None), ConfigError),
]

SCHEDULES = [
    Input(
        f"schedules.{name}{arguments}",
        lambda n=name, a=arguments: getattr(bd.schedules, n)(*a),
        ConfigError,
    )
    for name, arguments in (
        ("constant", ("1",)),
        ("constant", (NAN,)),
        ("steps", (0,)),
        ("steps", (-1,)),
        ("steps", (1.5,)),
        ("steps", (NAN,)),
        ("steps", ("0.5",)),
        ("cosine", (-1.0,)),
        ("cosine", (NAN,)),
        ("linear", ("a", 1.0)),
        ("linear", (1.0, INF)),
        ("linear", (1.0, 0.0, 2.0)),
        ("decay", (1.0,)),
        ("decay", (NAN,)),
        ("decay", ("0",)),
        ("warm_up", (50,)),
        ("warm_up", (-0.1,)),
        ("warm_up", (None,)),
    )
]


def resumed(data: Any = None, epochs: int = 2, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        shared = {"schedule": (), "checkpoint_dir": folder}
        fit(epochs=2, **shared)
        return fit(data, **{**shared, "epochs": epochs, **options})


RESUMED = [
    Input("resume, one value changed", lambda: resumed((changed(0.5), Y)), CheckpointError),
    Input("resume, one label changed", lambda: resumed((X, 1 - Y)), CheckpointError),
    Input("resume, with validation", lambda: resumed(validation=(X, Y)), CheckpointError),
    Input("resume, other schedule", lambda: resumed(schedule=(1,)), CheckpointError),
    Input("resume, other KL weight", lambda: resumed(kl_weight=0.5), CheckpointError),
    Input(
        "resume, other ELBO", lambda: resumed(objective=pyro.infer.Trace_ELBO()), CheckpointError
    ),
    Input("resume, other optimiser", lambda: resumed(optimizer=optim.SGD), CheckpointError),
    Input(
        "resume, other temperature", lambda: resumed(buffers={"temperature": 0.1}), CheckpointError
    ),
    Input("resume, other batch size", lambda: resumed(batch_size=5), CheckpointError),
    Input("resume, a loader", lambda: resumed(DataLoader(PAIR, 8)), CheckpointError),
    Input("resume, fewer epochs", lambda: resumed(epochs=1), CheckpointError),
    Input("resume, other seed", lambda: resumed(seed=1), CheckpointError),
    Input("resume, the same", lambda: resumed(epochs=3), lambda r: len(r.history) == 3),
    Input("resume, longer by default", lambda: longer(), BayesdropWarning),
]


def longer() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        for epochs in (4, 8):
            result = fit(epochs=epochs, checkpoint_dir=folder)
    return result


INPUTS = [*SETTINGS, *PROGRAMS, *DATA, *OPTIMIZERS, *SCHEDULES, *RESUMED]
