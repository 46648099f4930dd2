import importlib
import itertools
import math
import sys
import types
import warnings

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesdrop as bd
from bayesdrop.diagnostics import arviz_bridge
from bayesdrop.diagnostics.arviz_bridge import import_arviz, pareto_smooth
from bayesdrop.errors import ConfigError, DataError, FewMasksWarning, TruncationWarning
from bayesdrop.testing import assert_mean_close, assert_means_equal, isolated

pytest.importorskip("arviz")
pytest.importorskip("matplotlib").use("Agg")
import_arviz()
import arviz as az  # noqa: E402

KEYS = [
    key
    for key, cls in bd.nn.registered(bd.BayesianDropout).items()
    if not issubclass(cls, bd.nn.ExampleRatesDropout)  # which have nothing global
]
ROWS = 40
VERSION_1 = int(az.__version__.split(".")[0]) >= 1


def groups(idata):
    return set(idata.children if VERSION_1 else idata.groups())


def dataset(idata, group):
    return idata[group].to_dataset() if VERSION_1 else idata[group]


def elpd_of(idata):
    result = az.loo(idata)
    return float(result.elpd if VERSION_1 else result.elpd_loo)


def network(key="beta-bernoulli", outputs=3, **options):
    net = nn.Sequential()
    net.add_module("input_dropout", bd.nn.make(key, 4, **options))
    net.add_module("fc1", nn.Linear(4, 5))
    net.add_module("act", nn.Tanh())
    net.add_module("fc1_dropout", bd.nn.make(key, 5, **options))
    net.add_module("fc2", nn.Linear(5, outputs))
    return net


def bayesian(key="beta-bernoulli", likelihood=None, outputs=3, **options):
    likelihood = likelihood or bd.Categorical()
    return bd.BayesianNetwork(network(key, outputs, **options), likelihood, num_data=ROWS)


def data(rows=ROWS):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


class NormalDropout(bd.BayesianDropout):
    """Latents of three shapes, an improper prior on one of them."""

    key, reference = "normal", ""

    def prior(self):
        return {"w": dist.Normal(0.0, 1.0).expand([self.num_units]).to_event(1), **self.others()}

    def posterior(self):
        return self.prior()

    def others(self):
        return {"scale": dist.LogNormal(torch.zeros(()), 1.0)}

    def mask_distribution(self, latents, x=None):
        return dist.Delta(latents["w"].sigmoid()).to_event(1)

    def keep_prob(self):
        return torch.full((self.num_units,), 0.5)

    def mean_mask(self, x=None):
        return self.keep_prob()


class FixedDropout(NormalDropout):
    """A fixed drop rate: masks without latents."""

    def prior(self):
        return {}

    def mask_distribution(self, latents, x=None):
        return dist.Bernoulli(self.keep_prob()).to_event(1)


def wrap(layer):
    net = nn.Sequential(layer, nn.Linear(4, 3))
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=ROWS)


# -- contents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_every_dropout_gives_every_group(key):
    bnn = bayesian(key)
    idata = bd.to_inference_data(bnn, *data(), num_samples=6)
    improper = key == "normal-jeffreys"  # a prior without draws
    assert groups(idata) >= {
        "posterior",
        *(() if improper else ("prior",)),
        "posterior_predictive",
        "log_likelihood",
        "observed_data",
        "constant_data",
        "sample_stats",
    }
    for path, layer in bnn.named_owners():
        for name, q in layer.posterior().items():
            for group in (idata.posterior,) if improper else (idata.posterior, idata.prior):
                assert group[f"{path}.{name}"].shape == (1, 6, *q.event_shape)
    for path, layer in bnn.named_dropout_layers():
        assert idata.constant_data[f"{path}.keep_prob"].dims == (f"{path}.unit",)
        # Given the latents, the mean of noise or of a rescaled mask is no probability.
        is_rate = layer.mask_kind == "gate" or not layer.posterior()
        expected = is_rate and not layer.input_dependent
        assert (f"{path}.keep_prob" in idata.posterior) == expected
    assert idata.log_likelihood["obs"].shape == (1, 6, ROWS)
    assert idata.posterior_predictive["obs"].shape == (1, 6, ROWS)
    assert idata.posterior_predictive["obs"].values.max() <= 2
    assert np.array_equal(idata.observed_data["obs"], data()[1])
    assert np.array_equal(idata.constant_data["x"], data()[0])


