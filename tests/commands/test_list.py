import json
import re

import pytest

from bayesdrop.recipes import registry
from tests.commands.runner import invoke


def names(*arguments):
    return {
        row["name"] for row in json.loads(invoke("list", "recipes", *arguments, "--json").stdout)
    }


def test_a_filter_leaves_what_has_all_that_is_asked_for():
    assert names() == set(registry)
    digits = {name for name, recipe in registry.items() if recipe.data == "digits"}
    assert names("--data", "digits") == digits
    l0 = {name for name, recipe in registry.items() if recipe.dropout == "hard-concrete"}
    assert names("--dropout", "l0") == names("--dropout", "hard-concrete") == l0
    assert names("--dropout", "l0", "--data", "digits") == l0 & digits
    nets = {name for name, recipe in registry.items() if recipe.network == "lenet5-caffe"}
    assert names("--network", "lenet5-caffe") == nets
    plain = {name for name, recipe in registry.items() if recipe.dropout is None}
    assert names("--dropout", "none") == plain
    assert names("CAFFE", "indian") == {n for n in nets if "indian" in n}


def test_words_find_dropouts_and_data_sets_too():
    found = json.loads(invoke("list", "dropouts", "louizos", "--json").stdout)
    assert "hard-concrete" in {row["key"] for row in found}
    text = invoke("list", "datasets", "fashion").stdout
    assert "fashion-mnist" in text and "cifar10" not in text


@pytest.mark.parametrize(
    "arguments, message, code",
    [
        (["recipes", "--network", "lenet55"], "Did you mean 'lenet5-caffe'", 1),
        (["recipes", "--data", "mnits"], "Did you mean 'mnist'", 1),
        (["recipes", "no such words"], "got nothing with 'no such words'", 1),
        (["dropouts", "--data", "mnist"], "go with 'list recipes'", 2),
    ],
)
def test_a_filter_that_finds_nothing_says_so(arguments, message, code):
    assert re.search(message, invoke("list", *arguments, code=code).stderr)


def test_cite_has_an_entry_a_string_in_json():
    found = json.loads(invoke("cite", "concrete", "--json").stdout)
    assert found["key"] == "concrete" and found["bibtex"][0].startswith("@")
    assert "\n\n".join(found["bibtex"]) + "\n" == invoke("cite", "concrete").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    "words, expected",
    [
        ("bayesdrop train lenet5-caffe-beta", "lenet5-caffe-beta-bernoulli"),
        ("bayesdrop list recipes --data fashi", "fashion-mnist"),
        ("bayesdrop cite hard-", "hard-concrete"),
        ("bayesdrop doc", "doctor"),
        ("bayesdrop train --variational", "--variational-learning-rate"),
    ],
)
def test_a_shell_completes_commands_names_and_options(shell, words, expected):
    last = words.split()[-1]
    position = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    typed = {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    result = invoke(_BAYESDROP_COMPLETE=f"complete_{shell}", **position, **typed)
    assert expected in result.stdout.replace("\\", ""), last


def test_the_script_for_a_shell_is_printed(monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert "_BAYESDROP_COMPLETE" in invoke("--show-completion", "bash").stdout
