import dataclasses
import json

import pytest
import torch

import bayesdrop as bd
from bayesdrop import networks, recipes
from bayesdrop.conversion import convert, without_dropout
from bayesdrop.errors import CheckpointError, ConfigError, DataError
from bayesdrop.files import only_writer
from bayesdrop.nn import named_dropout_layers, to_dependent
from bayesdrop.recipes import (
    Recipe,
    Stage,
    build_network,
    load_run,
    run_recipe,
)
from bayesdrop.recipes.augment import crop_and_flip
from tests.forked import run_code

DATA = "digits:0-3"
X = torch.linspace(0, 1, 5 * 64, dtype=torch.float32).reshape(5, 1, 8, 8)


@pytest.fixture(autouse=True)
def float32():
    torch.set_default_dtype(torch.float32)


def tiny(epochs=3, pretrain_epochs=2):
    return recipes.get("digits-mlp-bb").override(epochs=epochs, pretrain_epochs=pretrain_epochs)


def train(out, recipe=None, **options):
    options = {"data": DATA, "progress": False, **options}
    return run_recipe(recipe or tiny(), out=out, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    out = tmp_path_factory.mktemp("run")
    return out, train(out)


def state(bnn):
    return {name: value.clone() for name, value in bnn.state_dict().items()}


def assert_same(first, second):
    first, second = state(first), state(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("name", recipes.registry)
def test_every_recipe_survives_json_and_builds_its_network(name):
    recipe = recipes.get(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    shapes = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
    shapes["cifar10-jpeg75"] = (3, 16, 16)
    shapes["phrases"] = (16,)
    shape, words = shapes[recipe.data], 9 if recipe.data == "phrases" else None
    if "encoder" in recipe.network_options:
        pytest.importorskip("peft" if "lora" in name else "transformers")
        options = {key: v for key, v in recipe.network_options.items() if key != "encoder"}
        recipe = dataclasses.replace(recipe, network_options=options)  # a small one instead
    network = build_network(recipe, 7, shape, words)
    x = torch.zeros(2, *shape)
    assert network(x if words is None else x.long()).shape == (2, 7)
    dropouts = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    rates = [0.5] * 2 if recipe.network_options.get("dropout") else []
    rates = [0.1] * 5 if name == "text-encoder-mc-dropout" else rates
    assert [module.p for module in dropouts if module.p] == rates
    assert bool(rates) or "-dropout" not in name


def test_a_linear_decay_survives_json_and_is_not_said_where_there_is_none():
    recipe = recipes.get("lenet-500-300")
    assert not {"decay_since", "compact_every"} & recipe.to_dict()["stages"][0].keys()
    again = recipe.override(compact_every=3)
    assert recipes.Recipe.from_dict(again.to_dict()) == again
    assert [recipe.stages[0].schedule()(epoch, 4) for epoch in (0, 2)] == [1.0, 0.1]
    stage = dataclasses.replace(recipe.stages[0], decay_since=0.5)
    recipe = dataclasses.replace(recipe, stages=(stage,))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert [stage.schedule()(epoch, 4) for epoch in range(4)] == [1.0, 1.0, 1.0, 0.5]
    with pytest.raises(ConfigError, match="fraction of the run"):
        dataclasses.replace(stage, decay_since=1.0)


def test_flatter_gates_are_those_of_the_layers_that_the_recipe_names():
    recipe = recipes.get("lenet5-caffe-dbb-flat")
    network = convert(networks.lenet5_caffe(), recipe.dropout, **recipe.dropout_options)
    gates = to_dependent(network, **recipe.dependent_options)
    slopes = [layer.slope[0].item() for _, layer in named_dropout_layers(gates)]
    assert slopes == [1.0, 1.0, 10.0, 5.0]
    assert recipe.stages[:2] == recipes.get("lenet5-caffe-dbb").stages[:2]


def test_a_centered_network_has_the_mean_training_image_and_takes_images_as_they_are(tmp_path):
    recipe = recipes.get("lenet-300-100-sparse-vd-published").override(epochs=1)
    run = train(tmp_path, recipe)
    images = run.load_data().train[0]
    torch.testing.assert_close(run.bnn.network.center.mean, images.mean(0).flatten())
    assert_same(load_run(tmp_path).bnn, run.bnn)
    expected = run.bnn.network.eval()(images[:5])
    torch.testing.assert_close(bd.compact(run.bnn)(images[:5]), expected)
    run.bnn.network.center.mean.zero_()
    torch.testing.assert_close(run.bnn.network(images[:5] - images.mean(0)), expected)


def test_the_members_of_a_family_train_for_as_many_epochs():
    for prefix in ("lenet-500-300", "lenet5-caffe", "digits-mlp"):
        family = [recipes.get(prefix + suffix) for suffix in ("", "-dropout", "-bb")]
        assert len({sum(stage.epochs for stage in recipe.stages) for recipe in family}) == 1


def test_overrides_go_to_the_right_stage_and_leave_the_recipe():
    recipe = recipes.get("lenet-500-300-bb")
    changed = recipe.override(epochs=5, pretrain_epochs=2, batch_size=7, learning_rate=None)
    assert [stage.epochs for stage in changed.stages] == [2, 5]
    assert [stage.batch_size for stage in changed.stages] == [7, 7]
    assert changed.stages[0].learning_rate == recipe.stages[0].learning_rate
    assert recipes.get("lenet-500-300-bb") is recipe and recipe.override() == recipe


def test_bad_recipes_raise():
    recipe = recipes.get("lenet-500-300")
    with pytest.raises(ConfigError, match="several stages for pretrain_epochs"):
        recipe.override(pretrain_epochs=2)
    with pytest.raises(ConfigError, match="'x': expected epochs from 1 to inf, got epochs=0"):
        Stage("x", 0)
    with pytest.raises(ConfigError, match="unknown objective 'arms'. Did you mean 'arm'"):
        Stage("x", 1, objective="arms")
    with pytest.raises(ConfigError, match="one or more stages with different names"):
        dataclasses.replace(recipe, stages=())
    with pytest.raises(ConfigError, match="dropout key exactly where"):
        dataclasses.replace(recipe, dropout="beta-bernoulli")
    with pytest.raises(ConfigError, match="expected a new name, got 'lenet-500-300'"):
        recipes.register(dataclasses.replace(recipe, data="digits"))
    for values in ({}, {**recipe.to_dict(), "speed": 3}, {**recipe.to_dict(), "stages": [3]}):
        with pytest.raises(ConfigError, match=r"expected the fields of Recipe.to_dict\(\)"):
            Recipe.from_dict(values)


def dependent():
    first = tiny()
    third = Stage("dependent", 2, dropout=True, dependent=True, variational_learning_rate=0.01)
    return dataclasses.replace(first, name="tiny-dbb", summary="", stages=(*first.stages, third))


def test_a_dependent_stage_never_has_more_units_than_the_one_before(trained, tmp_path):
    run = train(tmp_path, dependent())
    before = trained[1].bnn.named_dropout_layers()
    layers = run.bnn.named_dropout_layers()
    assert [path for path, _ in layers] == [path for path, _ in before]
    x = run.load_data().test[0]
    for (_, layer), (_, source) in zip(layers, before, strict=True):
        assert layer.key == "dependent-beta-bernoulli"
        for ours, theirs in zip(
            layer.posterior_parameters(), source.posterior_parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
        assert not bool((layer.kept() & ~source.kept()).any())
    loaded = load_run(tmp_path)
    assert_same(loaded.bnn, run.bnn)
    assert torch.equal(loaded.bnn(x), run.bnn(x))
    assert loaded.plain is not None


def test_a_run_that_starts_from_another_ends_with_the_same_bits(trained, tmp_path):
    whole = train(tmp_path / "whole", dependent())
    rest = train(tmp_path / "rest", dependent(), start=trained[0])
    assert_same(whole.bnn, rest.bnn)
    assert list(rest.history) == ["plain", "beta-bernoulli", "dependent"]


def test_a_run_starts_from_the_plain_network_of_any(trained, tmp_path):
    """Pretraining is the same whatever dropout comes after it."""
    whole = tiny()
    pretraining = dataclasses.replace(
        whole, name="alone", stages=whole.stages[:1], dropout=None, dropout_options={}
    )
    train(tmp_path / "alone", pretraining)
    assert_same(train(tmp_path / "rest", start=tmp_path / "alone").bnn, trained[1].bnn)


def test_a_stage_trains_with_several_masks_in_the_logarithm(tmp_path):
    first = tiny()
    several = dataclasses.replace(first.stages[1], num_masks=2)
    recipe = dataclasses.replace(first, stages=(first.stages[0], several))
    assert "num_masks" not in first.to_dict()["stages"][1]  # as of runs before there was one
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    run = train(tmp_path, recipe)
    assert [record["num_masks"] for record in run.history["beta-bernoulli"]] == [2] * 3


def test_a_private_run_promises_what_its_stage_asks_for(tmp_path):
    stage = Stage("private", 1, batch_size=600, private_epsilon=5.0)
    recipe = dataclasses.replace(
        tiny(), dropout=None, dropout_options={}, stages=(stage,), dependent_options={}
    )
    assert (
        "private_epsilon" not in tiny().to_dict()["stages"][0]
    )  # as of runs before there was one
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    run = train(tmp_path, recipe)
    assert 0.98 * 5.0 <= run.bnn.privacy.epsilon <= 5.0
    assert recipes.load_run(tmp_path).bnn.privacy == run.bnn.privacy
    with pytest.raises(ConfigError, match="a single stage in private training"):
        tiny().override(private_epsilon=5.0)
    with pytest.raises(ConfigError, match="epsilon > 0"):
        Stage("private", 1, private_epsilon=0.0)


def test_a_run_starts_only_from_its_own_first_stages(trained, tmp_path):
    out, _ = trained
    with pytest.raises(ConfigError, match="first stages of this run, with seed=1, got seed=0"):
        train(tmp_path / "seed", dependent(), start=out, seed=1)
    recipe = dependent()
    other = dataclasses.replace(recipe.stages[1], learning_rate=0.5)
    recipe = dataclasses.replace(recipe, stages=(recipe.stages[0], other, recipe.stages[2]))
    with pytest.raises(ConfigError, match="stages.1.learning_rate=0.5"):
        train(tmp_path / "rate", recipe, start=out)
    with pytest.raises(CheckpointError, match="recipe.json"):
        train(tmp_path / "none", dependent(), start=tmp_path / "nothing")
    assert not (tmp_path / "rate" / "plain").exists()


def test_dependent_stages_that_make_no_sense_raise():
    with pytest.raises(ConfigError, match="expected dropout=True in a dependent stage"):
        Stage("x", 1, dependent=True)
    recipe = dependent()
    with pytest.raises(ConfigError, match="before a dependent one"):
        dataclasses.replace(recipe, stages=recipe.stages[2:])


def test_unknown_names_raise_with_a_suggestion(tmp_path):
    with pytest.raises(ConfigError, match="unknown recipe 'lenet-500-300-b'. Did you mean"):
        run_recipe("lenet-500-300-b", out=tmp_path)
    with pytest.raises(ConfigError, match="unknown data set 'digit'. Did you mean 'digits'"):
        train(tmp_path, data="digit")
    with pytest.raises(ConfigError, match="unknown network 'lenet'. Did you mean"):
        build_network(dataclasses.replace(tiny(), network="lenet"), 4, (1, 8, 8))
    with pytest.raises(ConfigError, match="expected options of the network 'lenet-500-300'"):
        build_network(dataclasses.replace(tiny(), network_options={"depth": 3}), 4, (1, 8, 8))
    with pytest.raises(ConfigError, match="expected a device that torch can use here, got 'gpu'"):
        train(tmp_path, device="gpu")
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_the_network_raise():
    with pytest.raises(DataError, match=r"'lenet5-caffe' can take, got .*\(1, 8, 8\)"):
        build_network(recipes.get("lenet5-caffe"), 10, (1, 8, 8))


def test_a_run_leaves_what_load_run_needs(trained):
    out, run = trained
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    stages = {f"{stage}/{file}" for stage in run.history for file in ("model.pt", "history.json")}
    assert names == {"recipe.json", "model.pt", "history.json"} | stages
    assert list(run.history) == ["plain", "beta-bernoulli"]
    assert [len(records) for records in run.history.values()] == [2, 3]
    loaded = load_run(out)
    assert_same(loaded.bnn, run.bnn)
    assert_same(loaded.plain, run.plain)
    assert loaded.recipe == run.recipe and loaded.history == run.history
    assert loaded.minutes == run.minutes > 0.0 and loaded.bnn.num_data == run.bnn.num_data
    seconds = [record["seconds"] for records in run.history.values() for record in records]
    assert run.minutes == pytest.approx(sum(seconds) / 60)
    assert dataclasses.replace(run, validation=0).load_data().validation is None


def test_a_stage_trains_with_what_it_says(tmp_path, monkeypatch):
    given = []

    def spied(*data, **options):
        given.append(options)
        return bd.fit(*data, **options)

    monkeypatch.setattr("bayesdrop.recipes.run.fit", spied)
    first, second = tiny(1, 1).stages
    settings = {
        "batch_size": 50, "learning_rate": 2e-3, "variational_learning_rate": 0.05,
        "weight_decay": 0.01, "compact_every": 2,
    }  # fmt: skip
    second = dataclasses.replace(second, **settings, milestones=(0.25,), kl_warm_up=0.5)
    train(tmp_path, dataclasses.replace(tiny(), stages=(first, second)), seed=5)
    assert [options["seed"] for options in given] == [5, 1005]
    assert {name: given[1][name] for name in settings} == settings
    epochs = range(8)
    weights = [given[1]["kl_weight"](epoch, 8) for epoch in epochs]
    assert weights == [bd.schedules.warm_up(0.5)(epoch, 8) for epoch in epochs]
    assert [given[1]["schedule"](epoch, 8) for epoch in epochs] == [1.0] * 2 + [0.1] * 6
    assert given[0]["kl_weight"] is None and given[0]["compact_every"] is None


def test_a_report_of_a_run_is_made_as_asked_for(trained, monkeypatch):
    given = {}
    where = "bayesdrop.recipes.outputs"
    monkeypatch.setattr(f"{where}.build_report", lambda *data, **options: given.update(options))
    monkeypatch.setattr(f"{where}.add_analysis", lambda report, **options: given.update(options))
    run = dataclasses.replace(trained[1], seed=7)
    splits = run.load_data()
    recipes.report_run(run, num_samples=3, thorough=True, shift=False, diagnose=True)
    assert (given["seed"], given["num_samples"], given["shift"]) == (7, 3, False)
    assert torch.equal(given["validation"][0], splits.validation[0])
    assert torch.equal(given["train"][0], splits.train[0])
    recipes.report_run(run, thorough=True)
    assert given["train"] is None and given["class_names"] == splits.class_names


def test_the_second_stage_starts_from_the_weights_of_the_first(trained):
    _, run = trained
    weights = {name for name, _ in without_dropout(run.bnn).named_parameters()}
    assert weights == {name for name, _ in run.plain.network.named_parameters()}
    # Three epochs move the weights less than a fresh draw would: they stay correlated.
    first, second = (
        dict(b.network.named_parameters())["fc2.weight"] for b in (run.plain, run.bnn)
    )
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.5


def test_a_fresh_process_predicts_the_same_bits(trained, tmp_path):
    out, run = trained
    torch.set_num_threads(1)  # as in the other process: sums in another order have other bits
    program = (
        "import torch, bayesdrop as bd\n"
        "torch.set_num_threads(1)\n"
        "from bayesdrop.recipes import load_run\n"
        f"run = load_run({str(out)!r})\n"
        f"x = torch.tensor({X.flatten().tolist()}).reshape(5, 1, 8, 8)\n"
        "p = bd.predict(run.bnn, x, num_samples=4, seed=3).mean\n"
        "print([v.hex() for v in p.flatten().tolist() + run.plain(x).flatten().tolist()])\n"
    )
    ended = run_code(program, tmp_path)
    assert ended.error == ""
    p = bd.predict(run.bnn, X, num_samples=4, seed=3).mean
    expected = p.flatten().tolist() + run.plain(X).flatten().tolist()
    assert ended.output.strip() == str([value.hex() for value in expected])


class Killed(Exception):
    pass


@pytest.mark.parametrize("stage, epoch", [("plain", 1), ("beta-bernoulli", 2)])
def test_an_interrupted_run_ends_with_the_same_bits(trained, tmp_path, stage, epoch):
    has_dropout = stage != "plain"

    def kill(bnn, record):
        if record["epoch"] == epoch + 1 and bool(bnn.named_dropout_layers()) == has_dropout:
            raise Killed

    if (epoch, stage) == (1, "plain"):
        assert tiny().stages[0].epochs == 2
    with pytest.raises(Killed):
        train(tmp_path, callbacks=(kill,))
    with pytest.raises(CheckpointError, match="one that was interrupted.*it continues"):
        load_run(tmp_path)
    trained_epochs = []
    run = train(tmp_path, callbacks=(lambda bnn, record: trained_epochs.append(record["epoch"]),))
    assert trained_epochs == ([2, 1, 2, 3] if stage == "plain" else [3])
    assert_same(run.bnn, trained[1].bnn)
    assert_same(run.plain, trained[1].plain)


def test_a_finished_run_is_not_trained_again(trained):
    out, run = trained

    def never(bnn, record):
        raise Killed

    again = train(out, callbacks=(never,))
    assert_same(again.bnn, run.bnn)
    assert again.history == run.history


def test_a_run_leaves_the_global_generator_alone(tmp_path):
    before = torch.get_rng_state()
    train(tmp_path, tiny(1, 1))
    assert torch.equal(before, torch.get_rng_state())


def test_another_run_in_the_folder_is_refused_and_kept(trained):
    out, run = trained
    before = (out / "recipe.json").read_bytes()
    with pytest.raises(ConfigError, match="with seed=0, got seed=1. Pass the same options"):
        train(out, seed=1)
    with pytest.raises(ConfigError, match=r"recipe.stages.1.epochs=3, got .*epochs=9"):
        train(out, tiny(epochs=9))
    assert (out / "recipe.json").read_bytes() == before
    assert_same(load_run(out).bnn, run.bnn)


def test_a_folder_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="expected a folder that can be written"):
        train(tmp_path / "file" / "run")


def test_no_validation_data_is_legal(tmp_path):
    recipe = recipes.get("digits-mlp").override(epochs=1)
    run = train(tmp_path, recipe, validation=0)
    assert "val_error" not in run.history["plain"][0]
    assert run.plain is None and run.load_data().validation is None


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("recipe.json", b"{", "expected a whole JSON file"),
        ("recipe.json", b"[]", "expected recipe.json of format 1"),
        ("recipe.json", b'{"format": 1}', "expected recipe.json with recipe, data, seed"),
        ("model.pt", b"damaged", "expected a whole file written by bayesdrop"),
        ("plain/model.pt", b"damaged", "expected a whole file written by bayesdrop"),
        ("history.json", b"[1,", "expected a whole JSON file"),
    ],
)
def test_a_damaged_file_is_refused_and_left(trained, file, content, message):
    path = trained[0] / file
    good = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_run(trained[0])
        assert path.read_bytes() == content
    finally:
        path.write_bytes(good)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="Is this the folder of a run"):
        load_run(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.pt").write_bytes(b"of another run")
    with pytest.raises(ConfigError, match="the models of another run"):
        train(tmp_path)


def test_the_package_exports_its_registry():
    assert set(recipes.registry) >= {"lenet-500-300-beta-bernoulli", "lenet5-caffe-beta-bernoulli"}


def test_augmented_recipes_resume_with_the_same_bits(tmp_path):
    recipe = dataclasses.replace(tiny(epochs=2, pretrain_epochs=2), augment=True)
    whole = train(tmp_path / "whole", recipe)
    assert not torch.equal(
        whole.bnn.network.fc1.weight, train(tmp_path / "plain", tiny(2)).bnn.network.fc1.weight
    )

    def stop(bnn, record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "part", recipe, callbacks=(stop,))
    assert_same(train(tmp_path / "part", recipe).bnn, whole.bnn)


def test_crops_are_shifts_of_the_padded_image_and_half_are_mirrored():
    images = torch.rand(400, 2, 16, 16)
    out = crop_and_flip(images)
    padded = torch.nn.functional.pad(images, [2] * 4)
    flips, shifts = 0, set()
    for image, cropped in zip(padded, out, strict=True):
        windows = {
            (row, column): image[:, row : row + 16, column : column + 16]
            for row in range(5)
            for column in range(5)
        }
        plain = [key for key, window in windows.items() if torch.equal(window, cropped)]
        mirrored = [key for key, window in windows.items() if torch.equal(window.flip(2), cropped)]
        assert len(plain) + len(mirrored) == 1
        flips += len(mirrored)
        shifts.update(plain + mirrored)
    assert 200 - 43 <= flips <= 200 + 43  # 4.26 standard deviations of Binomial(400, 1/2)
    assert {row for row, _ in shifts} == {column for _, column in shifts} == set(range(5))


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with only_writer(tmp_path), pytest.raises(ConfigError, match="no other process that writes"):
        train(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "where, message",
    [
        (("recipe", "speed"), "with recipe.speed=3, got recipe.speed=nothing"),
        (("recipe", "dropout_options", "speed"), "recipe.dropout_options.speed=3"),
        (("recipe", "network_options", "dropout"), "recipe.network_options.dropout=3"),
    ],
)
def test_a_folder_with_another_option_is_another_run(trained, where, message):
    path = trained[0] / "recipe.json"
    good = path.read_bytes()
    values = json.loads(good)
    del values["checksum"]
    inner = values
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = 3
    try:
        path.write_text(json.dumps(values))
        with pytest.raises(ConfigError, match=message):
            train(trained[0])
    finally:
        path.write_bytes(good)


def test_a_folder_of_another_format_is_not_trained_in(trained):
    path = trained[0] / "recipe.json"
    good = path.read_bytes()
    values = json.loads(good) | {"format": 99}
    del values["checksum"]
    try:
        path.write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match="expected recipe.json of format 1"):
            train(trained[0])
    finally:
        path.write_bytes(good)