def test_dimensions_are_named_by_layer_and_unit():
    idata = bd.to_inference_data(bayesian(), *data(), num_samples=3)
    assert idata.posterior["fc1_dropout.pi"].dims == ("chain", "draw", "fc1_dropout.unit")
    assert idata.posterior["fc1_dropout.unit"].values.tolist() == [0, 1, 2, 3, 4]
    assert idata.log_likelihood["obs"].dims == ("chain", "draw", "example")
    one = idata.posterior.sel({"fc1_dropout.unit": 2, "input_dropout.unit": 0})
    assert one["fc1_dropout.pi"].shape == (1, 3)


@pytest.fixture(scope="module")
def many_draws():
    """A network of one layer, and 3000 draws."""
    options = {"prior_concentration1": 0.5, "init_concentration1": 3.0, "kl_scale": 7.0}
    with isolated():
        bnn = wrap(bd.BetaBernoulliDropout(4, **options))
        return bnn, bd.to_inference_data(bnn, data(2)[0], num_samples=3000)


@pytest.mark.parametrize("group", ["posterior", "prior"])
def test_draws_follow_the_guide_and_the_prior(many_draws, group):
    bnn, idata = many_draws
    (_, layer), *_ = bnn.named_dropout_layers()
    drawn = torch.tensor(idata[group]["0.keep_prob"].values[0])
    exact = layer.keep_prob() if group == "posterior" else layer.prior()["pi"].mean
    assert_mean_close(drawn, exact)


def test_mean_log_ratio_is_minus_the_kl_divergence(many_draws):
    bnn, idata = many_draws
    stats = idata.sample_stats
    ratio = torch.tensor(stats["log_ratio"].values[0])
    assert_mean_close(ratio, -bd.kl_divergence(bnn) / 7.0)
    difference = stats["log_prior"] - stats["log_guide"]
    np.testing.assert_allclose(difference, stats["log_ratio"])


def test_log_likelihood_averages_to_the_predictive_one():
    bnn, (x, y) = bayesian(), data(5)
    idata = bd.to_inference_data(bnn, x, y, num_samples=200)
    likelihood = torch.tensor(idata.log_likelihood["obs"].values[0]).exp()
    samples = bd.predict(bnn, x, num_samples=400, seed=3).samples[:, range(5), y]
    assert_means_equal(likelihood, samples)
    # ... of which the simulated labels are draws, too.
    labels = torch.tensor(idata.posterior_predictive["obs"].values[0])
    assert_means_equal((labels == y).double(), samples)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y", "dims"),
    [
        (lambda: bd.Gaussian(0.5), 1, torch.zeros(6), ("example",)),
        (lambda: bd.Gaussian(0.5), 1, torch.zeros(6, 1), ("example",)),
        (lambda: bd.Bernoulli(), 1, torch.ones(6), ("example",)),
        (lambda: bd.Bernoulli(), 2, torch.ones(6, 2), ("example", "output")),
        (lambda: bd.Gaussian("heteroscedastic"), 4, torch.zeros(6, 2), ("example", "output")),
    ],
)
def test_several_outputs_have_a_dimension_and_one_has_none(likelihood, outputs, y, dims):
    bnn = bayesian(likelihood=likelihood(), outputs=outputs)
    idata = bd.to_inference_data(bnn, data(6)[0], y, num_samples=3)
    assert idata.posterior_predictive["obs"].dims == ("chain", "draw", *dims)
    assert idata.observed_data["obs"].dims == dims
    assert idata.log_likelihood["obs"].dims == ("chain", "draw", "example")


def test_images_and_feature_maps_keep_their_dimensions():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), bd.BetaBernoulliDropout(2, unit_dim=-3), nn.Flatten(), nn.Linear(8, 3)
    )
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=5)
    idata = bd.to_inference_data(bnn, torch.randn(5, 1, 4, 4), torch.zeros(5).long())
    assert idata.constant_data["x"].dims == ("example", "x_0", "x_1", "x_2")
    assert idata.posterior["1.pi"].shape == (1, 64, 2)


