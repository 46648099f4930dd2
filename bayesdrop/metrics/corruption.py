r"""Common corruptions of images, each at five severities.

After Hendrycks and Dietterich (2019), https://arxiv.org/abs/1903.12261, and the authors' code.
Their constants are carried over to images of any size by two rules:

* what has no unit (noise, contrast, brightness, zoom, quality) is ImageNet-C's, as it is, which
  for small images is stronger than the authors' CIFAR-10-C;
* lengths are CIFAR-10-C's, made for 32 pixels, times ``min(H, W) / 32``, so that a blur spans the
  same share of every image. Below 16 pixels the Gaussian blur hardly does anything.

Further deviations: the radii of defocus, of which CIFAR-10-C's first three are one pixel blurred
by different amounts, are 0.6 to 1.5 pixels, of an image interpolated linearly; motion blur is
symmetric, so that it does not move the image, not cut off, and stronger at severity 4 than at 3;
zoom blur averages eleven zooms at every severity; elastic distortion has one root mean square
displacement per severity, while theirs changes smoothness and amplitude at once; the border is
reflected by blurs and black for rotation, translation and elastic distortion; nothing is rounded
to 8 bits except by JPEG. Rotation (as in Ovadia et al., 2019, up to 75 degrees) and translation
are not theirs. Their glass blur, snow, frost and fog are left out: the first is a loop over
pixels, the others paint weather that means nothing on digits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics.arrays import Array, as_tensor
from bayesdrop.metrics.options import require_seed
from bayesdrop.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)
"""All severities."""

_OVERSHOOT = 0.3
"""How far outside [0, 1] bicubic resizing may leave pixels; normalised images are further out."""

_SIZE = 32.0
_CHUNK = 1000

Generator: TypeAlias = torch.Generator
Apply: TypeAlias = Callable[[Tensor, float, Generator], Tensor]


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Args:
        constants: The constant of each severity.
        meaning: What the constant is.
        apply: Images, constant, generator to corrupted images, which are then cut to [0, 1].
        length: Whether the constant is a length in pixels of a 32-pixel image.
    """

    constants: tuple[float, float, float, float, float]
    meaning: str
    apply: Apply
    length: bool = False


corruptions = Registry[Corruption]("corruption")
"""All corruptions by name, such as ``corruptions["contrast"]``; another one is registered."""


def corrupt(x: Array, kind: str, severity: int, *, seed: int = 0) -> Tensor:
    """Return corrupted copies of images.

    The same seed gives the same images, at all severities with the same noise patterns and
    directions (but for shot noise), and leaves torch's global generator alone.

    Args:
        x: Images ``(N, C, H, W)`` in [0, 1], with one or three channels. What bicubic resizing
            left outside, by up to 0.3, is cut off.
        kind: A name from ``corruptions``.
        severity: 1 to 5.
        seed: Of the random draws.

    Raises:
        ConfigError: If the kind or the severity is unknown.
        ShapeError: If ``x`` has another shape; ``DataError`` if its values are not in [0, 1].
        ImportError: If torchvision is needed and not installed.

    Example:
        >>> corrupt(torch.rand(2, 3, 8, 8), "contrast", 3).shape
        torch.Size([2, 3, 8, 8])
    """
    chosen = corruptions[kind]
    if not isinstance(severity, Integral) or severity not in SEVERITIES:
        raise ConfigError(
            "corrupt",
            expected="a severity of 1, 2, 3, 4 or 5",
            got=repr(severity),
            hint="0 would be the image itself.",
        )
    x = as_tensor("corrupt", x)
    _check_images(x)
    constant = chosen.constants[severity - 1]
    if chosen.length:
        constant *= min(x.shape[-2:]) / _SIZE
    # Drawn on the CPU, so that the images do not depend on the device.
    generator = torch.Generator().manual_seed(require_seed("corrupt", seed))
    images = x.clamp(0.0, 1.0)
    parts = [chosen.apply(part, constant, generator) for part in images.split(_CHUNK)]
    return torch.cat(parts).clamp(0.0, 1.0)


