import importlib.util
import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import bayesdrop as bd
from bayesdrop import __version__, data
from bayesdrop.cli import app
from bayesdrop.data import load_data
from bayesdrop.errors import DataError
from bayesdrop.nn import layers
from bayesdrop.recipes import load_run
from bayesdrop.recipes import recipe as recipe_module
from tests.forked import run_code, run_script
from tests.reporting.page import check_page

TINY = ["--epochs", "2", "--pretrain-epochs", "1", "--data", "digits:0-3"]


@pytest.fixture(autouse=True)
def float32():
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def no_figures(monkeypatch):
    """Reports without pictures: to draw them takes longer than all the rest."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *a: None if name == "matplotlib" else found(name, *a),
    )


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    out = tmp_path_factory.mktemp("cli") / "run"
    result = invoke("train", "digits-mlp-bb", *TINY, "--out", out)
    assert "validation error" in result.stdout and "units 64-500-300 of" in result.stdout
    return out


@pytest.mark.parametrize(
    "command",
    [
        *[(), ("demo",), ("train",), ("evaluate",), ("compare",), ("report",)],
        *[("compact",), ("recipe",), ("list",), ("cite",), ("doctor",)],
    ],
)
def test_help_says_what_a_command_does(command):
    text = invoke(*command, "--help").output
    assert "Usage" in text and "--help" in text
    assert "--json" in text or not command


def test_help_of_eighty_columns_keeps_whole_names_and_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(invoke("train", "--help").output.split())
    assert "--variational-learning-rate" in text
    assert "[default: the recipe's]" in text and "[default: cpu]" in text


def test_version():
    assert invoke("--version").stdout.strip() == f"bayesdrop {__version__}"


@pytest.mark.parametrize(
    "what, registry",
    [
        ("dropouts", layers),
        ("recipes", recipe_module.registry),
        ("datasets", data.registry),
    ],
)
def test_list_shows_the_whole_registry(what, registry):
    text = invoke("list", what).stdout
    assert registry and all(name in text for name in registry)


@pytest.mark.parametrize("suffix", ["sbp", "l0"])
def test_noise_and_gates_go_from_training_to_the_compact_network(suffix, tmp_path, no_figures):
    name, out = f"digits-mlp-{suffix}", tmp_path / "run"
    assert "units 64-500-300 of" in invoke("train", name, *TINY, "--out", out).stdout
    report = invoke("evaluate", out, "--num-samples", 3, "--out", tmp_path / "report")
    assert "Monte Carlo" in report.stdout
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert values["units"] == values["units_total"] == [64, 500, 300]
    assert values["compact_max_abs_diff"] < 1e-4
    assert all(prior["prior"] for prior in values["priors"].values())
    invoke("compact", out, "--out", tmp_path / "small.pt")

    loaded = load_run(out)
    bnn, (x, y) = loaded.bnn, loaded.load_data().test
    sizes = bd.compression.measure_size(bnn, num_samples=5, seed=0)
    assert int(sizes.total("units").max()) <= 864
    rows = bd.compression.sweep_thresholds(bnn, (x, y)).rows
    assert [sum(row.units) for row in rows] == sorted((sum(r.units) for r in rows), reverse=True)
    assert bd.check_elbo(bnn, x[:8], y[:8], num_samples=100, num_repeats=10).passed
    idata = bd.to_inference_data(bnn, x[:4], y[:4], num_samples=6, seed=0)
    names = {"sbp": "fc1_dropout.noise", "l0": "fc1_dropout.keep_prob"}
    assert set(idata.posterior.data_vars) >= {names[suffix]}
    constant = idata.constant_data["fc1_dropout.keep_prob"].values
    keep = dict(bnn.named_dropout_layers())["fc1_dropout"].keep_prob().detach()
    assert torch.equal(torch.as_tensor(constant), keep)
    if suffix == "sbp":
        assert "fc1_dropout.keep_prob" not in idata.posterior.data_vars


@pytest.mark.parametrize("suffix", ["dropconnect", "gaussian-dropconnect", "spike-and-slab"])
def test_noise_on_weights_goes_from_training_to_a_report(suffix, tmp_path, no_figures):
    out = tmp_path / "run"
    invoke("train", f"digits-mlp-{suffix}", "--epochs", 2, "--out", out)
    report = invoke("evaluate", out, "--num-samples", 3, "--out", tmp_path / "report")
    assert "Monte Carlo" in report.stdout
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    kinds = {name: prior["kind"] for name, prior in values["priors"].items()}
    layer = "Dropconnect" if suffix == "dropconnect" else "GaussianDropconnect"
    masks = {"dropout2": "MonteCarloDropout", "dropout3": "MonteCarloDropout"}
    assert kinds == {"fc2": layer, "fc3": layer} | (masks if suffix == "spike-and-slab" else {})
    bnn = load_run(out).bnn
    assert bnn.is_random and bnn.kept() == bnn.total()


def test_a_plugin_registers_what_is_in_it(tmp_path, monkeypatch):
    (tmp_path / "plugin_of_mine.py").write_text(
        "import dataclasses\nfrom bayesdrop import recipes\n"
        "recipes.register(dataclasses.replace(recipes.get('digits-mlp'), name='of-mine'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(recipe_module.registry, "_entries", dict(recipe_module.registry))
    assert "of-mine" in invoke("--plugin", "plugin_of_mine", "list", "recipes").stdout
    result = invoke("--plugin", "no_such_plugin", "list", "recipes", code=1)
    assert "Error: No module named 'no_such_plugin'" in result.output


def test_evaluate_writes_the_report(run, tmp_path):
    result = invoke(
        "evaluate", run, "--ood", "digits:8-9", "--ood", "digits:4-7", "--num-samples", 4,
        "--out", tmp_path,
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["recipe"] == "digits-mlp-beta-bernoulli" and report["data"] == "digits:0-3"
    assert report["num_samples"] == 4 and list(report["ood"]) == ["digits:8-9", "digits:4-7"]
    assert "Monte Carlo" in result.stdout and "AUROC" in result.stdout
    assert str(tmp_path / "report.md") in result.stdout


def test_evaluate_works_without_matplotlib_and_names_the_extra(run, tmp_path, no_figures):
    result = invoke("evaluate", run, "--num-samples", 2, "--json", "--out", tmp_path)
    assert "bayesdrop[plots]" in result.stderr
    assert not list(tmp_path.glob("*.png"))
    printed, written = (
        json.loads(result.stdout),
        json.loads((tmp_path / "report.json").read_text()),
    )
    assert printed.pop("written") == [str(tmp_path / f"report.{kind}") for kind in ("json", "md")]
    assert printed == written


def test_compare_and_compact_print_json_for_programs(run, others, tmp_path, no_figures):
    few = ["--num-samples", 2, "--json", "--out"]
    printed = json.loads(invoke("compare", run, others / "plain", *few, tmp_path).stdout)
    assert printed.pop("written")[0] == str(tmp_path / "compare.json")
    assert printed == json.loads((tmp_path / "compare.json").read_text())
    found = json.loads(invoke("compact", run, "--json", "--out", tmp_path / "small.pt").stdout)
    assert found["written"] == [str(tmp_path / "small.pt")]
    assert found["kept"] == {"units": load_run(run).bnn.units()}
    assert found["params"] <= found["params_total"]


def test_evaluate_writes_a_page_on_request(run, tmp_path, no_figures):
    result = invoke(
        "evaluate", run, "--html", "--no-shift", "--num-samples", 2, "--ood", "digits:8-9",
        "--out", tmp_path,
    )  # fmt: skip
    assert str(tmp_path / "report.html") in result.stdout
    page = check_page((tmp_path / "report.html").read_text())
    assert "Left out on request." in page.text and "Selective prediction" in page.headings
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["versions"]["bayesdrop"] == __version__
    assert report["network"] == "lenet-500-300" and report["analysis"]["frontier"] is not None


@pytest.fixture(scope="module")
def others(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli-others")
    data = ["--data", "digits:0-3"]
    invoke("train", "digits-mlp-bb", *TINY, "--seed", "1", "--out", out / "bb1")
    invoke("train", "digits-mlp", "--epochs", "2", *data, "--out", out / "plain")
    invoke("train", "digits-mlp", "--epochs", "1", "--data", "digits:4-7", "--out", out / "data")
    invoke(
        "train",
        "digits-mlp",
        "--epochs",
        "1",
        *data,
        "--validation",
        "100",
        "--out",
        out / "split",
    )
    return out


def test_compare_puts_runs_side_by_side(run, others, tmp_path, no_figures):
    result = invoke(
        "compare", others / "plain", run, others / "bb1", "--ood", "digits:8-9", "--ensemble",
        "--num-samples", 2, "--html", "--out", tmp_path,
    )  # fmt: skip
    assert str(tmp_path / "compare.html") in result.stdout
    check_page((tmp_path / "compare.html").read_text())
    values = json.loads((tmp_path / "compare.json").read_text())
    names = [row["name"] for row in values["rows"]]
    bayesian = [f"digits-mlp-beta-bernoulli, {method}" for method in ("mean mask", "Monte Carlo")]
    assert names == ["digits-mlp", *bayesian, *(f"{name}, ensemble of 2" for name in bayesian)]
    rows = dict(zip(names, values["rows"], strict=True))
    assert all(name in result.stdout for name in ("digits-mlp", "AUROC", "minutes"))
    seeds = rows[bayesian[1]]["members"]
    assert list(seeds) == [f"{folder}, Monte Carlo" for folder in (run, others / "bb1")]
    invoke("evaluate", run, "--num-samples", 2, "--out", tmp_path)
    alone = json.loads((tmp_path / "report.json").read_text())
    ours = seeds[f"{run}, Monte Carlo"]
    assert ours["nll"] == pytest.approx(alone["nll"]["monte_carlo"], rel=1e-7)
    details = rows["digits-mlp-beta-bernoulli, mean mask"]["details"]
    assert details["params"] == alone["params"] and details["units"] == alone["units"]


def test_options_reach_what_they_are_for(run, monkeypatch):
    given = {}

    def stop(first, **options):
        given.update(options, first=first)
        raise DataError("here", expected="nothing", got="all", hint="none")

    for name in ("run_recipe", "report_run", "compare_runs"):
        monkeypatch.setattr(f"bayesdrop.recipes.{name}", stop)
    stage = {
        "--batch-size": 7, "--learning-rate": 0.5, "--variational-learning-rate": 0.25,
        "--weight-decay": 0.125, "--compact-every": 2, "--private-epsilon": 4.0,
    }  # fmt: skip
    call = {"--data": "digits:0-3", "--validation": 9, "--seed": 5, "--from": "a", "--out": "b"}
    flat = [part for option in (stage | call).items() for part in option]
    invoke("train", "digits-mlp", "--epochs", 2, *flat, code=1)
    (trained,) = given["first"].stages
    found = [getattr(trained, name[2:].replace("-", "_")) for name in stage]
    assert found == list(stage.values()) and trained.epochs == 2
    assert [str(given[name]) for name in ("data", "validation", "seed", "start", "out")] == [
        "digits:0-3", "9", "5", "a", "b",
    ]  # fmt: skip
    more = ["--ood", "digits:8-9", "--num-samples", 3]
    invoke("evaluate", run, "--html", "--shift", "--diagnose", *more, code=1)
    assert given["shift"] and given["diagnose"] and given["thorough"]
    assert given["ood"] == ["digits:8-9"] and given["num_samples"] == 3
    invoke("compare", run, run, "--ensemble", "--num-samples", 4, code=1)
    assert given["ensembles"] and given["num_samples"] == 4 and given["ood"] == []


def test_compare_refuses_what_cannot_be_compared(run, others):
    for arguments, message in (
        ([run], "at least two runs"),
        ([run, others / "data"], "expected data=digits:0-3, as run .* got data=digits:4-7"),
        ([run, others / "split"], "expected validation=None, as run .* got validation=100"),
        ([run, others / "plain", "--ood", "digits:3-5"], "shared classes"),
        ([run, "nowhere"], "got nothing there"),
    ):
        assert re.search(message, invoke("compare", *arguments, code=1).stderr)


def test_compact_writes_a_network_that_plain_torch_runs(run, tmp_path):
    path = tmp_path / "small.pt"
    result = invoke("compact", run, "--out", path)
    assert "parameters" in result.stdout and str(path) in result.stdout
    x, _ = load_data("digits:0-3").test
    program = (
        "import sys, torch\n"
        "for name in list(sys.modules):\n"
        "    if name.split('.')[0] in ('bayesdrop', 'pyro'): del sys.modules[name]\n"
        "sys.modules['bayesdrop'] = sys.modules['pyro'] = None\n"
        f"net = torch.export.load({str(path)!r}).module()\n"
        f"y = net(torch.load({str(tmp_path / 'x.pt')!r}))\n"
        f"torch.save(y, {str(tmp_path / 'y.pt')!r})\n"
    )
    torch.save(x, tmp_path / "x.pt")
    assert run_code(program, tmp_path).error == ""
    expected = load_run(run).bnn(x)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), expected, rtol=0.0, atol=1e-5)


def test_compact_writes_onnx(run, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    invoke("compact", run, "--out", tmp_path / "s.pt", "--onnx", tmp_path / "s.onnx")
    x = load_data("digits:0-3").test[0][:3]
    session = onnxruntime.InferenceSession(str(tmp_path / "s.onnx"))
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = load_run(run).bnn(x)
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0.0, atol=1e-5)


def test_the_same_train_command_continues_and_then_does_nothing(run):
    before = (run / "model.pt").read_bytes()
    result = invoke("train", "digits-mlp-bb", *TINY, "--out", run)
    assert "was finished already, after" in result.stdout and "stage" not in result.stderr
    assert (run / "model.pt").read_bytes() == before


STOP = """
import os, signal, sys
replace = os.replace
def stop(source, target):
    replace(source, target)
    if str(target).endswith("beta-bernoulli/training.pt"): os.kill(os.getpid(), signal.{signal})
