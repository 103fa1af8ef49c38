"""Which part of each frame is seen, and at what size.

A training crop is drawn once per clip from the frame size alone and is then
applied to one decoded frame after the other. Evaluation scales the short side
and takes the centre, or three crops along the long side.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Real, UInt8
from PIL import Image

from vidjax.checks import Config, one_of

cv2.setNumThreads(0)  # clips are decoded in parallel, each in one thread

_SCALES = (1, 0.875, 0.75, 0.66)  # crop sides of `multiscale`
_SNAP = 3  # sides nearer to the image size than this take it
# Where `multiscale` may put its crop, in quarters (x, y) of the free space.
_ANCHORS = (
  *((x, y) for y in (0, 2, 4) for x in (0, 2, 4)),
  *((x, y) for y in (1, 3) for x in (1, 3)),
)
_SHIFT = 8 / 7  # short side of `shift`, in image sizes (as 256 is to 224)
_AREA = (0.08, 1)  # of the box of `resized`, as a share of the frame
_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))  # of that box, width / height
_TRIES = 10


@dataclasses.dataclass(frozen=True)
class CutResize:
  """Cuts a box out of a frame and scales it with antialiasing.

  Attributes:
    top: first row of the box.
    left: first column of the box.
    height: rows of the box.
    width: columns of the box.
    size: height and width of the result.
  """

  top: int
  left: int
  height: int
  width: int
  size: int

  def __call__(
    self, frame: UInt8[np.ndarray, "h w 3"]
  ) -> UInt8[np.ndarray, "s s 3"]:
    """Crops one frame; Pillow's bilinear filter, as in the X-ViT code."""
    box = frame[
      self.top : self.top + self.height, self.left : self.left + self.width
    ]
    side = (self.size, self.size)
    return np.asarray(
      Image.fromarray(box).resize(side, Image.Resampling.BILINEAR)
    )


@dataclasses.dataclass(frozen=True)
class ResizeCut:
  """Scales a frame without antialiasing and cuts a square out of it.

  Attributes:
    height: rows of the scaled frame.
    width: columns of the scaled frame.
    top: first row of the square.
    left: first column of the square.
    size: height and width of the result.
  """

  height: int
  width: int
  top: int
  left: int
  size: int

  def __call__(
    self, frame: Real[np.ndarray, "h w 3"]
  ) -> Real[np.ndarray, "s s 3"]:
    """Crops one frame, 8-bit or float."""
    return self.cut(resize(frame, self.height, self.width))

  def cut(
    self, scaled: Real[np.ndarray, "*t h w 3"]
  ) -> Real[np.ndarray, "*t s s 3"]:
    """Cuts the square out of frames that are scaled already."""
    rows = slice(self.top, self.top + self.size)
    return scaled[..., rows, self.left : self.left + self.size, :]


@dataclasses.dataclass(frozen=True)
class ResizeCutResize:
  """Scales a frame, cuts a box out of it and scales that to a square.

  Nothing is antialiased, and the shape of the box is not kept.

  Attributes:
    height: rows of the scaled frame.
    width: columns of the scaled frame.
    box: top, left, height and width of the box.
    size: height and width of the result.
  """

  height: int
  width: int
  box: tuple[int, int, int, int]
  size: int

  def __call__(
    self, frame: Real[np.ndarray, "h w 3"]
  ) -> Real[np.ndarray, "s s 3"]:
    """Crops one frame, 8-bit or float."""
    top, left, height, width = self.box
    scaled = resize(frame, self.height, self.width)
    part = scaled[top : top + height, left : left + width]
    return resize(part, self.size, self.size)


Crop = CutResize | ResizeCut | ResizeCutResize


