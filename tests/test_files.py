import json
import math
import os
import signal

import pytest

from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.files import (
    first_line,
    only_writer,
    read_json,
    read_sealed,
    write_file,
    write_json,
    write_sealed,
    write_text,
)
from tests.forked import run_code


def test_json_round_trip_turns_what_json_lacks_into_null(tmp_path):
    path = write_json(tmp_path / "new" / "x.json", {"a": [1, math.nan], "b": (math.inf, "ü")})
    assert read_json(path) == {"a": [1, None], "b": [None, "ü"]}


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = write_text(tmp_path / "x.txt", "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(CheckpointError, match="No space left on device.*unchanged"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_raises(tmp_path):
    write_text(tmp_path / "file", "in the way")
    with pytest.raises(CheckpointError, match="expected a folder that can be written"):
        write_json(tmp_path / "file" / "x.json", {})


@pytest.mark.parametrize("name", [None, 5, b"a", "", "a\0b"])
def test_what_is_no_name_of_a_file_is_refused(name):
    with pytest.raises(ConfigError, match="expected the name of a file"):
        write_text(name, "")


def test_a_name_that_is_too_long_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="File name too long"):
        write_text(tmp_path / ("a" * 300), "")


def test_what_is_there_and_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("", "a folder"), ("pipe", "a device or a pipe")):
        with pytest.raises(CheckpointError, match=f"name of a file, .* got that of {what}"):
            write_text(tmp_path / name, "")


def test_missing_and_damaged_files_raise(tmp_path):
    with pytest.raises(CheckpointError, match="got nothing there"):
        read_json(tmp_path / "x.json")
    for content in (b"{", b"\xff\xfe", json.dumps([1])[:-1].encode()):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(CheckpointError, match="expected a whole JSON file"):
            read_json(tmp_path / "x.json")


def test_what_a_killed_process_left_is_removed_by_the_next_to_write(tmp_path):
    kill = (
        "import os, sys\nfrom bayesdrop.files import write_file\n"
        "write_file(sys.argv[1], lambda file: os.kill(os.getpid(), 9))\n"
    )
    for name in ("history.json", "a[1].png"):
        path = tmp_path / name
        assert run_code(kill, tmp_path, [path]).status == -signal.SIGKILL
        (left,) = tmp_path.glob(".*")
        write_text(tmp_path / "other.json", "")
        assert left.exists()  # it may be another's
        write_text(path, "whole")
        assert not list(tmp_path.glob(".*")) and path.read_text() == "whole"


def test_what_another_process_writes_just_now_is_left(tmp_path):
    path = tmp_path / "x.json"

    def write(file):
        file.write(b"first")
        write_text(path, "second")

    write_file(path, write)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_folder_has_one_writer(tmp_path):
    with only_writer(tmp_path / "new"):
        with pytest.raises(ConfigError, match="no other process that writes into it, got one"):
            only_writer(tmp_path / "new").__enter__()
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(tmp_path / "new"):
        pass
    assert list((tmp_path / "new").iterdir()) == []


def test_a_sealed_file_returns_its_values_and_notices_a_change(tmp_path):
    path = write_sealed(tmp_path / "x.json", {"a": [1.5, math.nan], "b": "ü"})
    assert read_sealed(path) == {"a": [1.5, None], "b": "ü"}
    write_json(tmp_path / "old.json", {"a": 1})
    assert read_sealed(tmp_path / "old.json") == {"a": 1}
    path.write_text(path.read_text().replace("1.5", "2.5"))
    with pytest.raises(CheckpointError, match="values of the checksum.*If you edited it"):
        read_sealed(path)


def test_an_error_is_told_in_one_printable_line():
    assert first_line(ValueError("a\x1b[1m b\x1b[0m\x07\nc")) == "a b"
    assert first_line(ValueError("set weights_only=False to load")) == "ValueError"
    assert first_line(KeyError()) == "KeyError" and len(first_line(ValueError("x" * 999))) < 210


FULL_DISK = """
import resource, sys, torch
from torch import nn
import bayesdrop as bd
from bayesdrop.errors import BayesdropError
from bayesdrop.reporting import plots

net, x = nn.Linear(300, 20), torch.zeros(2, 300)
bnn = bd.BayesianNetwork(nn.Linear(300, 20), bd.Categorical(), num_data=2)
from matplotlib.figure import Figure
figure = Figure()
figure.subplots().plot([1, 2])
plots.to_png(figure)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for write in (
    lambda: bd.save(bnn, "a"),
    lambda: bd.save_plain(net, "a", x),
    lambda: bd.save_plain(net, "a", format="sparse"),
    lambda: plots.save_figure(figure, "a"),
    lambda: bd.fit(bnn, (x, torch.zeros(2).long()), epochs=1, progress=False, checkpoint_dir="."),
):
    try:
        write()
    except BayesdropError as error:
        print(error)
"""


def test_a_full_disk_is_a_sentence_wherever_something_is_written(tmp_path):
    pytest.importorskip("resource")
    pytest.importorskip("matplotlib")
    (tmp_path / "a").write_text("old")
    ended = run_code(FULL_DISK, tmp_path)
    assert ended.error == ""
    lines = ended.output.splitlines()
    assert len(lines) == 5 and all("with enough space, got" in line for line in lines), lines
    assert (tmp_path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
