import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.errors import DataError
from bayesdrop.metrics import adaptive_calibration_error, corruptions
from bayesdrop.reporting import (
    add_analysis,
    analysis,
    build_report,
    report_document,
    shift_analysis,
    write_report,
)
from bayesdrop.reporting.methods import Method
from tests.reporting.page import check_page

DESCRIPTION = {"recipe": "<b>r</b>", "data": "digits:0-3", "data_title": "D & D"}
DESCRIPTION |= {"minutes": 0.5}
HEADINGS = [
    "Metrics and their uncertainty", "Calibration",
    "What it is sure and unsure about", "Out-of-distribution detection", "Dataset shift",
    "Selective prediction", "Units and size",
    "Accuracy, calibration and FLOPs as the threshold moves", "Training",
    "The model, and how it was evaluated",
]  # fmt: skip


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))


@pytest.fixture(scope="module")
def data():
    torch.set_default_dtype(torch.float64)
    digits = load_data("digits:0-3")
    few = digits.test[0][:80], digits.test[1][:80]
    return dataclasses.replace(digits, test=few)


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
            layer[1].location[:dropped] = -9.0
            layer[1].location[dropped:] = 3.0
    return bnn.eval(), plain.eval()


def make_report(networks, data):
    return build_report(
        *networks,
        data.test,
        description=DESCRIPTION,
        ood={"digits:8-9": load_ood("digits:8-9", "digits:0-3")},
        num_samples=4,
        seed=3,
        history={"plain": [{"epoch": 1, "loss": 1.0, "nll": 1.0, "kl": 0.0, "units": []}]},
    )


@pytest.fixture(scope="module")
def report(networks, data):
    torch.set_default_dtype(torch.float64)
    return add_analysis(
        make_report(networks, data),
        validation=data.validation,
        class_names=("zero", "one", "<i>two</i>", "three"),
        shift=True,
    )


def test_the_page_has_everything_and_every_image_loads(report, tmp_path):
    pytest.importorskip("matplotlib")
    paths = write_report(report, tmp_path, html=True)
    text = (tmp_path / "report.html").read_text()
    page = check_page(text)
    assert page.headings == ["<b>r</b> on D & D", *HEADINGS]
    assert len(page.images) == sum(path.suffix == ".png" for path in paths) == 11
    assert "<i>two</i>" in page.text and "<i>" not in text
    markdown = (tmp_path / "report.md").read_text()
    assert all(f"]({path.name})" in markdown for path in paths if path.suffix == ".png")
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()


