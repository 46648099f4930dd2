import json

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.reporting import add_baseline, build_report, report_document, write_report
from bayesdrop.testing import isolated

SPECIFIED = {
    "recipe", "data", "seed", "num_samples", "minutes", "error", "nll", "brier", "ece", "units",
    "units_total", "flops_speedup", "params", "params_total", "compact_max_abs_diff",
    "latency_ms", "ood",
}  # fmt: skip
DESCRIPTION = {"recipe": "r", "data": "digits:0-3", "data_title": "D", "minutes": 0.5}


@pytest.fixture(scope="module", autouse=True)
def one_dtype():
    """What is made once for all tests is made as in one of them."""
    with isolated():
        yield


@pytest.fixture(scope="module")
def networks():
    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))

    plain = bd.BayesianNetwork(network(), bd.Categorical(), 100)
    bnn = bd.BayesianNetwork(bd.convert(network()), bd.Categorical(), 100)
    with torch.no_grad():
        for layer, dropped in zip(bnn.named_dropout_layers(), (20, 2), strict=True):
            layer[1].location[:dropped] = -9.0
            layer[1].location[dropped:] = 3.0
    return bnn.eval(), plain.eval()


@pytest.fixture(scope="module")
def test_set():
    return load_data("digits:0-3").test


@pytest.fixture(scope="module")
def report(networks, test_set):
    return build_report(
        *networks,
        test_set,
        description=DESCRIPTION,
        ood={"digits:8-9": load_ood("digits:8-9", "digits:0-3")},
        num_samples=8,
        seed=3,
        history={"plain": [{"epoch": 1, "loss": 1.0, "nll": 1.0, "kl": 0.0, "units": []}]},
    )


def test_the_keys_are_those_that_everything_downstream_reads(report):
    values = report.to_dict()
    assert set(values) >= SPECIFIED
    for key in ("error", "nll", "brier", "ece", "latency_ms"):
        assert list(values[key]) == ["plain", "mean_mask", "monte_carlo"]
    scores = {"entropy", "max_probability", "mutual_information", "energy", "logit_norm"}
    assert set(values["ood"]["digits:8-9"]) == scores
    keys = {"auroc", "aupr", "aupr_in", "fpr95", "detection_error"}
    assert all(set(m) == keys for m in values["ood"]["digits:8-9"].values())


def test_the_figures_are_those_of_evaluate(report, networks, test_set):
    bnn, plain = networks
    ood = {"digits:8-9": load_ood("digits:8-9", "digits:0-3")}
    for method, evaluation in {
        "plain": bd.evaluate(plain, test_set),
        "mean_mask": bd.evaluate(bnn, test_set, sample=False),
        "monte_carlo": bd.evaluate(bnn, test_set, ood=ood, num_samples=8, seed=3),
    }.items():
        for key in ("error", "nll", "brier", "ece"):
            assert report.to_dict()[key][method] == evaluation.to_dict()[key]
    assert report.to_dict()["ood"] == evaluation.to_dict()["ood"]


def test_sizes_equal_hand_counts(report):
    values = report.to_dict()
    assert values["units"] == [44, 4] and values["units_total"] == [64, 6]
    assert values["params_total"] == 64 * 6 + 6 + 6 * 4 + 4
    assert values["params"] == 44 * 4 + 4 + 4 * 4 + 4
    assert values["flops_speedup"] == (64 * 6 + 6 * 4) / (44 * 4 + 4 * 4)
    assert values["compact_max_abs_diff"] < 1e-12
    full, cut = 2 * (64 * 6 + 6 * 4), 2 * (44 * 4 + 4 * 4)
    costs = [(row.params, row.flops) for row in report.rows]
    assert costs == [(418, full), (200, cut), (418, 8 * full)]  # of one pass, and of eight


def test_the_compact_network_predicts_what_the_mean_mask_predicts(report, test_set):
    probabilities = report.compact(test_set[0]).softmax(1)
    torch.testing.assert_close(probabilities, report.results["mean_mask"].probabilities)


