"""A checkpoint belongs to one run: what differs is named, and nothing is touched."""

import random

import numpy as np
import pyro
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import bayesdrop as bd
from bayesdrop import schedules
from bayesdrop.errors import BayesdropWarning, CheckpointError
from bayesdrop.inference.checkpoint import random_state, set_random_state
from bayesdrop.inference.fingerprint import describe_data
from tests.inference.test_fit import assert_same_bits

N = 24


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    return x, (x.sum(1) > 0).long()


def network(seed=0, activation=nn.ReLU, drop=0.1, **options):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        activation(),
        nn.Dropout(drop),
        bd.BetaBernoulliDropout(6, **options),
        nn.Linear(6, 2),
    )


def fit(folder, epochs=2, *, bnn=None, pair=None, **options):
    if bnn is None:
        bnn = bd.BayesianNetwork(network(), bd.Categorical(), num_data=N)
    settings = {"batch_size": 8, "seed": 0, "progress": False, "schedule": schedules.constant(1.0)}
    settings |= {"checkpoint_dir": folder, **options}
    return bnn, bd.fit(bnn, data() if pair is None else pair, epochs=epochs, **settings)


def program(net=None, likelihood=None, **options):
    return bd.BayesianNetwork(net or network(), likelihood or bd.Categorical(), N, **options)


def changed(rows=1):
    x, y = data()
    x[rows] += 1e-3
    return x, y


def relabelled():
    x, y = data()
    y[3] = 1 - y[3]
    return x, y


def loader(batch_size=8, **options):
    return DataLoader(TensorDataset(*data()), batch_size, **{"shuffle": True, **options})


def frozen():
    bnn = program()
    bnn.network[0].requires_grad_(False)
    return bnn


def in_evaluation():
    bnn = program()
    bnn.network[1].eval()
    return bnn


def colder():
    bnn = program()
    bnn.network[4].temperature.fill_(0.123)
    return bnn


OTHER = {
    "one value of one row": ({"pair": changed()}, "training inputs="),
    "one label": ({"pair": relabelled()}, "training targets="),
    "another seed of the data": ({"pair": data(1)}, "training inputs="),
    "another dtype": ({"pair": (data()[0].float(), data()[1])}, "training inputs=.*float32"),
    "data in a loader": ({"pair": loader()}, "batch size of the training loader=8, got .*=None"),
    "validation": (
        {"validation": data()},
        "validation inputs=.*, got one with validation inputs=None",
    ),
    "schedule": ({"schedule": schedules.constant(0.5)}, r"schedule by epoch=\[0.5, 0.5\]"),
    "default schedule": ({"schedule": (0.5, 0.8)}, "schedule by epoch="),
    "schedule of the KL": ({"kl_weight": schedules.warm_up(1.0)}, "kl_weight by epoch="),
    "factor on the KL": ({"kl_weight": 0.5}, "kl_weight by epoch="),
    "factor of the network": ({"bnn": lambda: program(kl_weight=0.5)}, "kl_weight=0.5"),
    "temperature": ({"buffers": {"temperature": 0.3}}, "temperature by epoch="),
    "temperature of a layer": (
        {"bnn": lambda: program(network(temperature=0.3))},
        "layer '4'=.*0.3",
    ),
    "temperature set by hand": ({"bnn": colder}, "network.4.temperature=0.123|layer '4'"),
    "ELBO": ({"objective": pyro.infer.Trace_ELBO()}, "objective=Trace_ELBO.*the closed form"),
    "optimizer": ({"optimizer": torch.optim.SGD}, "optimizer=SGD, got one with optimizer=Adam"),
    "options of it": (
        {"optimizer": lambda g: torch.optim.Adam(g, betas=(0.8, 0.9))},
        r"betas of the optimizer's group 0=\[0.8, 0.9\]",
    ),
    "rate of it": (
        {"optimizer": lambda g: torch.optim.Adam(g[0]["params"], lr=1e-3)},
        "groups of parameters of the optimizer=1, got one with .*=2",
    ),
    "likelihood": (
        {"bnn": lambda: program(likelihood=bd.Categorical(ignore_index=5))},
        "likelihood",
    ),
    "activation": ({"bnn": lambda: program(network(activation=nn.Tanh))}, "layer '2'=Tanh"),
    "rate of dropout": ({"bnn": lambda: program(network(drop=0.2))}, "layer '3'=Dropout.p=0.2"),
    "prior": ({"bnn": lambda: program(network(kl_scale=0.5))}, "layer '4'=.*kl_scale=0.5"),
    "frozen weights": ({"bnn": frozen}, "frozen parameters=network.0.bias"),
    "frozen mode": ({"bnn": in_evaluation}, "modules in evaluation mode=1"),
    "batch size": ({"batch_size": 12}, "batch_size=12"),
    "seed": ({"seed": 1}, "seed=1"),
    "fewer epochs": ({"epochs": 1}, "at most epochs=1, got one that has done 2"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    fit(folder)
    torch.set_default_dtype(usual)
    return folder


@pytest.mark.parametrize("what", OTHER)
def test_another_run_is_refused_by_name_and_nothing_is_touched(what, saved):
    options, message = OTHER[what]
    options = dict(options)
    bnn = options.pop("bnn", program)()
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    file = (saved / "training.pt").read_bytes()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=message):
        fit(saved, bnn=bnn, **options)
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, before[name])
    assert (saved / "training.pt").read_bytes() == file
    assert torch.equal(torch.get_rng_state(), state)


