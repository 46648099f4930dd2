"""A recipe of texts from training to the compact network; its vocabulary is the run's."""

import json

import pytest
import torch

import bayesdrop as bd
from bayesdrop import recipes
from bayesdrop.errors import CheckpointError, ConfigError, DataError
from bayesdrop.files import read_sealed, write_sealed
from tests.commands.runner import invoke

RECIPE = "text-mean-beta-bernoulli"


def table(path, word="film", classes=("bad", "good")):
    kinds = dict(zip(classes, ("dull", "fine"), strict=True))
    rows = [
        f"a {kind} {word} number {n},{name}" for n in range(15) for name, kind in kinds.items()
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return f"text:{path}@6"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("texts")
    data, out = table(folder / "reviews.csv"), str(folder / "run")
    options = ["--epochs", "2", "--pretrain-epochs", "4", "--validation", "4"]
    invoke("train", RECIPE, "--data", data, "--out", out, *options)
    return folder, out


@pytest.fixture(autouse=True)
def float32():
    torch.set_default_dtype(torch.float32)


def test_texts_go_from_training_to_a_report_and_a_compact_network(run, tmp_path):
    folder, out = run
    loaded = recipes.load_run(out)
    splits = loaded.load_data()
    assert [len(y) for _, y in (splits.train, splits.validation, splits.test)] == [20, 4, 6]
    assert loaded.vocabulary == splits.vocabulary and loaded.image_shape == (6,)
    # What the reader would write himself: a text that the run has never seen.
    ids = loaded.vocabulary.encode(["a fine film, of 1999"], length=6)["input_ids"]
    assert [("", "?", *loaded.vocabulary.tokens)[i] for i in ids[0]][:4] == [
        "a",
        "fine",
        "film",
        "?",
    ]
    expected = loaded.bnn.eval()(ids)

    other = table(tmp_path / "others.csv", "song", ("yes", "no"))
    invoke("evaluate", out, "--ood", other, "--num-samples", "2", "--out", str(tmp_path))
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["data"] == loaded.data and list(found["ood"]) == [other]
    assert " images" not in (tmp_path / "report.md").read_text()

    small = tmp_path / "small.pt2"
    invoke("compact", out, "--out", str(small))
    torch.testing.assert_close(bd.load_plain(small)(ids), expected)


def test_a_run_refuses_other_texts_and_another_vocabulary(run, tmp_path):
    folder, out = run
    loaded, path = recipes.load_run(out), folder / "reviews.csv"
    kept, vocabulary = path.read_bytes(), folder / "run" / "vocabulary.json"
    try:
        table(path, "book")
        with pytest.raises(DataError, match="the texts that the run was trained on"):
            loaded.load_data()
        recipe, again = loaded.recipe, {"data": loaded.data, "validation": 4, "progress": False}
        with pytest.raises(ConfigError, match="begun with"):
            recipes.run_recipe(recipe, out=out, **again)
        with pytest.raises(ConfigError, match="begun with"):
            recipes.run_recipe(recipe, out=tmp_path / "new", start=out, **again)
    finally:
        path.write_bytes(kept)
    values = read_sealed(vocabulary)
    write_sealed(vocabulary, {**values, "tokens": values["tokens"][:-1]})
    with pytest.raises(CheckpointError, match="as recipe.json says"):
        recipes.load_run(out)
    write_sealed(vocabulary, values)
    assert recipes.load_run(out).vocabulary == loaded.vocabulary


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        (RECIPE, "digits", "expected texts"),
        ("digits-mlp", "phrases", "expected images"),
        (RECIPE, "text:", "text:PATH@LENGTH"),
        (RECIPE, "text:nowhere.csv", "nothing of this name"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, data, message, tmp_path):
    with pytest.raises((ConfigError, DataError), match=message):
        recipes.run_recipe(recipe, data=data, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_images_are_no_texts_from_elsewhere():
    with pytest.raises(DataError, match="expected texts"):
        bd.data.load_ood("digits", "phrases")
    with pytest.raises(ConfigError, match="shared classes"):
        bd.data.load_ood("phrases", "phrases")
