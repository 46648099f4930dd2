"""A network with several inputs does what one does that gets them side by side."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn
from torch.utils.data import DataLoader, Dataset

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.inference.batches import batches
from bayesdrop.inference.open_units import open_passes
from bayesdrop.inference.per_example import ClippedGradients
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.inputs import SeveralInputs, as_inputs

N = 24
A, B = torch.randn(N, 3), torch.randn(N, 2)
X, Y = torch.cat([A, B], 1), torch.arange(N) % 3
PAIR, NAMED = (A, B), {"a": A, "b": B}


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        self.dropout = bd.BetaBernoulliDropout(8)

    def forward(self, x):
        return self.second(self.dropout(self.first(x).relu()))


class Two(One):
    def forward(self, a, b):
        return super().forward(torch.cat([a, b], 1))


class Rows(Dataset):
    """Examples as Hugging Face's data sets have them."""

    def __len__(self):
        return N

    def __getitem__(self, row):
        return {"a": A[row], "b": B[row], "labels": int(Y[row])}


def programs():
    """Return the same network for one input and for two."""
    networks = [One().float(), Two().float()]
    networks[1].load_state_dict(networks[0].state_dict())
    return [bd.BayesianNetwork(network, bd.Categorical(), N) for network in networks]


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    for name in ("A", "B", "X"):
        monkeypatch.setitem(globals(), name, globals()[name].float())
    monkeypatch.setitem(globals(), "PAIR", (A, B))
    monkeypatch.setitem(globals(), "NAMED", {"a": A, "b": B})


def prune_some(bnn):
    """Prune, by its posterior, three of the mask's units."""
    bnn.network.dropout.set_posterior(torch.where(torch.arange(8) < 3, 1e-5, 0.9))


def both(function):
    """Return what a function makes of each program with its inputs, from the same seed."""
    found = []
    for bnn, x in zip(programs(), (X, PAIR), strict=True):
        torch.manual_seed(1)
        found.append(function(bnn, x))
    return found


def test_loss_is_the_same_by_position_and_by_name():
    one, two = programs()
    values = []
    for bnn, x in ((one, X), (two, PAIR), (two, list(PAIR)), (two, NAMED)):
        for num_masks in (1, 3, "exact"):
            torch.manual_seed(0)
            values.append(bnn.loss(x, Y, num_masks=num_masks).loss.item())
    assert values[3:] == values[:3] * 3


def test_calling_takes_what_the_network_takes():
    one, two = (bnn.eval() for bnn in programs())
    for output in (two(A, B), two(A, b=B), two(a=A, b=B), two(PAIR), two(NAMED)):
        assert torch.equal(output, one(X))


@pytest.mark.parametrize("vectorized", [False, True])
def test_svi_takes_the_same_steps(vectorized):
    def steps(bnn, x):
        elbo = TraceMeanField_ELBO(num_particles=2, vectorize_particles=vectorized)
        svi = SVI(bnn.model, bnn.guide, Adam({"lr": 1e-2}), elbo)
        return [svi.step(x, Y, num_masks=2) for _ in range(3)]

    first, second = both(steps)
    assert first == second


def test_predictive_draws_the_same():
    def draws(bnn, x):
        bnn.eval()
        predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=3, parallel=True)
        return predictive(x)["obs"]

    first, second = both(draws)
    assert torch.equal(first, second)


