"""Kinetics-400, -600 and -700: CSV files with the official columns."""

import pathlib

from vidjax.data.formats.base import (
  HEAD,
  Entry,
  FormatError,
  Listing,
  Request,
  VideoFiles,
  integer,
  normal_split,
  number_of,
  table,
  text_lines,
)

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def read_kinetics(request: Request) -> Listing:
  """Reads CSV files with `label,youtube_id,time_start,time_end,split`.

  Classes are numbered in alphabetical order. The files are looked for below the
  videos' folder, in any layout, as `<id>_<start>_<end>` with six digits each,
  or `<id>`; one that is not there is listed all the same.

  Args:
    request: whose source is a CSV file, or a folder of some (those without
      labels, of the test split, are passed over).

  Raises:
    FormatError: if a column or a value is wrong.
  """
  rows = []
  for path in _tables(request):
    rows += [
      (f"{path}, row {number}", row)
      for number, row in enumerate(table(path, *_COLUMNS), 2)
    ]
  classes = request.classes(row["label"] for _, row in rows)
  number = number_of(classes, request.source)
  files = VideoFiles(request.video_folder)
  splits: dict[str, list[Entry]] = {}
  for where, row in rows:
    split, label = normal_split(row["split"]), row["label"]
    start, end = (
      integer(str(row[key]).removesuffix(".0"), where)
      for key in ("time_start", "time_end")
    )
    name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
    path = files.find(name, label, split) or files.find(
      row["youtube_id"], label, split
    )
    splits.setdefault(split, []).append(
      Entry(name, path or f"{name}.mp4", (number(label),))
    )
  return Listing(request.video_folder, {HEAD: classes}, request.chosen(splits))


def _tables(request: Request) -> list[pathlib.Path]:
  if not request.source.is_dir():
    return [request.source]
  paths = [
    path
    for path in sorted(request.source.glob("*.csv"))
    if "label" in "".join(text_lines(path)[:1]).split(",")
  ]
  if not paths:
    raise FormatError(
      f"{request.source} has no CSV file with the column 'label': name the "
      "folder of the official annotations."
    )
  return paths