LOADED = {
    "batch": (loader(6), "batch size of the training loader=6"),
    "drop": (loader(drop_last=True), "sampler of the training loader="),
    "order": (loader(shuffle=False), "sampler of the training loader="),
    "data": (DataLoader(TensorDataset(*changed()), 8, shuffle=True), "training inputs="),
    "part": (
        DataLoader(torch.utils.data.Subset(TensorDataset(*data()), range(N)), 8, shuffle=True),
        "rows of the training data",
    ),
}


@pytest.mark.parametrize("what", LOADED)
def test_another_loader_is_refused(what, tmp_path):
    other, message = LOADED[what]
    fit(tmp_path, pair=loader())
    with pytest.raises(CheckpointError, match=message):
        fit(tmp_path, pair=other)
    assert len(fit(tmp_path, pair=loader())[1].history) == 2


class Rows(Dataset):
    """Examples one by one, some of them random, by each of the generators people use."""

    def __init__(self, seed=0, noise=None):
        self.x, self.y = data(seed)
        self.noise = noise

    def __len__(self):
        return N

    def __getitem__(self, index):
        noise = 0.0 if self.noise is None else self.noise()
        return self.x[index] + noise, int(self.y[index])


OWN = np.random.default_rng(0)
NOISE = {
    "none": None,
    "torch": lambda: torch.randn(()),
    "numpy": lambda: np.random.normal(),  # noqa: NPY002 - the global one
    "python": lambda: random.gauss(0, 1),
    "its own": lambda: OWN.normal(),
}


@pytest.mark.parametrize("noise", NOISE)
def test_a_dataset_is_known_by_some_rows_also_under_augmentation(noise, tmp_path):
    fit(tmp_path, pair=Rows(noise=NOISE[noise]))
    fit(tmp_path, pair=Rows(noise=NOISE[noise]))
    if noise != "its own":
        with pytest.raises(CheckpointError, match="training data=a Rows of 24, checksum"):
            fit(tmp_path, pair=Rows(seed=1, noise=NOISE[noise]))


@pytest.mark.parametrize("noise", ["torch", "numpy", "python"])
def test_looking_at_rows_draws_from_no_generator(noise):
    rows = Rows(noise=NOISE[noise])
    first = float(rows[0][0][0])
    set_random_state(state := random_state())
    expected = float(rows[0][0][0])
    set_random_state(state)
    describe_data("training", rows)
    assert float(rows[0][0][0]) == expected != first


