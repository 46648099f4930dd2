"""The study's jobs, its evidence and its analysis."""

import argparse
import dataclasses
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import study  # noqa: E402
import study_analysis as analysis  # noqa: E402
import study_design as design  # noqa: E402
import study_evidence as evidence  # noqa: E402
from study_jobs import Job, Plan  # noqa: E402

sys.path.remove(str(BENCHMARKS))

import bayesdrop as bd  # noqa: E402
from bayesdrop import networks  # noqa: E402
from bayesdrop.files import write_json  # noqa: E402
from tests.inference.test_progress import terminal  # noqa: E402

PINS = {"commit": "a" * 40, "methods": {"vnd": "b" * 40}}
VERSIONS = {"torch": "2"}


@pytest.fixture
def plan(tmp_path):
    return Plan(PINS, tmp_path, VERSIONS)


def finish(plan, job, nll=1.0):
    ways = {way: {"nll": nll} for way in design.METHODS[job.method].ways}
    write_json(plan.results / f"{job.name}.json", {"ways": ways, "costs": {}})


# -- jobs -----------------------------------------------------------------------------------------


def test_whatever_decides_a_result_is_part_of_the_job_s_name():
    job = Job("run", "lenet-500-300", "mnist", "bb", 0, {"kl_scale": 1.0}, "a", VERSIONS)
    others = {
        "kind": "trial",
        "network": "lenet5-caffe",
        "data": "fashion-mnist",
        "method": "sbp",
        "seed": 1,
        "choice": {"kl_scale": 2.0},
        "commit": "b",
        "versions": {"torch": "3"},
    }
    names = {dataclasses.replace(job, **{name: value}).name for name, value in others.items()}
    assert len(names | {job.name}) == len(dataclasses.fields(Job)) + 1 == len(others) + 1


@pytest.mark.parametrize("network", design.EPOCHS)
@pytest.mark.parametrize("method", design.METHODS)
def test_every_method_has_the_same_number_of_epochs_and_trials(method, network):
    what = design.METHODS[method]
    if what.members_of is not None:
        assert not what.space
        return
    recipe = design.recipe_of(method, network, design.choice_of(method, 1), 12)
    assert sum(stage.epochs for stage in recipe.stages) == 12
    assert {stage.batch_size for stage in recipe.stages} == {100}
    choices = [design.choice_of(method, trial) for trial in range(design.TRIALS)]
    assert len({str(choice) for choice in choices}) == design.TRIALS
    assert all(choice.keys() == what.space.keys() for choice in choices)


def test_the_page_has_the_design_s_numbers():
    page = " ".join((BENCHMARKS.parent / "docs" / "results" / "study.md").read_text().split())
    dense, caffe = (design.EPOCHS[name] for name in ("lenet-500-300", "lenet5-caffe"))
    assert f"{dense} epochs of 600 steps for LeNet-500-300" in page
    assert f"; {caffe} for LeNet5-Caffe" in page
    dense, caffe = (design.TRIAL_EPOCHS[name] for name in ("lenet-500-300", "lenet5-caffe"))
    assert f"{design.TRIALS} settings for each row" in page
    assert f"{dense} epochs each ({caffe} for LeNet5-Caffe)" in page
    assert f"NLL of {design.VALIDATION:,} held-out" in page


def test_what_a_trial_draws_reaches_the_recipe():
    choice = {"learning_rate": 0.002, "variational_learning_rate": 0.03, "kl_scale": 4.0}
    recipe = design.recipe_of("bb-tuned", "lenet-500-300", choice, 30)
    assert recipe.dropout_options["kl_scale"] == 4.0
    assert not recipe.dropout_options["overrides"]
    assert recipe.stages[1].learning_rate == 0.002
    assert recipe.stages[1].variational_learning_rate == 0.03
    assert recipe.stages[0] == design.recipe_of("bb", "lenet-500-300", {}, 30).stages[0]
    assert design.recipe_of("bb-masks", "lenet-500-300", {}, 30).stages[1].num_masks == 4
    rated = design.recipe_of("dropout", "lenet-500-300", {"rate": 0.3}, 30)
    assert rated.network_options == {"dropout": 0.3}


@pytest.mark.parametrize("network", design.EPOCHS)
def test_dropout_on_inputs_has_a_rate_of_its_own(network):
    choice = {"learning_rate": 0.002, "weight_decay": 1e-5, "rate": 0.4, "input_rate": 0.1}
    recipe = design.recipe_of("input-dropout", network, choice, 12)
    built = networks.build(recipe.network, **recipe.network_options)
    rates = [layer.p for layer in built if isinstance(layer, nn.Dropout)]
    assert rates == [0.1, 0.4, 0.4]
    assert isinstance(built[0], nn.Dropout)


