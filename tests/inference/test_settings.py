"""What fit is asked for is refused by name before anything is changed."""

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import bayesdrop as bd
from bayesdrop.errors import BayesdropWarning, ConfigError, DataError
from tests.inference.test_fit import make_bnn, make_data

WRONG = {
    "learning_rate": ["1e-3", None, True, float("nan")],
    "variational_learning_rate": ["x", -1.0],
    "weight_decay": ["x", 1j],
    "clip_norm": ["1", True],
    "seed": [2**65, -(2**64), 1.5, "0", True],
    "epochs": ["5", None, 0.5],
    "batch_size": [None, "all"],
    "patience": ["3", 0],
    "checkpoint_every": [0, 2.5],
    "monitor": [None, 5],
    "checkpoint_dir": [5, ["runs"]],
    "tensorboard": [True],
    "validation": [True, 30],
    "callbacks": [print, 5, "log", [5], [lambda record: None], None],
    "schedule": [
        5,
        1.0,
        None,
        "cosine",
        (1.5,),
        (True,),
        ("a",),
        lambda epoch: 1.0,
        bd.schedules.cosine,
        bd.schedules.decay,
        bd.schedules.linear,
        bd.schedules.steps,
        lambda epoch, epochs: None,
        lambda epoch, epochs: "1",
        lambda epoch, epochs: -1.0,
    ],
    "buffers": ["temperature", ["temperature"], {"temperature": "x"}, {"temperature": None}],
    "temperature": [0.0, -1.0, lambda epoch, epochs: float("nan")],
    "kl_weight": ["1", -1.0, float("nan"), lambda epoch: 1.0, bd.schedules.warm_up],
    "objective": [5, "elbo"],
    "num_masks": ["all", 1.5],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, v) for name, values in WRONG.items() for v in values]
)
def test_a_senseless_argument_is_refused_by_name_and_nothing_is_trained(name, value):
    bnn = make_bnn(40)
    before = {key: v.clone() for key, v in bnn.state_dict().items()}
    options = {"buffers": {name: value}} if name == "temperature" else {name: value}
    with pytest.raises(ConfigError):
        bd.fit(bnn, make_data(40), **{"epochs": 2, "progress": False, **options})
    for key, after in bnn.state_dict().items():
        assert torch.equal(after, before[key])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (nn.Linear(6, 2), "got Linear. Wrap the module: bd.BayesianNetwork"),
        (bd.BayesianNetwork, "got the class BayesianNetwork"),
        (None, "got NoneType"),
        (AveragedModel(make_bnn(9)), r"Pass the BayesianNetwork in it, its \.module\."),
    ],
)
def test_what_is_no_program_is_not_fitted(what, message):
    with pytest.raises(ConfigError, match=message):
        bd.fit(what, make_data(), epochs=1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (5, "a sequence of milestones, got 5"),
        (bd.schedules.decay, "to be called first"),
        (lambda epoch: 1.0, r"schedule\(epoch, epochs\)"),
        (lambda epoch, epochs: None, "got None in epoch 1 of 2"),
        (lambda epoch, epochs: -0.5, "of at least 0, got -0.5 in epoch 1 of 2"),
    ],
)
def test_a_wrong_schedule_is_told_what_one_is(schedule, message):
    with pytest.raises(ConfigError, match=message):
        bd.fit(make_bnn(40), make_data(40), epochs=2, progress=False, schedule=schedule)


def test_callbacks_from_an_iterator_run_in_every_epoch():
    seen = []
    callbacks = (function for function in [lambda bnn, record: seen.append(record["epoch"])])
    bd.fit(make_bnn(40), make_data(40), epochs=3, progress=False, callbacks=callbacks)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("answer", [True, np.True_, np.array([True])[0], torch.tensor(True)])
def test_a_callback_stops_the_run_by_any_true(answer):
    result = bd.fit(
        make_bnn(40),
        make_data(40),
        epochs=3,
        progress=False,
        callbacks=[lambda bnn, record: answer],
    )
    assert (len(result.history), result.stopped_early) == (1, True)