def test_what_was_not_trained_yet_is_replaced(tmp_path):
    (tmp_path / "recipe.json").write_text("{damaged")
    (tmp_path / "plain").mkdir()
    assert list(train(tmp_path, tiny(1, 1)).history) == ["plain", "beta-bernoulli"]
    assert load_run(tmp_path).recipe == tiny(1, 1)


def test_an_edited_description_is_refused_until_it_says_so(trained):
    path = trained[0] / "recipe.json"
    good = path.read_bytes()
    try:
        path.write_bytes(good.replace(b'"seed": 0', b'"seed": 1'))
        with pytest.raises(CheckpointError, match="If you edited it, remove the line of its chec"):
            load_run(trained[0])
        values = json.loads(path.read_bytes())
        del values["checksum"]
        path.write_text(json.dumps(values))
        assert load_run(trained[0]).seed == 1
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("content", ['{"plain": 3}', '{"plain": [3]}', '{"plain": []}', "[1]"])
def test_records_that_are_none_are_refused(trained, content):
    path = trained[0] / "history.json"
    good = path.read_bytes()
    try:
        path.write_text(content)
        with pytest.raises(CheckpointError, match="expected the records of the stages"):
            load_run(trained[0])
    finally:
        path.write_bytes(good)


def test_a_ramp_of_a_recipe_survives_its_file_and_reaches_its_end(tmp_path):
    recipe = recipes.get("digits-mlp-targeted-ramped").override(epochs=8)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    run = recipes.run_recipe(recipe, out=tmp_path / "run", progress=False)
    (records,) = run.history.values()
    shares = [record["targeted_share"] for record in records]
    assert shares[0] == 0.0 and shares[-1] == pytest.approx(0.99) and shares == sorted(shares)
    assert float(run.bnn.named_dropout_layers()[0][1].drop_prob) == pytest.approx(0.99)
    again = recipes.load_run(tmp_path / "run").recipe
    assert again == recipe and again.stages[0].buffers == recipe.stages[0].buffers


@pytest.mark.parametrize("points", [(), ((0.5, 1.0), (0.5, 2.0)), ((2.0, 1.0),)])
def test_a_ramp_that_makes_no_sense_is_refused(points):
    with pytest.raises(ConfigError, match="ramp"):
        recipes.Stage("stage", 3, buffers={"drop_prob": points})
