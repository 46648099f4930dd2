"""The optimiser as people write it: a class, a function, an object, and what is none."""

import copy
import warnings

import pyro
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import bayesdrop as bd
from bayesdrop.errors import BayesdropWarning, ConfigError
from bayesdrop.inference.optimizers import parameter_groups
from tests.inference.test_fit import make_bnn, make_data


def fitted(optimizer, **options):
    bnn = make_bnn(40)
    settings = {"epochs": 2, "batch_size": 20, "seed": 1, "progress": False}
    result = bd.fit(bnn, make_data(40), optimizer=optimizer(bnn), **{**settings, **options})
    return bnn, result


GIVEN = {
    "function of parameters": lambda bnn: lambda _: torch.optim.SGD(bnn.parameters(), lr=0.1),
    "flattened groups": lambda bnn: (
        lambda groups: torch.optim.SGD([p for g in groups for p in g["params"]], lr=0.1)
    ),
    "object": lambda bnn: torch.optim.SGD(bnn.parameters(), lr=0.1),
    "object of groups": lambda bnn: torch.optim.SGD(
        [{"params": [p]} for p in bnn.parameters()], lr=0.1
    ),
}


@pytest.mark.parametrize("form", GIVEN)
def test_an_optimizer_with_its_own_rate_keeps_it_under_the_schedule(form):
    bnn, result = fitted(GIVEN[form], schedule=bd.schedules.steps(1, factor=0.5))
    assert [record["learning_rate"] for record in result.history] == [0.1, 0.05]
    whole, _ = fitted(GIVEN["object"], schedule=bd.schedules.steps(1, factor=0.5))
    for name, value in bnn.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])


def test_the_rates_of_fit_go_to_a_class_and_to_a_function_of_groups():
    classes = fitted(lambda bnn: torch.optim.SGD, learning_rate=0.1)[0]
    functions = fitted(lambda bnn: lambda groups: torch.optim.SGD(groups), learning_rate=0.1)[0]
    for name, value in classes.state_dict().items():
        assert torch.equal(value, functions.state_dict()[name])


@pytest.mark.parametrize(("name", "value"), [("lr", 0.1), ("weight_decay", 0.3)])
def test_a_rate_that_the_groups_override_is_warned_of(name, value):
    with pytest.warns(BayesdropWarning, match=f"got {name}={value}.*has no effect") as caught:
        fitted(lambda bnn: lambda groups: torch.optim.SGD(groups, **{name: value}))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(lambda bnn: lambda _: torch.optim.SGD(bnn.parameters(), **{name: value}))


def test_each_kind_of_parameter_has_its_own_rate_and_decay():
    layers = bd.nn.GaussianWeights(nn.Linear(4, 3)), bd.BetaBernoulliDropout(3), nn.Linear(3, 1)
    bnn = bd.BayesianNetwork(nn.Sequential(*layers), bd.Gaussian("learned"), num_data=10)
    rates = {"learning_rate": 0.1, "variational_learning_rate": 0.5, "weight_decay": 0.3}
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in parameter_groups(bnn, **rates)
        for parameter in group["params"]
    }
    assert {name: found[p] for name, p in bnn.named_parameters()} == {
        "network.0.weight": (0.1, 0.0),
        "network.0.log_variance": (0.5, 0.0),
        "network.0.bias": (0.1, 0.3),
        "network.1.location": (0.5, 0.0),
        "network.1.log_shape": (0.5, 0.0),
        "network.2.weight": (0.1, 0.3),
        "network.2.bias": (0.1, 0.3),
        "likelihood.raw_scale": (0.1, 0.0),
    }


def test_an_optimizer_of_a_part_trains_that_part_alone():
    start = make_bnn(40)
    bnn, _ = fitted(lambda bnn: torch.optim.SGD(bnn.network[4].parameters(), lr=0.1))
    moved = {n for n, v in bnn.named_parameters() if not torch.equal(v, start.get_parameter(n))}
    assert moved == {"network.4.weight", "network.4.bias"}


def test_an_object_that_trained_before_begins_at_its_own_rate_again():
    bnn = make_bnn(40)
    optimizer = torch.optim.SGD(bnn.parameters(), lr=0.1)
    for _ in range(2):
        result = bd.fit(bnn, make_data(40), epochs=2, optimizer=optimizer, progress=False)
        assert result.history[0]["learning_rate"] == 0.1


