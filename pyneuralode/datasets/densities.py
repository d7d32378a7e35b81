"""Densities in the plane that can be sampled and evaluated exactly; their entropy is computed by quadrature.

Each density has a `name`, the `extent` (left, right, bottom, top) of its plots, `sample(n, rng)`,
`log_density(x)` and `entropy`. ``DENSITIES[name]()`` returns a density.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..arguments import real_array, whole_number
from ..errors import ArgumentError, DataError

Extent = tuple[float, float, float, float]
_ROWS = 4096  # points evaluated at once, to limit memory


class Density(ABC):
    """Base class of the densities in the plane. A subclass provides `name`, `extent`, `_draw` and `_log`."""

    name: str
    dim = 2
    extent: Extent

    def sample(self, n: int, rng: np.random.Generator | int = 0) -> np.ndarray:
        """Return `n` independent points (n, 2); `rng` is a NumPy generator or a seed."""
        return self._draw(whole_number("n", n), np.random.default_rng(rng))

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Return the log density (...) at points `x` (..., 2); minus infinity where the density is zero."""
        x = real_array("x", x).astype(float)
        if x.ndim == 0 or x.shape[-1] != 2:
            raise ArgumentError(f"x has shape {x.shape}: give points of shape (..., 2).")
        points = x.reshape(-1, 2)
        found = [self._log(points[k : k + _ROWS]) for k in range(0, len(points), _ROWS)]
        return np.concatenate([np.empty(0), *found]).reshape(x.shape[:-1])

    def on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the density (not its logarithm) on the grid of the axes `x` and `y`, of shape (len(y), len(x))."""
        return np.exp(self.log_density(np.stack(np.meshgrid(x, y), axis=-1)))

    def quadrature(self, count: int = 1000) -> tuple[float, float]:
        """Return the density's integral and entropy (nats), by the midpoint rule on a box larger than `extent`."""
        left, right, bottom, top = self.extent
        x, dx = _midpoints(left, right, count)
        y, dy = _midpoints(bottom, top, count)
        p = self.on_grid(x, y)
        return float(p.sum() * dx * dy), float(-np.sum(p * np.log(np.where(p > 0, p, 1.0))) * dx * dy)

    @cached_property
    def entropy(self) -> float:
        """The entropy in nats, a lower bound for the expected loss -E[log q] of any model q."""
        return self.quadrature()[1]

    @abstractmethod
    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return n points (n, 2)."""

    @abstractmethod
    def _log(self, x: np.ndarray) -> np.ndarray:
        """Return the log densities (n,) at points (n, 2)."""


def _midpoints(low: float, high: float, count: int) -> tuple[np.ndarray, float]:
    margin = 0.25 * (high - low)
    step = (high - low + 2 * margin) / count
    return low - margin + step * (np.arange(count) + 0.5), step


class ImageDensity(Density):
    """The density given by a gray image: darker pixels are sampled more often, and Gaussian noise is added.

    Parameters
    ----------
    gray : (h, w) array
        Gray values; a pixel's weight is proportional to ``max(gray) - gray``.
    name : str
    half : (float, float), optional
        The centers of the outermost pixels lie at x = -half[0] and half[0], and at y = -half[1] and half[1]. By
        default the longer side of the image spans [-1.5, 1.5] and its proportions are kept.
    noise : (float, float), optional
        Standard deviations of the noise; by default about 1.3 pixels, which is (4/w, 4/h) if both axes have length 3.
    upright : bool
        Whether the first row is the top of the image; otherwise it is the bottom.

    Raises
    ------
    DataError
        If the image is not two-dimensional, smaller than 2 x 2 pixels, not finite, or of a single gray value.
    """

    def __init__(
        self,
        gray: np.ndarray,
        name: str = "image",
        half: tuple[float, float] | None = None,
        noise: tuple[float, float] | None = None,
        upright: bool = True,
    ):
        gray = _checked_image(gray, name)
        height, width = gray.shape
        self.name = name
        self.half = half or (1.5 * width / max(gray.shape), 1.5 * height / max(gray.shape))
        self.noise = noise or (4 / width * self.half[0] / 1.5, 4 / height * self.half[1] / 1.5)
        # Weights (h, w), the first row at the lowest y.
        weights = gray.max() - (gray[::-1] if upright else gray)
        self.weights = weights / weights.sum()
        self.x = np.linspace(-self.half[0], self.half[0], width)
        self.y = np.linspace(-self.half[1], self.half[1], height)
        self.extent = (*(-1.1 * self.half[0], 1.1 * self.half[0]), *(-1.1 * self.half[1], 1.1 * self.half[1]))

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.cumsum(self.weights)

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        # The last sum may differ from 1 by rounding.
        pixels = np.searchsorted(self._cumulative, rng.random(n) * self._cumulative[-1], side="right")
        rows, columns = np.divmod(pixels, len(self.x))
        return np.stack([self.x[columns], self.y[rows]], axis=-1) + rng.normal(size=(n, 2)) * self.noise

    def _log(self, x: np.ndarray) -> np.ndarray:
        # The kernel is a product of x and y factors, so two matrix products give the sum over all pixels.
        along_x = _kernel(x[:, 0], self.x, self.noise[0])
        along_y = _kernel(x[:, 1], self.y, self.noise[1])
        p = np.einsum("nw,nw->n", along_y @ self.weights, along_x)
        far = p < 1e-280
        logs = np.log(np.where(far, 1.0, p))
        logs[far] = self._log_far(x[far])
        return logs

    def _log_far(self, x: np.ndarray) -> np.ndarray:
        """Return log densities (n,) that are too small for `_log`, by a log-sum-exp over the pixels."""
        rows, columns = np.nonzero(self.weights)
        logs = np.log(self.weights[rows, columns]) - np.log(2 * np.pi * self.noise[0] * self.noise[1])
        found = np.empty(len(x))
        for k, (a, b) in enumerate(x):
            along_x = ((a - self.x[columns]) / self.noise[0]) ** 2
            found[k] = np.logaddexp.reduce(logs - (along_x + ((b - self.y[rows]) / self.noise[1]) ** 2) / 2)
        return found

    def on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _kernel(y, self.y, self.noise[1]) @ self.weights @ _kernel(x, self.x, self.noise[0]).T


def _kernel(x: np.ndarray, centers: np.ndarray, deviation: float) -> np.ndarray:
    """Return the normal densities (n, k) at `x` (n,) with means `centers` (k,)."""
    z = (x[:, None] - centers) / deviation
    return np.exp(-0.5 * z * z) / (np.sqrt(2 * np.pi) * deviation)


def _checked_image(gray: np.ndarray, name: str) -> np.ndarray:
    gray = np.asarray(gray, dtype=float)
    if gray.ndim != 2:
        raise DataError(f"{name} has shape {gray.shape}: give gray values of shape (height, width).")
    if min(gray.shape) < 2:
        raise DataError(f"{name} has {gray.shape[1]} x {gray.shape[0]} pixels: give an image with at least 2 x 2.")
    if not np.isfinite(gray).all():
        raise DataError(f"{name} contains values that are not finite: give a finite gray value for every pixel.")
    if gray.min() == gray.max():
        raise DataError(
            f"{name} has no contrast (every pixel is {abs(gray.max()):g}): give an image with at least two gray values."
        )
    return gray


def read_image(path: str | Path, longest: int = 400, bright: bool = False) -> ImageDensity:
    """Return the density given by an image file (PNG, JPEG, GIF, ...); transparent pixels are treated as white.

    An image with more than `longest` pixels along a side is shrunk to that size. With `bright` the density is higher at
    brighter pixels, and transparent pixels are treated as black.

    Raises
    ------
    DataError
        If the file cannot be read as an image, or `ImageDensity` does not accept the image.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        with Image.open(path) as image:
            image = image.convert("RGBA")
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image: give a PNG or JPEG file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): give a PNG or JPEG file.") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path} has far too many pixels: give an image of at most 10,000 x 10,000.") from None
    image = Image.alpha_composite(Image.new("RGBA", image.size, "black" if bright else "white"), image).convert("L")
    image.thumbnail((longest, longest), Image.Resampling.BOX)
    gray = np.asarray(image, dtype=float)
    return ImageDensity(-gray if bright else gray, name=str(path))


