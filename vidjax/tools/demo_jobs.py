"""Videos that wait for one model: a queue, what is found, and its files."""

import collections
import dataclasses
import itertools
import os
import pathlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from absl import logging

from vidjax.checks import at_least
from vidjax.data.clips import open_clip
from vidjax.data.container import REASONS
from vidjax.data.decode import VideoError
from vidjax.data.stream import frame_rate
from vidjax.prediction.annotate import annotate
from vidjax.prediction.predictor import Predictor
from vidjax.prediction.results import Prediction, best_classes
from vidjax.prediction.timeline import timeline_rows

THREAD = "vidjax-demo"  # name of the one that predicts
_TOP, _DRAWN = 5, 3  # classes of a head that are listed, and drawn on frames
_SHORTEST = 0.2  # seconds of a window
_SWEEP_SECONDS = 30.0
_CLOSE_SECONDS = 2.0  # that a prediction which cannot be stopped may go on
_NAME_LETTERS = 60
# How video files begin: offset and bytes. Playlists and the like are text, and
# FFmpeg would open the files that they name.
_SIGNATURES = (
  *((4, mark) for mark in (b"ftyp", b"moov", b"mdat", b"wide", b"free")),
  *((4, mark) for mark in (b"skip", b"pnot")),
  (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
  (0, b"RIFF"),  # AVI
  (0, b"FLV\x01"),
  (0, b"\x30\x26\xb2\x75"),  # ASF: wmv
  (0, b"\x00\x00\x01"),  # MPEG programme and elementary streams
  (0, b"\x47"),  # MPEG transport stream
  (4, b"\x47"),  # the same with time stamps
  (0, b"OggS"),
)


class QueueFullError(RuntimeError):
  """More videos wait than the queue takes."""


class WindowError(ValueError):
  """Seconds of a window that cannot be used."""


class _StoppedError(Exception):
  """The server ends while a video is predicted."""


@dataclasses.dataclass(eq=False)
class Job:
  """A video and what is known of it.

  Attributes:
    id: nobody can guess it.
    video: its file, alone in a folder.
    window: seconds of a window over longer videos; None sees them as a whole.
    state: "waiting", "running", "done" or "failed".
    step: what is being done, for people.
    share: of the step that is done; None if that is not known.
    error: why it failed.
    found: the prediction, as soon as there is one.
    files: results by name.
    remarks: why a file is missing, by its name.
    ended: when its last step ended (`time.monotonic`).
  """

  id: str
  video: pathlib.Path
  window: float | None
  state: str = "waiting"
  step: str = ""
  share: float | None = None
  error: str = ""
  found: Prediction | None = None
  files: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
  remarks: dict[str, str] = dataclasses.field(default_factory=dict)
  ended: float = 0.0


Explain = Callable[[Prediction, pathlib.Path], None]


class Jobs:
  """Predicts one video after the other in a thread; a context manager.

  Args:
    predictor: the model.
    folder: where videos and results are kept; empty, and ours alone.
    explain: writes a film of what a prediction depends on, to a path.
    keep_seconds: how long a result is kept.
    capacity: videos that may wait.
  """

  def __init__(
    self,
    predictor: Predictor,
    folder: pathlib.Path,
    *,
    explain: Explain,
    keep_seconds: float | int = 3600.0,
    capacity: int = 20,
  ):
    at_least(1, capacity=capacity)
    self._predictor = predictor
    self._folder = folder
    self._film = explain
    self._keep = keep_seconds
    self._capacity = capacity
    self._jobs: dict[str, Job] = {}
    self._waiting: collections.deque[tuple[Job, Callable[[Job], None]]]
    self._waiting = collections.deque()
    self._running: Job | None = None
    self._closed = False
    self._changed = threading.Condition()
    self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)

  def __enter__(self) -> "Jobs":
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    self._thread.join(_CLOSE_SECONDS)

  def place(self, name: str) -> pathlib.Path:
    """Returns where a video may be written: alone in a new folder.

    Args:
      name: what its owner calls it.

    Raises:
      QueueFullError: if it would have to wait too long.
    """
    with self._changed:
      self._check_room()
    folder = self._folder / secrets.token_urlsafe(16)
    folder.mkdir()
    return folder / safe_name(name)

  def add(self, video: pathlib.Path, window: float | int | None) -> Job:
    """Puts a video into the queue.

    Args:
      video: a file at a `place`.
      window: see `Job`.

    Raises:
      WindowError: if the window is too short.
      QueueFullError: if too many videos wait.
    """
    if window is not None and not _SHORTEST <= window < float("inf"):
      raise WindowError(
        f"the window is {window:g} s; use {_SHORTEST:g} s or more, or 0 to see "
        "each video as a whole"
      )
    job = Job(video.parent.name, video, window)
    self._put(job, self._predict)
    return job

  def explain(self, job: Job) -> None:
    """Asks for the film of what the prediction depends on, once.

    Raises:
      QueueFullError: if too many videos wait.
    """
    if job.state == "done" and "saliency" not in job.files:
      self._put(job, self._explain)

  def get(self, name: str) -> Job | None:
    """Returns a job by its id; None if there is none, or no longer."""
    with self._changed:
      return self._jobs.get(name)

  def status(self, job: Job) -> dict[str, Any]:
    """Returns what a page shows of a job, for JSON."""
    with self._changed:
      order = [one for one, _ in self._waiting]
      running = int(self._running is not None)
      ahead = order.index(job) + running if job in order else 0
    return {
      "id": job.id,
      "name": job.video.name,
      "state": job.state,
      "ahead": ahead,
      "step": job.step,
      "share": job.share,
      "error": job.error,
      "result": None if job.found is None else summary(job.found),
      "files": sorted(job.files),
      "remarks": dict(job.remarks),
    }

  def _check_room(self) -> None:
    if len(self._waiting) >= self._capacity:
      raise QueueFullError(
        f"{len(self._waiting)} videos are waiting already: try again in a while"
      )

  def _put(self, job: Job, task: Callable[[Job], None]) -> None:
    with self._changed:
      self._check_room()
      job.state, job.step, job.share = "waiting", "", None
      self._jobs[job.id] = job
      self._waiting.append((job, task))
      self._changed.notify_all()

  def _work(self) -> None:
    while True:
      with self._changed:
        self._changed.wait_for(
          lambda: self._closed or self._waiting, _SWEEP_SECONDS
        )
        if self._closed:
          return
        self._forget()
        if not self._waiting:
          continue
        job, task = self._waiting.popleft()
        self._running, job.state = job, "running"
      try:
        task(job)
      except _StoppedError:
        return
      except Exception as error:  # one video must not end the others' queue
        logging.exception("%s", job.video.name)
        job.error = f"{job.video.name} cannot be predicted: {error}"
      with self._changed:
        self._running, job.ended = None, time.monotonic()
        job.state = "failed" if job.found is None else "done"

  def _forget(self) -> None:
    """Deletes what has been kept long enough."""
    now = time.monotonic()
    for job in list(self._jobs.values()):
      ended = job.state in ("done", "failed")
      if ended and now - job.ended > self._keep:
        del self._jobs[job.id]
        shutil.rmtree(job.video.parent, ignore_errors=True)

  def _predict(self, job: Job) -> None:
    job.step = "Predicting"

    def progress(path: pathlib.Path, share: float) -> None:
      if self._closed:
        raise _StoppedError
      job.share = share

    try:
      job.found = self._predictor.predict(
        job.video, window=_window(job), progress=progress
      )
    except VideoError as error:
      job.error = sentence(error)
      return
    job.step, job.share = "Drawing on the video", None
    found = job.found
    self._make(job, "overlay", lambda out: _annotate(found, out))

  def _explain(self, job: Job) -> None:
    assert job.found is not None
    found = job.found
    job.step = "Looking at what the prediction depends on"
    self._make(job, "saliency", lambda out: self._film(found, out))

  def _make(
    self, job: Job, name: str, write: Callable[[pathlib.Path], None]
  ) -> None:
    """Writes a film; the prediction is good without it."""
    out = job.video.parent / f".{name}.mp4"
    try:
      write(out)
      job.files[name] = out
    except VideoError as error:
      job.remarks[name] = sentence(error)
    except (ValueError, OSError) as error:
      job.remarks[name] = str(error)


