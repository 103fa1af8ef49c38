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
_ASPECT = (3 / 4, 4 / 3)  # width / height of a random box
_LOG_ASPECT = (math.log(_ASPECT[0]), math.log(_ASPECT[1]))
_TRIES = 10

_Area = tuple[float | int, float | int]


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
    return resize_antialiased(box, self.size, self.size)


@dataclasses.dataclass(frozen=True)
class ResizeCut:
  """Scales a frame and cuts a square out of it.

  Attributes:
    height: rows of the scaled frame.
    width: columns of the scaled frame.
    top: first row of the square.
    left: first column of the square.
    size: height and width of the result.
    antialias: whether frames, which must be 8-bit then, are antialiased.
  """

  height: int
  width: int
  top: int
  left: int
  size: int
  antialias: bool = False

  def __call__(
    self, frame: Real[np.ndarray, "h w 3"]
  ) -> Real[np.ndarray, "s s 3"]:
    """Crops one frame, 8-bit or float."""
    return self.cut(self.scale(frame))

  def scale(
    self, frame: Real[np.ndarray, "h w 3"]
  ) -> Real[np.ndarray, "h2 w2 3"]:
    """Scales one frame."""
    if self.antialias:
      return resize_antialiased(frame, self.height, self.width)
    return resize(frame, self.height, self.width)

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
  rng: np.random.Generator,
  height: int,
  width: int,
  *,
  size: int,
  short: int,
  area: _Area = (0.08, 1),
) -> ResizeCutResize:
  """A box of random area and shape, scaled to a square (MMAction).

  In the frame, scaled to a short side, the area of the box is uniform in a
  range, its width / height log-uniform in 3/4 to 4/3, its sides are rounded and
  its place is a uniform integer. If none of ten draws fits the frame, the box
  is its central square.

  Args:
    rng: source of the draws.
    height: rows of the frame.
    width: columns of the frame.
    size: height and width of the result.
    short: short side, in pixels, of the frame before the box is cut.
    area: smallest and largest share of the frame.
  """
  h, w = short_side_rounded(height, width, short)
  box = _random_box(rng, h, w, area)
  if box is None:
    side = min(h, w)
    box = ((h - side) // 2, (w - side) // 2, side, side)
  return ResizeCutResize(h, w, box, size)


def inception(
  rng: np.random.Generator,
  height: int,
  width: int,
  *,
  size: int,
  area: _Area = (0.08, 1),
) -> CutResize:
  """The box of `resized`, cut out of the frame as it is (torchvision).

  It is scaled with antialiasing (Szegedy et al. 2015; torchvision's
  RandomResizedCrop on Pillow images). If none of ten draws fits the frame, the
  box is the largest central one of a width / height in 3/4 to 4/3.

  Args:
    rng: source of the draws.
    height: rows of the frame.
    width: columns of the frame.
    size: height and width of the result.
    area: smallest and largest share of the frame.
  """
  box = _random_box(rng, height, width, area)
  if box is None:
    least, most = _ASPECT
    rows = min(height, round(width / least))
    columns = min(width, round(height * most))
    box = ((height - rows) // 2, (width - columns) // 2, rows, columns)
  return CutResize(*box, size)


def _random_box(
  rng: np.random.Generator, height: int, width: int, area: _Area
) -> tuple[int, int, int, int] | None:
  """Top, left, height and width; None if no draw fits the frame."""
  for _ in range(_TRIES):
    pixels = rng.uniform(*area) * height * width
    aspect = math.exp(rng.uniform(*_LOG_ASPECT))
    rows = round(math.sqrt(pixels / aspect))
    columns = round(math.sqrt(pixels * aspect))
    if 0 < rows <= height and 0 < columns <= width:
      top = int(rng.integers(height - rows, endpoint=True))
      left = int(rng.integers(width - columns, endpoint=True))
      return top, left, rows, columns
  return None


def _area(data: Config) -> _Area:
  low, high = data.area
  if not 0 < low <= high <= 1:
    raise ValueError(
      f"data.area is {tuple(data.area)}; give the smallest and the largest "
      "share of the frame, above 0 and at most 1."
    )
  return low, high


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
    resized, size=data.image_size, short=data.resize_side, area=_area(data)
  ),
  "inception": lambda data: functools.partial(
    inception, size=data.image_size, area=_area(data)
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
  "torchvision" floors the long side, antialiases, rounds the centre to the
  nearest (halves to even) and orders as "slowfast".

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
    ResizeCut(
      h, w, *((at, across) if h > w else (across, at)), size, rule.antialias
    )
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


def short_side_exact(height: int, width: int, short: int) -> tuple[int, int]:
  """As `short_side`, but the floor is of the exact quotient (torchvision)."""
  side = min(height, width)
  return short * height // side, short * width // side


def resize_antialiased(
  frame: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Pillow's bilinear scaling, whose filter grows with the reduction."""
  image = Image.fromarray(frame)
  return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


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
  antialias: bool = False


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
  "torchvision": _Style(
    short_side_exact,
    lambda free: round(free / 2),
    lambda free: (0, round(free / 2), free),
    antialias=True,
  ),
}
