"""Scenes of the built-in motion clips: one coloured object that moves.

The twelve classes are six pairs. A clip of the second class of a pair is made
by drawing a scene of the first and playing it backwards, background and
distractors included, and everything but the object's own motion is as likely
forwards as backwards. So both classes of a pair have the same distribution of
frames, taken one by one or as a set, and only their order tells them apart.

Lengths and positions are in sides of the image, x to the right and y down;
angles grow clockwise.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64, UInt8

_DARK = 0.3  # brightness of an object's mark
_MARK_FROM = 0.2  # the mark covers local x above this, in radii
_BAR = 0.45  # half-width of a bar, in radii
_DISTRACTORS = 3
_OCTAVES = ((3, 6.0), (7, 4.0), (15, 3.0))  # cells per side, grey levels
_STRIPES = 0.12  # relative contrast of an object's texture

Times = Float64[np.ndarray, " t"]
Maps = Float32[np.ndarray, "t s s"]


@dataclasses.dataclass(frozen=True)
class Pose:
  """Where the object is in every frame.

  Attributes:
    x: of its centre.
    y: of its centre.
    radius: of its circumscribed circle.
    angle: in radians.
    opacity: from 0, not there, to 1.
    gap: width of the gap between its two halves.
  """

  x: Times
  y: Times
  radius: Times
  angle: Times
  opacity: Times
  gap: Times


def _move_left(rng: np.random.Generator, pose: Pose, progress: Times) -> Pose:
  x, y = _crossing(rng, pose, progress)
  return dataclasses.replace(pose, x=x, y=y)


def _move_up(rng: np.random.Generator, pose: Pose, progress: Times) -> Pose:
  y, x = _crossing(rng, pose, progress)
  return dataclasses.replace(pose, x=x, y=y)


def _crossing(
  rng: np.random.Generator, pose: Pose, progress: Times
) -> tuple[Times, Times]:
  """Coordinates along and across a way in the negative direction."""
  reach = rng.uniform(0.44, 0.56)
  along = reach * (0.5 - progress)
  margin = 0.5 * reach + 0.7 * pose.radius[0]
  middle = rng.uniform(margin, 1 - margin)
  aside = rng.uniform(0.25, 0.75) + rng.uniform(-0.2, 0.2) * along
  return middle + along, aside


def _approach(rng: np.random.Generator, pose: Pose, progress: Times) -> Pose:
  far = rng.uniform(0.1, 0.14)
  ratio = rng.uniform(2.2, 3.0)
  return dataclasses.replace(pose, radius=far * ratio**progress)


def _rotate_clockwise(
  rng: np.random.Generator, pose: Pose, progress: Times
) -> Pose:
  """Turns a large object about a point near its bright edge, as a hand."""
  turn = math.radians(rng.uniform(100, 170))
  angle = pose.angle + turn * progress
  arm = rng.uniform(0.16, 0.2)
  x, y = rng.uniform(0.46, 0.54, 2)
  return dataclasses.replace(
    pose,
    x=x + arm * np.cos(angle),
    y=y + arm * np.sin(angle),
    angle=angle,
    radius=np.full_like(pose.radius, rng.uniform(0.26, 0.32)),
  )


def _appear(rng: np.random.Generator, pose: Pose, progress: Times) -> Pose:
  middle, width = rng.uniform(0.35, 0.65), rng.uniform(0.1, 0.6)
  opacity = np.clip((progress - middle) / width + 0.5, 0, 1)
  return dataclasses.replace(pose, opacity=opacity)


def _open(rng: np.random.Generator, pose: Pose, progress: Times) -> Pose:
  # Large and near the middle, so that both halves stay in sight.
  return dataclasses.replace(
    pose,
    x=0.5 + 0.5 * (pose.x - 0.5),
    y=0.5 + 0.5 * (pose.y - 0.5),
    radius=np.full_like(pose.radius, rng.uniform(0.26, 0.32)),
    gap=rng.uniform(0.35, 0.5) * progress,
  )


Motion = Callable[[np.random.Generator, Pose, Times], Pose]

# A class, its twin, and the motion of the first.
PAIRS: tuple[tuple[str, str, Motion], ...] = (
  ("move_left", "move_right", _move_left),
  ("move_up", "move_down", _move_up),
  ("approach", "recede", _approach),
  ("rotate_clockwise", "rotate_counter_clockwise", _rotate_clockwise),
  ("appear", "vanish", _appear),
  ("open", "close", _open),
)
CLASSES: tuple[str, ...] = tuple(
  name for first, second, _ in PAIRS for name in (first, second)
)
# The class of each class's clips played backwards.
REVERSED: dict[int, int] = {label: label ^ 1 for label in range(len(CLASSES))}
# The class of the mirrored clips (left to right), where it is another one.
FLIPPED: dict[int, int] = {
  CLASSES.index(a): CLASSES.index(b)
  for pair in (
    ("move_left", "move_right"),
    ("rotate_clockwise", "rotate_counter_clockwise"),
  )
  for a, b in (pair, pair[::-1])
}


def render(
  label: int, rng: np.random.Generator, *, frames: int, size: int
) -> UInt8[np.ndarray, "t s s 3"]:
  """Draws one clip.

  Twin labels give the same frames in opposite orders for equal states of `rng`.

  Args:
    label: index in `CLASSES`.
    rng: source of everything that varies.
    frames: length t of the clip.
    size: side s of the frames in pixels.

  Raises:
    ValueError: if there is no such class.
  """
  if label not in REVERSED:
    raise ValueError(
      f"label is {label}, but the motion classes are 0 to {len(CLASSES) - 1}."
    )
  canvas = _background(rng, frames, size)
  centres = (np.arange(size, dtype=np.float32) + 0.5) / size
  for _ in range(_DISTRACTORS):
    _add_distractor(rng, canvas, centres)
  video = _add_object(rng, canvas, centres, _pose(rng, label, frames))
  clip = np.clip(video + 0.5, 0, 255).astype(np.uint8)
  return np.ascontiguousarray(clip[::-1]) if label & 1 else clip


def _pose(rng: np.random.Generator, label: int, frames: int) -> Pose:
  progress = _progress(rng, frames)
  drift = rng.uniform(-0.06, 0.06, 2)[:, None] * (progress - 0.5)
  x, y = rng.uniform(0.33, 0.67, 2)[:, None] + drift
  every = np.ones(frames)
  still = Pose(
    x=x,
    y=y,
    radius=rng.uniform(0.16, 0.24) * every,
    angle=rng.uniform(0, 2 * math.pi) * every,
    opacity=every,
    gap=0 * every,
  )
  _, _, motion = PAIRS[label // 2]
  return motion(rng, still, progress)


def _progress(rng: np.random.Generator, frames: int) -> Times:
  """From 0 to 1: at rest, a steady or smooth change, at rest again."""
  before, after = rng.uniform(0, 0.12, 2)
  u = (np.linspace(0, 1, frames) - before) / (1 - before - after)
  u = np.clip(u, 0, 1)
  smooth = rng.uniform(0, 0.6)
  return u - smooth * np.sin(2 * np.pi * u) / (2 * np.pi)


def _background(rng: np.random.Generator, frames: int, size: int) -> Maps:
  """Grey noise of several scales that drifts evenly."""
  grey = np.full((frames, size, size), rng.uniform(120, 136), np.float32)
  steps = np.linspace(-0.5, 0.5, frames)
  drift = rng.uniform(-0.15, 0.15, 2)[:, None] * steps
  contrast = rng.uniform(0.6, 1.2)
  margin = 0.1
  centres = (np.arange(size) + 0.5) / size
  for cells, level in _OCTAVES:
    n = math.ceil(cells * (1 + 2 * margin)) + 1
    grid = rng.uniform(-1, 1, (n, n)) * level * contrast
    at = (centres + drift[..., None] + margin) * cells
    # Bilinear interpolation is a product of two hat functions.
    rows, columns = np.maximum(1 - abs(at[..., None] - np.arange(n)), 0)
    grey += rows @ grid @ columns.transpose(0, 2, 1)
  return grey


def _brownian(rng: np.random.Generator, frames: int) -> Times:
  """A path whose mean, not its start, is uniform: it has no arrow of time."""
  path = np.cumsum(rng.normal(0, 0.02, frames))
  return path - path.mean() + rng.uniform(0.05, 0.95)


def _add_distractor(
  rng: np.random.Generator, canvas: Maps, centres: Float32[np.ndarray, " s"]
) -> None:
  """Draws a faint grey shape that wanders into the canvas, in place."""
  shape = _SHAPES[rng.integers(len(_SHAPES))]
  radius, angle = rng.uniform(0.06, 0.13), rng.uniform(0, 2 * math.pi)
  frames = len(canvas)
  x, y = (_brownian(rng, frames) for _ in range(2))
  turned = np.full(frames, angle)
  u, v = _local(centres, x, y, turned, np.full(frames, radius))
  cover = _cover(shape(u, v), np.full(frames, radius))
  shade = rng.choice((-1, 1)) * rng.uniform(10, 22)
  canvas += np.float32(shade) * cover


def _add_object(
  rng: np.random.Generator,
  canvas: Maps,
  centres: Float32[np.ndarray, " s"],
  pose: Pose,
) -> Float32[np.ndarray, "t s s 3"]:
  """Draws the object over the grey canvas."""
  shape = _SHAPES[rng.integers(len(_SHAPES))]
  colour = _saturated(rng)
  wave = rng.uniform(3, 6) * _direction(rng.uniform(0, 2 * math.pi))
  cut = rng.uniform(0, 2 * math.pi)
  covered, paint = np.zeros_like(canvas), np.zeros_like(canvas)
  for side in (-1, 1) if pose.gap.any() else (0,):
    aside = side * pose.gap / 2
    x, y = pose.x + aside * math.cos(cut), pose.y + aside * math.sin(cut)
    u, v = _local(centres, x, y, pose.angle, pose.radius)
    distance = shape(u, v)
    if side:
      normal = _direction(cut - pose.angle[0])
      distance = np.maximum(distance, -side * (u * normal[0] + v * normal[1]))
    light = 1 + _STRIPES * np.sin(wave[0] * u + wave[1] * v)
    dark = _cover(_MARK_FROM - u, pose.radius)
    light *= 1 - (1 - _DARK) * dark
    cover = _cover(distance, pose.radius)
    covered += cover
    paint += cover * light
  opacity = pose.opacity.astype(np.float32)[:, None, None]
  behind = canvas * (1 - opacity * covered)
  return behind[..., None] + (opacity * paint)[..., None] * colour


def _saturated(rng: np.random.Generator) -> Float32[np.ndarray, "3"]:
  """A saturated colour of any hue."""
  hue, low, high = rng.uniform(0, 6), rng.uniform(0, 50), rng.uniform(200, 255)
  share = np.clip(abs((hue - np.array([0, 2, 4]) + 3) % 6 - 3), 1, 2) - 1
  return (high - (high - low) * share).astype(np.float32)


def _direction(angle: float) -> Float32[np.ndarray, "2"]:
  return np.array([math.cos(angle), math.sin(angle)], np.float32)


def _local(
  centres: Float32[np.ndarray, " s"],
  x: Times,
  y: Times,
  angle: Times,
  radius: Times,
) -> tuple[Maps, Maps]:
  """Coordinates of all pixels in the frame of an object, in radii."""
  cos = (np.cos(angle) / radius).astype(np.float32)[:, None]
  sin = (np.sin(angle) / radius).astype(np.float32)[:, None]
  dx = centres - x.astype(np.float32)[:, None]
  dy = centres - y.astype(np.float32)[:, None]
  u = (cos * dx)[:, None, :] + (sin * dy)[:, :, None]
  v = (cos * dy)[:, :, None] - (sin * dx)[:, None, :]
  return u, v


def _cover(distance: Maps, radius: Times) -> Maps:
  """Share of each pixel inside an edge, for signed distances in radii."""
  pixels = (radius * distance.shape[-1]).astype(np.float32)[:, None, None]
  return np.clip(0.5 - distance * pixels, 0, 1)


def _disc(u: Maps, v: Maps) -> Maps:
  return np.sqrt(u * u + v * v) - 0.95


def _square(u: Maps, v: Maps) -> Maps:
  return np.maximum(abs(u), abs(v)) - 0.8


def _triangle(u: Maps, v: Maps) -> Maps:
  slanted = math.sqrt(0.75) * abs(v) + 0.5 * u
  return np.maximum(slanted, -u) - 0.55


def _bar(u: Maps, v: Maps) -> Maps:
  return np.maximum(abs(u) - 1, abs(v) - _BAR)


_SHAPES = (_disc, _square, _triangle, _bar)
