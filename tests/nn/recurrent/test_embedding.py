"""Embeddings whose words are dropped, each everywhere in a sequence."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError

HALF = {"dropout": "mc-dropout", "drop_prob": 0.5}


def test_without_dropout_it_is_the_layer_of_torch():
    plain = nn.Embedding(7, 4, padding_idx=0)
    layer = bd.nn.DropoutEmbedding(7, 4, padding_idx=0, word_dropout=None)
    layer.load_state_dict(plain.state_dict())
    for words in (torch.randint(7, (3, 5)), torch.randint(7, (3,)), torch.tensor(2)):
        assert torch.equal(layer(words), plain(words))
    assert torch.equal(bd.nn.DropoutEmbedding.from_plain(plain)(words), plain(words))
    assert type(layer.to_plain()) is nn.Embedding


@pytest.mark.parametrize("batch_dim", [0, 1])
def test_a_word_is_dropped_everywhere_in_a_sequence_or_nowhere(batch_dim):
    words = torch.randint(7, (6, 50))
    layer = bd.nn.DropoutEmbedding(7, 4, word_dropout=HALF, batch_dim=batch_dim)
    mask = 2.0 * torch.rand(6, 7).round()
    with bd.impose_masks(layer, {"word_dropout": mask}):
        y = layer(words if batch_dim == 0 else words.T)
    y = y if batch_dim == 0 else y.transpose(0, 1)
    expected = layer.weight[words] * mask[torch.arange(6)[:, None], words][..., None]
    torch.testing.assert_close(y, expected)


def test_sequences_drop_words_of_their_own_and_evaluation_takes_the_mean():
    layer = bd.nn.DropoutEmbedding(30, 4, word_dropout=HALF)
    words = torch.arange(30).expand(4, -1)
    dropped = (layer(words) == 0).all(-1)
    assert 0.25 < dropped.double().mean() < 0.75
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(layer.eval()(words), layer.weight[words])


def test_pruned_words_are_zero_and_the_divergence_is_counted_once():
    net = nn.Sequential(bd.nn.DropoutEmbedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    net[0].word_dropout.set_posterior(torch.tensor([1e-4, 5.0, 5.0, 5.0, 5.0]))
    y = net.eval()[0](torch.arange(5)[None])
    assert (y[0, 0] == 0).all()
    assert (y[0, 1:] != 0).any(1).all()
    torch.testing.assert_close(bd.kl_divergence(net), net[0].word_dropout.kl_divergence())


def test_it_is_a_program_and_predicts_from_words():
    net = nn.Sequential(bd.nn.DropoutEmbedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x, y = torch.randint(5, (8, 3)), torch.randint(2, (8,))
    bnn.loss(x, y).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert bd.check_elbo(bnn, x, y, num_samples=500, num_repeats=10).passed
    for shared_by in ("batch", "example"):
        assert bd.predict(bnn, x, num_samples=3, shared_by=shared_by).mean.shape == (8, 2)


def test_the_prior_on_weights_is_that_of_the_words():
    options = HALF | {"length_scale": 2.0}
    layer = bd.nn.DropoutEmbedding(5, 4, word_dropout=options)
    penalty = layer.word_dropout.penalty()
    torch.testing.assert_close(penalty, 0.5 * 4 * layer.weight.square().sum() / 0.5)


def test_a_bad_argument_or_input_is_refused():
    with pytest.raises(ConfigError, match="expected batch_dim >= 0"):
        bd.nn.DropoutEmbedding(5, 4, batch_dim=-1)
    with pytest.raises(ConfigError, match="whose mask depends on it"):
        bd.nn.DropoutEmbedding(5, 4, word_dropout="dependent-beta-bernoulli")
    with pytest.raises(ConfigError, match="expected an nn.Embedding, got Linear"):
        bd.nn.DropoutEmbedding.from_plain(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="unknown place of a mask in DropoutEmbedding"):
        bd.nn.DropoutEmbedding(5, 4).put_mask("words", None)
    with pytest.raises(DataError, match=r"expected integers, got numbers of torch.float"):
        bd.nn.DropoutEmbedding(5, 4)(torch.zeros(2, 3))
