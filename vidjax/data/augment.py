"""Random changes of the pixels of a clip: recipes by name, and erasing.

Everything is drawn once per clip, so all frames change alike.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32

from vidjax.data.auto_augment import auto_augment
from vidjax.data.colour import moco_v2
from vidjax.data.imgaug import Frames, ImgAug
from vidjax.data.photometric import photometric
from vidjax.data.rand_augment import rand_augment
from vidjax.data.rand_augment16 import RandAugment16

_ERASE_AREA = (0.02, 1 / 3)  # share of the frame
_ERASE_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))  # height / width
_ERASE_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A recipe of augmentation, and its place in the pipeline.

  Attributes:
    cropped: whether it changes the cropped clip; otherwise it changes whole
      frames, before they are cropped and flipped.
    build: seed of the data to `(video, rng) -> video`.
    flip_last: whether a cropped clip is flipped after the change and not before
      it.
  """

  cropped: bool
  build: Callable[[int], Callable[[Frames, np.random.Generator], Frames]]
  flip_last: bool = False


def _unchanged(video: Frames, rng: np.random.Generator) -> Frames:
  del rng
  return video


# By `data.auto_augment`.
RECIPES: dict[str, Recipe] = {
  "none": Recipe(cropped=True, build=lambda seed: _unchanged),
  "v0": Recipe(cropped=False, build=lambda seed: auto_augment),
  "photometric": Recipe(cropped=False, build=lambda seed: photometric),
  "imgaug": Recipe(cropped=True, build=ImgAug),
  "rand-m7-n4-mstd0.5-inc1": Recipe(
    cropped=True, build=lambda seed: rand_augment
  ),
  "moco_v2": Recipe(cropped=True, build=lambda seed: moco_v2, flip_last=True),
  "rand16-n2-m27": Recipe(
    cropped=True, build=lambda seed: RandAugment16(2, 27), flip_last=True
  ),
}


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
