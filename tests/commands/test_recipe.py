import json
import re

import pytest

from bayesdrop.errors import ConfigError
from bayesdrop.recipes import Recipe, Stage, load_run, read_recipe, registry, to_yaml
from tests.commands.runner import invoke

TINY = """\
name: mine
summary: a try
data: digits:0-3
network: lenet-500-300
dropout: beta-bernoulli
stages:
- {name: plain, epochs: 1, learning_rate: 1e-3}
- name: bb
  epochs: 1
  dropout: true
  milestones: [0.5]
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return path

    return write


def test_a_recipe_of_every_dropout_is_the_same_after_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("bayesdrop.recipes.yaml_file._Reader._build", lambda *_: None)
    path = tmp_path / "recipe.yaml"
    for recipe in {recipe.dropout: recipe for recipe in registry.values()}.values():
        path.write_text(to_yaml(recipe))
        assert read_recipe(path) == recipe


def test_the_printed_recipe_has_a_name_of_its_own_and_can_be_trained(written):
    text = invoke("recipe", "digits-mlp-l0").stdout
    found = read_recipe(written(text))
    assert found.name == "my-digits-mlp-hard-concrete"
    assert found.stages == registry["digits-mlp-hard-concrete"].stages
    values = json.loads(invoke("recipe", "digits-mlp-l0", "--json").stdout)
    assert Recipe.from_dict(values) == registry["digits-mlp-hard-concrete"]


def test_a_run_of_a_file_is_loaded_without_it(written, tmp_path):
    path, out = written(TINY), tmp_path / "run"
    invoke("train", path, "--batch-size", 200, "--out", out)
    path.unlink()
    recipe = load_run(out).recipe
    assert recipe.name == "mine" and recipe.stages[0].learning_rate == 1e-3
    assert recipe.stages[1] == Stage("bb", 1, dropout=True, batch_size=200, milestones=(0.5,))
    assert recipe.dropout_options == {"parametrization": "location"}, "today's default, said"


def changed(old, new):
    assert old in TINY
    return TINY.replace(old, new)


@pytest.mark.parametrize(
    "text, message",
    [
        (changed("  epochs: 1", "  epochz: 1"), "line 9: .*'epochz'. Did you mean 'epochs'"),
        (changed("summary", "sumary"), "line 2: .*'sumary'. Did you mean 'summary'"),
        (changed("  epochs: 1", "  epochs: many"), "line 9: expected epochs of type int"),
        (changed("  epochs: 1", "  epochs: 1.5"), "line 9: expected epochs of type int"),
        (changed("  epochs: 1", "  epochs: 0"), "line 8: .*epochs from 1"),
        (changed("dropout: true", "dropout: 1"), "line 10: expected dropout of type bool"),
        (changed("[0.5]", "0.5"), r"line 11: expected milestones of type list\[float"),
        (changed("  epochs: 1\n", "  epochs: 1\n  epochs: 2\n"), "line 10: .*after line 9"),
        (changed("  epochs: 1\n", ""), "line 8: expected a stage with epochs"),
        (changed("data: digits:0-3\n", ""), "line 1: expected a recipe with data"),
        (changed("digits:0-3", "digitz"), "line 3: unknown data set .*'digits'"),
        (changed("lenet-500-300", "lenet-500"), "line 4: unknown network .*lenet-500-300"),
        (changed("beta-bernoulli", "beta-bernouli"), "line 5: unknown dropout .*beta-bernoulli"),
        (TINY + "dropout_options: {conc: 2}\n", "line 12: .*conc"),
        (TINY + "network_options: {depth: 2}\n", "line 4: .*depth"),
        (changed("name: mine", "name: digits-mlp"), "expected a name of its own"),
        (changed("name: mine", "name: ../up"), "line 1: expected a name of letters"),
        (changed("summary: a try", "summary: [a"), "line 3: expected YAML"),
        (changed("summary: a try", "summary: !!python/object:os.system x"), "line 2: .*YAML"),
        (changed("summary: a try", "summary: &a try\nnetwork_options: *a"), "line 3: .*alias"),
        ("", "line 1: .*an empty file"),
        ("- a\n", "line 1: expected the fields of a recipe.*a list"),
        (TINY.partition("stages")[0] + "stages: 3\n", "line 6: expected a list of stages"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(written, text, message):
    with pytest.raises(ConfigError) as caught:
        read_recipe(written(text))
    assert re.search(message, str(caught.value), re.DOTALL), caught.value


def test_a_file_that_is_not_there_is_said_to_be_so():
    assert "No such file" in invoke("train", "nowhere.yaml", code=1).stderr