def test_the_page_can_be_written_without_matplotlib(report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    names = [path.name for path in write_report(report, tmp_path, figures=False, html=True)]
    assert names == ["report.json", "report.md", "report.html"]
    page = check_page((tmp_path / "report.html").read_text())
    assert page.images == [] and "they need matplotlib" in page.text
    assert page.headings[1:] == [name for name in HEADINGS if name != "Training"]  # a figure alone


def test_the_figures_are_those_of_the_report(report):
    found = report.to_dict()
    analysis = found["analysis"]
    for method in ("plain", "mean_mask", "monte_carlo"):
        intervals = analysis["bootstrap"]["intervals"][method]
        for key in ("error", "nll", "brier", "ece"):
            assert intervals[key]["value"] == pytest.approx(found[key][method], rel=1e-9)
        auroc = found["ood_by_method"][method]["digits:8-9"]["entropy"]["auroc"]
        assert intervals["auroc digits:8-9"]["value"] == pytest.approx(auroc, rel=1e-9)
        expected = adaptive_calibration_error(report.results[method].probabilities, report.test[1])
        assert analysis["calibration"][method]["adaptive_ece"] == expected
        assert analysis["selective"][method]["aurc"] == pytest.approx(intervals["aurc"]["value"])
    clean = analysis["shift"]["curves"]["plain"]["rows"][0]
    assert analysis["shift"]["num_images"] == len(report.test[1])
    assert clean["accuracy"] == pytest.approx(100 - found["error"]["plain"])


def test_the_uncertainty_of_classes_adds_up(report):
    rows = report.to_dict()["analysis"]["classes"]
    count = sum(row["count"] for row in rows)
    information = sum(row["count"] * row["mutual_information"] for row in rows) / count
    assert count == len(report.test[1])
    expected = report.main.prediction.mutual_information.mean()
    assert information == pytest.approx(float(expected))


def test_nothing_is_chosen_without_validation_data(networks, data, report):
    found = add_analysis(make_report(networks, data), shift=False)
    values = found.to_dict()["analysis"]
    for key in ("temperature_scaling", "selective_threshold", "frontier", "frontier_threshold"):
        assert values[key] is None and report.to_dict()["analysis"][key] is not None, key
    assert values["shift"] is None
    text = report_document(found).to_markdown()
    assert "No validation data were held out" in text and "Left out on request" in text


def test_the_base_report_is_not_changed(networks, data):
    base = make_report(networks, data)
    before = base.to_dict()
    add_analysis(base, shift=False)
    assert base.to_dict() == before and base.analysis is None and "analysis" not in before


def test_a_network_without_bayesian_dropout_is_analysed_alone(networks, data):
    plain = networks[1]
    report = build_report(plain, None, data.test, description=DESCRIPTION, num_samples=4)
    found = add_analysis(report, validation=data.validation, shift=False)
    assert list(found.to_dict()["analysis"]["bootstrap"]["intervals"]) == ["plain"]
    assert found.to_dict()["analysis"]["size"] is None
    text = report_document(found).to_markdown()
    assert "Paired" not in text and "pass --ood NAME" in text


def with_flops(report, flops):
    plain = dataclasses.replace(report.results["plain"], flops=flops)
    return dataclasses.replace(report, results={**report.results, "plain": plain})


def test_corrupting_images_has_a_bounded_cost(networks, data):
    base = make_report(networks, data)
    found = add_analysis(with_flops(base, 10**10))
    note = found.to_dict()["analysis"]["notes"]["shift"]
    conditions = 5 * len(corruptions) + 1
    assert f"{len(data.test[1])} images in {conditions} conditions" in note and "--shift" in note
    kept = (slice(None, 20),)
    few = data.test[0][kept], data.test[1][kept]
    base = build_report(*networks, few, description=DESCRIPTION, num_samples=2)
    found = add_analysis(with_flops(base, 10**12), shift=True)
    assert found.to_dict()["analysis"]["shift"]["num_images"] == 20


def test_as_many_images_are_corrupted_as_all_passes_of_all_methods_can_pay_for(monkeypatch):
    # 3e12 operations, of 16 of the 64 samples and of a pass by each of the two other methods.
    one = 3e12 / ((5 * len(corruptions) + 1) * (16 + 1 + 1) * 500.5)
    flops = {Method.PLAIN: one / 2, Method.MEAN_MASK: one / 3, Method.MONTE_CARLO: 64 * one}
    results = {method: SimpleNamespace(flops=number) for method, number in flops.items()}
    calls = []
    monkeypatch.setattr(
        shift_analysis, "measure_shift", lambda *args, **options: calls.append((args, options))
    )
    test = torch.rand(3000, 1, 4, 4), torch.zeros(3000)
    found = shift_analysis.analyse_shift(results, "bnn", "plain", test)
    assert (found.num_images, found.num_samples) == (500, 16)
    assert [args[0] for args, _ in calls] == ["plain", "bnn", "bnn"]
    assert [len(args[1][1]) for args, _ in calls] == [500] * 3
    assert [options["predict_options"]["sample"] for _, options in calls] == [False, False, True]


def test_flat_inputs_are_not_corrupted(networks, data):
    x, y = data.test
    flat = x.flatten(1), y
    report = build_report(*networks, flat, description=DESCRIPTION, num_samples=2)
    text = report_document(add_analysis(report)).to_markdown()
    assert "only images" in text and "uncertain_images" not in text


def test_normalised_images_are_not_corrupted_unless_asked_for(networks, data):
    x, y = data.test
    normalised = 4 * x - 2, y
    base = build_report(*networks, normalised, description=DESCRIPTION, num_samples=2)
    assert "before normalising" in add_analysis(base).to_dict()["analysis"]["notes"]["shift"]
    with pytest.raises(DataError, match=r"values in \[0, 1\], got torch.float64 from -2 to 2"):
        add_analysis(base, shift=True)


def test_diagnostics_use_the_whole_training_set(networks, data, monkeypatch):
    pytest.importorskip("arviz")
    sizes = []
    for name in ("check_elbo", "guide_diagnostic"):
        own = getattr(analysis, name)

        def noted(bnn, *args, own=own, **options):
            sizes.append(bnn.num_data)
            return own(bnn, *args, **options)

        monkeypatch.setattr(analysis, name, noted)
    few = data.train[0][:40], data.train[1][:40]
    report = make_report(networks, data)
    found = add_analysis(report, train=few, shift=False)
    values = found.to_dict()["analysis"]
    assert values["check_elbo"]["passed"] is True and sizes == [40, 40]
    assert values["guide_diagnostic"]["num_latents"] == 70
    assert "Is the posterior" in report_document(found).to_markdown() and networks[0].num_data == 1
