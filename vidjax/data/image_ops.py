"""Operations on one image that recipes of augmentation are made of (Pillow).

Their amounts are in natural units; a recipe maps its levels to them (`Op`).
Pixels from outside of an image are (128, 128, 128), as in timm.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling

_FILL = (128, 128, 128)
_SOLARIZE_ADD_BELOW = 128  # brighter pixels are left alone


@dataclasses.dataclass(frozen=True)
class Op:
  """An operation of a recipe: what it does, and how much at which level.

  Attributes:
    function: `(image, *amount, *options) -> image`.
    amount: level to amount; None for an operation that has no amount.
    geometric: whether it moves pixels, and takes a filter as an option.
  """

  function: Callable[..., Image.Image]
  amount: Callable[[float | int], float | int] | None = None
  geometric: bool = False

  def __call__(
    self, image: Image.Image, level: float | int, *options: Any
  ) -> Image.Image:
    """Changes an image at a level of the recipe."""
    amount = () if self.amount is None else (self.amount(level),)
    return self.function(image, *amount, *options)


def auto_contrast(image: Image.Image) -> Image.Image:
  """Stretches each channel to the whole range."""
  return ImageOps.autocontrast(image)


def equalize(image: Image.Image) -> Image.Image:
  """Flattens the histogram of each channel."""
  return ImageOps.equalize(image)


def invert(image: Image.Image) -> Image.Image:
  """Returns 255 minus each value."""
  return ImageOps.invert(image)


def posterize(image: Image.Image, bits: int) -> Image.Image:
  """Keeps the highest bits, 0 to 8, of each value; 0 makes it black."""
  # Not ImageOps.posterize, which refuses 0 bits.
  mask = 0xFF00 >> bits & 0xFF
  return image.point([value & mask for value in range(256)] * 3)


def solarize(image: Image.Image, threshold: float | int) -> Image.Image:
  """Inverts the values that are not below a threshold."""
  table = [255 - v if v >= threshold else v for v in range(256)]
  return image.point(table * 3)


def solarize_add(image: Image.Image, added: int) -> Image.Image:
  """Adds to values below 128."""
  table = [
    min(value + added, 255) if value < _SOLARIZE_ADD_BELOW else value
    for value in range(256)
  ]
  return image.point(table * 3)


def color(image: Image.Image, factor: float | int) -> Image.Image:
  """Blends with the grey image: 0 is grey, 1 the image, more is beyond it."""
  return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float | int) -> Image.Image:
  """Blends with the mean grey."""
  return ImageEnhance.Contrast(image).enhance(factor)


def brightness(image: Image.Image, factor: float | int) -> Image.Image:
  """Blends with black."""
  return ImageEnhance.Brightness(image).enhance(factor)


def sharpness(image: Image.Image, factor: float | int) -> Image.Image:
  """Blends with a smoothed image."""
  return ImageEnhance.Sharpness(image).enhance(factor)


def shear_x(
  image: Image.Image,
  slope: float | int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  """Moves row y to the left by `slope * y` pixels."""
  return _affine(image, (1, slope, 0, 0, 1, 0), resampling)


def shear_y(
  image: Image.Image,
  slope: float | int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  """Moves column x up by `slope * x` pixels."""
  return _affine(image, (1, 0, 0, slope, 1, 0), resampling)


def translate_x(
  image: Image.Image,
  share: float | int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  """Moves the image to the left by a share of its width."""
  return _affine(image, (1, 0, share * image.width, 0, 1, 0), resampling)


def translate_y(
  image: Image.Image,
  share: float | int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  """Moves the image up by a share of its height."""
  return _affine(image, (1, 0, 0, 0, 1, share * image.height), resampling)


def rotate(
  image: Image.Image,
  degrees: float | int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  """Turns the image around its centre, counterclockwise."""
  return image.rotate(degrees, resample=resampling, fillcolor=_FILL)


def _affine(
  image: Image.Image, matrix: tuple[float | int, ...], resampling: Resampling
) -> Image.Image:
  """Output pixel (x, y) shows input (a x + b y + c, d x + e y + f)."""
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    resample=resampling,
    fillcolor=_FILL,
  )