@pytest.mark.parametrize("optimizer", [None, lambda groups: torch.optim.SGD(groups, momentum=0.9)])
@pytest.mark.parametrize("form", ["tensors", "loader", "own generator", "sampler", "dataset"])
def test_two_and_two_epochs_are_bit_equal_to_four(form, optimizer, tmp_path):
    def source():
        if form == "own generator":
            return loader(generator=torch.Generator().manual_seed(3))
        if form == "sampler":
            generator = torch.Generator().manual_seed(4)
            sampler = torch.utils.data.RandomSampler(range(N), generator=generator)
            return loader(shuffle=False, sampler=sampler)
        return {"tensors": data(), "loader": loader(), "dataset": Rows()}[form]

    whole, _ = fit(None, 4, pair=source(), optimizer=optimizer)
    fit(tmp_path, 2, pair=source(), optimizer=optimizer)
    halves = program(network(seed=7))
    fit(tmp_path, 4, bnn=halves, pair=source(), optimizer=optimizer)
    assert_same_bits(whole, halves)


SAME_IF_LONGER = {
    "constant": schedules.constant(1.0),
    "epochs": schedules.steps(1, 3),
    "later": (0.9,),
    "none": (),
}


@pytest.mark.parametrize("schedule", SAME_IF_LONGER)
def test_a_longer_run_has_the_bits_of_the_whole_if_no_epoch_done_would_differ(schedule, tmp_path):
    options = {"schedule": SAME_IF_LONGER[schedule], "buffers": {"temperature": 0.4}}
    whole, _ = fit(None, 4, **options)
    if schedule == "later":  # 0.9 of two epochs is the second: stop before
        with pytest.raises(KeyError):
            fit(tmp_path, 2, callbacks=[interrupted], checkpoint_every=1, **options)
    else:
        fit(tmp_path, 2, **options)
    halves, _ = fit(tmp_path, 4, **options)
    assert_same_bits(whole, halves)


def interrupted(bnn, record):
    if record["epoch"] == 2:
        raise KeyError


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"schedule": (0.5, 0.8)}, "schedule"),
        ({"kl_weight": schedules.warm_up(0.5)}, "kl_weight"),
        ({"buffers": {"temperature": schedules.linear(1.0, 0.5)}}, "temperature"),
    ],
)
def test_a_longer_run_under_a_schedule_that_depends_on_epochs_is_warned_of(
    options, name, tmp_path
):
    fit(tmp_path, 2, **options)
    with pytest.warns(BayesdropWarning, match=f"{name} depends on the number of epochs"):
        _, result = fit(tmp_path, 4, **options)
    assert len(result.history) == 4


def test_a_killed_run_under_the_default_schedule_has_the_bits_of_the_whole(tmp_path):
    whole, _ = fit(None, 4, schedule=(0.5, 0.8))
    with pytest.raises(KeyError):
        fit(tmp_path, 4, schedule=(0.5, 0.8), callbacks=[interrupted])
    halves, _ = fit(tmp_path, 4, schedule=(0.5, 0.8))
    assert_same_bits(whole, halves)


def test_the_network_of_the_first_session_continues_too(tmp_path):
    options = {"buffers": {"temperature": schedules.steps(1, factor=0.5)}}
    whole, _ = fit(None, 4, **options)
    bnn, _ = fit(tmp_path, 2, **options)
    fit(tmp_path, 4, bnn=bnn, **options)
    assert_same_bits(whole, bnn)


@pytest.mark.filterwarnings("ignore::bayesdrop.errors.TruncationWarning")
@pytest.mark.parametrize("key", sorted(bd.nn.registered(bd.nn.LatentOwner)))
def test_every_layer_resumes_in_the_network_that_it_trained(key, tmp_path):
    net = bd.convert(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), key)
    bnn = program(net)
    fit(tmp_path, 1, bnn=bnn)
    assert len(fit(tmp_path, 2, bnn=bnn)[1].history) == 2


def test_a_checkpoint_without_a_description_is_taken_as_it_was(tmp_path):
    fit(tmp_path, 2)
    path = tmp_path / "training.pt"
    payload = torch.load(path, weights_only=True)
    for name in ("description", "schedules", "epochs", "generators"):
        del payload[name]
    torch.save(payload, path)
    assert len(fit(tmp_path, 3, pair=data(1))[1].history) == 3