def test_a_network_without_bayesian_dropout_has_one_row(networks, test_set):
    report = build_report(networks[1], None, test_set, description=DESCRIPTION)
    assert [row.title for row in report.rows] == ["plain network"]
    assert len(set(report.to_dict()["error"].values())) == 1
    assert report.to_dict()["units"] == [] and report.to_dict()["flops_speedup"] == 1.0
    assert "Units and size" not in report_document(report).to_markdown()


def test_a_baseline_gets_its_row_and_leaves_the_report(report, networks, test_set):
    far = {"digits:8-9": load_ood("digits:8-9", "digits:0-3")}
    more = add_baseline(report, "nn.Dropout", networks[1], far)
    assert more.rows[1].ood == report.results["plain"].ood
    methods = ["plain network", "nn.Dropout", "mean mask", "Monte Carlo"]
    assert [row.title for row in more.rows] == methods and len(report.rows) == 3
    assert more.to_dict()["baselines"]["nn.Dropout"]["nll"] == report.to_dict()["nll"]["plain"]
    assert "baselines" not in report.to_dict()


def test_files_are_json_markdown_and_png(report, tmp_path):
    pytest.importorskip("matplotlib")
    paths = write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()
    text = (tmp_path / "report.md").read_text()
    for method in ("plain network", "mean mask", "Monte Carlo"):
        assert f"| {method} |" in text
    figures = [path for path in paths if path.suffix == ".png"]
    assert len(figures) == 5
    for path in figures:
        assert path.read_bytes()[:4] == b"\x89PNG" and f"]({path.name})" in text


def test_without_figures_matplotlib_is_not_needed(report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    names = [path.name for path in write_report(report, tmp_path, figures=False)]
    assert names == ["report.json", "report.md"]
    with pytest.raises(ImportError, match=r"pip install 'bayesdrop\[plots\]'"):
        write_report(report, tmp_path)


def test_masks_that_look_at_the_input_get_their_cost_and_pictures(networks, test_set, tmp_path):
    bnn, plain = networks
    report = build_report(
        bd.to_dependent(bnn), plain, test_set, description=DESCRIPTION, num_samples=2
    )
    cost = report.to_dict()["per_input"]
    assert cost["num_examples"] == len(test_set[1])
    assert 0 < cost["speedup_needed"] <= cost["speedup"]
    assert f"{cost['speedup']:.1f}x fewer" in report_document(report).to_markdown()
    names = {path.name for path in write_report(report, tmp_path)}
    assert {"class_masks.png", "class_correlations.png"} <= names


def test_sticks_are_drawn_where_there_are_some(networks, test_set, tmp_path):
    _, plain = networks
    net = bd.convert(plain.network, "indian-buffet")
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 100)
    report = build_report(bnn, plain, test_set, description=DESCRIPTION, num_samples=2)
    assert report.to_dict()["per_input"] is None and report.class_masks == {}
    assert "sticks.png" in {path.name for path in write_report(report, tmp_path)}


class _Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(4, 8), torch.nn.Linear(3, 8)
        self.mask, self.out = bd.BetaBernoulliDropout(8), torch.nn.Linear(8, 3)

    def forward(self, x, z):
        return self.out(self.mask((self.left(x) + self.right(z)).relu()))


def test_a_network_with_two_inputs_has_a_whole_report(tmp_path):
    x, z, y = torch.randn(24, 4), torch.randn(24, 3), torch.randint(3, (24,))
    bnn = bd.BayesianNetwork(_Two(), bd.Categorical(), num_data=24)
    bnn.network.mask.set_posterior(torch.tensor([1e-5] * 3 + [2.0] * 5))
    given = {"z": z, "x": x}
    found = bd.report(bnn, (given, y), ood={"far": ((x, z), None)}, num_samples=2)
    result = bd.evaluate(bnn, (given, y), sample=False)
    assert found.results["mean_mask"].figures.nll == pytest.approx(result.nll)
    # By hand: 8 (4 + 3) + 16 + 27 parameters, and 5 units of 8 after.
    assert (found.size.params_total, found.size.params) == (99, 63)
    assert found.size.compact_max_abs_diff < 1e-6
    paths = write_report(found, tmp_path, figures=False)
    assert all(path.exists() for path in paths)
