"""Losses over embeddings cut to a length from a learned law."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.testing import assert_mean_close


def ranking(anchors, others):
    """The loss of ranking an anchor's own other first."""
    return F.cross_entropy(10 * anchors @ others.T, torch.arange(len(anchors)))


def at_length(x, length):
    return F.normalize(x[:, :length], dim=-1)


def with_law(num_features=6, **options):
    matryoshka = bd.nn.VariationalMatryoshka(num_features, num_groups=3, **options)
    with torch.no_grad():
        matryoshka.law.order_logits.copy_(torch.tensor([1.0, -0.5]))
    return matryoshka


PAIR = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_new_law_is_the_prior_that_likes_all_lengths_alike():
    matryoshka = bd.nn.VariationalMatryoshka(384)
    lengths, probs = matryoshka.lengths()
    assert lengths.tolist() == list(range(12, 385, 12))
    torch.testing.assert_close(probs, torch.full((32,), 1 / 32))
    assert matryoshka.law.kl_divergence() < 1e-12


@pytest.mark.parametrize("exact", [True, False])
def test_the_expectation_is_that_over_cut_embeddings_and_the_divergence_is_added(exact):
    matryoshka = with_law(num_widths="exact" if exact else 1, kl_scale=0.5)
    matryoshka.train(exact)  # evaluation mode sums, too
    lengths, probs = matryoshka.lengths()
    assert lengths.tolist() == [2, 4, 6]
    one, other = torch.sigmoid(torch.tensor([1.0, -0.5]))
    torch.testing.assert_close(probs, torch.stack([1 - one, one * (1 - other), one * other]))
    losses = torch.stack([ranking(*(at_length(x, k) for x in PAIR)) for k in (2, 4, 6)])
    kl = (probs * (3 * probs).log()).sum()
    torch.testing.assert_close(matryoshka.loss(ranking, *PAIR), probs @ losses + 0.5 * kl)


def test_the_gradients_of_drawn_lengths_are_on_average_those_of_the_sum():
    exact, drawn = with_law(num_widths="exact"), with_law()
    x = PAIR[0].clone().requires_grad_()
    targets = (exact.law.order_logits, x)
    summed = torch.autograd.grad(exact.loss(ranking, x, PAIR[1]), targets)
    targets = (drawn.law.order_logits, x)
    samples = [torch.autograd.grad(drawn.loss(ranking, x, PAIR[1]), targets) for _ in range(400)]
    assert_mean_close(torch.stack([law for law, _ in samples]), summed[0])


def test_the_loss_of_several_drawn_lengths_is_their_average():
    matryoshka = with_law(num_widths=7, kl_scale=0.5)
    found = matryoshka.loss(lambda x: x.square().sum(-1).mean(), PAIR[0])
    torch.testing.assert_close(found, 1.0 + matryoshka.law.kl_divergence())  # cut or not


