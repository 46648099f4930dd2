import itertools
import json
import math

import pytest
import torch

import bayesdrop as bd
from bayesdrop.diagnostics import measure_shift
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import error_percent, expected_calibration_error, negative_log_likelihood
from bayesdrop.metrics.corruption import corrupt, corruptions

KINDS = list(corruptions)
SIZES = [(1, 28, 28), (3, 32, 32), (3, 9, 12)]
RANDOM = {
    "gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "motion-blur", "elastic",
    "translation",
}  # fmt: skip


def images(shape=(1, 28, 28), count=3):
    """Smooth images with an edge, in [0, 1]."""
    height, width = shape[1:]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    base = 0.5 + 0.3 * torch.sin(9 * x) * torch.cos(7 * y) + 0.2 * (x > 0.6)
    channels = torch.linspace(0.4, 1.0, shape[0])[:, None, None]
    return (channels * base * torch.linspace(0.7, 1.0, count)[:, None, None, None]).clamp(0, 1)


# -- corruptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_corrupted_images_are_images_of_the_same_kind(kind, shape):
    x = images(shape)
    before = x.clone()
    for severity in (1, 5):
        result = corrupt(x, kind, severity)
        assert result.shape == x.shape
        assert result.dtype == x.dtype
        assert 0 <= result.min() <= result.max() <= 1
    assert torch.equal(x, before)


