"""Which frames of a video make a clip.

Four conventions: a *dense* clip spreads its frames evenly over a window of
`frames * stride` native frames (SlowFast, X-ViT); a *strided* one takes every
`stride`-th frame of such a window (MMAction, Video Swin, TPS); *segments* (TSN,
Wang et al. 2016) cuts the whole video into equal parts and takes a frame of
each; *snippets* take a strided clip of each part (SIFA). Indices never leave
the video: one that is too short repeats its last frame in a dense clip, and
starts again in a strided one, in snippets and in a *dense loop* (LAPS,
TokShift).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

_SEGMENT_VIEWS = 3


@dataclasses.dataclass(frozen=True)
class Sampler:
  """A sampling convention.

  Attributes:
    train: draws a clip: `(rng, n, *, frames, stride)` gives `frames` indices
      into a video of `n` frames.
    eval: chooses clip number `clip` of `clips`: `(n, *, frames, stride, clip,
      clips)` gives `frames` indices.
    options: keys of the `data` part of the configuration that are arguments of
      both, beside frames and stride.
  """

  train: Callable[..., Int[np.ndarray, " t"]]
  eval: Callable[..., Int[np.ndarray, " t"]]
  options: tuple[str, ...] = ()


def dense_train(
  rng: np.random.Generator,
  n: int,
  *,
  frames: int,
  stride: int,
  loop: bool = False,
) -> Int[np.ndarray, " t"]:
  """A window of `frames * stride` native frames at a random place.

  The start is real-valued and uniform in [0, max(n - window, 0)] (X-ViT, Bulat
  et al. 2021).

  Args:
    rng: source of the draw.
    n: number of frames of the video, at least 1.
    frames: number of indices to return.
    stride: native frames per index of the window.
    loop: whether a short video starts again (LAPS, Zhang et al. 2022) instead
      of repeating its last frame.
  """
  start = rng.uniform(0, _slack(n, frames, stride))
  return _window(start, n, frames, stride, loop)


def dense_eval(
  n: int,
  *,
  frames: int,
  stride: int,
  clip: int,
  clips: int,
  loop: bool = False,
) -> Int[np.ndarray, " t"]:
  """The window that starts at `clip / clips` of the free frames (X-ViT).

  With one clip the window starts at frame 0; the last never reaches the end.

  Args:
    n: number of frames of the video, at least 1.
    frames: number of indices to return.
    stride: native frames per index of the window.
    clip: which clip, in [0, clips).
    clips: how many clips are taken of the video.
    loop: whether a short video starts again, see `dense_train`.
  """
  start = _slack(n, frames, stride) * clip / clips
  return _window(start, n, frames, stride, loop)


def strided_train(
  rng: np.random.Generator, n: int, *, frames: int, stride: int
) -> Int[np.ndarray, " t"]:
  """Every `stride`-th frame from a random one on (MMAction).

  The start is an integer, uniform in [0, n - frames * stride], both ends
  included; 0 if the video is shorter. Indices wrap around at its end.

  Args:
    rng: source of the draw.
    n: number of frames of the video, at least 1.
    frames: number of indices to return.
    stride: native frames between two indices.
  """
  free = n - frames * stride
  start = int(rng.integers(free, endpoint=True)) if free >= 0 else 0
  return _every(start, n, frames, stride)


def strided_eval(
  n: int, *, frames: int, stride: int, clip: int, clips: int
) -> Int[np.ndarray, " t"]:
  """The clip in the middle of one of `clips` equal ranges of starts (MMAction).

  With `a = (n - frames * stride + 1) / clips` the clip starts at
  `int(clip * a + a / 2)`; at 0 if the video is shorter than the window. Indices
  wrap around at its end.

  Args:
    n: number of frames of the video, at least 1.
    frames: number of indices to return.
    stride: native frames between two indices.
    clip: which clip, in [0, clips).
    clips: how many clips are taken of the video.
  """
  free = n - frames * stride
  part = (free + 1) / clips
  start = int(clip * part + part / 2) if free >= 0 else 0
  return _every(start, n, frames, stride)


def segments_train(
  rng: np.random.Generator, n: int, *, frames: int, stride: int
) -> Int[np.ndarray, " t"]:
  """A uniform frame of each of `frames` segments, both ends included.

  Args:
    rng: source of the draws.
    n: number of frames of the video, at least 1.
    frames: number of segments.
    stride: not used; segments cover the whole video.
  """
  del stride
  first, last = _segments(n, frames)
  return rng.integers(first, last, endpoint=True)


def segments_eval(
  n: int, *, frames: int, stride: int, clip: int, clips: int
) -> Int[np.ndarray, " t"]:
  """The middle (clip 0), first (1) or last (2) frame of each segment (X-ViT).

  Args:
    n: number of frames of the video, at least 1.
    frames: number of segments.
    stride: not used; segments cover the whole video.
    clip: which clip, in [0, clips).
    clips: how many clips are taken of the video, at most 3.

  Raises:
    ValueError: if more than three clips are asked for.
  """
  del stride
  if clips > _SEGMENT_VIEWS:
    raise ValueError(
      f"segment sampling has {_SEGMENT_VIEWS} clips per video (middle, start "
      f"and end of each segment), not {clips}: lower eval.clips."
    )
  first, last = _segments(n, frames)
  return ((first + last) // 2, first, last)[clip]


def snippets_train(
  rng: np.random.Generator,
  n: int,
  *,
  frames: int,
  stride: int,
  segments: int = 1,
) -> Int[np.ndarray, " t"]:
  """Every `stride`-th frame from a random one on, in each part (SIFA).

  If the parts of `n // segments` frames are as long as a snippet of `frames /
  segments * stride`, each snippet starts at a uniform integer that keeps it in
  its part. Otherwise snippets overlap: with `g = (n - length) / segments` that
  of part i starts at `int(i * g)` plus a uniform integer in [0, int(g)]. The
  official code refuses a video shorter than a snippet; here snippets start at
  frame 0 then, and wrap around at its end.

  Args:
    rng: source of the draws.
    n: number of frames of the video, at least 1.
    frames: number of indices to return.
    stride: native frames between two indices of a snippet.
    segments: parts of the video.

  Raises:
    ValueError: if `segments` does not divide `frames`.
  """
  first, room = _snippets(n, frames, stride, segments)
  return _each(
    first + rng.integers(int(room), size=segments, endpoint=True),
    n,
    frames,
    stride,
  )


def snippets_eval(
  n: int,
  *,
  frames: int,
  stride: int,
  clip: int,
  clips: int,
  segments: int = 1,
) -> Int[np.ndarray, " t"]:
  """Snippets that start at `clip / clips` of their free frames (SIFA).

  The last clip never reaches the end. See `snippets_train`.

  Args:
    n: number of frames of the video, at least 1.
    frames: number of indices to return.
    stride: native frames between two indices of a snippet.
    clip: which clip, in [0, clips).
    clips: how many clips are taken of the video.
    segments: parts of the video.

  Raises:
    ValueError: if `segments` does not divide `frames`.
  """
  first, room = _snippets(n, frames, stride, segments)
  return _each(first + int(room * clip / clips), n, frames, stride)


def _slack(n: int, frames: int, stride: int) -> int:
  return max(n - frames * stride, 0)


def _window(
  start: float, n: int, frames: int, stride: int, loop: bool
) -> Int[np.ndarray, " t"]:
  """Truncated `linspace` over the window, kept inside of the video."""
  places = np.linspace(start, start + frames * stride - 1, frames)
  if loop:
    return places.astype(np.int64) % n
  return np.clip(places, 0, n - 1).astype(np.int64)


def _every(
  start: int, n: int, frames: int, stride: int
) -> Int[np.ndarray, " t"]:
  return (start + stride * np.arange(frames)) % n


def _each(
  starts: Int[np.ndarray, " s"], n: int, frames: int, stride: int
) -> Int[np.ndarray, " t"]:
  """The snippets of these starts, one after the other."""
  steps = stride * np.arange(frames // len(starts))
  return ((starts[:, None] + steps) % n).ravel()


def _snippets(
  n: int, frames: int, stride: int, segments: int
) -> tuple[Int[np.ndarray, " s"], float | int]:
  """The first start in each part, and by how much it may be later."""
  if segments < 1 or frames % segments:
    raise ValueError(
      f"data.segments is {segments}, which does not divide the {frames} frames "
      "of a clip: use a divisor."
    )
  numbers = np.arange(segments)
  length, part = frames // segments * stride, n // segments
  if part >= length:
    return numbers * part, part - length
  room = max(n - length, 0) / segments
  return (numbers * room).astype(np.int64), room


def _segments(
  n: int, frames: int
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " t"]]:
  """First and last frame of each segment; halves round to even."""
  edges = np.round((n - 1) / frames * np.arange(frames + 1)).astype(np.int64)
  return edges[:-1], edges[1:]


SAMPLERS = {
  "dense": Sampler(dense_train, dense_eval),
  "dense_loop": Sampler(
    functools.partial(dense_train, loop=True),
    functools.partial(dense_eval, loop=True),
  ),
  "strided": Sampler(strided_train, strided_eval),
  "segments": Sampler(segments_train, segments_eval),
  "snippets": Sampler(snippets_train, snippets_eval, options=("segments",)),
}