@pytest.mark.parametrize("answer", [False, np.False_, 1, torch.ones(2), torch.tensor(1.0), [1]])
def test_nothing_else_stops_the_run(answer):
    callbacks = [lambda bnn, record: answer]
    result = bd.fit(make_bnn(40), make_data(40), epochs=2, progress=False, callbacks=callbacks)
    assert (len(result.history), result.stopped_early) == (2, False)


def test_functions_of_more_than_the_needed_arguments_are_taken():
    def callback(bnn, record, *, extra=1):
        seen.append(extra)

    seen = []
    calls = [functools.partial(callback, extra=2), lambda *anything: None]
    schedule = bd.schedules.constant(torch.tensor(0.5).item())
    bd.fit(
        make_bnn(40),
        make_data(40),
        epochs=1,
        progress=False,
        callbacks=calls,
        schedule=schedule,
        buffers={"temperature": lambda epoch, epochs: torch.tensor(0.5)},
        seed=2**64 - 1,
    )
    assert seen == [2]


def test_what_is_no_validation_data_is_refused_before_the_first_epoch():
    bnn = make_bnn(40)
    before = bnn.network[1].weight.clone()
    for wrong in ({"x": 1}, "folder", (make_data(40)[0], [1])):
        with pytest.raises(DataError):
            bd.fit(bnn, make_data(40), epochs=1, progress=False, validation=wrong)
    assert torch.equal(bnn.network[1].weight, before)


@pytest.mark.parametrize(
    "sizes",
    [
        lambda ds: (torch.utils.data.DataLoader(ds, 20, shuffle=True), 40, 30),
        lambda ds: (
            torch.utils.data.DataLoader(
                ds, 10, sampler=torch.utils.data.SubsetRandomSampler(range(20))
            ),
            20,
            40,
        ),
    ],
)
def test_the_advice_about_num_data_counts_what_is_drawn(sizes):
    data = torch.utils.data.TensorDataset(*make_data(40))
    loader, right, wrong = sizes(data)
    bd.fit(make_bnn(right), loader, epochs=1, progress=False)
    with pytest.warns(BayesdropWarning, match=f"num_data={wrong}, but there are {right}"):
        bd.fit(make_bnn(wrong), loader, epochs=1, progress=False)


def test_arrays_and_a_fraction_of_them_train_as_tensors_do():
    x, y = make_data(40)
    states = []
    for data in ((x, y), (x.numpy(), y.numpy()), torch.utils.data.TensorDataset(x, y)):
        bnn = make_bnn(40)
        bd.fit(bnn, data, epochs=2, batch_size=16, validation=0.25, seed=1, progress=False)
        states.append(bnn.state_dict())
        assert bnn.num_data == 30
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_a_stream_without_a_length_is_fitted():
    x, y = make_data(40)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(x, y, strict=True))

    bnn = make_bnn(40)
    result = bd.fit(bnn, Stream(), epochs=3, batch_size=16, learning_rate=1e-2, seed=0)
    assert result.history[-1]["nll"] < result.history[0]["nll"]
    loader = torch.utils.data.DataLoader(Stream(), 7)
    options = {"num_samples": 8, "seed": 0}
    found, expected = bd.predict(bnn, loader, **options), bd.predict(bnn, (x, y), **options)
    torch.testing.assert_close(found.samples, expected.samples)
    assert bd.evaluate(bnn, loader, **options).error == bd.evaluate(bnn, (x, y), **options).error
    limit = 8 * 20 * 2 * x.element_size()
    with pytest.raises(ConfigError, match="8 samples x 21 inputs"):
        bd.predict(bnn, loader, batch_size=7, memory_limit=limit, **options)


def test_data_that_yield_nothing_are_refused():
    class Empty(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(DataError, match="at least one batch, got none"):
        bd.fit(make_bnn(40), Empty(), epochs=1, progress=False)


def test_a_lazy_layer_has_to_see_an_input_before_it_is_trained():
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), bd.BetaBernoulliDropout(8), nn.LazyLinear(2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=6)
    data = torch.randn(6, 4), torch.randint(2, (6,))
    with pytest.raises(ConfigError, match=r"know their sizes, got 'network.0.weight'.*network\(x"):
        bd.fit(bnn, data, epochs=1, progress=False)
    net(data[0])
    assert len(bd.fit(bnn, data, epochs=1, progress=False).history) == 1
