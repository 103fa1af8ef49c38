"""Data sets on disk: which videos there are, and what they show.

A data set is a folder with one `<split>.jsonl` per split, one JSON object a
line::

  {"id": "v_001", "path": "train/v_001.mp4", "label": 3}

(`path` is relative to the folder; "frames", "fps", "width" and "height" are
optional), and one `labels.json`::

  {
    "name": "motion",
    "classes": ["left", "right"],
    "flip": {"0": 1, "1": 0},
    "reverse": {"0": 1, "1": 0},
  }

where the optional tables give the class that a clip shows once it is mirrored
left to right (`flip`) or played backwards (`reverse`), if it is another one.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

_OPTIONAL = {"frames": int, "fps": float, "width": int, "height": int}


class ManifestError(ValueError):
  """A data set whose description is missing or wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
  """One labelled video.

  Attributes:
    id: unique in its split.
    path: of the file, relative to the root of the data set.
    label: class number.
    frames: number of frames, if known.
    fps: frames per second, if known.
    width: pixels, if known.
    height: pixels, if known.
  """

  id: str
  path: str
  label: int
  frames: int | None = None
  fps: float | None = None
  width: int | None = None
  height: int | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
  """One split of a data set.

  Attributes:
    root: folder that the clips' paths are relative to.
    split: name of the split, such as "train".
    name: name of the data set.
    clips: the videos.
    classes: name of each class.
    flip: for each class, the class of its mirror image.
    reverse: for each class, the class of its clips played backwards.
  """

  root: pathlib.Path
  split: str
  name: str
  clips: tuple[Clip, ...]
  classes: tuple[str, ...]
  flip: tuple[int, ...]
  reverse: tuple[int, ...]

  def file(self, clip: Clip) -> pathlib.Path:
    """Returns where the video of a clip lies."""
    return self.root / clip.path


def load_manifest(root: str | os.PathLike[str], split: str) -> Manifest:
  """Reads and checks one split.

  Args:
    root: folder of the data set.
    split: name of the split; its file is `<root>/<split>.jsonl`.

  Raises:
    ManifestError: if a file is missing, or anything in it is wrong.
  """
  root = pathlib.Path(root)
  labels = root / "labels.json"
  try:
    table = json.loads(_read(labels))
  except json.JSONDecodeError as error:
    raise ManifestError(f"{labels} is not JSON ({error}): fix it.") from error
  if not isinstance(table, dict):
    raise ManifestError(f"{labels} must hold one JSON object.")
  classes = table.get("classes")
  if not isinstance(classes, list) or not classes:
    raise ManifestError(
      f"{labels} has no list of class names under 'classes': add it."
    )
  return Manifest(
    root=root,
    split=split,
    name=str(table.get("name", root.name)),
    clips=_clips(root / f"{split}.jsonl", len(classes)),
    classes=tuple(map(str, classes)),
    flip=_class_table(labels, table, "flip", len(classes)),
    reverse=_class_table(labels, table, "reverse", len(classes)),
  )


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text("utf-8")
  except FileNotFoundError as error:
    raise ManifestError(
      f"{path} does not exist: check the data root and the split's name."
    ) from error


def _class_table(
  path: pathlib.Path, table: Mapping[str, Any], key: str, count: int
) -> tuple[int, ...]:
  """Completes a partial table of classes with the identity."""
  full = list(range(count))
  for text, to in (table.get(key) or {}).items():
    known = text.isdecimal() and int(text) < count
    if not known or not isinstance(to, int) or not 0 <= to < count:
      raise ManifestError(
        f"{path}: '{key}' maps {text!r} to {to!r}, but the classes are 0 to "
        f"{count - 1}: correct the entry."
      )
    full[int(text)] = to
  return tuple(full)


def _clips(path: pathlib.Path, classes: int) -> tuple[Clip, ...]:
  clips: dict[str, Clip] = {}
  for number, line in enumerate(_read(path).splitlines(), 1):
    if not line.strip():
      continue
    where = f"{path}, line {number}"
    try:
      entry = json.loads(line)
    except json.JSONDecodeError as error:
      raise ManifestError(f"{where}: not JSON ({error}): fix it.") from error
    clip = _clip(entry, where)
    if not 0 <= clip.label < classes:
      raise ManifestError(
        f"{where}: clip {clip.id!r} has label {clip.label}, but labels.json "
        f"lists {classes} classes (0 to {classes - 1}): correct one of them."
      )
    if clip.id in clips:
      raise ManifestError(
        f"{where}: the id {clip.id!r} occurs twice: make the ids unique."
      )
    clips[clip.id] = clip
  if not clips:
    raise ManifestError(f"{path} lists no clips: add at least one line.")
  return tuple(clips.values())


def _clip(entry: Any, where: str) -> Clip:
  """Builds a clip from a parsed line."""
  if not isinstance(entry, dict):
    raise ManifestError(f"{where}: not a JSON object: write one per line.")
  for key in ("id", "path", "label"):
    if key not in entry:
      raise ManifestError(f"{where}: the key '{key}' is missing: add it.")
  try:
    # bool is an int to Python, but no class number.
    if type(entry["label"]) is not int:
      raise TypeError("label")
    facts = {
      key: kind(entry[key])
      for key, kind in _OPTIONAL.items()
      if entry.get(key) is not None
    }
  except (TypeError, ValueError) as error:
    raise ManifestError(
      f"{where}: 'label' must be an integer and {', '.join(_OPTIONAL)} must be "
      f"numbers: correct clip {entry['id']!r}."
    ) from error
  return Clip(str(entry["id"]), str(entry["path"]), entry["label"], **facts)
