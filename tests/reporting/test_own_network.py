"""``bd.report`` of a network of one's own, without a recipe."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, DataWarning
from bayesdrop.reporting.summary import report_summary
from tests.reporting.page import check_page


def network(outputs, likelihood=None):
    layers = [bd.BetaBernoulliDropout(5), nn.Linear(5, outputs)]
    layers[0].location.data[0] = -9.0
    return bd.BayesianNetwork(nn.Sequential(*layers), likelihood or bd.Categorical(), 100)


def labelled(rows=60, classes=3):
    return torch.randn(rows, 5), torch.arange(rows) % classes


def regression():
    bnn = network(1, bd.Gaussian(0.5))
    x = torch.randn(60, 5)
    return bnn, (x, bnn.network.eval()(x).detach() + 0.5 * torch.randn(60, 1))


def test_a_network_and_its_test_set_are_enough():
    bnn, test = network(3), labelled()
    bnn.train()
    found = bd.report(bnn, test, num_samples=4)
    assert bnn.training, "the network is not changed"
    for method, options in {"mean_mask": {"sample": False}, "monte_carlo": {}}.items():
        figures = bd.evaluate(bnn.eval(), test, num_samples=4, seed=0, **options).figures
        assert found.results[method].figures == figures
    values = found.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["error"]["mean_mask"] == found.results["mean_mask"].figures.error
    for key in ("error", "latency_ms", "monte_carlo_error", "ood_by_method"):
        assert list(values[key]) == ["mean_mask", "monte_carlo"], "no plain network was given"
    assert [row.title for row in found.rows] == ["mean mask", "Monte Carlo"]
    assert values["units"] == [4] and values["analysis"]["frontier"] is None


def test_arrays_are_taken_as_tensors_are():
    bnn, (x, y) = network(3), labelled()
    found = bd.report(bnn, (x.double().numpy(), y.numpy()), num_samples=2)
    expected = bd.report(bnn, (x, y), num_samples=2)
    assert found.main.figures == expected.main.figures


def test_the_page_is_written_on_request_and_has_what_was_given(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "page.html"
    plain = bd.BayesianNetwork(nn.Linear(5, 3), bd.Categorical(), 100)
    bd.report(
        network(3),
        labelled(),
        plain=plain,
        validation=labelled(50),
        ood={"<far>": 9 * torch.randn(40, 5)},
        title="flowers",
        html=path,
        num_samples=4,
    )
    assert list(path.parent.iterdir()) == [path], "the figures are inside"
    page = check_page(path.read_text())
    assert page.headings[0] == "Sequential on flowers" and "Training" not in page.headings
    assert "<far>" in page.text and "on validation data" in page.text
    assert len(page.images) > 5


def test_a_loader_or_dataset_is_its_examples():
    bnn, (x, y) = network(3), labelled()
    data = TensorDataset(x, y)
    rows = Subset(data, range(len(x)))
    expected = bd.report(bnn, (x, y), validation=(x, y), num_samples=2, shift=False)
    for given in (data, rows, DataLoader(rows, batch_size=7)):
        found = bd.report(bnn, given, validation=given, num_samples=2, shift=False)
        assert torch.equal(found.main.prediction.mean, expected.main.prediction.mean)
        assert torch.equal(found.main.labels, expected.main.labels)
    found = bd.report(bnn, DataLoader(data, shuffle=True), num_samples=2, shift=False)
    for key in ("error", "nll"):
        same = pytest.approx(expected.to_dict()[key]["mean_mask"])
        assert found.to_dict()[key]["mean_mask"] == same, "inputs and labels are drawn together"
    some = DataLoader(data, batch_size=7, drop_last=True)
    with pytest.warns(DataWarning, match="report: expected all 60 examples, got 56") as told:
        bd.report(bnn, some, num_samples=2, shift=False)
    assert told[0].filename == __file__
    with pytest.raises(DataError, match="data with targets"):
        bd.report(bnn, DataLoader(x))
    uneven = [(x[0], y[0]), (x[0, :3], y[0])]
    with pytest.raises(DataError, match="expected examples of one shape"):
        bd.report(bnn, DataLoader(uneven, batch_size=1))


def test_the_summary_quotes_the_better_method():
    bnn, validation = network(3), labelled(80)
    analysis = bd.report(bnn, labelled(), validation=validation, num_samples=4).analysis
    nll = {
        "mean_mask": bd.evaluate(bnn.eval(), validation, sample=False).nll,
        "monte_carlo": bd.evaluate(bnn, validation, num_samples=4, seed=0).nll,
    }
    assert analysis.quoted == min(nll, key=nll.get)


def test_a_regression_has_its_figures_and_its_coverage(tmp_path):
    pytest.importorskip("matplotlib")
    bnn, test = regression()
    found = bd.report(bnn, test, num_samples=8, html=tmp_path / "page.html")
    figures = bd.evaluate(bnn, test, num_samples=8, seed=0, keep_samples=True).figures
    values = found.to_dict()
    assert values["rmse"]["monte_carlo"] == figures.rmse and figures.rmse > 0
    assert values["nll"]["monte_carlo"] == figures.nll
    assert values["crps"]["monte_carlo"] == figures.crps
    assert values["coverage"]["monte_carlo"]["0.9"] == figures.coverage[0.9]
    page = check_page((tmp_path / "page.html").read_text())
    assert "Coverage of central intervals" in page.text
    assert page.tables[0][0][1:5] == ["RMSE", "NLL", "CRPS", "in 50 %"]
    for scale, verdict in ((0.1, "too narrow."), (5.0, "wider than they need be.")):
        bnn.likelihood = bd.Gaussian(scale)
        assert verdict in report_summary(bd.report(bnn, test, num_samples=2))[0]


def test_several_labels_an_example_have_figures_but_no_analysis():
    bnn = network(3, bd.Bernoulli())
    test = torch.randn(40, 5), torch.randint(2, (40, 3)).double()
    found = bd.report(bnn, test, num_samples=2)
    assert found.analysis is None
    assert found.results["plain"].figures == bd.evaluate(bnn.eval(), test, sample=False).figures


def test_a_class_for_each_pixel_has_figures_over_pixels_and_says_what_is_left_out(tmp_path):
    pytest.importorskip("matplotlib")
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1), bd.BetaBernoulliDropout(4, unit_dim=-3), nn.Conv2d(4, 3, 1)
    )
    bnn = bd.BayesianNetwork(net, bd.Categorical(ignore_index=255), 30)
    x, y = torch.randn(20, 1, 4, 4), torch.randint(3, (20, 4, 4))
    y[:, 0] = 255
    names, path = ["sky", "tree", "road"], tmp_path / "page.html"
    found = bd.report(bnn, (x, y), ood={"far": 9 * x}, class_names=names, num_samples=2, html=path)
    assert found.analysis is None and len(found.main.labels) == 240
    page = check_page(path.read_text())
    assert "What needs one label of several classes for each example is left out" in page.text
    assert "(road)" in page.text and "Selective prediction" in page.headings
    assert "Answering the most confident labels only" in page.text
    with pytest.raises(
        ConfigError, match=r"for each example for validation=\.\.\.,.*flatten_labels"
    ):
        bd.report(bnn, (x, y), validation=(x, y), num_samples=2)


def test_what_a_report_cannot_take_is_refused():
    bnn, test = regression()
    with pytest.raises(ConfigError, match=r"a classifier for ood=\.\.\., got likelihood Gaussian"):
        bd.report(bnn, test, ood={"far": test[0]})
    with pytest.raises(ConfigError, match="expected a BayesianNetwork, got Linear"):
        bd.report(nn.Linear(2, 2), labelled())
    with pytest.raises(DataError, match="data with targets"):
        bd.report(network(3), (torch.randn(4, 5), None))
    x, y = labelled()
    for given in (x[:2], (x, y, y), None):
        with pytest.raises(DataError, match="report: expected test to be a pair, of inputs"):
            bd.report(network(3), given)
    with pytest.raises(DataError, match="expected validation to be a pair"):
        bd.report(network(3), (x, y), validation=x)
    with pytest.raises(ConfigError, match="plain to be a BayesianNetwork too, got Linear"):
        bd.report(network(3), (x, y), plain=nn.Linear(5, 3))
    with pytest.raises(ConfigError, match="report: expected ood to be a mapping by OOD set"):
        bd.report(network(3), (x, y), ood=x)
    with pytest.raises(ConfigError, match="one name for each class.*got 1 of class_names"):
        bd.report(network(3), labelled(), class_names=["a"], num_samples=2)
