"""What every annotation format is read into."""

import csv
import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

VIDEO_SUFFIXES = (
  *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"),
  *(".wmv", ".flv", ".3gp", ".ts"),
)
HEAD = "label"  # of a data set with one label a clip

Heads = Mapping[str, tuple[str, ...]]


class FormatError(ValueError):
  """Annotations that are missing or wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
  """One labelled clip, as the annotations have it.

  Attributes:
    id: unique in its split.
    path: of the file, the folder of images or the record (`shard#number`),
      relative to the videos.
    labels: class number of each head.
    frames: number of frames that the annotations promise.
    span: first frame, and the frame after the last one, if it is a part of the
      file.
    seconds: start and end of the part, where `span` is not known.
  """

  id: str
  path: str
  labels: tuple[int, ...]
  frames: int | None = None
  span: tuple[int, int] | None = None
  seconds: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
  """All clips of a data set, before any of them is looked at.

  Attributes:
    videos: folder that the paths are relative to.
    heads: names of the classes of each head.
    splits: clips by split.
  """

  videos: pathlib.Path
  heads: Heads
  splits: Mapping[str, Sequence[Entry]]


@dataclasses.dataclass(frozen=True)
class Request:
  """What is to be read.

  Attributes:
    source: file or folder of the annotations.
    videos: folder of the videos, if it is not the one of the annotations.
    split: the only split to read, or the name of the split if the annotations
      do not say; None for all there are.
    heads: classes that are known already; labels must be among them.
  """

  source: pathlib.Path
  videos: pathlib.Path | None = None
  split: str | None = None
  heads: Heads | None = None

  @property
  def folder(self) -> pathlib.Path:
    """The folder of the annotations."""
    return self.source if self.source.is_dir() else self.source.parent

  @property
  def video_folder(self) -> pathlib.Path:
    """The folder of the videos: beside the annotations if it is not named."""
    if self.videos is not None:
      return self.videos
    inside = self.folder / "videos"
    return inside if inside.is_dir() else self.folder

  def chosen(
    self, splits: Mapping[str, Sequence[Entry]]
  ) -> dict[str, Sequence[Entry]]:
    """Returns the splits that were asked for.

    Raises:
      FormatError: if there is no clip, or no such split.
    """
    found = {name: clips for name, clips in splits.items() if clips}
    if self.split is not None:
      found = {k: v for k, v in found.items() if k == self.split}
    if not found:
      what = f"no split {self.split!r}" if splits and self.split else "no clips"
      known = f": its splits are {', '.join(splits)}" if splits else ""
      raise FormatError(
        f"{self.source} has {what}{known}; check the source and the format."
      )
    return found

  def classes(self, found: Iterable[str], head: str = HEAD) -> tuple[str, ...]:
    """Returns the classes of a head: the known ones, else `found` sorted."""
    if self.heads is None:
      return tuple(sorted(set(found)))
    return self.heads.get(head) or next(iter(self.heads.values()))

  def numbered(
    self, labels: Iterable[int], head: str = HEAD
  ) -> tuple[str, ...]:
    """Returns the classes of numbers: the known ones, else the numbers' names.

    Raises:
      FormatError: if a label is out of range.
    """
    numbers = set(labels)
    if numbers and min(numbers) < 0:
      raise FormatError(
        f"{self.source} has the label {min(numbers)}: class numbers start at "
        "0; correct it, or leave out the clips without a label."
      )
    last = max(numbers, default=-1)
    if self.heads is None:
      return tuple(str(i) for i in range(last + 1))
    names = self.classes((), head)
    if last >= len(names):
      raise FormatError(
        f"{self.source} has the label {last}, but there are {len(names)} "
        f"classes (0 to {len(names) - 1}): correct it or the list of classes."
      )
    return names


def number_of(
  classes: Sequence[str], source: pathlib.Path
) -> Callable[[str], int]:
  """Returns a function from the name of a class to its number.

  Case, and underscores for spaces, make no difference where the exact name is
  unknown.

  Args:
    classes: names in the order of their numbers.
    source: named in the error that the function raises for other names.
  """
  exact = {name: i for i, name in enumerate(classes)}
  loose = {_plain(name): i for name, i in exact.items()}

  def find(name: str) -> int:
    number = exact.get(name, loose.get(_plain(name)))
    if number is None:
      raise FormatError(
        f"{source}: the class {name!r} is not among the {len(classes)} known "
        "ones: add it to the list of classes, or index all splits at once."
      )
    return number

  return find


def _plain(name: str) -> str:
  return re.sub(r"[\s_]+", " ", name).strip().casefold()


class VideoFiles:
  """Finds the video files below a folder by their names without suffix."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  @functools.cached_property
  def _by_stem(self) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for at, folders, names in os.walk(self.folder):
      folders.sort()
      for name in sorted(names):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in VIDEO_SUFFIXES:
          path = pathlib.Path(at, name).relative_to(self.folder).as_posix()
          found.setdefault(stem, []).append(path)
    return found

  def find(self, stem: str, *hints: str) -> str | None:
    """Returns the path of a video, relative to the folder.

    Args:
      stem: name without suffix.
      *hints: names of folders above it (a class, a split) that decide if
        several have this name.
    """
    paths = self._by_stem.get(stem, [])
    wanted = {_plain(hint) for hint in hints}

    def fits(path: str) -> int:
      return len(wanted & {_plain(part) for part in path.split("/")[:-1]})

    return max(paths, key=fits, default=None)


