"""Random changes of a clip before it is cropped: AutoAugment and erasing.

Everything is drawn once per clip, so all frames change alike.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling

_FILL = (128, 128, 128)  # where an image is moved away
_SOLARIZE_ADD_BELOW = 128  # brighter pixels are left alone
_RESAMPLINGS = (Resampling.BILINEAR, Resampling.BICUBIC)

_ERASE_AREA = (0.02, 1 / 3)  # share of the frame
_ERASE_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))  # height / width
_ERASE_TRIES = 10


def auto_augment(
  video: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
  """Changes a clip by AutoAugment's policy "v0" (timm), RGB.

  One of the 25 pairs of `POLICIES` is drawn, and for each of its operations
  whether it is applied and with which sign; all frames share these draws. Only
  the filter of geometric operations, bilinear or bicubic, is drawn for each
  frame. Pixels from outside the frame are (128, 128, 128).

  Args:
    video: the clip, before it is cropped.
    rng: source of the draws.

  Returns:
    The changed clip; the argument itself if nothing was to be applied.
  """
  policy = POLICIES[rng.integers(len(POLICIES))]
  drawn = [op for op in policy if rng.random() < op[1]]
  if not drawn:
    return video
  frames = [Image.fromarray(frame) for frame in video]
  for name, _, level in drawn:
    if name not in GEOMETRIC:
      frames = [OPS[name](frame, level) for frame in frames]
    else:
      signed = int(rng.choice((-level, level)))
      filters = rng.integers(len(_RESAMPLINGS), size=len(frames))
      frames = [
        OPS[name](frame, signed, _RESAMPLINGS[i])
        for frame, i in zip(frames, filters, strict=True)
      ]
  return np.stack([np.asarray(frame) for frame in frames])


def erase_box(
  rng: np.random.Generator, height: int, width: int
) -> Int32[np.ndarray, "4"]:
  """Draws the rectangle of random erasing (Zhong et al. 2020, Algorithm 1).

  Its area is uniform in 2 % to 1/3 of the frame, its aspect ratio log-uniform
  in 0.3 to 1/0.3; sides are rounded and the place is uniform.

  Args:
    rng: source of the draws.
    height: rows of the frame.
    width: columns of the frame.

  Returns:
    Top, left, height and width in pixels; zeros if none of ten draws is
    smaller than the frame.
  """
  for _ in range(_ERASE_TRIES):
    area = rng.uniform(*_ERASE_AREA) * height * width
    aspect = math.exp(rng.uniform(*_ERASE_LOG_ASPECT))
    h = round(math.sqrt(area * aspect))
    w = round(math.sqrt(area / aspect))
    if h < height and w < width:
      top = rng.integers(height - h + 1)
      left = rng.integers(width - w + 1)
      return np.array([top, left, h, w], np.int32)
  return np.zeros(4, np.int32)


def _auto_contrast(image: Image.Image, level: int) -> Image.Image:
  del level
  return ImageOps.autocontrast(image)


def _color(image: Image.Image, level: int) -> Image.Image:
  return ImageEnhance.Color(image).enhance(0.1 + 0.18 * level)


def _equalize(image: Image.Image, level: int) -> Image.Image:
  del level
  return ImageOps.equalize(image)


def _invert(image: Image.Image, level: int) -> Image.Image:
  del level
  return ImageOps.invert(image)


def _posterize(image: Image.Image, level: int) -> Image.Image:
  # Not ImageOps.posterize, which refuses the 0 bits of a level below 2.5. They
  # make the image black, in timm too.
  kept = int(level / 10 * 4)
  mask = 0xFF00 >> kept & 0xFF
  return image.point([value & mask for value in range(256)] * 3)


def _solarize(image: Image.Image, level: int) -> Image.Image:
  return ImageOps.solarize(image, int(level / 10 * 256))


def _solarize_add(image: Image.Image, level: int) -> Image.Image:
  added = int(level / 10 * 110)
  table = [
    min(value + added, 255) if value < _SOLARIZE_ADD_BELOW else value
    for value in range(256)
  ]
  return image.point(table * 3)


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


def _shear_x(
  image: Image.Image,
  level: int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  return _affine(image, (1, 0.03 * level, 0, 0, 1, 0), resampling)


def _shear_y(
  image: Image.Image,
  level: int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  return _affine(image, (1, 0, 0, 0.03 * level, 1, 0), resampling)


def _translate_y(
  image: Image.Image,
  level: int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  pixels = 0.045 * level * image.height
  return _affine(image, (1, 0, 0, 0, 1, pixels), resampling)


def _rotate(
  image: Image.Image,
  level: int,
  resampling: Resampling = Resampling.BILINEAR,
) -> Image.Image:
  return image.rotate(3 * level, resample=resampling, fillcolor=_FILL)


# By timm's names: (image, level from 0 to 10) -> image.
OPS: dict[str, Callable[..., Image.Image]] = {
  "AutoContrast": _auto_contrast,
  "Color": _color,
  "Equalize": _equalize,
  "Invert": _invert,
  "Posterize": _posterize,
  "Rotate": _rotate,
  "ShearX": _shear_x,
  "ShearY": _shear_y,
  "Solarize": _solarize,
  "SolarizeAdd": _solarize_add,
  "TranslateYRel": _translate_y,
}
# The operations whose level has a sign, and that take a filter as well.
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateYRel")

# Pairs of (operation, probability, level).
POLICIES: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
  (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
  (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
  (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
  (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
  (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
  (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
  (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
  (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
  (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
  (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
  (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
  (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
  (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
  (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
  (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
  (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
  (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
  (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
  (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
  (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
  (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
  (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
  (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
  (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
  (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)