os.replace = stop
sys.stderr = open("said", "w")
from bayesdrop.cli import main
sys.argv[1:] = {arguments!r}
main()
"""


@pytest.fixture
def stopped(tmp_path):
    """Train as ``run`` does, in a process that gets a signal at the end of an epoch."""

    def stop(signal):
        (tmp_path / "home").mkdir()
        script, home = tmp_path / "stop.py", tmp_path / "home"
        arguments = ["train", "digits-mlp-bb", *TINY, "--out", str(tmp_path / "run")]
        script.write_text(STOP.format(signal=signal, arguments=arguments))
        end = run_script(script, home, dict(os.environ))
        return tmp_path / "run", end, (home / "said").read_text()

    return stop


def check_that_it_continues(run, out):
    invoke("train", "digits-mlp-bb", *TINY, "--out", out)
    first, second = (load_run(folder).bnn.state_dict() for folder in (run, out))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_killed_train_command_ends_with_the_same_weights(run, stopped):
    out, end, _ = stopped("SIGKILL")
    assert end == "exit status -9"
    result = invoke("evaluate", out, code=1)
    assert "interrupted" in result.stderr and "continues" in result.stderr
    check_that_it_continues(run, out)


def test_a_terminated_command_says_so_and_can_be_continued(run, stopped):
    out, end, said = stopped("SIGTERM")
    assert end.endswith("SystemExit: 143\n")
    assert "Terminated. No file is half-written; the same command continues" in said
    check_that_it_continues(run, out)


def test_an_interrupted_evaluation_says_that_it_begins_anew(run, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("bayesdrop.recipes.report_run", interrupt)
    result = invoke("evaluate", run, code=130)
    assert "Interrupted. No file is half-written; the same command begins anew" in result.stderr


def test_a_longer_run_says_why_it_is_another(run):
    result = invoke("train", "digits-mlp-bb", *TINY[2:], "--epochs", "3", "--out", run, code=1)
    assert "recipe.stages.1.epochs=2, got recipe.stages.1.epochs=3" in result.stderr
    assert "More epochs are another run: the learning rates fall by its length" in result.stderr


def test_a_failed_start_does_not_take_the_folder(run, tmp_path):
    out = tmp_path / "run"
    nowhere = ["--from", tmp_path / "nowhere"]
    invoke("train", "digits-mlp-bb", *nowhere, "--epochs", "9", "--out", out, code=1)
    invoke("train", "lenet5-caffe", "--data", "digits", "--out", out, code=1)
    wrong = [*TINY, "--from", run, "--seed", "4"]
    assert "seed=4" in invoke("train", "digits-mlp-bb", *wrong, "--out", out, code=1).stderr
    assert list(out.iterdir()) == []
    result = invoke("train", "digits-mlp-bb", *TINY, "--from", run, "--out", out, "--json")
    found = json.loads(result.stdout)
    assert found["total"] == {"units": [64, 500, 300]} and not found["finished_before"]
    assert found["last_epoch"]["epoch"] == 2 and "val_error" in found["last_epoch"]
    assert all(Path(path).is_file() for path in found["written"])


def test_demo_writes_report_and_compact_network(tmp_path, no_figures):
    quick = ["demo", "--out", tmp_path, "--num-samples", 2]
    result = invoke(*quick, "--epochs", 4)
    for method in ("plain network", "nn.Dropout", "mean mask", "Monte Carlo"):
        assert method in result.stdout
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files >= {"report.json", "report.md", "compact.pt"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["ood"]) == ["digits:8-9"] and "nn.Dropout" in report["baselines"]
    again = json.loads(invoke(*quick, "--epochs", 4, "--json").stdout)
    assert again["ood"] == report["ood"] and str(tmp_path / "compact.pt") in again["written"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["train", "lenet-500-300-beta-bernouli"],
            "unknown recipe .* Did you mean 'lenet-500-300-beta-bernoulli'",
        ),
        (["train", "digits-mlp", "--data", "digit"], "unknown data set .* mean 'digits'"),
        (["train", "digits-mlp", "--pretrain-epochs", "2"], "several stages"),
        (["train", "lenet5-caffe", "--data", "digits"], "that the network 'lenet5-caffe' can"),
        (["train", "digits-mlp", "--learning-rate", "-1"], "learning_rate from 0.0"),
        (["evaluate", "nowhere"], "got nothing there"),
        (["compact", "nowhere", "--out", "x.pt"], "got nothing there"),
    ],
)
def test_bad_input_gives_a_message_and_code_1(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments, code=1)
    assert re.search(message, result.stderr)
    assert result.stderr.startswith("Error: ") or "stage" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["list", "cats"],
        ["fly"],
        ["train", "digits-mlp", "--epochs", "0"],
        ["compare"],
        ["evaluate", "nowhere", "--shift"],
        ["evaluate", "nowhere", "--diagnose"],
    ],
)
def test_wrong_usage_gives_code_2(arguments):
    assert "Usage" in invoke(*arguments, code=2).stderr


def test_bad_ood_data_give_a_message(run):
    for name, message in {
        "mnist": "images of shape",
        "digits:3-5": "shared classes",
        "digitz": "Did you mean 'digits'",
    }.items():
        assert message in invoke("evaluate", run, "--ood", name, code=1).stderr


def test_a_folder_that_cannot_be_written_gives_a_message(run, tmp_path, no_figures):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for arguments in (
        ["train", "digits-mlp", "--out", blocked / "run"],
        ["evaluate", run, "--num-samples", 2, "--out", blocked / "report"],
        ["compact", run, "--out", blocked / "small.pt"],
    ):
        result = invoke(*arguments, code=1)
        assert "expected a folder that can be written" in result.stderr
    assert blocked.read_text() == "in the way"


def test_damaged_files_give_a_message_and_are_left(run):
    for name in ("recipe.json", "model.pt"):
        good = (run / name).read_bytes()
        (run / name).write_bytes(good[: len(good) // 2])
        try:
            assert "damaged" in invoke("evaluate", run, code=1).stderr
            assert (run / name).read_bytes() == good[: len(good) // 2]
        finally:
            (run / name).write_bytes(good)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("validation",), "x"),
        (("recipe", "stages"), "x"),
        (("recipe", "network_options"), "x"),
        (("recipe", "dropout_options"), [1]),
        (("recipe", "dependent_options"), "x"),
    ],
)
def test_an_edited_description_gives_a_message(run, tmp_path, place, value):
    description = json.loads((run / "recipe.json").read_text())
    del description["checksum"]
    inner = description
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "recipe.json").write_text(json.dumps(description))
    assert "Was it edited?" in invoke("evaluate", tmp_path, code=1).stderr


@pytest.mark.parametrize("name", ["model.pt", "recipe.json", "plain/model.pt", "../run/model.pt"])
def test_compact_overwrites_nothing_of_a_run(run, tmp_path, name):
    before = (run / name).read_bytes()
    for files in (("--out", run / name), ("--out", tmp_path / "s.pt", "--onnx", run / name)):
        assert "is made of" in invoke("compact", run, *files, code=1).stderr
    assert (run / name).read_bytes() == before and not (tmp_path / "s.pt").exists()
    same = invoke("compact", run, "--out", tmp_path / "s", "--onnx", tmp_path / "s", code=2)
    assert "two files" in same.stderr


def test_a_seed_that_torch_does_not_take_gives_a_message(tmp_path):
    result = invoke("train", "digits-mlp", "--seed", 2**70, "--out", tmp_path / "run", code=1)
    assert "expected seed" in result.stderr and not (tmp_path / "run").exists()


def test_a_missing_extra_gives_a_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    result = invoke("train", "lenet-500-300", "--out", "unused", code=1)
    assert "bayesdrop[vision]" in result.stderr and not Path("unused").exists()


def test_mnist_trains_and_meets_fashion_mnist(data_dir, tmp_path, no_figures):
    invoke(
        "train", "lenet-500-300", "--data", "mnist:0-1", "--data-dir", data_dir, "--epochs", 1,
        "--batch-size", 1000, "--out", tmp_path,
    )  # fmt: skip
    options = ["--ood", "fashion-mnist", "--num-samples", 2]
    invoke("evaluate", tmp_path, *options, "--data-dir", data_dir)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["error"]["plain"] < 5.0 and "fashion-mnist" in report["ood"]


def test_the_package_runs_as_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bayesdrop", "cite"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("bayesdrop", run_name="__main__")
    assert not end.value.code
    assert capsys.readouterr().out.startswith("@software{bayesdrop")
