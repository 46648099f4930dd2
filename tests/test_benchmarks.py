"""The benchmarks add to their result files and lose nothing that is there."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import scipy.stats
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop import recipes

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by name, and forget it again."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    known = set(sys.modules)

    def load(name):
        return __import__(name)

    yield load
    for name in set(sys.modules) - known:
        if not name.startswith(("bayesdrop", "torch", "matplotlib")):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_a_script_imports_what_is_there(script, name):
    script(name)


@pytest.mark.parametrize("suite", ["lenet-500-300", "lenet-300-100", "lenet5-caffe"])
def test_a_seed_that_is_run_again_leaves_the_other_seeds_of_a_result_file(script, suite):
    mnist = script("mnist")
    path = BENCHMARKS / "results" / f"{suite}.json"
    for name, earlier in json.loads(path.read_text())["recipes"].items():
        settings = recipes.get(name).to_dict()
        seeds = [run["seed"] for run in earlier["runs"]]
        runs = mnist.merged(earlier, settings, [{"seed": 9}])
        assert [run["seed"] for run in runs] == [*seeds, 9]
        other = {**settings, "network_options": {"dropout": 0.25}}
        assert mnist.merged(earlier, other, [{"seed": 9}]) == [{"seed": 9}]


def tables_of(text):
    """Return the tables of a page's text as lists of rows, each a list of cells."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE)
    return [[line.strip("|").split("|") for line in block.splitlines()] for block in found]


def test_the_pages_show_what_the_committed_results_say(script):
    tables = script("tables")
    shown = []
    for page in tables.PAGES:
        text = page.read_text()
        assert tables.rewrite(text) == text, page
        shown += tables.names(text)
    assert sorted(shown) == sorted(tables.TABLES)


def test_no_page_has_a_table_of_figures_that_no_script_wrote(script):
    tables = script("tables")
    for page in tables.PAGES:
        by_hand = re.sub(
            r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", "", page.read_text(), flags=re.DOTALL
        )
        for rows in tables_of(by_hand):
            assert not re.search(r"\d\.\d|\d %", str(rows)), (page, rows[0])


def test_each_row_of_a_trained_network_says_what_counted_its_kl(script):
    tables = script("tables")
    for name, write in tables.TABLES.items():
        (rows,) = tables_of(write())
        if name in tables.TIMINGS:
            continue
        (column,) = [i for i, cell in enumerate(rows[0]) if cell.strip().startswith("KL")]
        assert all(row[column].strip() for row in rows[1:]), name
        assert {len(row) for row in rows} == {len(rows[0])}, name


def test_layers_without_a_kl_are_those_that_learn_nothing(script):
    rows = script("rows")
    for key, cls in bd.nn.layers.items():
        on = 3 if issubclass(cls, bd.BayesianDropout) else nn.Linear(3, 2)
        learned = list(bd.nn.make(key, on).variational_parameters())
        assert (key in rows.WITHOUT_PRIOR) == (not learned), key


def test_a_factor_is_read_from_the_settings(script):
    rows = script("rows")
    stage = {"epochs": 3, "dependent": False}
    settings = {"data": "mnist", "dropout": "beta-bernoulli", "stages": [stage]}
    settings |= {"dropout_options": {}, "dependent_options": {"kl_scale": 0.5}}
    assert rows.kl_factor(settings) == "1"
    layers = {"a": {"kl_scale": 2.0}, "b": {"kl_scale": 4.5}}
    settings["dropout_options"] = {"overrides": layers}
    assert rows.kl_factor(settings) == "2-4.5"
    assert rows.kl_factor({**settings, "stages": [{**stage, "dependent": True}]}).endswith("0.5")
    settings["dropout_options"] = {"kl_scale": 1800.0}
    assert rows.kl_factor(settings) == "0.03 N"
    assert rows.kl_factor({**settings, "dropout": "mc-dropout"}) == rows.NO_KL
    assert rows.kl_factor({**settings, "dropout": None}) == rows.NO_KL


def test_a_verdict_is_that_of_a_paired_t_test(script):
    paired = script("paired")
    generator = numpy.random.default_rng(0)
    first, second = generator.normal(size=(2, 6))
    first = first + 1.0
    found = paired.difference(dict(enumerate(first)), dict(enumerate(second)))
    test = scipy.stats.ttest_rel(first, second)
    assert found.mean / found.error == pytest.approx(test.statistic)
    assert (found.verdict() == "worse") == (test.pvalue < paired.LEVEL)
    assert found.verdict(higher_is_better=True) != "worse"