def flag() -> ImageDensity:
    """Return the density of a flag with a Nordic cross, with the proportions of the flag in the KTH report.

    The image has 237 x 174 pixels on [-1.5, 1.5]^2, with the first row at y = -1.5; the bars have smooth edges. The
    entropy is 1.1591 nats.
    """
    columns, rows = np.zeros(237), np.zeros(174)
    columns[[58, 59, 94, 95]] = 15, 196, 206, 22
    columns[60:94] = 255
    rows[[71, 107]] = 98, 85
    rows[72:107] = 255
    return ImageDensity(255 - np.maximum.outer(rows, columns), "flag", half=(1.5, 1.5), upright=False)


class CurveDensity(Density):
    """The density of points on curves, uniform in the curve's parameter, with Gaussian noise added.

    Parameters
    ----------
    name : str
    curves : sequence of functions
        Each maps parameters (n,) on [0, 1] to points (n, 2); all curves are equally likely.
    noise : float
        Standard deviation of the noise in both directions.
    extent : (left, right, bottom, top)

    The density is the integral of the noise's density along the curves, computed by Gauss-Legendre quadrature with
    `nodes` points on each curve. The points must be closer together than `noise`.
    """

    nodes = 256

    def __init__(self, name: str, curves: Sequence[Callable[[np.ndarray], np.ndarray]], noise: float, extent: Extent):
        self.name, self.curves, self.noise, self.extent = name, tuple(curves), noise, extent

    @cached_property
    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        """Points (k, 2) on the curves and their weights (k,), which sum to 1."""
        s, weights = np.polynomial.legendre.leggauss(self.nodes)
        points = np.concatenate([curve(0.5 + 0.5 * s) for curve in self.curves])
        return points, np.tile(0.5 * weights / len(self.curves), len(self.curves))

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        which, s = rng.integers(len(self.curves), size=n), rng.random(n)
        points = np.empty((n, 2))
        for k, curve in enumerate(self.curves):
            points[which == k] = curve(s[which == k])
        return points + self.noise * rng.normal(size=(n, 2))

    def _log(self, x: np.ndarray) -> np.ndarray:
        centers, weights = self._rule
        squares = (x**2).sum(-1)[:, None] - 2 * x @ centers.T + (centers**2).sum(-1)
        nearest = squares.min(-1, keepdims=True)
        near = np.exp((nearest - squares) / (2 * self.noise**2)) @ weights
        return np.log(near) - nearest[:, 0] / (2 * self.noise**2) - np.log(2 * np.pi * self.noise**2)

    def on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        centers, weights = self._rule
        along_x = _kernel(x, centers[:, 0], self.noise)
        return (_kernel(y, centers[:, 1], self.noise) * weights) @ along_x.T


