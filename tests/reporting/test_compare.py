import json

import numpy as np
import pytest
import torch

from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.metrics import error_percent, ood_metrics
from bayesdrop.reporting import compare_predictions, comparison_document, write_comparison
from tests.reporting.page import check_page


@pytest.fixture
def data():
    p = torch.randn(120, 4).mul(2).softmax(1)
    labels = torch.multinomial(p, 1).squeeze(1)
    others = {f"net {s}": (p.log() + 0.3 * torch.randn_like(p)).softmax(1) for s in range(3)}
    return {"exact": p, **others}, labels


GROUPS = {"exact": ["exact"], "<net>": ["net 0", "net 1", "net 2"]}


def test_each_row_is_the_metric_and_the_difference_from_the_first(data):
    p, labels = data
    comparison = compare_predictions(p, labels)
    assert [row.name for row in comparison.rows] == list(p)
    first = comparison.rows[0]
    assert first.differences == {}
    for row in comparison.rows:
        assert row.estimates["error"].value == pytest.approx(error_percent(p[row.name], labels))
    for row in comparison.rows[1:]:
        difference = row.estimates["nll"].value - first.estimates["nll"].value
        assert row.differences["nll"].value == pytest.approx(difference)


def test_seeds_share_a_row_of_medians_with_their_range(data):
    p, labels = data
    details = {f"net {s}": {"params": 10 * s, "units": [s, 4], "minutes": 1.5} for s in range(3)}
    comparison = compare_predictions(p, labels, groups=GROUPS, details=details)
    errors = sorted(error_percent(p[name], labels) for name in GROUPS["<net>"])
    row = comparison.rows[1]
    assert row.estimates["error"].value == pytest.approx(errors[1])
    assert row.ranges["error"] == pytest.approx((errors[0], errors[2]))
    assert row.details == {"units": [1, 4], "params": 10, "flops": None, "minutes": 1.5}
    header, cells = comparison.table()
    assert header[-3:] == ["units", "parameters", "minutes"]
    assert cells[0][-3:] == ["–"] * 3 and cells[1][-3:] == ["1-4", "10", "1.5"]


def test_unknown_images_are_scored_by_entropy(data):
    p, labels = data
    outside = {name: torch.full((9, 4), 0.25) for name in p}
    comparison = compare_predictions(p, labels, ood={"flat": outside})
    entropy = torch.special.entr(p["exact"]).sum(1)
    expected = ood_metrics(entropy, torch.full((9,), np.log(4)))["auroc"]
    assert comparison.rows[0].estimates["auroc flat"].value == pytest.approx(expected)


def test_numpy_arrays_and_posterior_samples_will_do(data):
    p, labels = data
    samples = {"a": np.stack([p["exact"].numpy()] * 2), "b": p["exact"].numpy()}
    comparison = compare_predictions(samples, labels.numpy())
    assert comparison.rows[1].differences["brier"].value == 0.0


def test_files_are_json_markdown_html_and_one_figure(data, tmp_path):
    pytest.importorskip("matplotlib")
    comparison = compare_predictions(*data, groups=GROUPS, title="A & B", about={"data": "d"})
    names = [path.name for path in write_comparison(comparison, tmp_path, html=True)]
    assert names == ["compare.json", "compare.md", "compare.html", "compare.png"]
    values = json.loads((tmp_path / "compare.json").read_text())
    assert values["data"] == "d" and values["first"] == "exact"
    assert values["rows"][1]["members"].keys() == {"net 0", "net 1", "net 2"}
    page = check_page((tmp_path / "compare.html").read_text())
    headings = ["Figures and their uncertainty", "Paired differences", "Range over seeds"]
    assert page.headings == ["A & B", *headings]
    assert len(page.images) == 1 and page.tables[0][2][0] == "<net>"
    assert "](compare.png)" in (tmp_path / "compare.md").read_text()


def test_a_star_marks_what_is_more_than_noise():
    labels = torch.arange(200) % 2
    p = {q: torch.where(labels == 1, q, 1 - q) for q in (0.9, 0.6)}
    comparison = compare_predictions({"a": p[0.9], "b": p[0.6], "c": p[0.9]}, labels)
    differences = comparison_document(comparison).sections[1].blocks[1].cells
    assert differences[0][2].endswith(" *") and not differences[1][2].endswith(" *")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"groups": {"a": ["net 9"]}}, ConfigError, r"got 'a' made of \['net 9'\]"),
        ({"groups": {"a": []}}, ConfigError, r"got 'a' made of \[\]"),
        ({"groups": {}}, ConfigError, "got none"),
        ({"groups": ["net 0"]}, ConfigError, "groups to be a mapping by row"),
        ({"details": {"net": {"flops": 1}}}, ConfigError, "unknown classifier in details 'net'"),
        ({"labels": torch.zeros(7).long()}, ShapeError, "120 labels"),
    ],
)
def test_bad_input_is_refused(data, change, error, message):
    with pytest.raises(error, match=message):
        compare_predictions(**{"probabilities": data[0], "labels": data[1], **change})
