"""EPIC-Kitchens-100: parts of long videos, each with a verb and a noun."""

import pathlib
import re

from vidjax.data.formats.base import (
  Entry,
  FormatError,
  Heads,
  Listing,
  Request,
  VideoFiles,
  first_file,
  integer,
  table,
)

_COLUMNS = (
  "narration_id",
  "participant_id",
  "video_id",
  "start_timestamp",
  "stop_timestamp",
  "start_frame",
  "stop_frame",
  "verb_class",
  "noun_class",
)
_CLASSES = {"verb": 97, "noun": 300}


def read_epic100(request: Request) -> Listing:
  """Reads `EPIC_100_{train,validation}.csv`.

  The heads are `verb` and `noun`, named by `EPIC_100_verb_classes.csv` and
  `EPIC_100_noun_classes.csv` if these are there. A part is read, wherever it
  lies below the videos' folder, from

  - `<narration_id>.mp4`, which holds that part alone (best for training);
  - `<video_id>.mp4`, cut by the timestamps, so that its frame rate may be
    another than the one of the official frames;
  - `<participant_id>/rgb_frames/<video_id>/`, cut by the official numbers of
    frames, which start at 1.

  Args:
    request: whose source is the folder of these files.

  Raises:
    FormatError: if a column or a value is wrong.
  """
  heads = request.heads or {
    head: _names(request.folder, head, count)
    for head, count in _CLASSES.items()
  }
  files = VideoFiles(request.video_folder)
  splits = {}
  for split, word in {"train": "train", "val": "validation"}.items():
    path = first_file(request.folder, f"*{word}.csv")
    splits[split] = [] if path is None else _entries(path, files, heads)
  return Listing(request.video_folder, heads, request.chosen(splits))


def _names(folder: pathlib.Path, head: str, count: int) -> tuple[str, ...]:
  path = first_file(folder, f"*{head}_classes*.csv")
  if path is None:
    return tuple(f"{head} {i}" for i in range(count))
  rows = table(path, "id", "key")
  names = {integer(row["id"], str(path)): row["key"] for row in rows}
  if sorted(names) != list(range(len(names))):
    raise FormatError(
      f"{path} does not number its classes from 0 to {len(names) - 1}: "
      "download it again."
    )
  return tuple(names[i] for i in range(len(names)))


def _entries(
  path: pathlib.Path, files: VideoFiles, heads: Heads
) -> list[Entry]:
  entries = []
  for count, row in enumerate(table(path, *_COLUMNS), 2):
    where = f"{path}, row {count}"
    labels = tuple(integer(row[f"{head}_class"], where) for head in heads)
    for label, (head, names) in zip(labels, heads.items(), strict=True):
      if not 0 <= label < len(names):
        raise FormatError(
          f"{where}: the {head} class {label} is none of 0 to "
          f"{len(names) - 1}: correct it."
        )
    entries.append(_entry(row, where, labels, files))
  return entries


def _entry(
  row: dict[str, str],
  where: str,
  labels: tuple[int, ...],
  files: VideoFiles,
) -> Entry:
  name, video, person = (
    row[key] for key in ("narration_id", "video_id", "participant_id")
  )
  part = files.find(name, person)
  if part is not None:
    return Entry(name, part, labels)
  frames = f"{person}/rgb_frames/{video}"
  if (files.folder / frames).is_dir():
    first, last = (
      integer(row[key], where) for key in ("start_frame", "stop_frame")
    )
    return Entry(name, frames, labels, span=(max(first - 1, 0), last))
  start, stop = (
    _seconds(row[key], where) for key in ("start_timestamp", "stop_timestamp")
  )
  whole = files.find(video, person) or f"{person}/videos/{video}.MP4"
  return Entry(name, whole, labels, seconds=(start, stop))


def _seconds(text: str, where: str) -> float:
  match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip())
  if match is None:
    raise FormatError(
      f"{where}: {text!r} is not a time as 00:01:02.34: correct it."
    )
  hours, minutes, seconds = match.groups()
  return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
