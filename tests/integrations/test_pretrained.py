"""Laws of the folder of a trained network."""

import json

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.inference.privacy import Privacy

pytest.importorskip("safetensors")
from bayesdrop.integrations.pretrained import from_pretrained, save_pretrained


class Tied(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.dropout, self.first, self.second = layer, nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(self.dropout(x)))


def made(layer=None, likelihood=None, seed=0):
    torch.manual_seed(seed)
    layer = bd.BetaBernoulliDropout(4) if layer is None else layer
    return bd.BayesianNetwork(Tied(layer), likelihood or bd.Categorical(), num_data=100 + seed)


def test_what_is_loaded_predicts_the_same(tmp_path):
    bnn = made(seed=1)
    nn.init.normal_(bnn.network.dropout.location)
    bnn.kl_weight = 0.1
    bnn.privacy = Privacy(3.0, 1e-5, 3.0, 3.5, 1.0, 1.5, 0.1, 60, True)
    bnn(torch.zeros(2, 4))
    paths = save_pretrained(bnn, tmp_path / "digits", about="For tests.", license="mit",
                            figures={"error": 1.25, "num_examples": 1000})  # fmt: skip
    again = from_pretrained(tmp_path / "digits", made())
    x = torch.randn(5, 4)
    ours, theirs = (bd.predict(b, x, num_samples=4, seed=0).mean for b in (bnn, again))
    assert torch.equal(ours, theirs) and not again.training
    assert (again.num_data, again.kl_weight, again.input_shape) == (101, 0.1, (4,))
    assert again.privacy == bnn.privacy
    assert again.network.second.weight is again.network.first.weight
    card = paths[-1].read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: bayesdrop\n") and "# digits" in card
    prior = "pi ~ Beta(concentration1=0.0001, concentration0=1)"
    figures = ("| error | 1.25 |", "| num examples | 1,000 |", "4 of 4 units", "101 examples")
    for part in ("For tests.", prior, *figures):
        assert part in card, part


def test_other_libraries_read_the_weights(tmp_path):
    from safetensors.torch import load_file

    bnn = made()
    save_pretrained(bnn.network, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert torch.equal(state["first.weight"], bnn.network.first.weight)
    again = from_pretrained(tmp_path, made(seed=1).network)
    assert torch.equal(again.first.weight, bnn.network.first.weight)


def test_a_learned_prior_is_compared_as_it_was_learned(tmp_path):
    layer = bd.nn.layers["contextual"]
    bnn = made(layer(4, learn_prior=True))
    for parameter in bnn.parameters():
        nn.init.normal_(parameter)
    save_pretrained(bnn, tmp_path)
    again = from_pretrained(tmp_path, made(layer(4, learn_prior=True)))
    assert all(map(torch.equal, again.parameters(), bnn.parameters()))


OTHERS = {
    "the prior of": lambda: made(bd.BetaBernoulliDropout(4, kl_scale=2.0)),
    "likelihood to be": lambda: made(likelihood=bd.likelihoods.Poisson()),
    "to be HardConcrete|of shape": lambda: made(bd.HardConcreteDropout(4)),
    "expected a BayesianNetwork": lambda: made().network,
}


@pytest.mark.parametrize("message", OTHERS)
def test_another_network_is_refused_and_left_as_it_is(tmp_path, message):
    save_pretrained(made(seed=1), tmp_path)
    other = OTHERS[message]()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(tmp_path, other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_numbers_of_a_prior_may_differ_by_rounding_alone(tmp_path):
    save_pretrained(made(), tmp_path)
    from_pretrained(tmp_path, made(bd.BetaBernoulliDropout(4, kl_scale=1.00005)))
    with pytest.raises(CheckpointError, match="the prior of"):
        from_pretrained(tmp_path, made(bd.BetaBernoulliDropout(4, kl_scale=1.0002)))


def test_damaged_and_foreign_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match="without any"):
        save_pretrained(nn.Linear(2, 2), tmp_path)
    with pytest.raises(CheckpointError, match=r"config.json: expected a file"):
        from_pretrained(tmp_path, made())
    save_pretrained(made(), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="got others, or a part of them"):
        from_pretrained(tmp_path, made())
    weights.unlink()
    with pytest.raises(CheckpointError, match="expected the weights"):
        from_pretrained(tmp_path, made())
    config.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="of another program"):
        from_pretrained(tmp_path, made())
    config.write_text(json.dumps({"format": "bayesdrop", "version": 9}))
    with pytest.raises(CheckpointError, match="got version 9"):
        from_pretrained(tmp_path, made())
