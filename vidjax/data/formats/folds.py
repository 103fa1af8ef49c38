"""UCF101 and HMDB51: three folds each, given by official split files."""

import os
import re

from vidjax.data.formats.base import (
  HEAD,
  Entry,
  FormatError,
  Listing,
  Request,
  Suffixes,
  integer,
  number_of,
  text_lines,
)

_FOLDS = {"1": "train", "2": "test"}  # of HMDB51; 0 is in neither


def read_ucf101(request: Request) -> Listing:
  """Reads `classInd.txt`, `trainlist01.txt`, `testlist01.txt`, ...

  The splits are train01, test01, train02, ...; class 1 of the files is 0. A
  video is `<Class>/<name>.avi`, or has another suffix if that is there.

  Args:
    request: whose source is the folder of these files.

  Raises:
    FormatError: if a file or a line is wrong.
  """
  index = request.folder / "classInd.txt"
  names: list[str] = []
  for line in text_lines(index):
    number, _, name = line.strip().partition(" ")
    if integer(number, str(index)) != len(names) + 1 or not name:
      raise FormatError(
        f"{index}: {line!r} is not `{len(names) + 1} Class`: download it again."
      )
    names.append(name.strip())
  number = number_of(names, request.source)
  suffixes = Suffixes(request.video_folder)
  splits: dict[str, list[Entry]] = {}
  for path in sorted(request.folder.glob("*list0[1-9].txt")):
    match = re.fullmatch(r"(train|test)list(\d\d)", path.stem)
    if match is None:
      continue
    entries = splits.setdefault("".join(match.groups()), [])
    for line in text_lines(path):
      file = re.sub(r"\s+\d+$", "", line.strip())
      folder, _, _ = file.partition("/")
      entries.append(
        Entry(
          os.path.splitext(file)[0], suffixes.actual(file), (number(folder),)
        )
      )
  return Listing(
    request.video_folder, {HEAD: tuple(names)}, request.chosen(splits)
  )


def read_hmdb51(request: Request) -> Listing:
  """Reads `<class>_test_split<1..3>.txt` with lines `<name>.avi <0|1|2>`.

  The splits are train01, test01, train02, ...; classes are numbered in
  alphabetical order. A video is `<class>/<name>.avi`, or has another suffix if
  that is there.

  Args:
    request: whose source is the folder of these files.

  Raises:
    FormatError: if a line is wrong.
  """
  files = {
    path: match.groups()
    for path in sorted(request.folder.glob("*_test_split?.txt"))
    if (match := re.fullmatch(r"(.+)_test_split(\d)", path.stem))
  }
  names = request.classes(name for name, _ in files.values())
  number = number_of(names, request.source)
  suffixes = Suffixes(request.video_folder)
  splits: dict[str, list[Entry]] = {}
  for path, (name, fold) in files.items():
    for line in text_lines(path):
      match = re.fullmatch(r"\s*(.+?)\s+([012])\s*", line)
      if match is None:
        raise FormatError(
          f"{path}: {line!r} is not `name.avi` and 0, 1 or 2: correct it."
        )
      if match[2] in _FOLDS:
        file = f"{name}/{match[1]}"
        splits.setdefault(f"{_FOLDS[match[2]]}0{fold}", []).append(
          Entry(
            os.path.splitext(file)[0], suffixes.actual(file), (number(name),)
          )
        )
  return Listing(request.video_folder, {HEAD: names}, request.chosen(splits))
