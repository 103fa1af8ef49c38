"""What is predicted for one video."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

_DIGITS = 6  # of probabilities in JSON


@dataclasses.dataclass(frozen=True)
class Guess:
  """A class and how probable it is.

  Attributes:
    label: its name.
    index: its number.
    probability: in [0, 1].
  """

  label: str
  index: int
  probability: float


@dataclasses.dataclass(frozen=True)
class Timeline:
  """What the windows of a video show.

  Attributes:
    start: when each window starts, in seconds from the first frame.
    stop: when each ends.
    probabilities: of all classes in each window, the mean of its views.
  """

  start: Float64[np.ndarray, " w"]
  stop: Float64[np.ndarray, " w"]
  probabilities: Float32[np.ndarray, "w k"]

  @property
  def edges(self) -> Float64[np.ndarray, " e"]:
    """Where each moment's nearest window changes: one more than windows.

    A moment belongs to the window whose middle is nearest; the first one begins
    and the last one ends where their frames do.
    """
    middles = (self.start + self.stop) / 2
    between = (middles[:-1] + middles[1:]) / 2
    return np.concatenate([self.start[:1], between, self.stop[-1:]])

  def at(self, seconds: float) -> int:
    """Returns the window that a moment belongs to."""
    return int(np.searchsorted(self.edges[1:-1], seconds, side="right"))


@dataclasses.dataclass(frozen=True)
class Features:
  """What the backbone makes of a video, by view.

  Attributes:
    window: which window each row is of; 0 without windows.
    view: which of its views, crops running fastest.
    start: when the window, or the video, starts, in seconds.
    stop: when it ends.
    clip: mean of the frames' features.
    frames: features of each frame, or tubelet of frames, ahead of the head.
  """

  window: Int64[np.ndarray, " r"]
  view: Int64[np.ndarray, " r"]
  start: Float64[np.ndarray, " r"]
  stop: Float64[np.ndarray, " r"]
  clip: Float32[np.ndarray, "r c"]
  frames: Float32[np.ndarray, "r s c"]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a model says of one video.

  Attributes:
    path: of the video.
    labels: name of each class.
    head_sizes: classes of each head; empty if there is one.
    probabilities: of all classes, the mean softmax of the views, as evaluation
      gives it; with windows the mean of these.
    frames: number of frames of the video.
    seconds: how long it lasts, at its mean rate.
    timeline: what the windows show; None without.
    features: if they were asked for.
  """

  path: pathlib.Path
  labels: tuple[str, ...]
  head_sizes: tuple[int, ...]
  probabilities: Float32[np.ndarray, " k"]
  frames: int
  seconds: float
  timeline: Timeline | None = None
  features: Features | None = None

  def top(self, k: int = 5, window: int | None = None) -> list[Guess]:
    """Returns the k most probable classes, of every head in turn.

    Args:
      k: how many of each head; all of a head that has fewer.
      window: of which window; None is the whole video.

    Raises:
      ValueError: if k is not positive, or there are no windows.
    """
    scores = self.probabilities
    if window is not None:
      if self.timeline is None:
        raise ValueError(
          f"{self.path} was predicted as a whole: give a window to predict, "
          "or leave it out here"
        )
      scores = self.timeline.probabilities[window]
    check_top(k, max(self.head_sizes, default=len(self.labels)))
    return [
      Guess(self.labels[i], i, float(scores[i]))
      for i in _best(scores, self.head_sizes, k)
    ]

  def to_json(self, top: int = 5) -> dict[str, Any]:
    """Returns everything but features, for a JSON file.

    Args:
      top: how many classes to list for the video and for each window.
    """
    result: dict[str, Any] = {
      "path": str(self.path),
      "frames": self.frames,
      "seconds": round(self.seconds, 3),
      "top": _listed(self.top(top)),
      "probabilities": _rounded(self.probabilities),
    }
    if self.timeline is not None:
      result["windows"] = [
        {
          "start": round(float(start), 3),
          "stop": round(float(stop), 3),
          "top": _listed(self.top(top, number)),
          "probabilities": _rounded(scores),
        }
        for number, (start, stop, scores) in enumerate(
          zip(
            self.timeline.start,
            self.timeline.stop,
            self.timeline.probabilities,
            strict=True,
          )
        )
      ]
    return result


def check_top(k: int, classes: int) -> None:
  """Checks that so many best classes can be listed.

  Raises:
    ValueError: if they cannot.
  """
  if not 1 <= k <= classes:
    raise ValueError(
      f"top is {k}, but the model has {classes} classes; use 1 to {classes}"
    )


def best_classes(
  scores: Float32[np.ndarray, "w k"], head_sizes: tuple[int, ...]
) -> Bool[np.ndarray, "w k"]:
  """Says of each class whether it is the most probable one of its head.

  Args:
    scores: probabilities, of any number of windows.
    head_sizes: classes of each head; empty if there is one.
  """
  best = np.zeros(scores.shape, bool)
  for row, marks in zip(scores, best, strict=True):
    marks[_best(row, head_sizes, 1)] = True
  return best


def _best(
  scores: Float32[np.ndarray, " k"], head_sizes: tuple[int, ...], k: int
) -> list[int]:
  """Numbers of the k best classes of each head; ties in their order."""
  best, first = [], 0
  for size in head_sizes or (len(scores),):
    part = scores[first : first + size]
    best += (first + np.argsort(-part, kind="stable")[:k]).tolist()
    first += size
  return best


def _listed(guesses: list[Guess]) -> list[dict[str, Any]]:
  return [
    dataclasses.asdict(guess)
    | {"probability": round(guess.probability, _DIGITS)}
    for guess in guesses
  ]


def _rounded(scores: Float32[np.ndarray, " k"]) -> list[float]:
  return [round(float(score), _DIGITS) for score in scores]
