import json
import math

import pytest

from bayesdrop.errors import CheckpointError
from bayesdrop.files import read_json, write_json, write_text


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


def test_missing_and_damaged_files_raise(tmp_path):
    with pytest.raises(CheckpointError, match="got nothing there"):
        read_json(tmp_path / "x.json")
    for content in (b"{", b"\xff\xfe", json.dumps([1])[:-1].encode()):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(CheckpointError, match="expected a whole JSON file"):
            read_json(tmp_path / "x.json")
