"""Bars of progress, seen through a terminal."""

import contextlib
import os
import pty
import re
import sys
import threading

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.inference import progress


@contextlib.contextmanager
def terminal():
    """A terminal behind standard error; yields a list that ends with what was written to it."""
    ours, theirs = pty.openpty()
    parts, written = [], []

    def listen():
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 1024):
                parts.append(part)

    listener = threading.Thread(target=listen)
    listener.start()
    # Not in a fixture: pytest sets standard error once more when the test begins.
    with pytest.MonkeyPatch.context() as patch, open(theirs, "w") as stream:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        yield written
    listener.join()
    os.close(ours)
    written.append(b"".join(parts).decode())


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3)).float()
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=20)


DATA = torch.zeros(20, 4, dtype=torch.float32), torch.arange(20) % 3


def test_predict_and_evaluate_draw_bars_of_their_own(network):
    with terminal() as written:
        bd.predict(network, DATA, num_samples=8, batch_size=7)
        bd.evaluate(network, DATA, ood={"ones[/a]": DATA[0] + 1}, num_samples=8)
    for name in ("predict", "evaluate", r"evaluate ones\[/a]"):
        assert re.search(rf"{name} [^\r]*100%", written[0])


def test_only_the_outer_of_two_bars_is_drawn(network):
    with terminal() as written:
        bd.fit(network, DATA, epochs=2, callbacks=[lambda bnn, _: bd.predict(bnn, DATA) is None])
    assert "epoch 2/2" in written[0]
    assert "predict" not in written[0]
    assert not progress.bar_turn.locked()


def test_work_that_is_over_at_once_or_is_to_be_silent_draws_nothing(network, monkeypatch):
    with terminal() as written:
        bd.evaluate(network, DATA, ood={"ones": DATA[0] + 1}, progress=False)
        bd.predict(network, DATA, progress=False)
        monkeypatch.setattr(progress, "_PATIENCE", 60.0)
        bd.predict(network, DATA)
    assert written == [""]


def test_nothing_is_drawn_off_a_terminal(network, capfd):
    bd.fit(network, DATA, epochs=1)
    bd.evaluate(network, DATA)
    assert capfd.readouterr() == ("", "")
