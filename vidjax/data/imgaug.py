"""The augmentation that MMAction calls "imgaug default", for clips.

A RandAugment (Cubuk et al. 2020) of operations of the imgaug library, whose
conventions differ from timm's: pixels from outside the frame are black, shears
are around the centre, a cutout is grey (128, 128, 128) and may reach over the
border.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vidjax.data import image_ops

_COUNT = 2  # operations of a clip
_LEVEL = 9 / 10
_SLOPE = math.tan(math.radians(17.19 * _LEVEL))  # of both shears: 15.47 degrees
_ANGLE = math.radians(30 * _LEVEL)
_SHARE = 0.2 * _LEVEL  # of the side: a translation; a cutout's side
_FACTOR = 1.8 * _LEVEL + 0.1
_GREY = 128

Frames = UInt8[np.ndarray, "t h w 3"]
_Pair = tuple[float | int, float | int]
ClipOp = Callable[[Frames, np.random.Generator], Frames]


class ImgAug:
  """Two of 15 operations at magnitude 9 of 10, applied to a cropped clip.

  They are drawn without replacement, applied in the order of `clip_ops`, and
  the same for all frames. The sign of each of the five geometric operations is
  drawn once, when the pipeline is built, not per clip: a run shears to one side
  only (the official behaviour, kept).

  Attributes:
    ops: the operations by name, in the order in which they are applied.
  """

  def __init__(self, seed: int):
    signs = np.random.default_rng(seed).choice((-1, 1), size=5)
    self.ops = clip_ops(signs.tolist())

  def __call__(self, video: Frames, rng: np.random.Generator) -> Frames:
    """Changes a clip.

    Args:
      video: the clip, cropped and flipped.
      rng: source of the draws.
    """
    drawn = rng.choice(len(self.ops), size=_COUNT, replace=False)
    ops = tuple(self.ops.values())
    for number in sorted(drawn.tolist()):
      video = ops[number](video, rng)
    return video


def clip_ops(signs: Sequence[int]) -> dict[str, ClipOp]:
  """Returns the operations, in imgaug's terms and MMAction's order.

  Shears slant by tan(15.47 degrees), translations are 18 % of the side, the
  rotation is 27 degrees; posterize keeps 3 bits, solarize inverts from 230.4
  on, the four enhancements have factor 1.72 (1 is no change), and the square of
  the cutout has 18 % of the height, its centre uniform in the frame.

  Args:
    signs: -1 or 1 for shear x and y, translation x and y, rotation.
  """
  shear_x, shear_y, translate_x, translate_y, rotate = signs
  cos, sin = math.cos(_ANGLE), rotate * math.sin(_ANGLE)
  enhance = {
    name: _Filter(functools.partial(function, factor=_FACTOR))
    for name, function in (
      ("EnhanceColor", image_ops.color),
      ("EnhanceContrast", image_ops.contrast),
      ("EnhanceBrightness", image_ops.brightness),
      ("EnhanceSharpness", image_ops.sharpness),
    )
  }
  return {
    "ShearX": _Warp(((1, shear_x * _SLOPE), (0, 1))),
    "ShearY": _Warp(((1, 0), (shear_y * _SLOPE, 1))),
    "TranslateX": _Warp(((1, 0), (0, 1)), (translate_x * _SHARE, 0)),
    "TranslateY": _Warp(((1, 0), (0, 1)), (0, translate_y * _SHARE)),
    "Rotate": _Warp(((cos, -sin), (sin, cos))),
    "Posterize": _Filter(
      functools.partial(image_ops.posterize, bits=int(4 * _LEVEL))
    ),
    "Solarize": _Filter(
      functools.partial(image_ops.solarize, threshold=256 * _LEVEL)
    ),
    **enhance,
    "Autocontrast": _Filter(image_ops.auto_contrast),
    "Equalize": _Filter(image_ops.equalize),
    "Invert": _Filter(image_ops.invert),
    "Cutout": _cutout,
  }


@dataclasses.dataclass(frozen=True)
class _Warp:
  """Moves pixels: around the centre by a matrix, then by shares of the sides.

  Coordinates are (x, y); bilinear, black outside.
  """

  matrix: tuple[_Pair, _Pair]
  shares: _Pair = (0, 0)

  def __call__(self, video: Frames, rng: np.random.Generator) -> Frames:
    del rng
    size = (video.shape[2], video.shape[1])
    centre = (np.array(size) - 1) / 2
    matrix = np.array(self.matrix, np.float64)
    shift = centre - matrix @ centre + np.array(self.shares) * size
    forward = np.column_stack((matrix, shift))
    return np.stack([cv2.warpAffine(frame, forward, size) for frame in video])


@dataclasses.dataclass(frozen=True)
class _Filter:
  """Changes one frame after the other."""

  function: Callable[[Image.Image], Image.Image]

  def __call__(self, video: Frames, rng: np.random.Generator) -> Frames:
    del rng
    frames = (self.function(Image.fromarray(frame)) for frame in video)
    return np.stack([np.asarray(frame) for frame in frames])


def _cutout(video: Frames, rng: np.random.Generator) -> Frames:
  """Makes a square grey; the part of it that lies in the frame."""
  height, width = video.shape[1:3]
  half = _SHARE * height / 2
  y, x = rng.random() * height, rng.random() * width
  rows = slice(max(int(y - half), 0), int(y + half))
  columns = slice(max(int(x - half), 0), int(x + half))
  video = video.copy()
  video[:, rows, columns] = _GREY
  return video