def test_differences_that_are_noise_are_level(script):
    paired = script("paired")
    assert paired.Difference(-0.2, 0.01, 3).verdict() == "better"
    assert paired.Difference(-0.2, 0.01, 3).verdict(higher_is_better=True) == "worse"
    assert paired.Difference(-0.2, 0.05, 3).verdict() == "level"  # 4.0 standard errors of three
    assert paired.Difference(-0.2, 0.01, 3).verdict(at_least=0.3) == "level"
    assert paired.Difference(-0.2, float("nan"), 1).verdict() == "one seed"
    assert paired.difference({0: 1.0, 1: 2.0}, {1: 1.5, 2: 9.0}).mean == 0.5
    assert paired.noise_of_error(50.0, 100) == pytest.approx(5.0)


def test_p_values_are_adjusted_for_their_number(script):
    holm = script("paired").holm
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.3, 0.9]) == pytest.approx([0.6, 0.9])
    assert holm([]) == []


def test_seeds_and_images_both_make_the_error_of_a_difference(script):
    crossed = script("paired").over_seeds_and_images
    seeds = [0.3, 0.1, 0.5, 0.2]
    test = scipy.stats.ttest_1samp(seeds, 0.0)
    assert crossed(seeds, 0.0)[2] == pytest.approx(test.pvalue)
    mean, error, p = crossed([0.2, 0.2], 0.01)
    assert (mean, error) == pytest.approx((0.2, 0.1))
    assert p == pytest.approx(2 * scipy.stats.norm.sf(2.0))
    assert crossed(seeds, 0.02)[2] > test.pvalue
    assert crossed([0.0, 0.0], 0.0) == (0.0, 0.0, 1.0)


def test_figures_of_a_network_are_means_of_parts_of_images(script):
    claim = script("nested_claim")
    generator = numpy.random.default_rng(0)
    size = {"wrong": 400, "nll": 400, "confidence": 400, "entropy": 400, "other": 300}
    images = {f"0.5 {key}": generator.random(count) for key, count in size.items()}
    images["0.5 wrong"] = images["0.5 wrong"] < 0.4
    images["0.5 confidence"] = 0.5 + images["0.5 confidence"] / 2
    parts = {key: [x.mean() for x in p] for key, p in claim.parts_of(images, 0.5).items()}
    probabilities = numpy.stack([images["0.5 confidence"], 1 - images["0.5 confidence"]], 1)
    ece = bd.metrics.calibration.expected_calibration_error(
        probabilities, images["0.5 wrong"].astype(int)
    )
    ood = bd.metrics.ood.ood_metrics(images["0.5 entropy"], images["0.5 other"])
    assert parts["ece"] == pytest.approx([float(ece)])
    assert parts["auroc"] == pytest.approx([ood["auroc"]] * 2)
    runs = {0: images, 1: images}
    equal = claim.compare(runs, runs, [0.5])
    assert all(row["adjusted_p"] == 1.0 for rows in equal.values() for row in rows)
    worse = {s: {**images, "0.5 nll": images["0.5 nll"] + 1 + generator.random(400)} for s in runs}
    (found,) = claim.compare(worse, runs, [0.5])["nll"]
    assert found["mean"] > 1
    assert found["adjusted_p"] < 0.01


def test_what_is_tested_is_what_validation_chose(script):
    run = {"network": "n", "data": "d", "method": "vnd-stratified", "epochs": 9}
    runs = [{**run, "drop_prob": p, "rows": [{"nll": abs(p - 0.3)}]} for p in (0.1, 0.3, 0.5)]
    runs.append({**runs[0], "epochs": 8, "rows": [{"nll": 0.0}]})
    rate = script("nested_claim").chosen_drop_prob
    assert rate([*runs, {**runs[0], "method": "vnd", "rows": [{"nll": 0.0}]}], "n", "d") == 0.3
    assert rate(runs, "n", "other") is None
    means = {
        "nested-uniform": {"2": {"elbo": [-1.0, 0.0]}},
        "vnd-3": {"2": {"elbo": [-9.0, 0.0]}, "8": {"elbo": [-4.0, 0.0]}},
        "vnd-10": {"2": {"elbo": [-7.0, 0.0]}, "8": {"elbo": [-5.0, 0.0]}},
    }
    assert script("nested_vae").chosen(means) == "vnd-10"


def test_a_recipe_keeps_the_runs_of_its_other_seeds(script):
    mnist = script("mnist")
    recipe = recipes.get("digits-mlp")
    settings = recipe.to_dict()
    earlier = {
        "command": "first",
        "settings": settings,
        "runs": [{"seed": 0, "error": 1.0}, {"seed": 1, "error": 2.0}],
    }
    new = [{"seed": 1, "error": 3.0, "command": "second"}]
    assert mnist.merged(earlier, settings, new) == [
        {"seed": 0, "error": 1.0, "command": "first"},
        {"seed": 1, "error": 3.0, "command": "second"},
    ]
    assert mnist.merged(earlier, recipe.override(epochs=4).to_dict(), new) == new
    assert mnist.merged(None, settings, new) == new


