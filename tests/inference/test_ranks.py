"""Laws of one run in two processes: it is the run of one, and every process has its result."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.typing import LossTerms
from tests.forked import Started

ROWS = 21  # an odd number, and a last batch that is too small to share


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 4, generator=generator)
    return x, (x[:, 0] > 0).long()


def network(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=ROWS)


def without_noise(bnn, x, y):
    """The KL, and the likelihood of a pass without masks: nothing is random."""
    output = bnn.network[1:](x)
    nll = F.cross_entropy(output, y, reduction="sum") * bnn.num_data / len(x)
    return LossTerms(nll, bd.kl_divergence(bnn.network))


def run(bnn, **options):
    settings = {"epochs": 2, "progress": False, "schedule": [10], "weight_decay": 0.1}
    return bd.fit(bnn, data(), **{**settings, **options})


def state(bnn):
    return {name: value.tolist() for name, value in bnn.state_dict().items()}


def main(folder):
    """Run in each of two processes; print what they have."""
    torch.set_default_dtype(torch.float64)
    rank = int(os.environ["RANK"])
    # Different weights at the start: those of process 0 are everybody's.
    whole = network(seed=rank)
    run(whole, objective=without_noise, batch_size=ROWS, distributed=True)
    part = network(seed=5)
    noisy = run(part, seed=3, batch_size=8, distributed=True, compact_every=1)
    after = torch.rand(1).item()
    again = network(seed=5)
    for epochs in (1, 2):
        resumed = run(
            again,
            seed=3,
            batch_size=8,
            distributed=True,
            compact_every=1,
            epochs=epochs,
            checkpoint_dir=folder,
        )
    drawn = []
    bnn = network(seed=5)
    run(bnn, seed=3, batch_size=8, distributed=True, objective=lambda bnn, x, y: noted(drawn, x))
    result = {
        "whole": state(whole),
        "noisy": state(part),
        "kl": noisy.history[0]["kl"],
        "resumed": state(again),
        "losses": [[r["loss"] for r in h.history] for h in (noisy, resumed)],
        "after": after,
        "drawn": drawn,
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(result))


def noted(drawn, x):
    drawn.append([len(x), torch.rand(1).item()])
    zero = torch.zeros((), requires_grad=True)
    return LossTerms(zero, zero)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = folder / "program.py"
    script.write_text(f"from tests.inference.test_ranks import main; main({str(folder)!r})")
    # What torchrun sets.
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        Started(script, folder, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    for process in started:
        ended = process.wait()
        assert (ended.status, ended.error) == (0, "")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_the_kl_counts_once_and_a_step_is_that_of_one_process(processes):
    alone = network(seed=0)
    run(alone, objective=without_noise, batch_size=ROWS)
    for found in processes:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(torch.tensor(found["whole"][name]), value)


def test_every_process_has_the_same_network_and_resumes_to_the_same_bits(processes):
    first, second = processes
    assert first["noisy"] == second["noisy"] == first["resumed"] == second["resumed"]
    assert first["losses"] == second["losses"] and first["losses"][0] == first["losses"][1]
    assert first["after"] == second["after"]


def test_batches_are_shared_out_and_masks_are_each_process_s_own(processes):
    (first, second) = (found["drawn"] for found in processes)
    # 21 rows in batches of 8: 4 + 4, 4 + 4, 3 + 2, twice.
    assert [rows for rows, _ in first] == [4, 4, 3] * 2
    assert [rows for rows, _ in second] == [4, 4, 2] * 2
    assert not {noise for _, noise in first} & {noise for _, noise in second}


def test_what_cannot_be_shared_says_what_to_do(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="Start the script with torchrun"):
        run(network(0), distributed=True)
