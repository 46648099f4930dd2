"""Laws of the callback for Lightning, against the real library."""

import logging

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import BayesdropWarning, ConfigError
from bayesdrop.inference.optimizers import parameter_groups
from tests.integrations.page import run_block
from tests.integrations.test_kl_term import X, Y, by_hand, network

lightning = pytest.importorskip("lightning.pytorch")
from bayesdrop.integrations.lightning import BayesianCallback  # noqa: E402

# Lightning advises of workers and of loggers, and calls what torch is about to drop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:Warning:(lightning|torch)"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


class Module(lightning.LightningModule):
    def __init__(self, net, returns=torch.clone):
        super().__init__()
        self.net, self.returns = net, returns
        self.outputs = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.returns(F.cross_entropy(self.net(x), y))

    def validation_step(self, batch, batch_idx):
        self.outputs.append(self.net(batch[0]))

    def configure_optimizers(self):
        return torch.optim.Adam(parameter_groups(self.net, learning_rate=0.1))


def loader(batch_size=2, data=None):
    # A loader draws a seed for its workers: not from the generator of the masks.
    data = TensorDataset(X, Y) if data is None else data
    return DataLoader(data, batch_size=batch_size, generator=torch.Generator())


def trainer(folder, *callbacks, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"accelerator": "cpu", "num_sanity_val_steps": 0, "enable_checkpointing": False}
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), **{**quiet, "max_epochs": 2, **options}
    )


def train(folder, module, callback=None, data=None, **options):
    torch.manual_seed(2)
    made = trainer(folder, callback or BayesianCallback(), **options)
    made.fit(module, loader() if data is None else data, loader(6))
    return made


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("layer", ["beta-bernoulli", "contextual"])
def test_a_run_is_the_plain_loop(tmp_path, layer, accumulated):
    def made():
        torch.manual_seed(1)
        return network(bd.nn.layers[layer](4))

    schedules = {"kl_weight": bd.schedules.warm_up(0.9)}
    if layer == "beta-bernoulli":
        schedules["buffers"] = {"temperature": bd.schedules.linear(1.0, 0.1)}
    module = Module(
        made(), (lambda loss: loss) if accumulated == 1 else lambda loss: {"loss": loss}
    )
    run = train(
        tmp_path, module, BayesianCallback(**schedules), accumulate_grad_batches=accumulated
    )
    theirs = by_hand(made(), accumulated, **schedules)
    for name, value in theirs.state_dict().items():
        assert torch.equal(module.net.state_dict()[name], value), name
    assert {"kl", "kl_weight", "units/net.0"} <= run.callback_metrics.keys()
    assert "training_step" not in vars(module)


def test_a_step_may_be_the_instance_s_own_skip_batches_and_log_nothing(tmp_path):
    module, theirs = Module(network()), network()

    def step(batch, batch_idx):
        return None if batch_idx == 1 else F.cross_entropy(module.net(batch[0]), batch[1])

    module.training_step = step
    run = train(tmp_path, module, BayesianCallback(log=False), max_epochs=1)
    assert vars(module)["training_step"] is step and not run.callback_metrics
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(parameter_groups(theirs, learning_rate=0.1))
    for rows in (slice(0, 2), slice(4, 6)):
        optimizer.zero_grad()
        nll = F.cross_entropy(theirs(X[rows]), Y[rows])
        (nll + bd.kl_divergence(theirs) / len(X)).backward()
        optimizer.step()
    assert all(map(torch.equal, module.net.parameters(), theirs.parameters()))


def test_validation_takes_the_mean_mask(tmp_path):
    module = Module(network())
    train(tmp_path, module)
    assert torch.equal(module.outputs[-1], module.net.eval()(X))


def test_layers_step_and_schedules_may_count_epochs(tmp_path):
    net = network(bd.nn.layers["group-lasso"](4, cost_per_norm=1.0))
    net[0].bind_weights(net[1], dim=1)
    schedule = bd.schedules.piecewise((1.0, 5000.0), (1,))
    callback = BayesianCallback(buffers={"cost_per_norm": schedule}, interval="epoch")
    module = Module(net)
    module.configure_optimizers = lambda: torch.optim.SGD(net.parameters(), lr=0.1)
    kept = []
    module.on_train_epoch_end = lambda: kept.append(int(net[0].kept().sum()))
    train(tmp_path, module, callback)
    assert kept == [4, 0]