def test_fit_learns_the_same_from_tensors_and_compacts_on_the_way():
    def trained(bnn, x):
        prune_some(bnn)
        result = bd.fit(
            bnn, (x, Y), epochs=3, batch_size=7, seed=0, validation=0.25, compact_every=1,
            progress=False,
        )  # fmt: skip
        assert result.history[-1]["units"] == [5]
        return {**bnn.state_dict(), "num_data": torch.tensor(bnn.num_data)}

    first, second = both(trained)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fit_resumes_with_closed_units(tmp_path):
    def trained(epochs, folder):
        bnn = programs()[1]
        prune_some(bnn)
        bd.fit(
            bnn, (NAMED, Y), epochs=epochs, batch_size=7, seed=0, compact_every=1,
            schedule=lambda e, n: 1.0,
            progress=False, checkpoint_dir=folder,
        )  # fmt: skip
        return bnn.state_dict()

    torch.manual_seed(0)
    whole = trained(4, tmp_path / "whole")
    torch.manual_seed(0)
    trained(2, tmp_path / "parts")
    again = trained(4, tmp_path / "parts")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_loaders_of_dictionaries_train_and_evaluate():
    bnn = programs()[1]
    result = bd.fit(bnn, DataLoader(Rows(), 8), epochs=1, seed=0, progress=False)
    assert result.history[0]["nll"] > 0
    figures = [
        bd.evaluate(bnn, data, seed=0).nll
        for data in (DataLoader(Rows(), 8), Rows(), (PAIR, Y), {**NAMED, "labels": Y})
    ]
    assert figures == pytest.approx([figures[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("shared_by", ["batch", "example"])
def test_predict_is_the_same_in_batches_of_any_size(shared_by):
    def means(bnn, x):
        given = (x, None) if isinstance(x, tuple) else x
        options = {"num_samples": 4, "seed": 0, "shared_by": shared_by}
        return [bd.predict(bnn, given, batch_size=b, **options).mean for b in (None, 5)]

    first, second = both(means)
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])
    two = programs()[1]
    assert bd.predict(two, NAMED, num_samples=2).mean.shape == (N, 3)


def test_passes_along_the_graph_are_the_ordinary_ones(monkeypatch):
    monkeypatch.setattr("bayesdrop.inference.open_units._WORK_OF_PASS", 0)
    monkeypatch.setattr("bayesdrop.inference.open_units._WORK_OF_GRAPH", 0)
    bnn = programs()[1]
    with evaluation_mode(bnn.network), torch.no_grad():
        for given in (SeveralInputs(*PAIR), SeveralInputs(b=B, a=A)):
            passes = bnn.posterior_passes(2, shared_by="batch")
            found = open_passes(bnn.network, passes, given, N)
            assert [type(run).__name__ for run in found] == ["_OpenPass"] * 2
            for quick, ordinary in zip(found, passes, strict=True):
                torch.testing.assert_close(quick(given), ordinary(given))


def test_gradients_of_single_examples_are_the_same():
    first, second = both(lambda bnn, x: ClippedGradients(bnn, 0.5)(as_inputs("test", x), Y))
    torch.testing.assert_close(second.norms, first.norms)
    for name, gradient in first.gradients.items():
        torch.testing.assert_close(second.gradients[name], gradient)


def test_compact_and_its_measures_take_examples_of_all_inputs():
    one, two = programs()
    for bnn in (one, two):
        prune_some(bnn)
        bnn.eval()
    for example in (PAIR, NAMED):
        small = bd.compact(two, example)
        torch.testing.assert_close(small(A, B), one(X))
        assert bd.compression.count_flops(small, example) == bd.compression.count_flops(
            bd.compact(one, X), X
        )
    sizes = [
        bd.compression.measure_size(bnn, example_input=x, num_samples=2, seed=0).flops
        for bnn, x in ((one, X), (two, NAMED))
    ]
    assert all(torch.equal(sizes[0][name], sizes[1][name]) for name in sizes[0])
    costs = [bd.compression.measure_per_input(bnn, x).flops for bnn, x in ((one, X), (two, NAMED))]
    assert costs[0] == costs[1]
    two(*PAIR)
    with pytest.raises(ConfigError, match="an example of all inputs"):
        bd.compact(two)


def test_an_elbo_is_checked_with_several_inputs():
    _, two = programs()
    options = {"num_samples": 100, "num_repeats": 10}
    assert bd.diagnostics.check_elbo(two.double(), (A.double(), B.double()), Y, **options).rows


def test_inference_data_have_each_input_by_name():
    pytest.importorskip("arviz")
    _, two = programs()
    found = bd.to_inference_data(two, NAMED, Y, num_samples=2)
    assert found.constant_data["a"].shape == (N, 3)
    assert found.log_likelihood["obs"].shape == (1, 2, N)


def test_saved_networks_predict_the_same(tmp_path):
    bnn = programs()[1].eval()
    bnn.loss(NAMED, Y)
    bd.save(bnn, tmp_path / "bnn.pt")
    again = bd.load(programs()[1], tmp_path / "bnn.pt").eval()
    assert torch.equal(again(*PAIR), bnn(*PAIR))


def test_losses_of_words_with_a_mask_leave_padding_out():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, input_ids, attention_mask=None):
            mask = attention_mask.unsqueeze(-1)
            return self.head((self.words(input_ids) * mask).sum(1) / mask.sum(1))

    bnn = bd.BayesianNetwork(
        bd.convert(Bag().float(), exclude=["words"]), bd.Categorical(), 4
    ).eval()
    ids, mask = torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    padded = bnn(input_ids=ids, attention_mask=mask)
    single = bnn(input_ids=ids[1:, :1], attention_mask=mask[1:, :1])
    torch.testing.assert_close(padded[1:], single)
    with pytest.raises(DataError, match="integers in 0..8, for Embedding 'words'.*from 1 to 9"):
        bd.predict(
            bnn, {"input_ids": ids[:1, :2] + torch.tensor([0, 7]), "attention_mask": mask[:1, :2]}
        )