def multiscale(
  rng: np.random.Generator, height: int, width: int, *, size: int
) -> CutResize:
  """A crop of one of a few sizes and shapes, at one of 13 places (TSN, X-ViT).

  Its sides are 1, 0.875, 0.75 or 0.66 of the short side, at most one step
  apart; a side within 2 pixels of `size` becomes `size`.

  Args:
    rng: source of the draw.
    height: rows of the frame.
    width: columns of the frame.
    size: height and width of the result.
  """
  short = min(height, width)
  sides = [int(short * scale) for scale in _SCALES]
  sides = [
    size if abs(s - size) < _SNAP and size <= short else s for s in sides
  ]
  pairs = [
    (h, w)
    for i, h in enumerate(sides)
    for j, w in enumerate(sides)
    if abs(i - j) <= 1
  ]
  h, w = pairs[rng.integers(len(pairs))]
  x, y = _ANCHORS[rng.integers(len(_ANCHORS))]
  return CutResize((height - h) // 4 * y, (width - w) // 4 * x, h, w, size)


def jitter(
  rng: np.random.Generator,
  height: int,
  width: int,
  *,
  size: int,
  short_sides: tuple[int, int],
) -> ResizeCut:
  """A random square of a frame whose short side is drawn from a range.

  The last offset is never drawn, as in the SlowFast and X-ViT code.

  Args:
    rng: source of the draws.
    height: rows of the frame.
    width: columns of the frame.
    size: height and width of the result.
    short_sides: smallest and largest short side, in pixels, at least `size`.

  Raises:
    ValueError: if the range allows a short side smaller than `size`.
  """
  if short_sides[0] < size:
    raise ValueError(
      f"the short side is drawn from {tuple(short_sides)}, but crops of {size} "
      "pixels do not fit: raise data.jitter."
    )
  h, w = short_side(height, width, round(rng.uniform(*short_sides)))
  top, left = (int(rng.integers(max(free, 1))) for free in (h - size, w - size))
  return ResizeCut(h, w, top, left, size)


def shift(
  rng: np.random.Generator, height: int, width: int, *, size: int
) -> ResizeCut:
  """A small random translation: a square of a frame 8/7 as large.

  Args:
    rng: source of the draw.
    height: rows of the frame.
    width: columns of the frame.
    size: height and width of the result.
  """
  h, w = short_side(height, width, round(_SHIFT * size))
  top, left = (int(rng.integers(free + 1)) for free in (h - size, w - size))
  return ResizeCut(h, w, top, left, size)


def resized(
  rng: np.random.Generator, height: int, width: int, *, size: int, short: int
) -> ResizeCutResize:
  """A box of random area and shape, scaled to a square (MMAction, Inception).

  In the frame, scaled to a short side, the area of the box is uniform in 8 % to
  100 %, its width / height log-uniform in 3/4 to 4/3, its sides are rounded and
  its place is a uniform integer. If none of ten draws fits the frame, the box
  is its central square.

  Args:
    rng: source of the draws.
    height: rows of the frame.
    width: columns of the frame.
    size: height and width of the result.
    short: short side, in pixels, of the frame before the box is cut.
  """
  h, w = short_side_rounded(height, width, short)
  for _ in range(_TRIES):
    area = rng.uniform(*_AREA) * h * w
    aspect = math.exp(rng.uniform(*_LOG_ASPECT))
    rows = round(math.sqrt(area / aspect))
    columns = round(math.sqrt(area * aspect))
    if rows <= h and columns <= w:
      top = int(rng.integers(h - rows, endpoint=True))
      left = int(rng.integers(w - columns, endpoint=True))
      return ResizeCutResize(h, w, (top, left, rows, columns), size)
  side = min(h, w)
  box = ((h - side) // 2, (w - side) // 2, side, side)
  return ResizeCutResize(h, w, box, size)


# By `data.crop`: from the `data` part of the configuration to the function
# `(rng, height, width) -> crop`.
CROPS: dict[str, Callable[[Config], Callable[..., Crop]]] = {
  "multiscale": lambda data: functools.partial(
    multiscale, size=data.image_size
  ),
  "jitter": lambda data: functools.partial(
    jitter, size=data.image_size, short_sides=tuple(data.jitter)
  ),
  "shift": lambda data: functools.partial(shift, size=data.image_size),
  "resized": lambda data: functools.partial(
    resized, size=data.image_size, short=data.resize_side
  ),
}


def eval_crops(
  height: int,
  width: int,
  *,
  size: int,
  crops: int,
  style: str = "slowfast",
  short: int = 0,
) -> list[ResizeCut]:
  """The crops of evaluation: the centre, or three along the long side.

  A frame that is at least as wide as tall has them from left to right, a taller
  one from top to bottom; across, they are central. The style "slowfast" floors
  the long side, rounds the centre up and orders three crops left, centre,
  right. "mmaction" rounds the long side, rounds the centre down, puts the
  right crop at twice the centre's offset and orders left, right, centre.

  Args:
    height: rows of the frame.
    width: columns of the frame.
    size: side of the crops.
    crops: 1 or 3.
    style: name of the convention.
    short: short side of the scaled frame; 0 for `size`.

  Raises:
    ValueError: if `crops` is neither 1 nor 3, the style is unknown, or crops
      of `size` do not fit.
  """
  if crops not in (1, 3):
    raise ValueError(
      f"evaluation takes 1 (centre) or 3 crops per clip, not {crops}: change "
      "eval.crops."
    )
  if short and short < size:
    raise ValueError(
      f"eval.short_side is {short}, but crops of {size} pixels do not fit: "
      "raise it, or set it to 0."
    )
  rule = _STYLES[one_of("eval.crop_style", style, _STYLES)]
  h, w = rule.scale(height, width, short or size)
  free, across = max(h, w) - size, rule.centre(min(h, w) - size)
  offsets = (rule.centre(free),) if crops == 1 else rule.three(free)
  return [
    ResizeCut(h, w, *((at, across) if h > w else (across, at)), size)
    for at in offsets
  ]


def short_side(height: int, width: int, short: int) -> tuple[int, int]:
  """Returns (height, width) scaled to a short side; the long one is floored."""
  if width < height:
    return math.floor(height / width * short), short
  return short, math.floor(width / height * short)


def short_side_rounded(height: int, width: int, short: int) -> tuple[int, int]:
  """Returns (height, width) scaled to a short side; halves round up (mmcv)."""
  scale = short / min(height, width)
  return int(height * scale + 0.5), int(width * scale + 0.5)


def resize(
  frame: Real[np.ndarray, "h w 3"], height: int, width: int
) -> Real[np.ndarray, "h2 w2 3"]:
  """Bilinear scaling without antialiasing, half-pixel centres.

  Equal to PyTorch's `interpolate(mode="bilinear", align_corners=False)` on
  float frames up to 1e-5 of the range; 8-bit frames are rounded once more.
  """
  if frame.shape[:2] == (height, width):
    return frame
  return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


@dataclasses.dataclass(frozen=True)
class _Style:
  """How evaluation scales frames and places crops in the free pixels."""

  scale: Callable[[int, int, int], tuple[int, int]]
  centre: Callable[[int], int]
  three: Callable[[int], tuple[int, ...]]


_STYLES = {
  "slowfast": _Style(
    short_side,
    lambda free: -(-free // 2),
    lambda free: (0, -(-free // 2), free),
  ),
  "mmaction": _Style(
    short_side_rounded,
    lambda free: free // 2,
    lambda free: (0, free // 2 * 2, free // 2),
  ),
}