def test_a_checkpoint_goes_on_where_the_run_was(tmp_path):
    schedule = bd.schedules.piecewise((1.0, 0.1), (3,))
    first = Module(network())
    run = train(tmp_path, first, BayesianCallback(kl_weight=schedule), max_epochs=1)
    path = tmp_path / "last.ckpt"
    run.save_checkpoint(path)
    second, callback = Module(network()), BayesianCallback(kl_weight=schedule)
    starts = []
    second.on_train_start = lambda: starts.append(
        all(
            torch.equal(a, b) for a, b in zip(second.parameters(), first.parameters(), strict=True)
        )
    )
    trainer(tmp_path, callback).fit(second, loader(), ckpt_path=path)
    assert starts == [True] and callback.term.kl_weight == 0.1
    with pytest.raises(ConfigError, match="num_data=6, as in the run of the checkpoint"):
        trainer(tmp_path, BayesianCallback(8)).fit(
            Module(network()), loader(data=TensorDataset(X.repeat(2, 1)[:8], Y.repeat(2)[:8])),
            ckpt_path=path,
        )  # fmt: skip


def test_units_that_no_example_uses_are_pruned_at_the_end(tmp_path):
    net = network(bd.DependentBetaBernoulliDropout(4))
    x = X.clone()
    module = Module(net)
    with torch.no_grad():
        net[0].shift_loc.fill_(-1e3)
    data = loader(data=TensorDataset(x, Y))
    train(tmp_path, module, BayesianCallback(prune=True), data=data)
    assert int(net[0].kept().sum()) < 4


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class FSDPStrategy(lightning.strategies.SingleDeviceStrategy):
    """One device under the name of several."""


def steps_by_hand(module):
    module.automatic_optimization = False
    return module


def test_what_is_forgotten_is_said_before_or_in_the_first_step(tmp_path, monkeypatch):
    plain = Module(torch.nn.Linear(4, 2, dtype=torch.float64))
    plain.configure_optimizers = lambda: torch.optim.SGD(plain.parameters())
    counts = Module(network())
    counts.returns = lambda loss: loss + bd.kl_divergence(counts.net) / 6
    none = Module(network(), lambda loss: {"nll": loss})
    prune, warm_up = BayesianCallback(prune=True), bd.schedules.warm_up(0.5)
    cases = [
        ("without any. Put them in with bd.convert", plain, {}),
        ("to be counted twice", counts, {}),
        ("to return the mean loss of a batch", none, {}),
        ("steps by hand", steps_by_hand(Module(network())), {}),
        ("which this loader does not tell", Module(network()), {"data": loader(data=Stream())}),
        ("masks that depend on the input", Module(network()), {"callback": prune}),
        ("FSDPStrategy, which shares", Module(network()), {"strategy": FSDPStrategy("cpu")}),
        ("in evaluation mode", Module(network()).eval(), {}),
        (
            "a run whose length",
            Module(network()),
            {"callback": BayesianCallback(6, kl_weight=warm_up), "max_epochs": -1},
        ),
    ]
    for message, module, options in cases:
        with pytest.raises(
            (ConfigError, lightning.utilities.exceptions.MisconfigurationException)
        ) as caught:
            train(tmp_path, module, **options)
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match="'step' or 'epoch'"):
        BayesianCallback(interval="batch")
    with pytest.raises(ConfigError, match="a run that has started"):
        BayesianCallback().term  # noqa: B018
    with monkeypatch.context() as patch:
        patch.setattr(lightning.Trainer, "world_size", 2)
        with pytest.raises(ConfigError, match="2, of which each sees its own examples"):
            train(tmp_path, Module(network(bd.DependentBetaBernoulliDropout(4))), prune)
    with pytest.warns(BayesdropWarning, match="num_data=7, but there are 6"):
        train(tmp_path, Module(network()), BayesianCallback(7), max_epochs=1)


def test_the_example_of_the_page_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def quiet(**options):
        return trainer(tmp_path, *options.pop("callbacks"), **options)

    monkeypatch.setattr("lightning.Trainer", quiet)
    names = {"torch": torch, "F": F, "bd": bd, "parameter_groups": parameter_groups}
    found = run_block("BayesianCallback", net=network(), loader=loader(), **names)
    assert found["callback"].term.kl_weight == 1.0