def has_grey_levels(x: Tensor) -> bool:
    """Return whether all values of images are floating-point numbers in [0, 1]."""
    # A comparison with NaN is false.
    return x.is_floating_point() and bool(((x >= -_OVERSHOOT) & (x <= 1 + _OVERSHOOT)).all())


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 4 or not len(x):
        raise ShapeError(
            "corrupt",
            expected="images of shape (N, 1 or 3, H, W), at least one and 4 x 4 pixels",
            got=str(tuple(x.shape)),
            hint="Flat images? Reshape them, and put nn.Flatten first in the network.",
        )
    if not has_grey_levels(x):
        raise DataError(
            "corrupt",
            expected="floating-point images with values in [0, 1]",
            got=f"{x.dtype} from {float(x.min()):g} to {float(x.max()):g}",
            hint="Corrupt before normalising; divide 8-bit images by 255.",
        )


# -- noise ----------------------------------------------------------------------------------------


def _uniform(x: Tensor, generator: Generator) -> Tensor:
    return torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def _normal(x: Tensor, generator: Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def _gaussian_noise(x: Tensor, scale: float, generator: Generator) -> Tensor:
    return x + scale * _normal(x, generator)


def _speckle_noise(x: Tensor, scale: float, generator: Generator) -> Tensor:
    return x + x * scale * _normal(x, generator)


def _shot_noise(x: Tensor, photons: float, generator: Generator) -> Tensor:
    return torch.poisson(x.cpu() * photons, generator=generator).to(x) / photons


def _impulse_noise(x: Tensor, amount: float, generator: Generator) -> Tensor:
    u = _uniform(x, generator)
    return torch.where(u < amount / 2, 0.0, torch.where(u > 1 - amount / 2, 1.0, x))


# -- blur -----------------------------------------------------------------------------------------


def _gaussian_blur(x: Tensor, sigma: float, generator: Generator) -> Tensor:
    from torchvision.transforms.v2 import functional as transform

    side = 2 * math.ceil(3 * sigma) + 1
    return transform.gaussian_blur(x, [side, side], [sigma, sigma])


def _defocus_blur(x: Tensor, radius: float, generator: Generator) -> Tensor:
    # The mean over a disk of the linearly interpolated image.
    reach = math.ceil(radius)
    points = torch.linspace(-radius, radius, 41, dtype=torch.float64)
    disk = (points[:, None] ** 2 + points**2 <= radius**2 * (1 + 1e-9)).double()
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = (1 - (places[:, None] - points).abs()).clamp(min=0.0)
    kernel = torch.einsum("ia,jb,ab->ij", weights, weights, disk / disk.sum())
    kernel = kernel.to(x).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, [reach] * 4, mode="reflect"), kernel, groups=x.shape[1])


def _motion_blur(x: Tensor, sigma: float, generator: Generator) -> Tensor:
    angle = torch.rand(len(x), generator=generator, dtype=torch.float64) - 0.5
    angle = angle * (math.pi / 2)
    direction = torch.stack([angle.cos(), angle.sin()], dim=1).to(x)
    taps = torch.linspace(-3.0, 3.0, 2 * math.ceil(3 * sigma) + 3).tolist()
    weights = [math.exp(-0.5 * t * t) for t in taps]
    total = torch.zeros_like(x)
    for t, weight in zip(taps, weights, strict=True):
        total += weight * _moved(x, (t * sigma * direction)[:, None, None], border="reflection")
    return total / sum(weights)


def _zoom_blur(x: Tensor, most: float, generator: Generator) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transform

    zooms = torch.linspace(1.0, most, 11).tolist()
    total = x.clone()
    for zoom in zooms:
        total += transform.affine(x, 0.0, [0.0, 0.0], zoom, [0.0, 0.0], InterpolationMode.BILINEAR)
    return total / (len(zooms) + 1)


# -- light and coding -----------------------------------------------------------------------------


def _brightness(x: Tensor, amount: float, generator: Generator) -> Tensor:
    # ImageNet-C adds to the value of HSV, which keeps hue and saturation; torchvision multiplies.
    value = x.amax(1, keepdim=True)
    brighter = (value + amount).clamp(max=1.0)
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-6)), brighter)


def _contrast(x: Tensor, factor: float, generator: Generator) -> Tensor:
    # Towards each channel's own mean; torchvision's goes towards the grey mean of all.
    mean = x.mean((2, 3), keepdim=True)
    return mean + factor * (x - mean)


def _pixelate(x: Tensor, factor: float, generator: Generator) -> Tensor:
    size = [max(1, int(side * factor)) for side in x.shape[2:]]
    return F.interpolate(F.interpolate(x, size, mode="area"), x.shape[2:], mode="nearest")


