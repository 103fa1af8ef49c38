"""Diving-48: JSON files with numbered dives."""

import dataclasses
import pathlib
import re
from typing import Any

from vidjax.data.formats.base import (
  HEAD,
  Entry,
  FormatError,
  Listing,
  Request,
  Suffixes,
  first_file,
  json_file,
)


def read_diving48(request: Request) -> Listing:
  """Reads `Diving48_V2_{train,test}.json` and `Diving48_vocab.json`.

  A class is named by its four attributes, or its number if there is no file of
  them. A video is `<vid_name>.mp4`, or has another suffix if that is there; it
  is cut to the dive if the annotations say that it starts after the first
  frame.

  Args:
    request: whose source is the folder of these files, or one of them.

  Raises:
    FormatError: if a file or a value is wrong.
  """
  words = first_file(request.folder, "*vocab.json")
  if words is not None and request.heads is None:
    names = tuple(map(_class_name, json_file(words, list)))
    request = dataclasses.replace(request, heads={HEAD: names})
  suffixes = Suffixes(request.video_folder)
  splits = {
    split: [_entry(row, path, suffixes) for row in json_file(path, list)]
    for split, path in _files(request).items()
  }
  chosen = request.chosen(splits)
  labels = (x for clips in chosen.values() for e in clips for x in e.labels)
  classes = request.numbered(labels)
  return Listing(request.video_folder, {HEAD: classes}, chosen)


def _files(request: Request) -> dict[str, pathlib.Path]:
  if not request.source.is_dir():
    name = re.search(r"train|test", request.source.stem)
    split = name[0] if name else request.split or "train"
    return {split: request.source}
  files = {
    split: first_file(request.source, f"*V2*{split}.json", f"*{split}.json")
    for split in ("train", "test")
  }
  return {split: path for split, path in files.items() if path is not None}


def _class_name(words: Any) -> str:
  return words if isinstance(words, str) else ", ".join(words)


def _entry(
  row: dict[str, Any], path: pathlib.Path, suffixes: Suffixes
) -> Entry:
  try:
    name, label = str(row["vid_name"]), int(row["label"])
    start, end = int(row.get("start_frame", 0)), int(row.get("end_frame", 0))
  except (KeyError, TypeError, ValueError) as error:
    raise FormatError(
      f"{path}: {row!r} lacks vid_name or label, or one is wrong ({error!r}): "
      "correct it."
    ) from error
  span = (start, end) if 0 < start < end else None
  return Entry(name, suffixes.actual(f"{name}.mp4"), (label,), span=span)
