"""Clipped gradients of single examples are those that a loop over the examples gives."""

import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import BayesdropWarning, ConfigError
from bayesdrop.inference.per_example import ClippedGradients, find_taps
from bayesdrop.nn.recurrent import DropoutEmbedding, DropoutLSTM
from bayesdrop.ops import noise

N = 4
# Running statistics are not moved by the gradients of single examples, but by a loop of passes.
_OPTIONS = {"dependent-beta-bernoulli": {"momentum": 1e-300}}


@pytest.fixture
def same_noise(monkeypatch):
    """Noise that is the same for all examples: vmap would draw random numbers for each."""

    def uniform(shape, like):
        size = math.prod(shape)
        values = (torch.arange(size) * 0.6180339887 + 0.3) % 1.0
        return values.clamp(1e-6, 1 - 1e-6).to(like).reshape(tuple(shape))

    monkeypatch.setattr(noise, "uniform", uniform)
    monkeypatch.setattr(
        noise,
        "uniforms",
        lambda shapes, like: torch.cat([uniform(s, like).flatten() for s in shapes]),
    )
    monkeypatch.setattr(
        noise, "normal", lambda shape, like: torch.special.ndtri(uniform(shape, like))
    )


def network_with(key):
    cls = bd.nn.layers[key]
    options = _OPTIONS.get(key, {})
    if issubclass(cls, bd.BayesianDropout):
        layers = [cls(6, **options), nn.Linear(6, 5), nn.Tanh(), cls(5, **options)]
    else:
        layers = [cls(nn.Linear(6, 5)), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(5, 3)), (torch.randn(N, 6), torch.arange(N) % 3)


def looped(bnn, x, y, clip_norm, num_masks=1):
    """Return the clipped sum by plain backward passes, one an example."""
    parameters = {name: p for name, p in bnn.named_parameters() if p.requires_grad}
    total, norms = {name: torch.zeros_like(p) for name, p in parameters.items()}, []
    for n in range(len(x)):
        term = bnn.data_term(x[n : n + 1], y[n : n + 1], num_masks=num_masks)
        found = torch.autograd.grad(term, list(parameters.values()), allow_unused=True)
        norm = math.sqrt(sum(float(g.square().sum()) for g in found if g is not None))
        norms.append(norm)
        for name, gradient in zip(total, found, strict=True):
            if gradient is not None:
                total[name] += gradient * min(1.0, clip_norm / norm)
    return total, torch.tensor(norms)


