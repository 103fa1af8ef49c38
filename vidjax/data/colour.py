"""MoCo v2's random changes of colour and sharpness, for clips (SIFA).

Chen et al. 2020, "Improved Baselines with Momentum Contrastive Learning"; the
rules are Pillow's, as torchvision applies them to 8-bit images.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from vidjax.data import image_ops

_JITTER = 0.8  # probabilities: of the four changes of colour ...
_GREY = 0.2
_BLUR = 0.5
_RADIUS = (0.1, 2.0)  # standard deviation of the blur, in pixels


@dataclasses.dataclass(frozen=True)
class Jitter:
  """A change of colour, and by how much.

  Attributes:
    function: `(image, amount) -> image`.
    low: smallest amount.
    high: largest amount; it is uniform between them.
  """

  function: Callable[[Image.Image, float], Image.Image]
  low: float
  high: float


def moco_v2(
  video: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
  """Changes the colours of a clip, makes it grey, and blurs it.

  With probability 0.8 all four of `JITTERS` are applied in a random order, then
  with probability 0.2 the clip becomes grey, then with probability 0.5 it is
  blurred with a radius that is uniform in 0.1 to 2 pixels. All frames share
  these draws; the contrast is around the mean of each frame.

  Args:
    video: the clip.
    rng: source of the draws.

  Returns:
    The changed clip; the argument itself if nothing was to be applied.
  """
  changes: list[tuple[Any, ...]] = []  # functions, and their amounts
  if rng.random() < _JITTER:
    for name in rng.permutation(tuple(JITTERS)).tolist():
      jitter = JITTERS[name]
      changes.append((jitter.function, rng.uniform(jitter.low, jitter.high)))
  if rng.random() < _GREY:
    changes.append((grey,))
  if rng.random() < _BLUR:
    changes.append((blur, rng.uniform(*_RADIUS)))
  if not changes:
    return video
  frames = [Image.fromarray(frame) for frame in video]
  for function, *amounts in changes:
    frames = [function(frame, *amounts) for frame in frames]
  return np.stack([np.asarray(frame) for frame in frames])


def hue(image: Image.Image, turns: float | int) -> Image.Image:
  """Turns the 8-bit hue of HSV by a share of the colour circle, truncated."""
  h, s, v = image.convert("HSV").split()
  moved = h.point([(value + int(255 * turns)) % 256 for value in range(256)])
  return Image.merge("HSV", (moved, s, v)).convert("RGB")


def grey(image: Image.Image) -> Image.Image:
  """Puts the luma `0.299 R + 0.587 G + 0.114 B` into all channels."""
  return image.convert("L").convert("RGB")


def blur(image: Image.Image, radius: float | int) -> Image.Image:
  """Blurs with a Gaussian, approximated by repeated box filters."""
  return image.filter(ImageFilter.GaussianBlur(radius))


# By name; 1 changes nothing of the first three, 0 nothing of the hue.
JITTERS: dict[str, Jitter] = {
  "brightness": Jitter(image_ops.brightness, 0.6, 1.4),
  "contrast": Jitter(image_ops.contrast, 0.6, 1.4),
  "saturation": Jitter(image_ops.color, 0.6, 1.4),
  "hue": Jitter(hue, -0.1, 0.1),
}
