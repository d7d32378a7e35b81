import numpy as np
import pytest
from scipy.integrate import quad

from pyneuralode.datasets.densities import DENSITIES, CurveDensity, ImageDensity, flag, read_image
from pyneuralode.errors import ArgumentError, DataError


@pytest.fixture(params=DENSITIES)
def density(request):
    return DENSITIES[request.param]()


def test_the_integral_is_one_and_the_entropy_that_of_the_samples(density):
    integral, entropy = density.quadrature(800)
    assert integral == pytest.approx(1, abs=5e-3 if density.name == "checkerboard" else 1e-6)
    losses = -density.log_density(density.sample(20_000, 3))
    error = losses.std() / np.sqrt(len(losses))
    assert abs(losses.mean() - density.entropy) < 4 * error + 1e-9
    assert entropy == pytest.approx(density.entropy, abs=5e-3 if density.name == "checkerboard" else 1e-6)


def test_samples_fall_where_the_density_says(density):
    """Compare the fraction of samples in each cell of a 6 x 6 grid with the integral of the density over the cell."""
    left, right, bottom, top = density.extent
    n, cells, fine = 40_000, 6, 60
    x = density.sample(n, 5)
    counts, _, _ = np.histogram2d(*x.T, bins=cells, range=[(left, right), (bottom, top)])
    step = np.array([right - left, top - bottom]) / (cells * fine)
    middles = [start + s * (np.arange(cells * fine) + 0.5) for start, s in zip((left, bottom), step)]
    p = density.on_grid(*middles).T * step.prod()
    expected = n * p.reshape(cells, fine, cells, fine).sum((1, 3))
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected + 1) + 1e-3 * n).all()


def test_grids_and_points_agree(density):
    left, right, bottom, top = density.extent
    x, y = np.linspace(left, right, 7), np.linspace(bottom, top, 5)
    points = np.stack(np.meshgrid(x, y), axis=-1)
    logs = density.log_density(points)
    assert logs.shape == (5, 7)
    np.testing.assert_allclose(density.on_grid(x, y), np.exp(logs), rtol=1e-9, atol=1e-300)


def test_the_flag_has_the_reports_proportions_and_the_entropy_of_the_issue():
    cross = flag()
    assert cross.weights.shape == (174, 237)
    assert cross.entropy == pytest.approx(1.1588, abs=1e-4)
    # The expected entropy is 1.1591 nats; a cross without smooth edges would have 1.147.
    assert cross.entropy == pytest.approx(1.1591, abs=5e-4)
    ink = cross.weights / cross.weights.max() * 255
    np.testing.assert_allclose(ink[0, 57:62], [0, 15, 196, 255, 255])
    np.testing.assert_allclose(ink[0, 93:97], [255, 206, 22, 0])
    np.testing.assert_allclose(ink[70:74, 0], [0, 98, 255, 255])
    np.testing.assert_allclose(ink[106:109, 0], [255, 85, 0])
    np.testing.assert_allclose(ink[71, 58:60], [98, 196])
    np.testing.assert_allclose(cross.noise, (4 / 237, 4 / 174))
    np.testing.assert_allclose([cross.x[[0, -1]], cross.y[[0, -1]]], [[-1.5, 1.5]] * 2)


def test_an_image_is_the_sum_over_its_pixels():
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 255, size=(4, 6))
    density = ImageDensity(gray, half=(1.0, 2.0), noise=(0.3, 0.4), upright=False)
    x = np.array([[0.3, -0.7], [40.0, 3.0], [0.0, -90.0]])
    weights = (gray.max() - gray) / (gray.max() - gray).sum()
    centers = np.stack(np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-2, 2, 4)), axis=-1)
    with np.errstate(divide="ignore"):
        logs = np.log(weights) - 0.5 * (((x[:, None, None] - centers) / [0.3, 0.4]) ** 2).sum(-1)
    truth = np.logaddexp.reduce(logs.reshape(3, -1), axis=1) - np.log(2 * np.pi * 0.3 * 0.4)
    assert truth[1] < -8000 and truth[2] < -20_000
    np.testing.assert_allclose(density.log_density(x), truth, rtol=1e-10)


def test_the_first_row_is_the_top_unless_said_otherwise():
    gray = np.array([[0, 0, 0], [255, 255, 255]])
    assert ImageDensity(gray).sample(5000).mean(0)[1] > 0.9
    assert ImageDensity(gray, upright=False).sample(5000).mean(0)[1] < -0.9


def test_a_curves_density_is_its_line_integral():
    density = DENSITIES["moons"]()
    assert isinstance(density, CurveDensity)
    point, s = np.array([0.2, 0.4]), density.noise

    def integrand(t, curve):
        gap = point - curve(np.array([t]))[0]
        return np.exp(-0.5 * gap @ gap / s**2) / (2 * np.pi * s**2)

    truth = np.mean([quad(integrand, 0, 1, args=(curve,), limit=200)[0] for curve in density.curves])
    assert np.exp(density.log_density(point)) == pytest.approx(truth, rel=1e-7)


def test_seeds_repeat(density):
    np.testing.assert_array_equal(density.sample(50, 4), density.sample(50, np.random.default_rng(4)))
    assert (density.sample(50, 4) != density.sample(50, 5)).any()


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match="sheet has no contrast .every pixel is 7"):
        ImageDensity(np.full((5, 5), 7), name="sheet")
    with pytest.raises(DataError, match=r"shape \(5, 5, 3\)"):
        ImageDensity(np.zeros((5, 5, 3)))
    with pytest.raises(DataError, match="5 x 1 pixels"):
        ImageDensity(np.arange(5.0)[None])
    with pytest.raises(DataError, match="not finite"):
        ImageDensity(np.array([[0, np.nan], [1, 2]]))
    with pytest.raises(ArgumentError, match=r"x has shape \(4, 3\)"):
        flag().log_density(np.zeros((4, 3)))
    with pytest.raises(ArgumentError, match="n is 0"):
        flag().sample(0)
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(DataError, match="words.png is not an image"):
        read_image(tmp_path / "words.png")
    with pytest.raises(DataError, match="absent.png cannot be read"):
        read_image(tmp_path / "absent.png")


def test_an_image_from_a_file(tmp_path):
    from PIL import Image

    gray = np.full((30, 60), 255, dtype=np.uint8)
    gray[:, :20] = 0
    Image.fromarray(gray).save(tmp_path / "bar.png")
    density = read_image(tmp_path / "bar.png", longest=30)
    assert density.weights.shape == (15, 30)
    assert density.half == (1.5, 0.75)
    assert density.sample(500, 0)[:, 0].max() < -0.2
    assert read_image(tmp_path / "bar.png", bright=True).sample(500, 0)[:, 0].min() > -0.8
    clear = Image.fromarray(np.dstack([np.zeros_like(gray)] * 3 + [255 - gray]))
    clear.save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png", longest=30).weights, density.weights)