def test_runs_come_after_the_trials_that_choose_for_them(plan):
    assert plan.runs("lenet-500-300", "mnist", "bb", "mean") == []
    trials = plan.trials("lenet-500-300", "mnist", "bb")
    for number, job in enumerate(trials[:-1]):
        finish(plan, job, nll=2.0 - 0.1 * number)
    assert plan.runs("lenet-500-300", "mnist", "bb", "mean") == []
    finish(plan, trials[-1], nll=5.0)
    runs = plan.runs("lenet-500-300", "mnist", "bb", "mean")
    assert [job.seed for job in runs] == list(design.SEEDS)
    assert all(job.choice == trials[-2].choice for job in runs)


def test_a_finished_job_is_not_pending_and_the_order_is_that_of_the_design(plan):
    first, second = (job for job, _ in zip(plan.pending(), range(2), strict=False))
    assert (first.network, first.data, first.method, first.kind) == (
        *design.SETTINGS[0],
        "plain",
        "trial",
    )
    finish(plan, first)
    assert next(plan.pending()) == second


def test_an_ensemble_waits_for_its_members_and_shares_them_with_its_neighbours(plan):
    setting = ("lenet-500-300", "mnist")
    for job in plan.trials(*setting, "plain"):
        finish(plan, job)
    (ensemble, *_), members = plan.runs(*setting, "ensemble", "mean"), plan.members
    assert [job.seed for job in members(ensemble)] == [0, 1, 2, 3, 4]
    assert ensemble not in list(plan.pending())
    for job in members(ensemble):
        finish(plan, job)
    assert ensemble in list(plan.pending())
    last = dataclasses.replace(ensemble, seed=8)
    assert [job.seed for job in members(last)] == [8, 9, 0, 1, 2]


def test_members_whose_weights_are_not_here_are_trained_again(plan, tmp_path):
    setting = design.SETTINGS[0]
    for job in plan.trials(*setting, "plain"):
        finish(plan, job)
    ensemble = plan.runs(*setting, "ensemble", "mean")[0]
    members = plan.members(ensemble)
    for job in members:
        finish(plan, job)
        (tmp_path / "runs" / job.name).mkdir(parents=True)
    begun, finished = members[3], [job for job in members if job != members[3]]
    for job in finished:
        (tmp_path / "runs" / job.name / "model.pt").touch()
    assert study.lost_member(plan, ensemble, tmp_path) == begun
    (tmp_path / "runs" / begun.name / "model.pt").touch()
    assert study.lost_member(plan, ensemble, tmp_path) is None
    assert study.lost_member(plan, begun, tmp_path / "nothing") is None


def test_held_out_classes_come_last_with_the_values_of_the_whole_set(plan):
    setting = ("lenet-500-300", "mnist")
    trials = plan.trials(*setting, "bb")
    for number, job in enumerate(trials):
        finish(plan, job, nll=float(number))
    jobs = list(plan)
    held_out = plan.held_out(*setting, "bb", "mean")
    assert [job.seed for job in held_out] == list(design.SEEDS)
    assert {str(job.choice) for job in held_out} == {str(trials[0].choice)}
    assert {job.data for job in held_out} == {"mnist:0-7"}
    assert jobs[-len(held_out) :] == held_out
    assert plan.held_out("lenet5-caffe", "mnist", "bb", "mean") == []
    assert plan.held_out(*setting, "ensemble", "mean") == []


def test_a_method_pinned_later_leaves_the_jobs_of_others_as_they_are(plan, tmp_path):
    later = Plan({**PINS, "methods": {"vnd": "c" * 40}}, tmp_path, VERSIONS)
    names = [{job.name for job in of} for of in (plan, later)]
    changed = names[0] ^ names[1]
    assert changed and all("/vnd-" in name for name in changed)