def test_a_candidate_is_replaced_by_the_same_one_only(script):
    nested = script("nested")
    run = {"network": "n", "data": "d", "method": "vnd", "seed": 0, "epochs": 3}
    earlier = [run, {**run, "epochs": 4}, {**run, "full_prob": 0.5}]
    again = {**run, "full_prob": None, "area": 90.0}
    assert nested.added(earlier, [again]) == [*earlier[1:], again]


@pytest.mark.parametrize(
    "method", ["vnd", "vnd-shared", "nested-uniform", "vnd-bayesian", "vnd-stratified"]
)
def test_trainings_with_other_settings_have_other_files(script, method):
    nested = script("nested")
    settings = {"network": "lenet-500-300", "data": "mnist", "epochs": 2, "validation": 0}
    settings |= {"order_kl_scale": None, "weight_kl_scale": 0.1, "full_prob": None}
    settings |= {"drop_prob": None}

    def name(**changes):
        return nested.name_of(method, None, 0, SimpleNamespace(**{**settings, **changes}))

    changed = {
        "epochs": 3,
        "validation": 100,
        "order_kl_scale": 0.5 if method != "nested-uniform" else None,
        "weight_kl_scale": 0.2 if method == "vnd-bayesian" else 0.1,
        "full_prob": 0.5 if method in ("vnd-shared", "vnd-stratified") else None,
        "drop_prob": 0.3 if method == "vnd-stratified" else None,
    }
    others = {name(**{key: value}) for key, value in changed.items() if value != settings[key]}
    assert name() not in others
    assert len(others) == sum(value != settings[key] for key, value in changed.items())


def test_an_auto_encoder_is_replaced_by_the_same_one_only(script):
    ibp_vae = script("ibp_vae")
    run = {"method": "s-ibp", "seed": 0, "mode": "test", "epochs": 3, "milestones": [0.5]}
    run |= {"decay": 0.3, "stick_learning_rate": 0.01}
    earlier = [run, {**run, "method": "plain"}, {**run, "epochs": 4}, {**run, "milestones": [0.6]}]
    again = {**run, "final_loss": 90.0}
    assert ibp_vae.added(earlier, [again]) == [*earlier[1:], again]


def test_the_authors_objective_charges_each_feature_too_little(script):
    ibp_vae, authors = script("ibp_vae"), script("ibp_vae_authors")
    vae, x = ibp_vae.build("s-ibp-authors", 50, 0), torch.rand(4, 1, 28, 28).round()
    with torch.no_grad():
        vae.network.encoder[-1].weight.normal_()
    rates = vae.draw_rates()
    encoding = vae.network.encode(x)
    log_scale = vae.network.encoder(x).chunk(3, 1)[2]
    torch.testing.assert_close(encoding.scale, log_scale.exp())
    q, p = vae.code.posterior(encoding, rates), vae.code.prior(rates)
    latents = {name: fn.sample() for name, fn in q.items()}
    true = bd.program.latent_code.LatentCode.kl_divergence(vae.code, q, p, latents)
    charged = vae.code.kl_divergence(q, p, latents)
    mean = encoding.mean
    claimed = 0.5 * (mean.square() + log_scale.exp() - 1 - log_scale).sum()
    normal = torch.distributions.Normal(mean, encoding.scale)
    of_features = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(true - charged, of_features.sum() - claimed)
    torch.testing.assert_close(true - charged, authors.undercharged(encoding.scale).sum())
    found = authors.own_figure(vae, x, 2)
    assert found["undercharged"] == pytest.approx((true - charged).item() / 4)
    assert not vae.training


def test_pixels_are_drawn_anew_in_each_step(script):
    ibp_vae = script("ibp_vae")
    vae, x = ibp_vae.build("plain", 50, 0), torch.full((4, 1, 28, 28), 0.5)
    seen = []
    vae.network.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for num_samples in (1, 3):
        assert bool(ibp_vae.Redrawn(num_samples)(vae, x, x).loss.isfinite())
    assert all(bool(((s == 0) | (s == 1)).all()) for s in seen)
    assert not torch.equal(*seen)


def test_a_regression_is_replaced_by_the_same_one_only(script):
    uci = script("uci")
    run = {"set": "yacht", "epochs": 4, "num_samples": 10, "method": "concrete", "split": 0}
    run |= {"rmse": 1.0, "rmse_mean_mask": 1.0, "log_likelihood": -1.0}
    earlier = [run, {**run, "split": 1}, {**run, "epochs": 8}, {**run, "method": "mc-dropout"}]
    again = {**run, "rmse": 3.0}
    assert uci.added(earlier, [again]) == [*earlier[1:], again]