def _polar(radius: np.ndarray | float, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def two_spirals() -> CurveDensity:
    """Return the density of two opposite Archimedean spirals, from 1/4 to 3/2 turns, with noise 0.1."""

    def arm(s: np.ndarray) -> np.ndarray:
        angle = np.pi * np.sqrt(0.25 + 8.75 * s)  # the square root spreads points evenly along the arm
        return _polar(angle / np.pi, angle)

    return CurveDensity("two_spirals", (arm, lambda s: -arm(s)), 0.1, (-3.6, 3.6, -3.6, 3.6))


def circles() -> CurveDensity:
    """Return the density of two circles around the origin, with radii 1 and 2 and noise 0.1."""
    rings = tuple(lambda s, radius=radius: _polar(radius, 2 * np.pi * s) for radius in (1.0, 2.0))
    return CurveDensity("circles", rings, 0.1, (-2.6, 2.6, -2.6, 2.6))


def moons() -> CurveDensity:
    """Return the density of two interleaved half circles of radius 1, with noise 0.1."""

    def upper(s: np.ndarray) -> np.ndarray:
        return _polar(1.0, np.pi * s) + [-0.5, -0.25]

    return CurveDensity("moons", (upper, lambda s: -upper(s)), 0.1, (-2.0, 2.0, -1.4, 1.4))


class Pinwheel(Density):
    """The density of a pinwheel: five normal distributions on a star, rotated by an angle proportional to the radius.

    The rotation about the origin preserves areas, so the density at a point equals the density of the star at the point
    rotated back.
    """

    name = "pinwheel"
    extent = (-3.6, 3.6, -3.6, 3.6)
    wings, radius, deviations, twist = 5, 1.6, (0.5, 0.14), 1.1

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        blob = rng.normal(size=(n, 2)) * self.deviations + [self.radius, 0]
        wing = 2 * np.pi / self.wings * rng.integers(self.wings, size=n)
        return _turn(blob, wing + self.twist * np.hypot(*blob.T))

    def _log(self, x: np.ndarray) -> np.ndarray:
        straight = _turn(x, -self.twist * np.hypot(*x.T))
        blobs = [_turn(straight, -2 * np.pi * k / self.wings) - [self.radius, 0] for k in range(self.wings)]
        squares = np.stack([((blob / self.deviations) ** 2).sum(-1) for blob in blobs])
        return np.logaddexp.reduce(-0.5 * squares) - np.log(2 * np.pi * np.prod(self.deviations) * self.wings)


def _turn(x: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Return points `x` (n, 2) rotated by `angle` about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=-1)


class Checkerboard(Density):
    """The uniform density on the eight dark unit squares of a 4 x 4 checkerboard on [-2, 2]^2."""

    name = "checkerboard"
    extent = (-2.4, 2.4, -2.4, 2.4)
    entropy = float(np.log(8))

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        column, row = rng.integers(4, size=n), 2 * rng.integers(2, size=n)
        return np.stack([column, row + column % 2], axis=-1) - 2.0 + rng.random((n, 2))

    def _log(self, x: np.ndarray) -> np.ndarray:
        column, row = np.floor(x + 2).T
        dark = ((column + row) % 2 == 0) & (np.abs(x) < 2).all(-1)
        return np.where(dark, -np.log(8), -np.inf)


DENSITIES: dict[str, Callable[[], Density]] = {
    "flag": flag,
    "two_spirals": two_spirals,
    "circles": circles,
    "moons": moons,
    "pinwheel": Pinwheel,
    "checkerboard": Checkerboard,
}