def test_targets_and_inputs_may_be_left_out():
    x, y = data()
    idata = bd.to_inference_data(bayesian(), x, num_samples=3, keep_inputs=False)
    assert not {"log_likelihood", "observed_data"} & groups(idata)
    assert "x" not in idata.constant_data
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    both = bd.to_inference_data(bayesian(), loader, num_samples=3)
    assert both.log_likelihood["obs"].shape == (1, 3, ROWS)


def test_latents_of_any_shape_and_masks_without_latents_are_taken():
    idata = bd.to_inference_data(wrap(NormalDropout(4)), *data(), num_samples=5)
    assert idata.posterior["0.scale"].dims == ("chain", "draw")
    np.testing.assert_allclose(
        idata.posterior["0.keep_prob"], 1 / (1 + np.exp(-idata.posterior["0.w"]))
    )
    fixed = bd.to_inference_data(wrap(FixedDropout(4)), *data(), num_samples=5)
    assert list(fixed.posterior.data_vars) == ["0.keep_prob"] and "prior" in groups(fixed)
    assert (fixed.posterior["0.keep_prob"] == 0.5).all()
    assert fixed.log_likelihood["obs"].values.std(1).max() > 0.0  # the masks still differ
    assert (fixed.sample_stats["log_ratio"] == 0).all()


def test_an_improper_prior_is_left_out():
    class Improper(dist.TorchDistribution):
        arg_constraints = {}
        support = dist.constraints.real

    class ImproperDropout(NormalDropout):
        def prior(self):
            return {"w": Improper(torch.Size((4,))).to_event(1), **self.others()}

        def posterior(self):
            return NormalDropout.prior(self)

    idata = bd.to_inference_data(wrap(ImproperDropout(4)), *data(), num_samples=5)
    assert not {"prior", "sample_stats"} & groups(idata)
    assert idata.posterior["0.w"].shape == (1, 5, 4)


