"""A window that slides over a video, which passes by once.

A frame is decoded once, scaled, and kept only while a window needs it: the
memory is that of a window, however long the video is.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from vidjax.data.clips import Frames
from vidjax.data.stream import frame_rate, timed_frames
from vidjax.data.views import Cutter, Views


@dataclasses.dataclass(frozen=True)
class Window:
  """All views of a part of a video.

  Attributes:
    start: when its first frame is shown, in seconds.
    stop: when its last one ends, in seconds.
    views: its frames, crops running fastest.
  """

  start: float
  stop: float
  views: UInt8[np.ndarray, "v t h w 3"]


def window_starts(frames: int, length: int, step: int) -> list[int]:
  """Returns the first frame of each window, in order.

  The last window ends with the video, where the others leave a rest. There is
  one if the video is shorter than a window.

  Args:
    frames: of the video.
    length: frames of a window.
    step: frames from one window to the next.
  """
  last = max(frames - length, 0)
  starts = list(range(0, last + 1, step))
  covered = starts[-1] + length >= frames
  return starts if covered else [*starts, last]


def windows(
  video: Frames, views: Views, seconds: float | int, stride: float | int
) -> Iterator[Window]:
  """Yields the windows of a video, each seen as a video of its own.

  Windows have as many frames as the mean rate shows in their seconds (one at
  least); the times are those of their frames.

  Args:
    video: of `vidjax.data.clips.open_clip`.
    views: of each window.
    seconds: length of a window.
    stride: seconds from the start of a window to that of the next.

  Raises:
    VideoError: if a frame cannot be decoded.
  """
  rate = frame_rate(video)
  length = min(max(round(seconds * rate), 1), video.frames)
  step = max(round(stride * rate), 1)
  indices = views.indices(length).tolist()
  wanted = set(indices)
  waiting = collections.deque(window_starts(video.frames, length, step))
  cutter = Cutter(views)
  kept: dict[int, np.ndarray] = {}
  begins: dict[int, float] = {}
  for number, (time, image) in enumerate(timed_frames(video)):
    passing = itertools.takewhile(lambda s, n=number: s <= n, waiting)
    offsets = {number - start for start in passing}
    if 0 in offsets:
      begins[number] = time
    if offsets & wanted:
      kept[number] = np.array(cutter.scale(image))
    if waiting and number == waiting[0] + length - 1:
      start = waiting.popleft()
      frames = np.stack([kept[start + index] for index in indices])
      yield Window(begins.pop(start), time + 1 / rate, cutter.cut(frames))
      after = waiting[0] if waiting else number + 1
      kept = {n: frame for n, frame in kept.items() if n >= after}
