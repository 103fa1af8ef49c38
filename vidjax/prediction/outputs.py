"""The files that a command writes of its predictions."""

import contextlib
import dataclasses
import json
import os
import pathlib
import types
from typing import Any

from vidjax.prediction.annotate import annotate
from vidjax.prediction.feature_files import FEATURE_SUFFIXES, FeatureFile
from vidjax.prediction.inputs import Input
from vidjax.prediction.predictor import Failure
from vidjax.prediction.results import Prediction
from vidjax.prediction.timeline import save_timeline

# Endings of each kind of file.
SUFFIXES = {
  "json": (".json",),
  "annotate": (".mp4",),
  "timeline": (".png",),
  "features": FEATURE_SUFFIXES,
}


class OutputError(ValueError):
  """A file that cannot be written."""


@dataclasses.dataclass(frozen=True)
class Outputs:
  """Which files to write; None is none.

  Attributes:
    json: of everything but features, for all videos.
    features: for all videos.
    annotate: a video for each video, see `one_of_each`.
    timeline: a picture for each video, see `one_of_each`.
    top: classes that are listed and drawn.

  Raises:
    OutputError: if a file's ending is not known or its folder does not exist.
  """

  json: pathlib.Path | None = None
  features: pathlib.Path | None = None
  annotate: pathlib.Path | None = None
  timeline: pathlib.Path | None = None
  top: int = 5

  def __post_init__(self) -> None:
    for name, suffixes in SUFFIXES.items():
      path = getattr(self, name)
      if path is not None:
        _check(f"--{name}", path, suffixes)


def one_of_each(
  path: pathlib.Path, video: Input, several: bool
) -> pathlib.Path:
  """Returns the file of one of several videos: out.mp4 is out_<name>.mp4.

  Args:
    path: as it was given; of a single video it is the file itself.
    video: which.
    several: whether there are other videos.
  """
  if not several:
    return path
  return path.with_name(f"{path.stem}_{video.name}{path.suffix}")


class Writer:
  """Writes the files of one prediction after the other; a context manager.

  Args:
    outputs: which files.
    description: of the model, for JSON.
    labels: name of each class, for JSON.
    several: whether there is more than one video.
  """

  def __init__(
    self,
    outputs: Outputs,
    *,
    description: str,
    labels: tuple[str, ...],
    several: bool,
  ):
    self._outputs = outputs
    self._several = several
    self._found: dict[str, Any] = {
      "model": description,
      "labels": list(labels),
      "videos": [],
    }
    self._features: FeatureFile | None = None

  def __enter__(self) -> "Writer":
    with contextlib.ExitStack() as stack:
      if self._outputs.features is not None:
        file = FeatureFile(self._outputs.features)
        self._features = stack.enter_context(file)
      self._close = stack.pop_all()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self._close.__exit__(kind, error, trace)
    if error is None and self._outputs.json is not None:
      _write_text(self._outputs.json, json.dumps(self._found, indent=1) + "\n")

  def add(self, video: Input, found: Prediction | Failure) -> None:
    """Writes what belongs to one video.

    Raises:
      VideoError: if the video cannot be read again, to be drawn on.
      OSError: if a file cannot be written.
    """
    outputs = self._outputs
    if isinstance(found, Failure):
      self._found["videos"].append(
        {"path": str(found.path), "error": str(found.error)}
      )
      return
    if self._features is not None:
      self._features.add(found)
    if outputs.timeline is not None:
      path = one_of_each(outputs.timeline, video, self._several)
      save_timeline(found, path)
    if outputs.annotate is not None:
      path = one_of_each(outputs.annotate, video, self._several)
      annotate(found, path, top=outputs.top)
    if outputs.json is not None:
      self._found["videos"].append(found.to_json(outputs.top))


def _check(option: str, path: pathlib.Path, suffixes: tuple[str, ...]) -> None:
  if path.suffix.lower() not in suffixes:
    raise OutputError(
      f"{option}={path} has the ending {path.suffix!r}; use "
      f"{' or '.join(suffixes)}"
    )
  folder = path.parent
  if not folder.is_dir():
    raise OutputError(
      f"{option}={path} cannot be written, there is no folder {folder}: make "
      "it, or choose another place"
    )
  if path.is_dir() or not os.access(folder, os.W_OK):
    raise OutputError(
      f"{option}={path} cannot be written: choose another place, or check "
      "permissions"
    )


def _write_text(path: pathlib.Path, text: str) -> None:
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    part.write_text(text, "utf-8")
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)