def test_whole_lengths_have_the_expected_loss_on_average():
    drawn = with_law(gradient="straight-through")
    with torch.enable_grad():
        losses = torch.stack([drawn.loss(ranking, *PAIR).detach() for _ in range(400)])
    assert_mean_close(losses, drawn.eval().loss(ranking, *PAIR).detach())
    assert len(losses.unique()) == 3


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_the_law_that_is_learned_is_the_prior_times_the_exponential_loss(scale):
    matryoshka = with_law(num_widths="exact", kl_scale=scale)
    mild = lambda *pair: 0.1 * ranking(*pair)  # noqa: E731 - within the bounds of the law
    optimizer = torch.optim.Adam(matryoshka.parameters(), 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        matryoshka.loss(mild, *PAIR).backward()
        optimizer.step()
    losses = 0.1 * torch.stack([ranking(*(at_length(x, k) for x in PAIR)) for k in (2, 4, 6)])
    expected = (-losses / scale).softmax(0)
    torch.testing.assert_close(matryoshka.lengths()[1].detach(), expected, rtol=1e-3, atol=1e-3)


class Encoder(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 6), calls

    def forward(self, features):
        self.calls.append(features["x"])
        return {"sentence_embedding": self.linear(features["x"]), "x": features["x"]}

    def get_embedding_dimension(self):
        return 6


class Ranking(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, sentence_features, labels):
        return ranking(*(self.model(f)["sentence_embedding"] for f in sentence_features))


def test_the_loss_of_sentence_transformers_runs_the_encoder_once_for_all_lengths():
    calls = []
    model = Encoder(calls)
    loss = bd.nn.VariationalMatryoshkaLoss(model, Ranking(model), num_groups=3, num_widths="exact")
    features = [{"x": torch.randn(5, 3)} for _ in range(2)]
    got = loss(iter(features), None)
    assert len(calls) == 2 and "forward" not in vars(model)
    plain = with_law(num_widths="exact")
    plain.load_state_dict(loss.state_dict(), strict=False)
    embeddings = [model.linear(f["x"]) for f in features]
    torch.testing.assert_close(got, plain.loss(ranking, *embeddings))
    got.backward()
    assert loss.law.order_logits.grad.any() and model.linear.weight.grad.any()
    names = dict(loss.named_parameters())
    assert "law.order_logits" in names and "model.linear.weight" in names
    assert loss.get_config_dict()["law_of_lengths"] == {2: 0.3333, 4: 0.3333, 6: 0.3333}


def test_an_error_inside_leaves_the_model_as_it_was():
    model = Encoder([])
    loss = bd.nn.VariationalMatryoshkaLoss(model, Ranking(model), num_groups=3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        loss([{"x": torch.randn(5, 2)}] * 2, None)
    assert "forward" not in vars(model)


def test_labels_that_are_embeddings_are_cut_as_well():
    class Distance(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, features, labels):
            found = self.model(features[0])["sentence_embedding"]
            assert (labels == 0).sum() == (found == 0).sum()
            return (found - labels).square().mean()

    model = Encoder([])
    loss = bd.nn.VariationalMatryoshkaLoss(model, Distance(model), num_widths="exact")
    assert loss([{"x": torch.randn(5, 3)}], torch.ones(5, 6)).isfinite()


def test_it_is_a_loss_of_sentence_transformers():
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import losses, modules

    words = modules.StaticEmbedding(_tokenizer(), embedding_dim=6)
    model = st.SentenceTransformer(modules=[words], device="cpu")
    inner = losses.MultipleNegativesRankingLoss(model)
    loss = bd.nn.VariationalMatryoshkaLoss(model, inner, num_groups=3, num_widths=2)
    features = [model.preprocess(["a b", "c d"]) for _ in range(2)]
    loss(features, None).backward()
    assert words.embedding.weight.grad.any() and loss.law.order_logits.grad is not None


def test_a_loss_that_caches_gradients_is_refused():
    class Caching(nn.Module):
        def calculate_loss(self, reps, with_backward):
            """What such losses of sentence-transformers have."""

    model = Encoder([])
    with pytest.raises(ConfigError, match="a Caching, which caches their gradients"):
        bd.nn.VariationalMatryoshkaLoss(model, Caching())


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "a": 1, "b": 2, "c": 3, "d": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "all"])
def test_a_wrong_number_of_lengths_is_refused(number):
    with pytest.raises(ConfigError, match="num_widths >= 1 or 'exact'"):
        bd.nn.VariationalMatryoshka(8, num_widths=number)


def test_wrong_uses_are_refused():
    with pytest.raises(ConfigError, match="one length for all embeddings"):
        bd.nn.VariationalMatryoshka(8, shared_by="example")
    with pytest.raises(ShapeError, match=r"embeddings of 8 features, got shape \(5, 6\)"):
        bd.nn.VariationalMatryoshka(8).loss(ranking, *PAIR)
    with pytest.raises(ConfigError, match="get_embedding_dimension"):
        bd.nn.VariationalMatryoshkaLoss(nn.Linear(2, 2), nn.Linear(2, 2))