# A rotated or pixelated pattern can be nearer to itself for a larger angle or block.
@pytest.mark.parametrize("kind", sorted({*KINDS} - {"rotation", "pixelate"}))
def test_images_move_further_away_with_severity(kind):
    x = images((3, 32, 32))
    distance = [float((corrupt(x, kind, s) - x).square().mean().sqrt()) for s in range(1, 6)]
    assert distance[0] > 0
    assert distance == sorted(distance)
    assert distance[-1] > 1.2 * distance[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind):
    x = images()
    state = torch.random.get_rng_state()
    first = corrupt(x, kind, 3, seed=1)
    torch.rand(3)
    assert torch.equal(corrupt(x, kind, 3, seed=1), first)
    assert torch.equal(corrupt(x, kind, 3, seed=2), first) == (kind not in RANDOM)
    torch.random.set_rng_state(state)
    corrupt(x, kind, 3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", sorted(RANDOM - {"shot-noise"}))
def test_each_image_of_a_batch_has_a_draw_of_its_own(kind):
    x = images(count=1).expand(4, -1, -1, -1)
    result = corrupt(x, kind, 3)
    assert not torch.equal(result[0], result[1])


def test_more_images_than_a_chunk_are_all_corrupted():
    x = torch.full((1001, 1, 4, 4), 0.5)
    result = corrupt(x, "gaussian-noise", 3)
    assert result.shape == x.shape
    assert bool((result != x).flatten(1).any(1).all())


def test_noise_has_its_standard_deviation():
    x = torch.full((40, 1, 28, 28), 0.5)
    # Three standard deviations from the ends: clipping does not matter at the first severity.
    noise = corrupt(x, "gaussian-noise", 1) - x
    count = noise.numel()
    assert float(noise.std()) == pytest.approx(0.08, rel=4.3 / math.sqrt(2 * count))
    speckle = corrupt(x, "speckle-noise", 1) - x
    assert float(speckle.std()) == pytest.approx(0.5 * 0.15, rel=4.3 / math.sqrt(2 * count))
    flipped = corrupt(x, "impulse-noise", 5) != x
    spread = math.sqrt(0.27 * 0.73 / count)
    assert float(flipped.double().mean()) == pytest.approx(0.27, abs=4.3 * spread)
    white = float((corrupt(x, "impulse-noise", 5) == 1).double().mean())
    assert white == pytest.approx(0.135, abs=4.3 * math.sqrt(0.135 * 0.865 / count))
    # Poisson: the mean stays, the variance is mean / photons; 0.5 x 60 is far from both ends.
    shot = corrupt(x, "shot-noise", 1)
    spread = math.sqrt(0.5 / 60)
    assert float(shot.mean()) == pytest.approx(0.5, abs=4.3 * spread / math.sqrt(count))
    assert float(shot.std()) == pytest.approx(spread, rel=4.4 / math.sqrt(2 * count))


@pytest.mark.parametrize("kind", ["gaussian-blur", "defocus-blur", "motion-blur", "zoom-blur"])
def test_blurs_leave_a_constant_image_and_smooth_an_edge(kind):
    flat = torch.full((2, 3, 16, 16), 0.3)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(corrupt(flat, kind, 5)[inner], flat[inner])
    edge = torch.zeros(2, 1, 32, 32)
    edge[..., 20:] = 1.0
    steepest = corrupt(edge, kind, 5).diff(dim=-1).abs().max()
    assert steepest < 0.9


@pytest.mark.parametrize("kind", ["gaussian-blur", "defocus-blur", "motion-blur"])
def test_blur_spans_the_same_share_of_an_image_of_any_size(kind):
    def width(size):
        point = torch.zeros(1, 1, size, size)
        point[0, 0, size // 2, size // 2] = 1.0
        blurred = corrupt(point, kind, 5)[0, 0]
        places = torch.stack(
            torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
        )
        centre = (blurred * places).sum((1, 2)) / blurred.sum()
        square = ((places - centre[:, None, None]) ** 2).sum(0)
        return float((blurred * square).sum() / blurred.sum()) ** 0.5

    # Root mean square distance: of two Gaussians, of a disk, and of one Gaussian cut at 3 sigma,
    # at which its standard deviation is 0.987. Interpolation adds a third of a squared pixel.
    expected = {
        "gaussian-blur": math.sqrt(2) / 32,
        "defocus-blur": 1.5 / 32 / math.sqrt(2),
        "motion-blur": 0.987 * 2.5 / 32,
    }[kind]
    for size in (96, 192):
        pixel = math.sqrt(1 / 3) / size
        assert width(size) >= 0.97 * expected
        assert width(size) <= 1.01 * math.hypot(expected, pixel)


def test_zooms_and_displacements_of_a_ramp_are_as_large_as_they_say():
    ramp = torch.linspace(0.1, 0.9, 64).expand(20, 1, 64, 64)
    inner = (..., slice(8, -8), slice(8, -8))
    # A zoom divides the slope; the image itself is averaged with eleven of them.
    share = (1 + (1 / torch.linspace(1.0, 1.3, 11)).sum()) / 12
    zoomed = 0.5 + share * (ramp - 0.5)
    torch.testing.assert_close(corrupt(ramp, "zoom-blur", 5)[inner], zoomed[inner])
    # 1.5 of 32 pixels along each axis, and less inside: smooth noise is larger at the border.
    for image in (ramp, ramp.mT):
        moved = (corrupt(image, "elastic", 5) - image)[inner] / (0.8 / 63)
        assert 2.4 < float(moved.square().mean().sqrt()) < 3.0


def test_contrast_and_brightness_follow_their_formulas():
    x = images((3, 8, 8))
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(corrupt(x, "contrast", 3), mean + 0.2 * (x - mean))
    brighter = corrupt(x, "brightness", 2)
    value = x.amax(1)
    torch.testing.assert_close(brighter.amax(1), (value + 0.2).clamp(max=1))
    # Hue and saturation stay: the ratios of the channels.
    torch.testing.assert_close(brighter[:, 0] / brighter[:, 2], x[:, 0] / x[:, 2])
    black = torch.zeros(1, 3, 8, 8)
    torch.testing.assert_close(corrupt(black, "brightness", 5), torch.full_like(black, 0.5))


def test_rotation_turns_by_its_angle_counter_clockwise():
    x = torch.zeros(1, 1, 65, 65)
    x[0, 0, 32, 52] = 1.0  # 20 pixels to the right of the centre
    for severity, degrees in enumerate((15, 30, 45, 60, 75), start=1):
        turned = corrupt(x, "rotation", severity)[0, 0]
        row, column = (turned.flatten().argmax() // 65, turned.flatten().argmax() % 65)
        angle = math.degrees(math.atan2(32 - int(row), int(column) - 32))
        assert angle == pytest.approx(degrees, abs=math.degrees(1 / 20))


def test_translation_moves_by_a_share_of_the_side():
    x = torch.zeros(6, 1, 40, 40)
    x[:, 0, 20, 20] = 1.0
    moved = corrupt(x, "translation", 5)
    places = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij"))
    centre = (moved * places).sum((2, 3)) / moved.sum((2, 3))
    torch.testing.assert_close((centre - 20).norm(dim=1), torch.full((6,), 10.0))


def test_pixelating_makes_blocks_and_jpeg_loses_little_of_a_smooth_image():
    x = images((1, 16, 16))
    blocks = corrupt(x, "pixelate", 5).reshape(3, 4, 4, 4, 4).permute(0, 1, 3, 2, 4).flatten(3)
    assert float(blocks.var(-1).max()) == 0.0
    torch.testing.assert_close(corrupt(x, "pixelate", 5).mean((2, 3)), x.mean((2, 3)))
    flat = torch.full((1, 3, 16, 16), 128 / 255)
    torch.testing.assert_close(corrupt(flat, "jpeg", 5), flat, atol=1.5 / 255, rtol=0)


def test_images_of_numpy_are_corrupted_alike():
    assert torch.equal(corrupt(images().numpy(), "contrast", 2), corrupt(images(), "contrast", 2))
    with pytest.raises(ConfigError, match="corrupt: expected seed to be an int, got seed=None"):
        corrupt(images(), "contrast", 2, seed=None)


@pytest.mark.parametrize(
    ("x", "kind", "severity", "error", "message"),
    [
        (images(), "fogg", 1, ConfigError, "unknown corruption 'fogg'"),
        (images(), "contrst", 1, ConfigError, "Did you mean 'contrast'"),
        (images(), "contrast", 0, ConfigError, "expected a severity of 1, 2, 3, 4 or 5, got 0"),
        (images(), "contrast", 1.0, ConfigError, "expected a severity of .* got 1.0"),
        (images(), ["contrast"], 1, ConfigError, "unknown corruption"),
        ("digits", "contrast", 1, DataError, "expected real numbers"),
        (images()[0], "contrast", 1, ShapeError, r"expected images of shape \(N, 1 or 3, H, W\)"),
        (torch.zeros(2, 784), "contrast", 1, ShapeError, r"got \(2, 784\).*nn.Flatten"),
        (torch.zeros(0, 1, 8, 8), "contrast", 1, ShapeError, "at least one"),
        (images() * 255, "contrast", 1, DataError, r"values in \[0, 1\], got .* divide 8-bit"),
        (images() * math.nan, "contrast", 1, DataError, r"values in \[0, 1\], got .*nan"),
        ((images() * 255).byte(), "contrast", 1, DataError, "floating-point images"),
    ],
)
def test_bad_images_are_refused(x, kind, severity, error, message):
    with pytest.raises(error, match=message):
        corrupt(x, kind, severity)


# -- curves ---------------------------------------------------------------------------------------


def test_set(rows=24):
    return images((1, 8, 8), rows), torch.arange(rows) % 3


test_set.__test__ = False


def bayesian(likelihood=None):
    net = torch.nn.Sequential(
        torch.nn.Flatten(), bd.BetaBernoulliDropout(64), torch.nn.Linear(64, 3)
    )
    return bd.BayesianNetwork(net, likelihood or bd.Categorical(), num_data=100)


def test_each_row_has_the_figures_of_its_corrupted_images():
    bnn, (x, y) = bayesian(), test_set()
    curves = measure_shift(bnn, (x, y), kinds=["contrast", "rotation"], severities=[2, 4])
    assert [(row.kind, row.severity) for row in curves.rows] == [
        ("clean", 0), ("contrast", 2), ("contrast", 4), ("rotation", 2), ("rotation", 4)
    ]  # fmt: skip
    row = curves.rows[3]
    mean = bd.predict(bnn, corrupt(x, "rotation", 2, seed=0), num_samples=64, seed=0).mean
    assert row.accuracy == 100 - error_percent(mean, y)
    assert row.nll == pytest.approx(negative_log_likelihood(mean, y), rel=1e-12)
    assert row.ece == expected_calibration_error(mean, y)
    assert row.entropy == pytest.approx(float(torch.special.entr(mean).sum(1).mean()))
    clean = bd.predict(bnn, x, num_samples=64, seed=0).mean
    assert curves.rows[0].nll == pytest.approx(negative_log_likelihood(clean, y), rel=1e-12)


def test_curves_start_clean_and_average_over_kinds():
    curves = measure_shift(
        bayesian(), test_set(), kinds=["contrast", "jpeg"], severities=[1, 5], num_samples=4
    )
    for metric in ("accuracy", "nll", "ece", "entropy"):
        a, b = curves.curve(metric, "contrast"), curves.curve(metric, "jpeg")
        assert a[0] == b[0] == getattr(curves.rows[0], metric)
        assert curves.curve(metric) == pytest.approx(
            [(p + q) / 2 for p, q in zip(a, b, strict=True)]
        )
    assert str(curves).count("\n") == 1 + 3
    plain = json.loads(json.dumps(curves.to_dict()))
    assert plain["severities"] == [0, 1, 5]
    assert len(plain["rows"]) == 5


def test_the_seed_is_that_of_the_corruptions_too():
    bnn = bayesian().eval()

    def predict(x):
        return bnn(x).detach().softmax(1)

    options = {"kinds": ["gaussian-noise"], "severities": [3]}
    found = [
        measure_shift(predict, test_set(), seed=seed, **options).curve("nll") for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2] and found[0][0] == found[2][0]


def test_any_function_to_probabilities_will_do():
    bnn, data = bayesian(), test_set()
    options = {"kinds": ["gaussian-noise"], "severities": [3]}

    def predict(x):
        return bnn.eval()(x).softmax(1).numpy()

    ours = measure_shift(bnn, data, predict_options={"sample": False}, **options)
    theirs = measure_shift(predict, data, **options)
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        assert a.nll == pytest.approx(b.nll)
        assert a.entropy == pytest.approx(b.entropy)


def test_a_function_may_return_a_table_or_members(monkeypatch):
    pd = pytest.importorskip("pandas")
    options = {"kinds": ["rotation"], "severities": [1]}
    probabilities = torch.rand(2, 7, 3).softmax(-1)
    data = test_set()[0][:7], test_set()[1][:7]
    monkeypatch.setattr("bayesdrop.diagnostics.shift._ROWS", 4)
    parts = itertools.cycle([slice(0, 4), slice(4, 7)])
    members = measure_shift(lambda x: probabilities[:, next(parts)], data, **options)
    table = measure_shift(
        lambda x: pd.DataFrame(probabilities.mean(0)[next(parts)].numpy()), data, **options
    )
    assert members.rows == table.rows


def test_a_model_that_sees_the_average_only_is_hurt_by_brightness_but_not_by_pixelating():
    torch.manual_seed(0)
    x = torch.rand(200, 1, 8, 8) * 0.1 + torch.linspace(0.2, 0.6, 200)[:, None, None, None]
    y = (x.mean((1, 2, 3)) > 0.45).long()

    def predict(x):
        bright = (20 * (x.flatten(1).mean(1) - 0.45)).sigmoid()
        return torch.stack([1 - bright, bright], 1)

    options = {"kinds": ["pixelate", "brightness"], "severities": [5]}
    curves = measure_shift(predict, (x, y), **options)
    assert curves.curve("accuracy")[0] == 100.0
    assert curves.curve("accuracy", "pixelate")[1] == 100.0
    assert curves.curve("accuracy", "brightness")[1] < 60.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kinds": ["blur"]}, ConfigError, "unknown corruption 'blur'"),
        ({"severities": [6]}, ConfigError, "expected a severity of 1"),
        ({"kinds": []}, ConfigError, "measure_shift: expected kinds to be a sequence"),
        ({"kinds": "rotation"}, ConfigError, r"kinds=\[.rotation.\]"),
        ({"severities": 3}, ConfigError, "severities to be a sequence .*, got 3"),
        ({"model": "net"}, ConfigError, "a function from images to probabilities, got a str"),
        ({"data": test_set()[0]}, DataError, "measure_shift: expected images with labels"),
        ({"model": bayesian(bd.Gaussian())}, ConfigError, "expected a classifier, .*Gaussian"),
        ({"model": lambda x: torch.ones(len(x), 3)}, DataError, "sum to one"),
    ],
)
def test_bad_requests_are_refused(change, error, message):
    request = {"model": bayesian(), "data": test_set(), "num_samples": 2, **change}
    with pytest.raises(error, match=message):
        measure_shift(**request)


def test_unknown_curves_are_refused():
    curves = measure_shift(bayesian(), test_set(), kinds=["jpeg"], severities=[1], num_samples=1)
    with pytest.raises(ConfigError, match="unknown shift metric 'acuracy'. Did you mean"):
        curves.curve("acuracy")
    with pytest.raises(ConfigError, match="unknown corruption of these curves 'contrast'"):
        curves.curve("nll", "contrast")


def test_dense_labels_are_measured_like_those_of_evaluate():
    network = torch.nn.Sequential(bd.MonteCarloDropout(1, unit_dim=-3), torch.nn.Conv2d(1, 3, 1))
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=10)
    x, y = torch.rand(4, 1, 8, 8), torch.randint(0, 3, (4, 8, 8))
    y[0] = -100
    row = measure_shift(bnn, (x, y), kinds=["contrast"], severities=[1], num_samples=3).rows[0]
    result = bd.evaluate(bnn, (x, y), num_samples=3, seed=0)
    assert (row.nll, row.ece) == (result.nll, result.ece)
    assert row.accuracy == 100 - result.error


def test_what_bicubic_resizing_leaves_outside_is_cut_off():
    x = torch.nn.functional.interpolate(torch.rand(4, 1, 8, 8).round(), 12, mode="bicubic")
    assert x.max() > 1.05 and x.min() < -0.05
    for kind in ("contrast", "brightness"):
        assert torch.equal(corrupt(x, kind, 2), corrupt(x.clamp(0, 1), kind, 2))
    with pytest.raises(DataError, match="values in"):
        corrupt(3 * x, "contrast", 2)