def test_means_over_splits_are_of_one_setting(script):
    uci = script("uci")
    run = {"set": "yacht", "epochs": 4, "num_samples": 10, "method": "concrete", "split": 0}
    run |= {"rmse": 1.0, "rmse_mean_mask": 2.0, "log_likelihood": -1.0}
    runs = [run, {**run, "split": 1, "rmse": 3.0}, {**run, "epochs": 8, "rmse": 9.0}]
    short, long = uci.summary([*runs, {**run, "set": "boston"}])[1:]
    assert short["set"] == long["set"] == "yacht"
    assert short["epochs"] == 4
    assert short["methods"]["concrete"]["rmse"] == [2.0, 1.0]
    assert short["methods"]["concrete"]["splits"] == 2
    assert long["methods"]["concrete"]["rmse"][0] == 9.0
    assert short["differences"] == {}


def test_methods_are_compared_on_the_same_splits(script):
    uci = script("uci")
    run = {"set": "yacht", "epochs": 4, "num_samples": 10, "method": "concrete"}
    run |= {"rmse_mean_mask": 2.0, "log_likelihood": -1.0}
    runs = [{**run, "split": split, "rmse": 1.0 + split} for split in range(3)]
    runs += [{**run, "method": "mc-dropout", "split": s, "rmse": 2.0 * s} for s in (0, 2)]
    (row,) = uci.summary(runs)
    assert row["differences"]["concrete"]["rmse"] == [0.0, 1.0]
    assert row["differences"]["concrete"]["log_likelihood"] == [0.0, 0.0]


@pytest.mark.parametrize(
    "key, options",
    [
        ("mc-dropout", [{"drop_prob": rate, "length_scale": 0.5} for rate in (0.05, 0.4)]),
        ("concrete", [{"length_scale": scale} for scale in (0.1, 3.0)]),
        ("beta-bernoulli", [{"kl_scale": scale} for scale in (0.1, 1.0)]),
    ],
)
def test_splits_trained_side_by_side_are_those_trained_one_by_one(script, key, options):
    uci = script("uci")
    rows = {i: (torch.randn(140, 3), torch.randn(140, 1)) for i in (4, 7)}
    tasks = [(4, options[0]), (7, options[1]), (7, options[0])]
    found = uci.train(key, tasks, rows, 5, 3)
    for (split, own), bnn in zip(tasks, found, strict=True):
        alone = uci.build(key, own, rows[split], 5, split)
        before = {name: p.detach().clone() for name, p in alone.named_parameters()}
        plan = {"epochs": 3, "batch_size": 128, "weight_decay": 0.0, "schedule": ()}
        bd.fit(alone, rows[split], seed=split, progress=False, **plan, **uci.RATES)
        for name, value in alone.named_parameters():
            torch.testing.assert_close(bnn.get_parameter(name), value)
            assert not torch.equal(value, before[name])


def test_results_hold_no_path_of_a_machine():
    for path in (BENCHMARKS / "results").glob("*.json"):
        assert re.search(r'[ "=]/\w+/', path.read_text()) is None, path


def test_medians_take_runs_of_earlier_versions(script):
    mnist = script("mnist")
    run = {key: {"mean_mask": 1.0} for key in ("error", "nll", "brier", "ece")}
    run |= {"minutes": 2.0, "units": [3, 4], "flops_speedup": 2.0, "params": 7, "per_input": None}
    run["ood_by_method"] = {"mean_mask": {"fashion-mnist": {"entropy": {"auroc": 0.9}}}}
    median = mnist.median_of([run, {**run, "weights": [], "units": [5, 8]}])
    assert median["units"] == [4, 6]
    assert "compression" not in median


ZOO = ("U-Net", "MLP-Mixer", "TCN, weight norm", "bag of words", "ConvNeXt, 2 stages")


@pytest.mark.parametrize("name", ZOO)
def test_a_network_from_elsewhere_is_converted_trained_and_compacted_exactly(script, name):
    trial = script("networks").Trial(name, formats=("export",) if name == "U-Net" else ())
    row = trial.run()
    assert {step: row[step] for step in script("tables_networks").STEPS} == dict.fromkeys(
        script("tables_networks").STEPS, "yes"
    )
    assert row["masks"] > 0
    assert row["params_after"] < row["params"]


def test_the_table_of_networks_has_a_row_for_every_network(script):
    zoo, rows = script("network_zoo").ZOO, script("rows").read("networks.json")["runs"]
    assert [row["name"] for row in rows] == list(zoo)


def test_what_waits_for_a_gpu_names_recipes_and_scripts_that_are_there(script, tmp_path):
    gpu = script("gpu")
    for quick in (False, True):
        for command in gpu.commands("cpu", tmp_path, quick):
            if "train" in command:
                assert recipes.get(command[command.index("train") + 1])
            elif command[1] != "-c":
                assert Path(command[1]).exists()
