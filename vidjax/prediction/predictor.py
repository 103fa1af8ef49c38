"""A loaded model that answers for one video after the other."""

import collections
import concurrent.futures
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from vidjax.checks import at_least, one_of
from vidjax.data.clips import open_clip
from vidjax.data.decode import VideoError
from vidjax.data.stream import frame_rate
from vidjax.data.views import read_views
from vidjax.prediction.forward import Forward, make_forward, see_all
from vidjax.prediction.results import Features, Prediction, Timeline
from vidjax.prediction.trained import load_trained
from vidjax.prediction.windows import windows

_ACCELERATOR_BATCH = 8  # views of a pass; on a CPU more than one gain nothing
_THREADS = 2  # that read videos ahead
_AHEAD = 4  # videos that are read ahead

PathLike = str | os.PathLike[str]
Progress = Callable[[pathlib.Path, float], None]


@dataclasses.dataclass(frozen=True)
class Failure:
  """A video that could not be read.

  Attributes:
    path: of the video.
    error: why.
  """

  path: pathlib.Path
  error: VideoError


@dataclasses.dataclass(frozen=True)
class _Span:
  """What some views are of: a video, or a window of one."""

  path: pathlib.Path
  frames: int
  start: float
  stop: float


class Predictor:
  """A trained model, loaded once; its methods may be called from any thread.

      predictor = vidjax.Predictor("runs/demo")
      predictor.predict("video.mp4").top(3)

  Args:
    checkpoint: the work directory of a run, a pretrained folder or a repository
      of the Hub.
    clips: of each video; None is what the model's evaluation takes.
    crops: of each clip, 1 or 3; None likewise.
    dtype: "float32" or "bfloat16", to compute in; None is that of the run,
      float32 for other weights.
    batch_size: views of a forward pass; None is 1 on CPUs and 8 elsewhere.

  Attributes:
    labels: name of each class.
    views: what is seen of each video.
    description: model and origin, in one line.

  Raises:
    ValueError: if the checkpoint or an option is wrong.
  """

  def __init__(
    self,
    checkpoint: PathLike,
    *,
    clips: int | None = None,
    crops: int | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
  ):
    if dtype is not None:
      one_of("dtype", dtype, ("float32", "bfloat16"))
    if batch_size is None:
      cpu = jax.default_backend() == "cpu"
      batch_size = 1 if cpu else _ACCELERATOR_BATCH
    at_least(1, batch_size=batch_size)
    self._trained = load_trained(checkpoint, dtype=dtype)
    changes = {"clips": clips, "crops": crops}
    self.views = dataclasses.replace(
      self._trained.views,
      **{key: value for key, value in changes.items() if value is not None},
    )
    self.labels = self._trained.labels
    self.description = self._trained.description
    self._batch_size = batch_size

  @functools.cached_property
  def _scores(self) -> Forward:
    return make_forward(self._trained, features=False)

  @functools.cached_property
  def _features(self) -> Forward:
    return make_forward(self._trained, features=True)

  @property
  def head_sizes(self) -> tuple[int, ...]:
    """Classes of each head; empty if there is one."""
    return self._trained.head_sizes

  def predict(
    self,
    path: PathLike,
    *,
    window: float | int | None = None,
    stride: float | int | None = None,
    features: bool = False,
    progress: Progress | None = None,
  ) -> Prediction:
    """Predicts one video.

    Args:
      path: of a video file, a folder with an image for each frame, or a record
        (`shard#number`).
      window: seconds of a window that slides over the video, to see what
        happens when; each is seen as a video of its own. None sees the video as
        a whole. The video passes once, and the memory is that of one window.
      stride: seconds from one window to the next; None is half a window.
      features: whether to keep the backbone's features.
      progress: called with the path, and the share of the video that is done,
        after each window.

    Raises:
      VideoError: if the video is missing or bad.
      ValueError: if window or stride is not positive.
    """
    (found,) = self.predict_all(
      [path], window=window, stride=stride, features=features, progress=progress
    )
    if isinstance(found, Failure):
      raise found.error
    return found

  def predict_all(
    self,
    paths: Iterable[PathLike],
    *,
    window: float | int | None = None,
    stride: float | int | None = None,
    features: bool = False,
    progress: Progress | None = None,
  ) -> Iterator[Prediction | Failure]:
    """Predicts videos in their order; the next ones are read meanwhile.

    Args:
      paths: of the videos.
      window: see `predict`; the other options too.
      stride: see `predict`.
      features: see `predict`.
      progress: see `predict`.

    Yields:
      A prediction, or why there is none.

    Raises:
      ValueError: if window or stride is not positive.
    """
    check_windows(window, stride)
    forward = self._features if features else self._scores
    files = map(pathlib.Path, paths)
    if window is None:
      return self._wholes(files, forward)
    step = window / 2 if stride is None else stride
    return (self._sliding(p, forward, window, step, progress) for p in files)

  def _wholes(
    self, paths: Iterable[pathlib.Path], forward: Forward
  ) -> Iterator[Prediction | Failure]:
    side = self.views.image_size
    nothing = np.zeros((0, self.views.frames, side, side, 3), np.uint8)
    videos = (
      (found, nothing) if isinstance(found, Failure) else found
      for found in _ahead(self._read, paths)
    )
    for seen in see_all(forward, videos, self._batch_size):
      span = seen.of
      if isinstance(span, Failure):
        yield span
      else:
        yield Prediction(
          path=span.path,
          labels=self.labels,
          head_sizes=self.head_sizes,
          probabilities=seen.probabilities,
          frames=span.frames,
          seconds=span.stop,
          features=_features([(span, seen.features)]),
        )

  def _read(
    self, path: pathlib.Path
  ) -> tuple[_Span, UInt8[np.ndarray, "v t h w 3"]] | Failure:
    try:
      with open_clip(path) as video:
        seconds = video.frames / frame_rate(video)
        views = read_views(video, self.views, 0, video.frames)
        return _Span(path, video.frames, 0.0, seconds), views
    except VideoError as error:
      return Failure(path, error)

  def _sliding(
    self,
    path: pathlib.Path,
    forward: Forward,
    window: float | int,
    stride: float | int,
    progress: Progress | None,
  ) -> Prediction | Failure:
    try:
      with open_clip(path) as video:
        frames, seconds = video.frames, video.frames / frame_rate(video)
        views = (
          (_Span(path, frames, part.start, part.stop), part.views)
          for part in windows(video, self.views, window, stride)
        )
        found = []
        for seen in see_all(forward, views, self._batch_size):
          found.append(seen)
          if progress is not None:
            progress(path, min(seen.of.stop / seconds, 1.0))
    except VideoError as error:
      return Failure(path, error)
    scores = np.array([seen.probabilities for seen in found], np.float32)
    return Prediction(
      path=path,
      labels=self.labels,
      head_sizes=self.head_sizes,
      probabilities=scores.mean(axis=0),
      frames=frames,
      seconds=seconds,
      timeline=Timeline(
        np.array([seen.of.start for seen in found], float),
        np.array([seen.of.stop for seen in found], float),
        scores,
      ),
      features=_features([(seen.of, seen.features) for seen in found]),
    )