def test_a_seed_reproduces_the_draws_and_nothing_else_changes():
    bnn = bayesian().train()
    bnn.network.fc1.eval()
    state = torch.get_rng_state()
    a, b = (bd.to_inference_data(bnn, *data(), num_samples=4, seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert bnn.training and not bnn.network.fc1.training
    for group in groups(a):
        assert dataset(a, group).equals(dataset(b, group))


# -- ArviZ ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """Two dropout methods fitted to the same data, as InferenceData."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x, y = data(200)
            x, results = x.float(), {}
            for key, options in {
                "beta-bernoulli": {"prior_concentration1": 1.0},
                "indian-buffet": {"concentration": 10.0},
            }.items():
                net = network(key, **options)
                bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=200)
                rates = {"learning_rate": 1e-2, "variational_learning_rate": 5e-2}
                with warnings.catch_warnings():  # five units want all their sticks
                    warnings.simplefilter("ignore", TruncationWarning)
                    bd.fit(bnn, (x, y), epochs=30, batch_size=50, progress=False, **rates)
                results[key] = bd.to_inference_data(
                    bnn, x, y, num_samples=150, num_masks=32, seed=0
                )
            return results
    finally:
        torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def test_summary_has_a_row_for_each_unit(fitted):
    table = az.summary(fitted["beta-bernoulli"], var_names=["fc1_dropout.pi"], kind="stats")
    assert list(table.index) == [f"fc1_dropout.pi[{unit}]" for unit in range(5)]
    assert ((table["mean"] > 0) & (table["mean"] < 1)).all()


def test_plot_forest_compares_methods(fitted):
    names = ["fc1_dropout.keep_prob"]
    if VERSION_1:
        figure = az.plot_forest(fitted, var_names=names, backend="matplotlib")
        assert set(figure.viz["trunk"][names[0]]["model"].values) == set(fitted)
        return
    axes = az.plot_forest(list(fitted.values()), model_names=list(fitted), var_names=names)
    assert len(axes[0].get_yticklabels()) >= 5


def test_plot_ppc_draws_the_observed_labels(fitted):
    if VERSION_1:
        with warnings.catch_warnings():  # it takes more bins than draws for a mistake
            warnings.simplefilter("ignore")
            figure = az.plot_ppc_rootogram(fitted["beta-bernoulli"], backend="matplotlib")
        assert "obs" in figure.viz["observed_markers"]
        return
    axes = az.plot_ppc(fitted["beta-bernoulli"], num_pp_samples=20, random_seed=0)
    assert axes.get_xlabel() == "obs"


def test_loo_has_few_large_pareto_k_once_masks_are_averaged(fitted):
    result = az.loo(fitted["beta-bernoulli"], pointwise=True)
    assert result.n_data_points == 200 and elpd_of(fitted["beta-bernoulli"]) < 0
    assert float((result.pareto_k > 0.7).mean()) == 0.0


# ArviZ 0.23 sorts its table in place, which pandas 3.1 deprecates.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_compare_ranks_two_methods(fitted):
    table = az.compare(fitted)
    assert set(table.index) == set(fitted)
    elpd = {name: elpd_of(idata) for name, idata in fitted.items()}
    assert table.index[0] == max(elpd, key=elpd.get)


def test_netcdf_round_trip(fitted, tmp_path):
    idata = fitted["beta-bernoulli"]
    idata.to_netcdf(str(tmp_path / "idata.nc"))
    again = az.from_netcdf(str(tmp_path / "idata.nc"))
    assert groups(again) == groups(idata)
    for group in groups(idata):
        ours, theirs = dataset(idata, group), dataset(again, group)
        assert theirs.equals(ours)
        assert "obs" not in ours or theirs["obs"].dtype == ours["obs"].dtype


def test_one_mask_makes_loo_too_low():
    # Fixed drop rate: given no latents, leaving an example out changes nothing, and loo should be
    # the log of the marginal likelihood.
    bnn, (x, y) = wrap(FixedDropout(4)), data(20)
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    with torch.no_grad():
        terms = [bnn.network[1](x * mask).log_softmax(1)[range(20), y] for mask in masks]
    exact = (torch.stack(terms).logsumexp(0) - math.log(16)).sum()
    elpd = {}
    for num_masks in (1, 64):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Estimated shape parameter")  # that is the point
            warnings.simplefilter("ignore", FewMasksWarning)
            idata = bd.to_inference_data(bnn, x, y, num_samples=300, num_masks=num_masks, seed=0)
            elpd[num_masks] = elpd_of(idata)
    assert elpd[1] < elpd[64] < float(exact) + 0.05
    assert float(exact) - elpd[64] < 0.1 * (float(exact) - elpd[1])


@pytest.mark.parametrize("shape", [(30,), (30, 1)])
def test_loo_pit_of_a_regression_with_one_output(shape):
    bnn = bayesian(likelihood=bd.Gaussian(0.5), outputs=1)
    y = torch.randn(30).reshape(shape)
    idata = bd.to_inference_data(bnn, data(30)[0], y, num_samples=100, seed=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter")
        if VERSION_1:
            values = az.loo_pit(idata)["obs"].values
            az.plot_loo_pit(idata, backend="matplotlib")
        else:
            values = np.asarray(az.loo_pit(idata, y="obs"))
            az.plot_loo_pit(idata, y="obs")
    assert values.shape == (30,) and values.min() >= 0.0 and values.max() <= 1.0 + 1e-9


# -- masks ---------------------------------------------------------------------------------------


def one_unit(keep=0.7):
    """Weight 2 on one unit, noise 1: a mixture of N(2, 1) and N(0, 1)."""
    net = nn.Sequential(bd.BetaBernoulliDropout(1), nn.Linear(1, 1, bias=False))
    nn.init.constant_(net[1].weight, 2.0)
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=50)
    return bnn, (torch.ones(50, 1), torch.randn(50) + 2 * (torch.rand(50) < keep).double())


@pytest.mark.parametrize("num_masks", [None, "exact"])
def test_few_masks_are_summed_over_exactly(num_masks):
    bnn, (x, y) = one_unit()
    idata = bd.to_inference_data(bnn, x, y, num_samples=400, num_masks=num_masks)
    assert idata.attrs["num_masks"] == "exact"
    pi = torch.tensor(idata.posterior["0.pi"].values[0])
    kept, dropped = (dist.Normal(mean, 1.0).log_prob(y).exp() for mean in (2.0, 0.0))
    exact = (pi * kept + (1 - pi) * dropped).log()
    torch.testing.assert_close(torch.tensor(idata.log_likelihood["obs"].values[0]), exact)
    # What is simulated has a random mask each, of its probability.
    simulated = torch.tensor(idata.posterior_predictive["obs"].values[0])
    assert_means_equal(simulated, (2 * pi).expand(400, 50) + torch.zeros(400, 50))
    assert 1.0 < float(simulated.var(0).mean()) < 2.5


def test_many_masks_are_sampled_and_certain_ones_run_once():
    def num_masks(bnn):
        return bd.to_inference_data(bnn, *data(6), num_samples=2).attrs["num_masks"]

    assert num_masks(bayesian()) == 32
    assert num_masks(wrap(bd.BetaBernoulliDropout(4))) == "exact"
    assert num_masks(wrap(bd.VariationalNestedDropout(4, shared_by="batch"))) == 1
    assert num_masks(wrap(NormalDropout(4))) == 1
    assert num_masks(wrap(bd.HardConcreteDropout(4))) == 32


def test_one_random_mask_in_a_likelihood_warns():
    with pytest.warns(FewMasksWarning, match="got num_masks=1. Leave-one-out .* too low"):
        bd.to_inference_data(bayesian(), *data(), num_samples=2, num_masks=1)
    bd.to_inference_data(bayesian(), data()[0], num_samples=2, num_masks=1)
    certain = wrap(bd.VariationalNestedDropout(4, shared_by="batch"))
    bd.to_inference_data(certain, *data(), num_samples=2, num_masks=1)


@pytest.mark.parametrize(
    ("key", "shared_by"),
    [("nested", "batch"), ("variational-nested", "batch"), ("variational-nested", "example")],
)
def test_the_law_of_the_widths_is_there(key, shared_by):
    options = {"num_groups": 4, "always_kept": 1}
    if key == "variational-nested":
        options |= {"shared_by": shared_by, "init_continue_prob": 0.6, "prior_continue_prob": 0.9}
    layer = bd.nn.make(key, 8, **options)
    net = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=ROWS)
    is_drawn = key == "variational-nested" and shared_by == "batch"
    idata = bd.to_inference_data(bnn, *data(), num_samples=500 if is_drawn else 2)
    law = idata.constant_data["1.width_prob"]
    assert law.dims == ("1.width",) and law["1.width"].values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(law, layer.order_posterior().tail_probs.detach())
    np.testing.assert_allclose(
        idata.constant_data["1.prior_width_prob"], layer.order_prior().tail_probs
    )
    assert ("1.order" in idata.posterior) == is_drawn
    if is_drawn:
        assert idata.posterior["1.group"].values.tolist() == [1, 2, 3]
        widths = torch.tensor(1 + idata.posterior["1.order"].values[0].sum(-1))
        each = torch.stack([widths == width for width in range(1, 5)], 1).double()
        assert_mean_close(each, torch.tensor(law.values))