def assert_as_looped(bnn, x, y, num_masks=1):
    bnn(x)
    _, norms = looped(bnn, x, y, math.inf, num_masks)
    for clip_norm in (math.inf, float(norms.sort().values[len(x) // 2]) * 0.999):
        clipped = ClippedGradients(bnn, clip_norm, num_masks)
        found = clipped(x, y)
        expected, _ = looped(bnn, x, y, clip_norm, num_masks)
        assert not clipped.one_by_one
        torch.testing.assert_close(found.norms, norms)
        torch.testing.assert_close(found.gradients, expected)


def program(network, likelihood=None):
    return bd.BayesianNetwork(network, likelihood or bd.Categorical(), 20)


@pytest.mark.parametrize(
    "key", [key for key, cls in bd.nn.layers.items() if cls.__module__.startswith("bayesdrop.")]
)
def test_every_registered_layer_has_the_gradients_of_a_loop(key, same_noise):
    network, (x, y) = network_with(key)
    assert_as_looped(program(network), x, y)


class Sequences(nn.Module):
    # A Linear layer that is called twice, on several positions, and one whose weight is tied.
    def __init__(self):
        super().__init__()
        self.twice, self.tied, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.mask = bd.BetaBernoulliDropout(4)

    def forward(self, x):
        x = torch.tanh(self.twice(torch.tanh(self.twice(self.mask(x)))))
        x = nn.functional.linear(self.tied(x), self.tied.weight.T)
        return self.out(x.mean(1))


@pytest.mark.parametrize("num_masks", [1, 3])
def test_layers_called_twice_and_tied_weights_have_the_gradients_of_a_loop(num_masks, same_noise):
    bnn, x, y = program(Sequences()), torch.randn(N, 5, 4), torch.arange(N) % 3
    assert_as_looped(bnn, x, y, num_masks)
    taps = find_taps(bnn, ClippedGradients(bnn, 1.0)._data_term, x[:1], y[:1])
    assert {path: len(shapes) for path, shapes in taps.items()} == {
        "network.twice": 2,
        "network.out": 1,
    }


def test_convolutions_and_frozen_parts_have_the_gradients_of_a_loop(same_noise):
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.GroupNorm(1, 2),
        bd.BetaBernoulliDropout(2, unit_dim=-3),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.ReLU(),
        nn.Linear(4, 3),
    )
    network[4].weight.requires_grad_(False)
    network[6].bias.requires_grad_(False)
    assert_as_looped(program(network), torch.randn(N, 1, 4, 4), torch.arange(N) % 3)


def test_layers_called_by_keyword_have_the_gradients_of_a_loop(same_noise):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mask = nn.Linear(6, 5), bd.BetaBernoulliDropout(5)
            self.last = nn.Linear(5, 3)

        def forward(self, x):
            return self.last(input=self.mask(input=self.first(input=x).tanh()))

    assert_as_looped(program(Named()), torch.randn(N, 6), torch.arange(N) % 3)


def test_a_recurrent_layer_has_the_gradients_of_a_loop(same_noise):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = DropoutLSTM(
                2, 3, batch_first=True, input_dropout="beta-bernoulli", state_dropout="mc-dropout"
            )
            self.out = nn.Linear(3, 3)

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    assert_as_looped(program(Reader()), torch.randn(N, 4, 2), torch.arange(N) % 3)


def test_a_transformer_with_adapted_layers_has_the_gradients_of_a_loop(same_noise):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = DropoutEmbedding(7, 4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            bd.nn.MultiheadAttention.of(self.attention)
            self.adapted = bd.nn.LoRALinear(nn.Linear(4, 4), 2)
            nn.init.normal_(self.adapted.lora_B.linear.weight)
            self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, words):
            x = self.words(words)
            x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
            return self.out(torch.tanh(self.adapted(x)).mean(1))

    assert_as_looped(program(Encoder()), torch.randint(7, (N, 5)), torch.arange(N) % 3)


def test_an_auto_encoder_has_the_gradients_of_a_loop(same_noise):
    vae = bd.VariationalAutoencoder(
        nn.Linear(4, 6), nn.Linear(3, 4), bd.Bernoulli(), 20, latent_size=3
    )
    x = torch.rand(N, 4).round()
    found = ClippedGradients(vae, math.inf)(x, x).gradients
    loss = vae.loss(x[:1], x[:1]).loss
    single = ClippedGradients(vae, math.inf)(x[:1], x[:1]).gradients
    whole = torch.autograd.grad(
        loss - vae.shared_divergence(), list(vae.parameters()), allow_unused=True
    )
    for (name, gradient), expected in zip(single.items(), whole, strict=True):
        if expected is not None:
            torch.testing.assert_close(gradient * 20, expected, msg=name)
    assert all(bool(g.isfinite().all()) for g in found.values())


def test_many_examples_are_taken_in_parts(same_noise, monkeypatch):
    network, (x, y) = network_with("beta-bernoulli")
    bnn = program(network)
    whole = ClippedGradients(bnn, 0.5)(x, y)
    monkeypatch.setattr("bayesdrop.inference.per_example._MOST_NUMBERS", 1)
    parts = ClippedGradients(bnn, 0.5)(x, y)
    torch.testing.assert_close(parts.gradients, whole.gradients)
    torch.testing.assert_close(parts.norms, whole.norms)


def test_each_example_has_its_own_noise():
    network, (x, y) = network_with("beta-bernoulli")
    norms = ClippedGradients(program(network), 1.0)(x[:1].expand(N, -1), y[:1].expand(N)).norms
    assert len(set(norms.tolist())) == N


def test_an_empty_batch_has_no_gradient():
    network, (x, y) = network_with("beta-bernoulli")
    found = ClippedGradients(program(network), 1.0)(x[:0], y[:0])
    assert all(not gradient.any() for gradient in found.gradients.values())


class Branching(nn.Module):
    # Asks for a value, which torch.func.vmap refuses.
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x):
        return self.parts(x if bool(x.sum() > 0) else -x)


def test_what_cannot_be_batched_is_looped_over_and_said(same_noise):
    bnn = program(Branching(bd.BetaBernoulliDropout(6), nn.Linear(6, 3)))
    x, y = torch.randn(N, 6), torch.arange(N) % 3
    clipped = ClippedGradients(bnn, 0.5)
    with pytest.warns(BayesdropWarning, match="one after the other"):
        found = clipped(x, y)
    expected, norms = looped(bnn, x, y, 0.5)
    torch.testing.assert_close(found.gradients, expected)
    torch.testing.assert_close(found.norms, norms)
    clipped(x, y)  # says it once


def test_statistics_of_the_data_are_refused_in_a_loop():
    bnn = program(Branching(bd.DependentBetaBernoulliDropout(6), nn.Linear(6, 3)))
    with pytest.warns(BayesdropWarning), pytest.raises(ConfigError, match="running_mean"):
        ClippedGradients(bnn, 1.0)(torch.randn(N, 6), torch.arange(N) % 3)
    assert not bnn.network.parts[0].running_mean.any()


def test_running_statistics_of_masks_stay_as_they_are():
    bnn = program(nn.Sequential(bd.DependentBetaBernoulliDropout(6), nn.Linear(6, 3)))
    ClippedGradients(bnn, 1.0)(torch.randn(N, 6), torch.arange(N) % 3)
    assert not bnn.network[0].running_mean.any()