def _jpeg(x: Tensor, quality: float, generator: Generator) -> Tensor:
    # torchvision 0.29 warns that its coder will be removed; Pillow is what it installs anyway.
    import numpy as np
    from PIL import Image

    pixels = (x.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    coded = np.empty_like(pixels)
    for image, result in zip(pixels, coded, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            file, "JPEG", quality=int(quality)
        )
        result[:] = np.asarray(Image.open(file)).reshape(result.shape)
    return torch.from_numpy(coded).permute(0, 3, 1, 2).to(x) / 255


# -- geometry -------------------------------------------------------------------------------------


def _moved(x: Tensor, shift: Tensor, *, border: str = "zeros") -> Tensor:
    # shift: (N or 1, H or 1, W or 1, 2), in pixels along (x, y).
    size = torch.tensor(x.shape[:1:-1], dtype=x.dtype, device=x.device)
    identity = torch.eye(2, 3, dtype=x.dtype, device=x.device).expand(len(x), 2, 3)
    grid = F.affine_grid(identity, list(x.shape), align_corners=False) - 2 * shift / size
    return F.grid_sample(x, grid, padding_mode=border, align_corners=False)


def _rotation(x: Tensor, degrees: float, generator: Generator) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transform

    return transform.rotate(x, degrees, InterpolationMode.BILINEAR)


def _translation(x: Tensor, share: float, generator: Generator) -> Tensor:
    angle = torch.rand(len(x), generator=generator, dtype=torch.float64) * (2 * math.pi)
    direction = torch.stack([angle.cos(), angle.sin()], dim=1).to(x)
    return _moved(x, (share * min(x.shape[2:]) * direction)[:, None, None])


def _elastic(x: Tensor, length: float, generator: Generator) -> Tensor:
    from torchvision.transforms.v2 import functional as transform

    # One smooth field per image (Simard et al., 2003), correlated over an eighth of the image.
    # torchvision's elastic would take one field for the whole batch.
    sigma = max(0.5, min(x.shape[2:]) / 16)
    side = 2 * min(math.ceil(2 * sigma), min(x.shape[2:]) - 1) + 1
    noise = _normal(x[:, :1].expand(-1, 2, -1, -1), generator)
    field = transform.gaussian_blur(noise, [side, side], [sigma, sigma])
    field = field * (length / field.square().mean((1, 2, 3), keepdim=True).sqrt())
    return _moved(x, field.permute(0, 2, 3, 1))


_KINDS = {
    "gaussian-noise": Corruption(
        (0.08, 0.12, 0.18, 0.26, 0.38), "standard deviation", _gaussian_noise
    ),
    "shot-noise": Corruption((60, 25, 12, 5, 3), "photons at full brightness", _shot_noise),
    "impulse-noise": Corruption((0.03, 0.06, 0.09, 0.17, 0.27), "share of pixels", _impulse_noise),
    "speckle-noise": Corruption(
        (0.15, 0.2, 0.35, 0.45, 0.6), "standard deviation, relative", _speckle_noise
    ),
    "gaussian-blur": Corruption(
        (0.4, 0.6, 0.7, 0.8, 1.0), "standard deviation", _gaussian_blur, True
    ),
    "defocus-blur": Corruption((0.6, 0.8, 1.0, 1.25, 1.5), "radius", _defocus_blur, True),
    "motion-blur": Corruption(
        (1.0, 1.5, 2.0, 2.25, 2.5), "standard deviation", _motion_blur, True
    ),
    "zoom-blur": Corruption((1.1, 1.15, 1.2, 1.24, 1.3), "largest zoom", _zoom_blur),
    "brightness": Corruption((0.1, 0.2, 0.3, 0.4, 0.5), "added to the value", _brightness),
    "contrast": Corruption((0.4, 0.3, 0.2, 0.1, 0.05), "share that is left", _contrast),
    "pixelate": Corruption((0.6, 0.5, 0.4, 0.3, 0.25), "resolution that is left", _pixelate),
    "jpeg": Corruption((25, 18, 15, 10, 7), "quality of 100", _jpeg),
    "elastic": Corruption(
        (0.3, 0.6, 0.9, 1.2, 1.5), "root mean square displacement", _elastic, True
    ),
    "translation": Corruption((0.05, 0.1, 0.15, 0.2, 0.25), "share of the side", _translation),
    "rotation": Corruption((15, 30, 45, 60, 75), "degrees, counter-clockwise", _rotation),
}

for _name, _corruption in _KINDS.items():
    corruptions.register(_name, _corruption)