# -- versions ------------------------------------------------------------------------------------


only_version_0 = pytest.mark.skipif(VERSION_1, reason="version 1 itself is installed")


class FakeArviz(types.ModuleType):
    """ArviZ 1.x's from_dict: nested groups, keyword-only options, attributes by group."""

    __version__ = "1.2.0"

    @staticmethod
    def from_dict(
        data,
        *,
        name=None,
        sample_dims=None,
        save_warmup=None,
        index_origin=None,
        coords=None,
        dims=None,
        pred_dims=None,
        pred_coords=None,
        check_conventions=True,
        attrs=None,
    ):
        import xarray as xr

        tree = {}
        for group, variables in data.items():
            leading = [] if "data" in group else ["chain", "draw"]
            dataset = {}
            for variable, value in variables.items():
                names = [*leading, *dims.get(variable, [])]
                names = names[: value.ndim] if "log_likelihood" in group else names
                assert len(names) == value.ndim
                dataset[variable] = (names, value)
            present = {n for names, _ in dataset.values() for n in names}
            sizes = {n: v.shape[names.index(n)] for names, v in dataset.values() for n in names}
            known = {n: coords.get(n, np.arange(sizes[n])) for n in present}
            tree[group] = xr.Dataset(dataset, known)
        result = xr.DataTree.from_dict(tree)
        result.attrs = (attrs or {}).get("/", {})
        return result