def test_a_job_has_a_bar_on_a_terminal_and_is_silent_elsewhere(tmp_path, monkeypatch, capfd):
    (tmp_path / "benchmarks").mkdir()
    script = tmp_path / "benchmarks" / "study_runs.py"
    script.write_text("import time; time.sleep(0.3); raise SystemExit(75)")
    monkeypatch.setattr(study, "checkout", lambda commit, work: tmp_path)
    job = Job("run", "lenet-500-300", "mnist", "bb", 0, {}, "a", VERSIONS)
    place = argparse.Namespace(work=tmp_path, hours=0.01, data_dir=None)
    ends = time.time() + 18.0  # half of the time is over
    assert study.carry_out(job, place, tmp_path, ends) == study.OUT_OF_TIME
    assert capfd.readouterr() == ("", "")
    with terminal() as written:
        study.carry_out(job, place, tmp_path, ends)
    assert re.search(rf"{job.name} [^\r]*5\d%", written[0])


# -- evidence -------------------------------------------------------------------------------------


def random_evidence(rng, rows=500, sharp=3.0):
    logits = sharp * rng.standard_normal((rows, 10))
    labels = np.where(rng.random(rows) < 0.9, logits.argmax(1), rng.integers(10, size=rows))
    values = np.exp(logits - logits.max(1, keepdims=True))
    return evidence.Evidence.of(values / values.sum(1, keepdims=True), labels)


def test_evidence_survives_its_file(tmp_path):
    found = random_evidence(np.random.default_rng(0))
    evidence.save(tmp_path / "it.npz", {"mean": found})
    again = evidence.load(tmp_path / "it.npz")["mean"]
    assert (again.correct == found.correct).all()
    for name in ("nll", "surprise"):
        before, after = getattr(found, name), getattr(again, name)
        assert (np.abs(after - before) <= 0.022 * (before + evidence.FLOOR)).all()
    assert (tmp_path / "it.npz").stat().st_size < 500 * 2 + 2000


def test_the_longest_surprise_is_a_finite_one():
    sure = evidence.Evidence.of(np.array([[1.0, 0.0]]), np.array([1]))
    assert np.isfinite(sure.nll).all() and not sure.correct[0]
    assert evidence.decode(evidence.encode(np.array([0.0]))) == 0.0


# -- analysis -------------------------------------------------------------------------------------


def rows_of(rng, shift, images, seeds=5, between=0.05):
    """Return two rows whose NLLs differ by ``shift``, with noise of images and seeds."""
    hard = rng.exponential(1.0, images)
    rows = [{}, {}]
    for seed in range(seeds):
        for row, offset in zip(rows, (shift, 0.0), strict=True):
            noise = 0.3 * rng.standard_normal(images) + between * rng.standard_normal()
            nll = hard + noise + offset
            row[seed] = evidence.Evidence(nll < 1.0, nll, np.abs(nll))
    return rows


def test_a_difference_s_interval_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(1)
    resampling = analysis.Resampling(200, resamples=300)
    covered = 0
    for _ in range(100):
        found = resampling.compare(*rows_of(rng, 0.1, 200), "nll")
        covered += found.low <= 0.1 <= found.high
    assert covered >= 85  # 95 expected; five seeds have heavier tails than quantiles know


def test_equal_rows_are_level_and_a_large_difference_is_seen():
    rng = np.random.default_rng(2)
    resampling = analysis.Resampling(400)
    same, _ = rows_of(rng, 0.0, 400)
    for measure in analysis.MEASURES:
        assert resampling.compare(same, same, measure).p == 1.0
    worse, better = rows_of(rng, 0.5, 400)
    differences = {
        "worse": resampling.compare(worse, better, "nll"),
        "better": resampling.compare(better, worse, "nll"),
        "same": resampling.compare(same, same, "nll"),
    }
    assert analysis.verdicts(differences) == {"worse": "-", "better": "+", "same": "="}
    assert differences["worse"].value == pytest.approx(-differences["better"].value)
    assert differences["worse"].detectable < 0.5


def test_differences_are_those_of_the_figures():
    rng = np.random.default_rng(3)
    first, second = ({seed: random_evidence(rng) for seed in range(2)} for _ in range(2))
    resampling = analysis.Resampling(500, resamples=50)

    def mean(row, function):
        return np.mean([function(row[seed]) for seed in row])

    error = resampling.compare(first, second, "error").value
    by_hand = [100 * mean(row, lambda e: 1 - e.correct.mean()) for row in (first, second)]
    assert error == pytest.approx(by_hand[0] - by_hand[1], abs=1e-5)
    nll = resampling.compare(first, second, "nll").value
    by_hand = [mean(row, lambda e: e.nll.mean()) for row in (first, second)]
    assert nll == pytest.approx(by_hand[0] - by_hand[1], rel=1e-4)


def test_one_common_seed_is_too_few():
    rng = np.random.default_rng(4)
    row = {0: random_evidence(rng)}
    with pytest.raises(ValueError, match="two common seeds"):
        analysis.Resampling(500, resamples=10).compare(row, row, "nll")


