"""Lists with a label in every line, and trees with a folder for every class."""

import os
import pathlib
import re
from collections.abc import Iterator

from vidjax.data.clips import IMAGE_SUFFIXES
from vidjax.data.formats.base import (
  HEAD,
  VIDEO_SUFFIXES,
  Entry,
  FormatError,
  Listing,
  Request,
  integer,
  normal_split,
  number_of,
  text_lines,
)

_LIST_SUFFIXES = (".txt", ".csv", ".tsv")
_SPLITS = ("train", "val", "test")
# The path comes first and may hold blanks, so lines are cut from their end.
_SEPARATOR = re.compile(r"::|[,;\s]")


def read_list(request: Request) -> Listing:
  """Reads lists of `path label` (SlowFast, MMAction, LAPS, VideoMAE).

  Separators are a blank, a tab, a comma, a semicolon or `::`. Labels are
  numbers, from 0.

  Args:
    request: whose source is a list, or a folder with `train.csv`, `val.txt`,
      ...

  Raises:
    FormatError: if a line is wrong.
  """
  return _numbered(request, fields=1)


def read_frame_list(request: Request) -> Listing:
  """Reads lists of `folder frames label` (TSN, TSM, MMAction's rawframes).

  Args:
    request: as in `read_list`; the folders hold one image a frame.

  Raises:
    FormatError: if a line is wrong.
  """
  return _numbered(request, fields=2)


def _numbered(request: Request, fields: int) -> Listing:
  splits = {
    split: [_entry(line, where, fields) for where, line in _lines(path)]
    for split, path in _list_files(request)
  }
  chosen = request.chosen(splits)
  labels = (x for clips in chosen.values() for e in clips for x in e.labels)
  classes = request.numbered(labels)
  return Listing(request.video_folder, {HEAD: classes}, chosen)


def _list_files(request: Request) -> Iterator[tuple[str, pathlib.Path]]:
  if not request.source.is_dir():
    yield request.split or _split_in(request.source.stem), request.source
    return
  for path in sorted(request.source.iterdir()):
    if path.suffix in _LIST_SUFFIXES and _split_in(path.stem, None):
      yield _split_in(path.stem), path


def _split_in(stem: str, default: str | None = "train") -> str:
  """The split that is named in a file name, such as "kinetics400_val_list"."""
  words = map(normal_split, re.split(r"[^a-z]+", stem.lower()))
  return next((word for word in words if word in _SPLITS), default or "")


def _lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  for number, line in enumerate(text_lines(path), 1):
    yield f"{path}, line {number}", line.strip()


def _entry(line: str, where: str, fields: int) -> Entry:
  rest, numbers = line, []
  for _ in range(fields):
    ends = [match.span() for match in _SEPARATOR.finditer(rest)]
    if not ends:
      raise FormatError(
        f"{where}: {line!r} is not a path and {fields} number(s): correct it, "
        "or check the format."
      )
    numbers.append(integer(rest[ends[-1][1] :], where))
    rest = rest[: ends[-1][0]].rstrip(" \t")
  frames = numbers[1] if fields == 2 else None
  path = rest.strip("\"'")
  return Entry(path, path, (numbers[0],), frames=frames)


def read_folders(request: Request) -> Listing:
  """Reads a tree of one folder a class: `class/x.mp4` or `split/class/x.mp4`.

  A folder of images inside that of a class is one video.

  Args:
    request: whose source is the tree. The splits are folders called train, val,
      validation or test; without them the whole is the split of the request, or
      "train".

  Raises:
    FormatError: if there is no video.
  """
  source = request.source
  if not source.is_dir():
    raise FormatError(f"{source} is not a folder: name the one of the classes.")
  trees = {
    normal_split(folder.name): folder
    for folder in _folders(source)
    if normal_split(folder.name) in _SPLITS
  } or {request.split or "train": source}
  found = {
    split: [
      (folder.name, path)
      for folder in _folders(tree)
      for path in _videos_below(folder)
    ]
    for split, tree in trees.items()
  }
  names = (name for pairs in found.values() for name, _ in pairs)
  classes = request.classes(names)
  number = number_of(classes, source)
  splits = {
    split: [
      Entry(
        path.relative_to(source).as_posix(),
        path.relative_to(source).as_posix(),
        (number(name),),
      )
      for name, path in pairs
    ]
    for split, pairs in found.items()
  }
  return Listing(source, {HEAD: classes}, request.chosen(splits))


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
  return sorted(
    entry
    for entry in path.iterdir()
    if entry.is_dir() and not entry.name.startswith(".")
  )


def _videos_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Video files, and folders with images, in the order of their names."""
  for at, folders, names in os.walk(folder):
    folders.sort()
    suffixes = {os.path.splitext(name)[1].lower() for name in names}
    if suffixes & set(IMAGE_SUFFIXES):
      yield pathlib.Path(at)
      continue
    for name in sorted(names):
      if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
        yield pathlib.Path(at, name)