class Suffixes:
  """Names files by the suffix that they have in this copy of a data set.

  Videos are often converted: `12.webm` of the annotations may be `12.mp4`.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._suffix: str | None = None

  def actual(self, path: str) -> str:
    """Returns the path with the suffix of the file that is there, if any."""
    stem, own = os.path.splitext(path)
    for suffix in dict.fromkeys([self._suffix or own, own, *VIDEO_SUFFIXES]):
      if (self._folder / (stem + suffix)).exists():
        self._suffix = suffix
        return stem + suffix
    return path


def text_lines(path: pathlib.Path) -> list[str]:
  """Returns the lines of a text file that are not empty, without their ends.

  Raises:
    FormatError: if it cannot be read.
  """
  try:
    text = path.read_text("utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise FormatError(
      f"{path} cannot be read ({error}): check the source and the format."
    ) from error
  return [line for line in text.splitlines() if line.strip()]


def table(path: pathlib.Path, *columns: str) -> list[dict[str, str]]:
  """Returns the rows of a CSV file with a header.

  Raises:
    FormatError: if it cannot be read or lacks one of the columns.
  """
  reader = csv.DictReader(text_lines(path))
  missing = [name for name in columns if name not in (reader.fieldnames or ())]
  if missing:
    raise FormatError(
      f"{path} has no column {missing[0]!r}: its first line must name the "
      f"columns {', '.join(columns)}."
    )
  rows = list(reader)
  for number, row in enumerate(rows, 2):
    if any(row[name] is None for name in columns):
      raise FormatError(f"{path}, row {number}: a value is missing: add it.")
  return rows


def json_file(path: pathlib.Path, kind: type) -> Any:
  """Returns the content of a JSON file.

  Raises:
    FormatError: if it cannot be read or is of another kind than `kind`.
  """
  try:
    content = json.loads("\n".join(text_lines(path)))
  except json.JSONDecodeError as error:
    raise FormatError(f"{path} is not JSON ({error}): fix it.") from error
  if not isinstance(content, kind):
    raise FormatError(
      f"{path} holds a {type(content).__name__}, not a {kind.__name__}: check "
      "the source and the format."
    )
  return content


def first_file(folder: pathlib.Path, *patterns: str) -> pathlib.Path | None:
  """Returns the first file of a folder that fits one of some patterns."""
  for pattern in patterns:
    for path in sorted(folder.glob(pattern)):
      return path
  return None


def integer(text: str, where: str) -> int:
  """Returns the number that a text is.

  Raises:
    FormatError: naming where it stands, if it is none.
  """
  try:
    return int(text)
  except ValueError as error:
    raise FormatError(
      f"{where}: {text!r} is not a whole number: correct it, or check the "
      "format."
    ) from error


def normal_split(name: str) -> str:
  """Returns the usual name of a split: "validate" and "valid" are "val"."""
  return {"validate": "val", "validation": "val", "valid": "val"}.get(
    name.lower(), name.lower()
  )


def duplicates_apart(entries: Iterable[Entry]) -> list[Entry]:
  """Drops what is listed twice; gives other clips of the same id a new one."""
  kept: dict[str, Entry] = {}
  for entry in dict.fromkeys(entries):
    name, number = entry.id, 2
    while name in kept:
      name, number = f"{entry.id}~{number}", number + 1
    kept[name] = dataclasses.replace(entry, id=name)
  return list(kept.values())