def other(bnn):
    return torch.optim.Adam(copy.deepcopy(bnn).parameters())


REFUSED = {
    "of another network": (other, "an optimizer of this network's parameters, got a Adam of 6"),
    "function of another": (lambda bnn: lambda _: other(bnn), "Make it after convert"),
    "pyro": (lambda bnn: pyro.optim.Adam({"lr": 0.1}), "optimizer=torch.optim.Adam; the rates"),
    "pyro's own": (
        lambda bnn: pyro.optim.ClippedAdam({}),
        "got the object pyro.optim.ClippedAdam",
    ),
    "line search": (lambda bnn: torch.optim.LBFGS, "got LBFGS, which evaluates the loss several"),
    "line search of groups": (lambda bnn: lambda g: torch.optim.LBFGS(g), "got LBFGS"),
    "line search object": (lambda bnn: torch.optim.LBFGS(bnn.parameters()), "got LBFGS"),
    "matrices": (lambda bnn: torch.optim.Muon, "got Muon: Muon only supports 2D"),
    "maximises": (
        lambda bnn: lambda groups: torch.optim.Adam(groups, maximize=True),
        "expected an optimizer that minimises the loss, .* got maximize=True",
    ),
    "differentiable": (
        lambda bnn: torch.optim.SGD(bnn.parameters(), 0.1, differentiable=True),
        "got differentiable=True",
    ),
    "sparse": (lambda bnn: torch.optim.SparseAdam, "got SparseAdam: it takes no dense gradients"),
    "a type": (lambda bnn: int, "got int: "),
    "name": (lambda bnn: "adam", "called as optimizer"),
    "parameters": (lambda bnn: list(bnn.parameters()), "called as optimizer"),
    "no arguments": (lambda bnn: lambda: None, "called as optimizer"),
    "nothing": (lambda bnn: lambda groups: None, "one that returns None"),
    "scheduler": (
        lambda bnn: lambda groups: torch.optim.lr_scheduler.StepLR(torch.optim.SGD(groups), 1),
        "one that returns a StepLR",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_optimizer_of_the_network_is_refused_with_a_way_out(form):
    make, message = REFUSED[form]
    with pytest.raises(ConfigError, match=message):
        fitted(make)


SCHEDULERS = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    "warm-up": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.25, total_iters=3),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=5),
}


def fitted_under(scheduler, **options):
    bnn = make_bnn(40)
    optimizer = torch.optim.SGD(bnn.parameters(), lr=0.1)
    steps = scheduler(optimizer)
    result = bd.fit(
        bnn, make_data(40), epochs=4, optimizer=optimizer, progress=False,
        callbacks=[lambda _, record: steps.step()], **options,
    )  # fmt: skip
    return [record["learning_rate"] for record in result.history]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_torch_in_a_callback_has_the_rates_where_no_schedule_has(name):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, expected = SCHEDULERS[name](optimizer), []
    for _ in range(4):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert fitted_under(SCHEDULERS[name], schedule=()) == expected


@pytest.mark.parametrize("options", [{}, {"schedule": bd.schedules.constant(1.0)}])
def test_a_scheduler_of_torch_beside_a_schedule_is_refused(options):
    with pytest.raises(ConfigError, match=r"0\.05 after an epoch of 0\.1.*schedule=\(\)"):
        fitted_under(SCHEDULERS["step"], **options)


def test_a_plateau_scheduler_lowers_the_rate_by_the_record():
    bnn = make_bnn(40)
    optimizer = torch.optim.SGD(bnn.parameters(), lr=0.1)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9)
    result = bd.fit(
        bnn, make_data(40), epochs=3, optimizer=optimizer, progress=False, schedule=(),
        callbacks=[lambda _, record: plateau.step(record["loss"])],
    )  # fmt: skip
    assert [record["learning_rate"] for record in result.history] == [0.1, 0.05, 0.025]


@pytest.mark.parametrize("form", [lr_scheduler.StepLR, SCHEDULERS["step"]])
def test_a_scheduler_of_torch_is_no_schedule(form):
    bnn = make_bnn(40)
    optimizer = torch.optim.SGD(bnn.parameters(), lr=0.1)
    schedule = form if isinstance(form, type) else form(optimizer)
    with pytest.raises(ConfigError, match=r"torch's StepLR.*callbacks="):
        bd.fit(bnn, make_data(40), epochs=1, optimizer=optimizer, schedule=schedule)