REFUSED = {
    "numbers of examples": (((A, B[:5]), Y), DataError, "input 0 with 24, input 1 with 5"),
    "what all share": (({"a": A, "b": torch.tensor(1.0)}, Y), DataError, "'b'.*a single number"),
    "a list": (((A, [1.0] * N), Y), DataError, "got 2 items"),
    "targets": (((A, B), Y[:5]), DataError, "24 inputs and 5 targets"),
    "a name": (({"a": A, "c": B}, Y), ConfigError, r"forward\(a, b\).*'b'"),
    "too many": (((A, B, B), Y), ConfigError, "too many positional"),
    "not finite": (((A, B / 0), Y), DataError, "input row 0"),
    "dtype": (((A, B.double()), Y), DataError, "input 0 of torch.float64"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    data, error, message = REFUSED[case]
    if case == "dtype":  # torch.cat would make float64 of both
        data = ((A.double(), B.double()), Y)
    with pytest.raises(error, match=message):
        bd.predict(programs()[1], data, num_samples=2)


def test_inputs_alone_are_refused_by_training():
    with pytest.raises(DataError, match="inputs only.*'labels'"):
        bd.fit(programs()[1], NAMED, epochs=1, progress=False)


def test_an_auto_encoder_takes_one_tensor():
    vae = bd.networks.vae(N, input_shape=3, latent_size=2).float()
    for call in (vae.loss, vae, vae.model):
        with pytest.raises(ConfigError, match="expected one tensor"):
            call(PAIR)


def test_several_inputs_are_sliced_moved_and_shuffled_together():
    rows = torch.arange(10)
    data = ((rows, rows * 2.0), rows * 3)
    for x, y in batches(data, 3, shuffle=True, device="cpu", join_single=True):
        assert torch.equal(x.args[1], x.args[0] * 2.0)
        assert torch.equal(y, x.args[0] * 3)
        assert len(x) == len(y) > 1


def test_an_argument_by_keyword_alone_is_predicted_with_and_refused_by_what_traces():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask, self.layer = bd.BetaBernoulliDropout(3), nn.Linear(3, 2)

        def forward(self, x, *, z):
            return self.layer(self.mask(x) + z)

    bnn = bd.BayesianNetwork(Alone(), bd.Categorical(), num_data=4)
    inputs = {"x": torch.randn(4, 3), "z": torch.randn(4, 3)}
    assert bd.predict(bnn, inputs, num_samples=2).mean.shape == (4, 2)
    for run in (bd.compact, bd.compression.count_flops):
        with pytest.raises(ConfigError, match="none by keyword only, got x, z. Wrap"):
            run(bnn.network.eval(), inputs)
