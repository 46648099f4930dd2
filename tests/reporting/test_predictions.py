import json

import numpy as np
import pytest
import torch

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import ClassifierFigures
from bayesdrop.reporting import predictions_document, report_predictions, write_predictions
from bayesdrop.reporting.document import Table
from bayesdrop.reporting.prediction_files import read_predictions
from tests.browser import DESKTOP, PAPER, PHONE
from tests.commands.runner import invoke
from tests.reporting.page import check_page


def made(count, sharpness, seed, samples=None):
    """Probabilities of three classes, right as often as they say if sharpness is 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    if samples is not None:
        noise = torch.randn(samples, count, 3, generator=generator, dtype=torch.float64)
        logits = logits + noise
    return (sharpness * logits).softmax(-1), labels


@pytest.fixture(scope="module")
def found():
    sure, labels = made(400, 3.0, 0)
    honest, again = made(400, 1.0, 0)
    assert torch.equal(labels, again)
    held_out = {"sure": made(300, 3.0, 1)[0], "honest": made(300, 1.0, 1)[0]}
    far = torch.full((50, 3), 1 / 3)
    return report_predictions(
        {"sure": sure, "honest": honest},
        labels,
        validation=(held_out, made(300, 1.0, 1)[1]),
        ood={"far": {"sure": far, "honest": far}},
        class_names=["a", "b", "<i>"],
        title="<b>",
    )


def test_the_figures_are_those_of_the_metrics(found):
    for name in ("sure", "honest"):
        own = ClassifierFigures.from_predictions(found.probabilities[name], found.labels)
        values = found.comparison.bootstrap.values[name]
        for key in ("error", "nll", "brier", "ece"):
            assert values[key] == pytest.approx(getattr(own, key), rel=1e-9)
    assert found.ood["honest"]["far"]["entropy"]["auroc"] == 1.0
    honest = ClassifierFigures.from_predictions(found.probabilities["honest"], found.labels)
    assert found.temperature["honest"]["nll_before"] == pytest.approx(honest.nll)


def test_the_chosen_threshold_is_told_by_what_it_does_to_those_it_answers(found):
    for name, chosen in found.threshold.items():
        confidence, guess = found.probabilities[name].max(1)
        answered = confidence > chosen["threshold"]
        assert 0 < int(answered.sum()) < len(answered)
        assert chosen["test_coverage"] == pytest.approx(answered.double().mean().item())
        wrong = (guess != found.labels)[answered]
        assert chosen["test_risk"] == pytest.approx(wrong.double().mean().item())


def test_tables_have_each_figure_under_its_name(found):
    blocks = [block for s in predictions_document(found).sections for block in s.blocks]
    tables = [block for block in blocks if isinstance(block, Table)]
    diagram, curve = found.reliability["sure"], found.risk_coverage["sure"]
    (bins,) = [t for t in tables if t.caption.startswith("The reliability diagram of sure")]
    last = dict(zip(bins.header, bins.cells[-1], strict=True))
    assert last["mean confidence"] == f"{float(diagram.confidence[-1]):.3f}"
    assert last["accuracy"] == f"{float(diagram.accuracy[-1]):.3f}"
    assert last["examples"] == str(int(diagram.count[-1]))
    (areas,) = [t for t in tables if "AURC" in t.header and "excess AURC" in t.header]
    assert areas.cells[0][:3] == ["sure", f"{curve.aurc:.5f}", f"{curve.excess_aurc:.5f}"]
    (classes,) = [t for t in tables if t.caption.startswith("Each class, by sure")]
    assert [line[0] for line in classes.cells[:3]] == ["0 (a)", "1 (b)", "2 (<i>)"]
    interval = found.comparison.bootstrap.interval("sure", "nll")
    (metrics,) = [t for t in tables if t.caption.startswith("Figures with")]
    text = f"{interval.value:.4f} ({interval.lower:.4f} to {interval.upper:.4f})"
    assert dict(zip(metrics.header, metrics.cells[0], strict=True))["NLL (nats)"] == text


def test_the_summary_says_who_is_too_sure(found):
    sure, honest = predictions_document(found).lead[:2]
    assert sure.startswith("In short, sure") and "surer than it is right" in sure
    assert "no more than so few examples show of a calibrated one" in honest
    assert found.temperature["sure"]["temperature"] == pytest.approx(3.0, rel=0.15)
    assert found.temperature["honest"]["temperature"] == pytest.approx(1.0, rel=0.15)
    assert found.temperature["sure"]["nll_after"] < found.temperature["sure"]["nll_before"]


@pytest.fixture(scope="module")
def written(found, tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("page")
    return folder, write_predictions(found, folder)


@pytest.mark.parametrize(
    "width, media", [(PHONE, "screen"), (DESKTOP, "screen"), (PAPER, "print")]
)
def test_a_browser_shows_all_of_the_page(browser, written, width, media):
    browser.open(written[0] / "report.html", width=width, media=media)
    assert browser.run_off() == [] and browser.broken_images() == []
    assert browser.complaints == []
    assert browser.evaluate("document.images.length") == 5
    assert browser.evaluate("document.querySelector('h1').textContent") == "<b>"
    if width != DESKTOP:
        assert bool(browser.scrolling_tables()) == (width == PHONE)


def test_the_page_is_whole_and_has_pictures_before_tables(found, written):
    folder, paths = written
    text = (folder / "report.html").read_text()
    page = check_page(text)
    assert page.headings[0] == "<b>" and "<i>" in page.text and "<i>" not in text
    assert len(page.images) == sum(path.suffix == ".png" for path in paths) == 5
    tags = [tag for tag, _ in page.tags if tag in ("img", "table")]
    assert tags[0] == "img"
    assert json.loads((folder / "report.json").read_text()) == found.to_dict()


def test_samples_are_averaged_and_have_mutual_information():
    samples, labels = made(200, 1.0, 3, samples=4)
    several = report_predictions(samples, labels, ood={"far": samples[:, :20]}, num_resamples=100)
    one = report_predictions(samples.mean(0), labels, num_resamples=100)
    assert several.comparison.bootstrap.values == {
        "the classifier": pytest.approx(
            {
                **one.comparison.bootstrap.values["the classifier"],
                "auroc far": several.ood["the classifier"]["far"]["entropy"]["auroc"],
            }
        )
    }
    assert "mutual_information" in several.ood["the classifier"]["far"]
    assert several.notes and "No validation data" in several.notes[0]


def test_what_does_not_fit_is_said(found):
    p, labels = made(50, 1.0, 0)
    with pytest.raises(ConfigError, match="3 names of classes.*got 2"):
        report_predictions(p, labels, class_names=["a", "b"])
    with pytest.raises(ConfigError, match=r"OOD set 'far' of the classifiers \['a'\]"):
        report_predictions({"a": p}, labels, ood={"far": {"b": p}})
    with pytest.raises(DataError, match="softmax"):
        report_predictions(10 * p, labels)
    with pytest.raises(DataError, match="expected validation to be a pair"):
        report_predictions(p, labels, validation=p[:2])
    with pytest.raises(ConfigError, match="expected ood to be a mapping by OOD set"):
        report_predictions(p, labels, ood=p)
    four = torch.full((5, 4), 0.25)
    with pytest.raises(ShapeError, match="OOD set 'far' with probabilities of 3 classes, got.*4"):
        report_predictions(p, labels, ood={"far": four})
    with pytest.raises(ShapeError, match="validation data with probabilities of 3 classes"):
        report_predictions(p, labels, validation=(four, torch.zeros(5, dtype=torch.long)))


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("bayesdrop.commands.report.has_matplotlib", lambda: False)


def write(path, p, labels=None, names="cat dog owl"):
    lines = [",".join([*names.split(), *(["label"] if labels is not None else [])])]
    for index, row in enumerate(p.tolist()):
        label = [] if labels is None else [str(labels[index])]
        lines.append(",".join([*(f"{value:.12f}" for value in row), *label]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_npz_and_csv_give_the_same_report(tmp_path, no_figures):
    p, labels = made(200, 1.0, 0)
    names = ["cat", "dog", "owl"]
    one, other = tmp_path / "one.npz", tmp_path / "other [b].csv"
    np.savez(one, probabilities=p.numpy(), labels=labels.numpy(), class_names=names)
    write(other, p, [names[label] for label in labels])
    far = write(tmp_path / "far.csv", p[:30])
    options = ["--ood", f"far={far}", "--validation", one, "--out", tmp_path / "out", "--json"]
    first, second = (json.loads(invoke("report", path, *options).stdout) for path in (one, other))
    assert first["class_names"] == second["class_names"] == names
    for key in ("error", "nll", "ece"):
        values = (found["rows"][0]["metrics"][key]["value"] for found in (first, second))
        assert next(values) == pytest.approx(next(values), abs=1e-9)
    assert first["selective_threshold"]["one"] and (tmp_path / "out" / "report.html").exists()
    said = invoke("report", one, other, "--title", "T [/2]", "--out", tmp_path / "both").stdout
    assert "T [/2]" in said and "other [b]" in said and "report.md" in said


def test_two_columns_of_a_binary_problem_may_be_one(tmp_path):
    path = tmp_path / "binary.csv"
    path.write_text("label,positive\n1,0.75\n0,0.5\n")
    found = read_predictions(path)
    assert found.probabilities.tolist() == [0.75, 0.5] and found.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "a first line with 'label'"),
        ("a,b,label\n", "0 lines"),
        ("a,b,label\n0.5,0.5\n", "3 entries in line 2, got 2"),
        ("a,b,label\n0.5,x,0\n", "a probability of 'b' in line 2, got 'x'"),
        ("cat,dog,label\n0.5,0.5,dgo\n", "line 2: unknown class 'dgo'. Did you mean 'dog'"),
        ("a,b\n0.5,0.5\n", "expected labels"),
        ("a,a,label\n0.5,0.5,0\n", "a name for each class"),
        (b"PK\x03\x04 no archive \xff", "that can be read"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(text, message, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_bad_files_give_a_message(tmp_path, no_figures):
    p, labels = made(50, 1.0, 0)
    one, other, bad = (tmp_path / f"{name}.npz" for name in ("one", "other", "bad"))
    np.savez(one, probabilities=p.numpy(), labels=labels.numpy())
    np.savez(other, probabilities=p.numpy(), labels=labels.roll(1).numpy())
    np.savez(bad, probabilities=np.array([object()], dtype=object), labels=labels.numpy())
    assert "same order" in invoke("report", one, other, code=1).stderr
    assert "expected arrays of numbers" in invoke("report", bad, code=1).stderr
    np.savez(bad, probabilities=p.numpy(), labels=labels.numpy(), class_names=np.array("abc"))
    assert "3 names of classes" in invoke("report", bad, code=1).stderr
    np.savez(bad, p=p.numpy())
    assert "an array 'probabilities'" in invoke("report", bad, code=1).stderr
    bad.write_bytes(one.read_bytes()[:300])
    assert "that can be read" in invoke("report", bad, code=1).stderr
    assert "No such file" in invoke("report", tmp_path / "no.csv", code=1).stderr
    assert "NAME=FILE" in invoke("report", one, "--ood", one, code=2).stderr
    assert (
        "same order"
        in invoke("report", one, "--validation", one, "--validation", one, code=2).stderr
    )
