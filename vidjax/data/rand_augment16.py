"""RandAugment (Cubuk et al. 2020) of 16 operations, for clips (SIFA).

Its conventions differ from timm's: every drawn operation is applied, at the
same magnitude; pixels from outside the frame are black, and geometric
operations take the nearest pixel.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from vidjax.data import image_ops
from vidjax.data.image_ops import Op

_MAX_MAGNITUDE = 30
_CUTOUT = "Cutout"  # the operation that has a place
_CUTOUT_COLOUR = (125, 123, 114)


@dataclasses.dataclass(frozen=True)
class RandAugment16:
  """Some of 16 operations, drawn with replacement, applied to a clip.

  Attributes:
    count: operations of a clip.
    magnitude: of all operations, 0 to 30.
  """

  count: int
  magnitude: int

  def __call__(
    self, video: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator
  ) -> UInt8[np.ndarray, "t h w 3"]:
    """Changes a clip; all frames share the operations, signs and places.

    Args:
      video: the clip, cropped.
      rng: source of the draws.
    """
    frames = [Image.fromarray(frame) for frame in video]
    for name in rng.choice(tuple(OPS), size=self.count).tolist():
      share = int(rng.choice((-1, 1))) * self.magnitude / _MAX_MAGNITUDE
      place = rng.random(2).tolist() if name == _CUTOUT else ()
      frames = [OPS[name](frame, share, *place) for frame in frames]
    return np.stack([np.asarray(frame) for frame in frames])


def rotate(image: Image.Image, degrees: float | int) -> Image.Image:
  """Turns the image around its centre, counterclockwise."""
  return image.rotate(degrees)


def shear_x(image: Image.Image, slope: float | int) -> Image.Image:
  """Moves row y to the left by `slope * y` pixels."""
  return _affine(image, (1, slope, 0, 0, 1, 0))


def shear_y(image: Image.Image, slope: float | int) -> Image.Image:
  """Moves column x up by `slope * x` pixels."""
  return _affine(image, (1, 0, 0, slope, 1, 0))


def translate_x(image: Image.Image, share: float | int) -> Image.Image:
  """Moves the image to the left by a share of its width."""
  return _affine(image, (1, 0, share * image.width, 0, 1, 0))


def translate_y(image: Image.Image, share: float | int) -> Image.Image:
  """Moves the image up by a share of its height."""
  return _affine(image, (1, 0, 0, 0, 1, share * image.height))


def cutout(
  image: Image.Image, share: float | int, x: float | int, y: float | int
) -> Image.Image:
  """Covers a square; at the left and the top it is moved into the image.

  Args:
    image: of any size.
    share: side of the square as a share of the width.
    x: centre of the square before it is moved, as a share of the width.
    y: the same, as a share of the height.
  """
  side = share * image.width
  left = int(max(0, x * image.width - side / 2))
  top = int(max(0, y * image.height - side / 2))
  right = min(image.width, left + side)
  bottom = min(image.height, top + side)
  image = image.copy()
  ImageDraw.Draw(image).rectangle((left, top, right, bottom), _CUTOUT_COLOUR)
  return image


def _affine(image: Image.Image, matrix: tuple[float | int, ...]) -> Image.Image:
  """Output pixel (x, y) shows input (a x + b y + c, d x + e y + f)."""
  return image.transform(image.size, Image.Transform.AFFINE, matrix)


def _factor(share: float | int) -> float:
  return 1 + 0.9 * share


# The amount is a function of the magnitude as a share of the largest one; it
# has a sign, which some ignore.
OPS: dict[str, Op] = {
  "AutoContrast": Op(image_ops.auto_contrast),
  "Equalize": Op(image_ops.equalize),
  "Invert": Op(image_ops.invert),
  "Rotate": Op(rotate, lambda share: 30 * abs(share)),
  "Posterize": Op(image_ops.posterize, lambda share: 4 - int(4 * abs(share))),
  "Solarize": Op(image_ops.solarize, lambda share: 256 - 256 * abs(share)),
  "SolarizeAdd": Op(
    image_ops.solarize_add, lambda share: int(110 * abs(share))
  ),
  "Color": Op(image_ops.color, _factor),
  "Contrast": Op(image_ops.contrast, _factor),
  "Brightness": Op(image_ops.brightness, _factor),
  "Sharpness": Op(image_ops.sharpness, _factor),
  "ShearX": Op(shear_x, lambda share: 0.3 * share),
  "ShearY": Op(shear_y, lambda share: 0.3 * share),
  _CUTOUT: Op(cutout, lambda share: 0.3571 * abs(share)),
  "TranslateX": Op(translate_x, lambda share: 0.4464 * share),
  "TranslateY": Op(translate_y, lambda share: 0.4464 * share),
}
