import dataclasses
import json
import math
from typing import NamedTuple

import pytest
import torch

from bayesdrop.record import Record, TableRecord, plain


class Pair(NamedTuple):
    first: float
    second: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Point:
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Inner(Record, also=("double",)):
    value: float

    @property
    def double(self):
        return 2 * self.value


@dataclasses.dataclass(frozen=True)
class Outer(TableRecord, without=("samples",), drop_none=True):
    inner: Inner
    by_level: dict[float, Inner]
    missing: float | None
    samples: torch.Tensor

    def table(self):
        return ["a", "b"], [["x", "1"]]


def outer(missing=None):
    return Outer(Inner(1.0), {0.5: Inner(math.inf)}, missing, torch.zeros(2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (True, True),
        (torch.tensor(2), 2),
        (torch.tensor([[1.5, math.nan]]), [[1.5, None]]),
        ({0.9: (1, "a"), 3: None}, {"0.9": [1, "a"], "3": None}),
        (Pair(math.inf, torch.ones(1)), {"first": None, "second": [1.0]}),
        (Point((2, 3)), {"shape": [2, 3]}),
    ],
)
def test_plain_gives_what_json_has(value, expected):
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_a_record_holds_its_records_and_what_follows_from_them():
    nested = {"0.5": {"value": None, "double": None}}
    expected = {"inner": {"value": 1.0, "double": 2.0}, "by_level": nested}
    assert outer().to_dict() == expected
    assert outer(3.0).to_dict() == {**expected, "missing": 3.0}


def test_the_string_of_a_table_is_its_markdown():
    assert str(outer()) == outer().to_markdown() == "| a | b |\n| --- | --: |\n| x | 1 |"