@only_version_0
def test_version_1_gets_nested_groups_and_returns_a_data_tree(monkeypatch):
    import xarray as xr

    bnn = bayesian()
    old = bd.to_inference_data(bnn, *data(), num_samples=4, seed=0)
    monkeypatch.setattr(arviz_bridge, "import_arviz", lambda: FakeArviz("arviz"))
    tree = bd.to_inference_data(bnn, *data(), num_samples=4, seed=0)
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == set(old.groups())
    for group in old.groups():
        assert tree[group].to_dataset().equals(old[group])
    assert tree.attrs == {"num_masks": 32, "num_data": ROWS}
    assert {name: old.attrs[name] for name in tree.attrs} == tree.attrs


@only_version_0
def test_version_1_smooths_log_likelihoods_and_negates_them(monkeypatch):
    ratios = torch.distributions.Exponential(2.0).sample((1000,)).numpy()
    expected = pareto_smooth(ratios)

    class Stats:
        @staticmethod
        def psislw(log_likelihood, r_eff=1, axis=-1):
            assert axis == -1
            return az.psislw(-log_likelihood)

    base = types.ModuleType("arviz_stats.base")
    base.array_stats = Stats
    monkeypatch.setitem(sys.modules, "arviz_stats", types.ModuleType("arviz_stats"))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", base)
    monkeypatch.setattr(arviz_bridge, "import_arviz", lambda: FakeArviz("arviz"))
    weights, k = pareto_smooth(ratios)
    np.testing.assert_allclose(weights, expected[0])
    assert k == expected[1]


def test_without_arviz_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"bayesdrop\[analysis\]"):
        bd.to_inference_data(bayesian(), *data())


def test_only_the_daily_advertisement_of_arviz_is_silenced(monkeypatch, tmp_path):
    module = tmp_path / "arviz.py"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for message in ("ArviZ is undergoing a major refactor", "something else"):
        monkeypatch.delitem(sys.modules, "arviz")
        module.write_text(f"import warnings; warnings.warn('\\n{message}', FutureWarning)")
        importlib.invalidate_caches()
        if "else" in message:
            with pytest.raises(FutureWarning, match=message):
                import_arviz()
            sys.modules["arviz"] = az
        else:
            assert import_arviz().__file__ == str(module)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_samples": 0}, "expected num_samples of at least 1"),
        ({"num_masks": 0}, "num_masks of at least 1, .* got num_masks=0"),
        ({"num_masks": 2.5}, "got num_masks=2.5"),
        ({"num_masks": True}, "got num_masks=True"),
        ({"num_masks": "exact"}, "expected one dropout layer"),
        ({"batch_size": 0}, "got 64, 0 and"),
        ({"memory_limit": 0}, "None and 0"),
        ({"memory_limit": 1000}, "to_inference_data: expected a result of at most"),
    ],
)
def test_bad_options_raise(options, match):
    with pytest.raises(ConfigError, match=match):
        bd.to_inference_data(bayesian(), *data(), **options)


def test_a_network_with_nothing_to_draw_raises():
    plain = bd.BayesianNetwork(nn.Linear(4, 3), bd.Categorical(), num_data=4)
    with pytest.raises(ConfigError, match="there is nothing to draw"):
        bd.to_inference_data(plain, *data())
    with pytest.raises(ConfigError, match="expected a BayesianNetwork .* got Linear"):
        bd.to_inference_data(nn.Linear(4, 3), *data())


def test_input_dependent_masks_without_latents_raise():
    class Gate(FixedDropout):
        input_dependent = True

    with pytest.raises(ConfigError, match="depend on the input and that have no latents"):
        bd.to_inference_data(wrap(Gate(4)), *data())


def test_data_that_does_not_fit_raises():
    x, y = data()
    with pytest.raises(DataError, match="40 inputs and 39 targets"):
        bd.to_inference_data(bayesian(), x, y[1:])
    with pytest.raises(DataError, match="expected batches of x or"):
        bd.to_inference_data(bayesian(), TensorDataset(x, y), y)
