"""Random changes of brightness and colour of clips (TokShift, LAPS).

The rules are torchvision's for 8-bit tensors: a blend is computed in float32,
clipped to [0, 255] and truncated; gamma and hue work on values scaled to
[0, 1], and y becomes the 8-bit value `floor(255.999 y)`.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vidjax.data.imgaug import Frames

_PROBABILITY = 0.1  # of each change
_GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # shares of R, G and B
_TO_8_BIT = np.float32(255.999)
_VALUES = np.arange(256, dtype=np.float32)
_DEGREES = 360  # of the hue in cv2's float images


@dataclasses.dataclass(frozen=True)
class Change:
  """A change of a recipe: what it does, and by how much.

  Attributes:
    function: `(video, amount) -> video`.
    low: smallest amount.
    high: largest amount; it is uniform between them.
  """

  function: Callable[[Frames, float], Frames]
  low: float
  high: float


def photometric(video: Frames, rng: np.random.Generator) -> Frames:
  """Changes brightness, saturation, gamma and hue, each one time in ten.

  In this order, with amounts that all frames share (`CHANGES`).

  Args:
    video: the clip, before it is cropped.
    rng: source of the draws.

  Returns:
    The changed clip; the argument itself if nothing was to be changed.
  """
  for change in CHANGES.values():
    if rng.random() < _PROBABILITY:
      video = change.function(video, rng.uniform(change.low, change.high))
  return video


def brightness(video: Frames, factor: float) -> Frames:
  """Blends with black: 0 is black, 1 the clip, more is beyond it."""
  return _truncated(np.float32(factor) * _VALUES)[video]


def saturation(video: Frames, factor: float) -> Frames:
  """Blends with grey: 0 is grey, 1 the clip, more is beyond it.

  Grey is `0.2989 R + 0.587 G + 0.114 B`, truncated.
  """
  colour, rest = np.float32(factor), np.float32(1 - factor)
  frames = []
  for frame in video:
    red, green, blue = np.moveaxis(frame * _GREY, -1, 0)
    grey = np.trunc(red + green + blue)[..., None]
    frames.append(_truncated(colour * frame + rest * grey))
  return np.stack(frames)


def gamma(video: Frames, exponent: float) -> Frames:
  """Raises the values, scaled to [0, 1], to a power."""
  table = (_VALUES / 255) ** np.float32(exponent)
  return (_TO_8_BIT * table).astype(np.uint8)[video]


def hue(video: Frames, turns: float) -> Frames:
  """Turns the hue of HSV by a share of the colour circle."""
  frames = []
  for frame in video:
    hsv = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + _DEGREES * turns) % _DEGREES
    rgb = np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1)
    frames.append((_TO_8_BIT * rgb).astype(np.uint8))
  return np.stack(frames)


def _truncated(
  values: Float32[np.ndarray, "*shape"],
) -> UInt8[np.ndarray, "*shape"]:
  return np.clip(values, 0, 255).astype(np.uint8)


# By name, in the order in which they are applied.
CHANGES: dict[str, Change] = {
  "brightness": Change(brightness, 0.5, 2.0),
  "saturation": Change(saturation, 0.5, 3.0),
  "gamma": Change(gamma, 0.8, 1.2),
  "hue": Change(hue, -0.5, 0.5),
}
