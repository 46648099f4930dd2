"""Laws of the term in two processes, by the module that all these loops wrap networks in."""

import os
import socket
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bayesdrop.errors import ConfigError
from bayesdrop.integrations import KLTerm
from tests.forked import Started
from tests.integrations.test_kl_term import X, Y, network


class Quiet(nn.Module):
    """A network whose pass is not random; its posterior is in the divergence alone."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net[1](x)


def gradients(model, term, x, y):
    with term:
        nll = F.cross_entropy(model(x), y)
    (nll + term()).backward()
    return [parameter.grad for parameter in term.network.parameters()]


def main(folder):
    """Run in each of two processes, with half of the data."""
    torch.set_default_dtype(torch.float64)
    torch.distributed.init_process_group("gloo")
    quiet, rank = Quiet(), torch.distributed.get_rank()
    term = KLTerm(quiet, len(X))
    found = gradients(DistributedDataParallel(quiet), term, X[rank::2], Y[rank::2])
    torch.save(found, Path(folder, f"{rank}.pt"))
    shared_out = Quiet()
    term = KLTerm(shared_out, len(X))
    whole = shared_out.net[0].location
    part = distribute_tensor(whole.detach(), init_device_mesh("cpu", (2,)), [Shard(0)])
    shared_out.net[0].location = nn.Parameter(part)
    with pytest.raises(ConfigError, match="that are shared out"):
        gradients(shared_out, term, X, Y)
    torch.distributed.destroy_process_group()


def test_two_processes_count_the_divergence_once_and_parts_of_it_are_refused(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "program.py"
    code = "from tests.integrations.test_ranks import main"
    script.write_text(f"{code}; main({str(tmp_path)!r})")
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        Started(script, tmp_path, {**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    for process in started:
        ended = process.wait()
        assert (ended.status, ended.error) == (0, "")
    alone = Quiet()
    expected = gradients(alone, KLTerm(alone, len(X)), X, Y)
    for rank in "01":
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)