def safe_name(name: str) -> str:
  """Returns a file name without anything that means something in a path.

  Args:
    name: of any letters, also a path of any system.
  """
  base = re.split(r"[/\\]", name)[-1]
  stem, suffix = os.path.splitext(re.sub(r"[^\w. ()+-]", "_", base))
  suffix = suffix[:8]
  stem = stem.strip(". ")[: _NAME_LETTERS - len(suffix)]
  return (stem or "video") + suffix


def sentence(error: VideoError) -> str:
  """Returns why a video is bad, with its name and no folder."""
  return (
    f"{error.path.name} {REASONS[error.reason].partition(':')[0]}: choose "
    "another video."
  )


def summary(found: Prediction) -> dict[str, Any]:
  """Returns what a page shows of a prediction, for JSON.

  "groups" are the best classes of each head. "timeline" has the edges of the
  windows' moments, and of the main classes the probability in each and whether
  it is the most probable one.
  """
  sizes = found.head_sizes or (len(found.labels),)
  most = min(_TOP, max(sizes))
  guesses = iter(found.top(most))
  groups = [
    [
      {"label": guess.label, "probability": guess.probability}
      for guess in itertools.islice(guesses, min(most, size))
    ]
    for size in sizes
  ]
  result: dict[str, Any] = {
    "frames": found.frames,
    "seconds": found.seconds,
    "groups": groups,
    "timeline": None,
  }
  timeline = found.timeline
  if timeline is not None:
    best = best_classes(timeline.probabilities, found.head_sizes)
    result["timeline"] = {
      "windows": len(timeline.start),
      "window": float((timeline.stop - timeline.start).mean()),
      "edges": timeline.edges.round(3).tolist(),
      "rows": [
        {
          "label": found.labels[label],
          "probabilities": [
            round(float(p), 4) for p in timeline.probabilities[:, label]
          ],
          "best": best[:, label].tolist(),
        }
        for label in timeline_rows(timeline, found.head_sizes)
      ],
    }
  return result


def _window(job: Job) -> float | None:
  """The window, if the video is longer than it."""
  with job.video.open("rb") as file:
    head = file.read(16)
  if head and not any(head.startswith(mark, at) for at, mark in _SIGNATURES):
    raise VideoError(job.video, "not_a_video")
  with open_clip(job.video) as video:
    seconds = video.frames / frame_rate(video)
  return job.window if job.window and seconds > job.window else None


def _annotate(found: Prediction, out: pathlib.Path) -> None:
  classes = max(found.head_sizes or (len(found.labels),))
  annotate(found, out, top=min(_DRAWN, classes))