def check_windows(
  window: float | int | None, stride: float | int | None
) -> None:
  """Checks the seconds of windows.

  Raises:
    ValueError: if they are not positive, or there is a stride alone.
  """
  if stride is not None and window is None:
    raise ValueError(f"stride is {stride} s, but of no window: give a window")
  for name, value in (("window", window), ("stride", stride)):
    if value is not None and not 0 < value < math.inf:
      raise ValueError(f"{name} is {value} s; use more than 0 seconds")


def _features(
  found: list[tuple[_Span, Float32[np.ndarray, "v s c"] | None]],
) -> Features | None:
  """Joins the features of all views of a video; None if there are none."""
  parts = [features for _, features in found if features is not None]
  if not parts:
    return None
  frames = np.concatenate(parts)
  counts = [len(part) for part in parts]
  return Features(
    window=np.repeat(np.arange(len(parts)), counts),
    view=np.concatenate([np.arange(count) for count in counts]),
    start=np.repeat([span.start for span, _ in found], counts),
    stop=np.repeat([span.stop for span, _ in found], counts),
    clip=frames.mean(axis=1),
    frames=frames,
  )


def _ahead(read, paths: Iterable[pathlib.Path]) -> Iterator:
  """Yields what `read` makes of each path; a few are read ahead."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    reading = collections.deque()
    try:
      for path in paths:
        reading.append(pool.submit(read, path))
        if len(reading) > _AHEAD:
          yield reading.popleft().result()
      while reading:
        yield reading.popleft().result()
    finally:
      for future in reading:
        future.cancel()