def test_holm_is_that_of_the_textbook():
    corrected = analysis.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


# -- tables ---------------------------------------------------------------------------------------


def test_tables_show_what_is_finished_and_what_the_differences_bear(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tables_study

    rng, setting = np.random.default_rng(5), ("lenet-500-300", "mnist")
    plan = Plan(PINS, tmp_path, VERSIONS)
    for method in ("plain", "bb"):
        for job in plan.trials(*setting, method):
            finish(plan, job)
    costs = {"flops": 10, "bytes": 2048, "cpu_seconds": 7.0, "units": [3, 2]}
    for method, sharp in (("plain", 3.0), ("bb", 6.0)):
        for job in plan.runs(*setting, method, "mean")[:3]:
            found = random_evidence(rng, sharp=sharp)
            figures = {"error": 1.0, "nll": 0.5, "ece": 0.1, "aurc": 0.01}
            figures |= {"auroc": {"fashion-mnist": 0.9}, "shift": {"nll": [0.0] + [1.0] * 5}}
            ways = design.METHODS[method].ways
            values = {"ways": dict.fromkeys(ways, figures), "costs": costs, "kl": "1"}
            write_json(tmp_path / f"{job.name}.json", {**values, "job": dataclasses.asdict(job)})
            evidence.save(tmp_path / f"{job.name}.npz", dict.fromkeys(ways, found))
    write_json(tmp_path / "pins.json", PINS)
    monkeypatch.setattr(tables_study, "RESULTS", tmp_path)
    monkeypatch.setattr(tables_study, "PINS", tmp_path / "pins.json")
    monkeypatch.setattr(tables_study, "plan", lambda: plan)
    for function in (tables_study.rows, tables_study.differences):
        function.cache_clear()
    assert tables_study.settings() == [setting]
    lines = tables_study.figures(*setting).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "plain network",
        "BB, whole KL, mean mask",
        "BB, whole KL, sampled",
    ]
    assert "| 3 | 1 | 1.00 ± 0.00 |" in lines[3] and "1.0x | 2 | 7 |" in lines[3]
    beside = tables_study.beside(*setting, "plain").splitlines()
    assert len(beside) == 4 and beside[2].count(" to ") == 3
    for function in (tables_study.rows, tables_study.differences):
        function.cache_clear()


def test_latency_of_convolutions_is_that_which_was_measured_afterwards(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tables_study

    monkeypatch.setattr(tables_study, "LATENCIES", tmp_path / "latency.json")
    plan = Plan(PINS, tmp_path, VERSIONS)
    convolutions, dense = (
        plan.job("run", network, "mnist", "bb", 0, {})
        for network in ("lenet5-caffe", "lenet-500-300")
    )
    result = {"costs": {"bytes": 3, "speedup": {"1": 0.5, "100": 0.5}}}
    assert tables_study.with_latency(convolutions, None) is None
    assert tables_study.with_latency(dense, result) == result
    assert tables_study.with_latency(convolutions, result) == {"costs": {"bytes": 3}}
    measured = {"1": 1.5, "100": 2.5}
    runs = {convolutions.name: {"speedup": measured, "load": 0.0}}
    write_json(tmp_path / "latency.json", {"runs": runs})
    costs = {"bytes": 3, "speedup": measured}
    assert tables_study.with_latency(convolutions, result) == {"costs": costs}
    assert tables_study.with_latency(dense, result) == result


def test_latency_compares_networks_of_one_layout(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study_latency

    torch.manual_seed(0)
    networks: list[nn.Module] = [bd.networks.lenet5_caffe()]
    networks.append(bd.convert(networks[0], "beta-bernoulli"))
    seen = []

    def compared(before, after, x, **options):
        for network in (before, after):
            weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
            seen.append([w.stride(1) for w in weights])
        return compare(before, after, x, **options)

    compare = bd.compression.compare_latency
    monkeypatch.setattr(bd.compression, "compare_latency", compared)
    x, found = torch.rand(100, 1, 28, 28), []
    for network in networks:
        bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=100)
        run = SimpleNamespace(bnn=bnn)
        monkeypatch.setattr(study_latency, "load_run", lambda folder, run=run: run)
        found.append(study_latency.speedups(Path(), x, repeats=1))
    assert found[0] is None and all(value > 0 for value in found[1]["speedup"].values())
    assert seen == [[1, 1], [1, 1]]
