import dataclasses
import json

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.metrics import adaptive_calibration_error, corruptions
from bayesdrop.reporting import analyse, build_report
from tests.reporting.page import check_page

DESCRIPTION = {"recipe": "<b>r</b>", "data": "digits:0-3", "data_title": "D & D"}
DESCRIPTION |= {"seed": 3, "minutes": 0.5}
HEADINGS = [
    "The model", "Metrics and their uncertainty", "Calibration",
    "What it is sure and unsure about", "Out-of-distribution detection", "Dataset shift",
    "Selective prediction", "Units and size",
    "Accuracy, calibration and FLOPs as the threshold moves", "Training",
]  # fmt: skip


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))


@pytest.fixture(scope="module")
def data():
    torch.set_default_dtype(torch.float64)
    return load_data("digits:0-3")


@pytest.fixture(scope="module")
def networks(data):
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = bd.BayesianNetwork(network(), bd.Categorical(), len(data.train[1]))
        bd.fit(plain, data.train, epochs=8, learning_rate=1e-2, progress=False, seed=0)
        bnn = bd.BayesianNetwork(bd.convert(plain.network), bd.Categorical(), 1)
    with torch.no_grad():
        for layer, dropped in zip(bnn.named_dropout_layers(), (20, 2), strict=True):
            layer[1].raw_concentration1[:dropped] = -9.0
            layer[1].raw_concentration1[dropped:] = 3.0
    return bnn.eval(), plain.eval()


def make_report(networks, data):
    return build_report(
        *networks,
        data.test,
        description=DESCRIPTION,
        ood={"digits:8-9": load_ood("digits:8-9", "digits:0-3")},
        num_samples=4,
        history={"plain": [{"epoch": 1, "loss": 1.0, "nll": 1.0, "kl": 0.0, "units": []}]},
    )


@pytest.fixture(scope="module")
def report(networks, data):
    torch.set_default_dtype(torch.float64)
    return analyse(
        make_report(networks, data),
        *networks,
        data.test,
        validation=data.validation,
        class_names=("zero", "one", "<i>two</i>", "three"),
    )


def test_the_page_has_everything_and_every_image_loads(report, tmp_path):
    pytest.importorskip("matplotlib")
    paths = report.write(tmp_path, html=True)
    text = (tmp_path / "report.html").read_text()
    page = check_page(text)
    assert page.headings == ["<b>r</b> on D & D", *HEADINGS]
    assert len(page.images) == sum(path.suffix == ".png" for path in paths) == 12
    assert "<i>two</i>" in page.text and "<i>" not in text
    markdown = (tmp_path / "report.md").read_text()
    assert all(f"]({path.name})" in markdown for path in paths if path.suffix == ".png")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(
        json.dumps(report.values)
    )


def test_the_page_can_be_written_without_matplotlib(report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    names = [path.name for path in report.write(tmp_path, figures=False, html=True)]
    assert names == ["report.json", "report.md", "report.html"]
    page = check_page((tmp_path / "report.html").read_text())
    assert page.images == [] and "they need matplotlib" in page.text
    assert page.headings[1:] == HEADINGS[:-1]  # training is nothing but a figure


def test_the_figures_are_those_of_the_report(report):
    found, analysis = report.values, report.values["analysis"]
    for method in ("plain", "mean_mask", "monte_carlo"):
        intervals = analysis["bootstrap"]["intervals"][method]
        for key in ("error", "nll", "brier", "ece"):
            assert intervals[key]["value"] == pytest.approx(found[key][method], rel=1e-9)
        auroc = found["ood_by_method"][method]["digits:8-9"]["entropy"]["auroc"]
        assert intervals["auroc digits:8-9"]["value"] == pytest.approx(auroc, rel=1e-9)
        expected = adaptive_calibration_error(report.probabilities[method], report.labels)
        assert analysis["calibration"][method]["adaptive_ece"] == expected
        assert analysis["selective"][method]["aurc"] == pytest.approx(intervals["aurc"]["value"])
    clean = analysis["shift"]["curves"]["plain"]["rows"][0]
    assert analysis["shift"]["num_images"] == len(report.labels)
    assert clean["accuracy"] == pytest.approx(100 - found["error"]["plain"])


def test_the_uncertainty_of_classes_adds_up(report):
    rows = report.values["analysis"]["classes"]
    count = sum(row["count"] for row in rows)
    information = sum(row["count"] * row["mutual_information"] for row in rows) / count
    assert count == len(report.labels)
    expected = report.inside["monte_carlo"].mutual_information.mean()
    assert information == pytest.approx(float(expected))


def test_nothing_is_chosen_without_validation_data(networks, data, report):
    found = analyse(make_report(networks, data), *networks, data.test, shift=False)
    values = found.values["analysis"]
    for key in ("temperature_scaling", "selective_threshold", "frontier", "frontier_threshold"):
        assert values[key] is None and report.values["analysis"][key] is not None, key
    assert values["shift"] is None
    text = found.markdown()
    assert "held out no validation data" in text and "Left out on request" in text


def test_the_base_report_is_not_changed(networks, data):
    base = make_report(networks, data)
    before = dict(base.values)
    analyse(base, *networks, data.test, shift=False)
    assert base.values == before and base.analysis is None and "analysis" not in base.values


def test_a_network_without_bayesian_dropout_is_analysed_alone(networks, data):
    plain = networks[1]
    report = build_report(plain, None, data.test, description=DESCRIPTION, num_samples=4)
    found = analyse(report, plain, None, data.test, validation=data.validation, shift=False)
    assert list(found.values["analysis"]["bootstrap"]["intervals"]) == ["plain"]
    assert found.values["analysis"]["size"] is None
    text = found.markdown()
    assert "Paired" not in text and "pass --ood NAME" in text


def test_corrupting_images_has_a_bounded_cost(networks, data):
    base = make_report(networks, data)
    dear = {**base.values, "flops_total": 10**10}
    found = analyse(dataclasses.replace(base, values=dear), *networks, data.test)
    note = found.values["analysis"]["notes"]["shift"]
    conditions = 5 * len(corruptions) + 1
    assert f"{len(data.test[1])} images in {conditions} conditions" in note and "--shift" in note
    kept = (slice(None, 20),)
    few = data.test[0][kept], data.test[1][kept]
    base = build_report(*networks, few, description=DESCRIPTION, num_samples=2)
    base = dataclasses.replace(base, values={**base.values, "flops_total": 10**12})
    found = analyse(base, *networks, few, shift=True)
    assert found.values["analysis"]["shift"]["num_images"] == 20


def test_flat_inputs_are_not_corrupted(networks, data):
    x, y = data.test
    flat = x.flatten(1), y
    report = build_report(*networks, flat, description=DESCRIPTION, num_samples=2)
    text = analyse(report, *networks, flat).markdown()
    assert "only images" in text and "uncertain_images" not in text


def test_diagnostics_use_the_whole_training_set(networks, data):
    pytest.importorskip("arviz")
    few = data.train[0][:40], data.train[1][:40]
    report = make_report(networks, data)
    found = analyse(report, *networks, data.test, train=few, shift=False)
    values = found.values["analysis"]
    assert values["check_elbo"]["passed"] is True
    assert values["guide_diagnostic"]["num_latents"] == 70
    assert "Is the posterior" in found.markdown() and networks[0].num_data == 1
