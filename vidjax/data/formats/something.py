"""Something-Something, version 1 (folders of images) and 2 (webm files)."""

import pathlib
from collections.abc import Callable, Iterator

from vidjax.data.formats.base import (
  HEAD,
  Entry,
  FormatError,
  Listing,
  Request,
  Suffixes,
  first_file,
  integer,
  json_file,
  number_of,
  text_lines,
)

_V2_FILES = {
  "train": ("*v2-train.json", "train.json"),
  "val": ("*v2-validation.json", "validation.json"),
  "test": ("*v2-test.json", "test.json"),
}


def read_ssv1(request: Request) -> Listing:
  """Reads `something-something-v1-{labels,train,validation}.csv`.

  Classes have the order of the file of labels; video 12 is the folder `12` of
  images.

  Args:
    request: whose source is the folder of these files.

  Raises:
    FormatError: if a file or a value is wrong.
  """
  names = tuple(text_lines(_file(request.folder, "*labels.csv", "labels.csv")))
  number = number_of(names, request.source)
  splits = {}
  for split, word in {"train": "train", "val": "validation"}.items():
    path = first_file(request.folder, f"*{word}.csv")
    splits[split] = [] if path is None else list(_answers(path, number, "{}"))
  return Listing(request.video_folder, {HEAD: names}, request.chosen(splits))


def read_ssv2(request: Request) -> Listing:
  """Reads the JSON files of version 2, under their official or newer names.

  A video's class is its template without the brackets, numbered by the file of
  labels; video 12 is `12.webm`, or `12` with another suffix if that is there.
  The test split needs the file of answers.

  Args:
    request: whose source is the folder of these files.

  Raises:
    FormatError: if a file or a value is wrong.
  """
  folder = request.folder
  labels = _file(folder, "*v2-labels.json", "labels.json")
  numbers = {
    _plain(name): integer(str(value), str(labels))
    for name, value in json_file(labels, dict).items()
  }
  names = tuple(sorted(numbers, key=lambda name: numbers[name]))
  if [numbers[name] for name in names] != list(range(len(names))):
    raise FormatError(
      f"{labels} does not number its classes from 0 to {len(names) - 1}: "
      "download it again."
    )
  number = number_of(names, request.source)
  suffixes = Suffixes(request.video_folder)
  splits = {}
  for split, patterns in _V2_FILES.items():
    path = first_file(folder, *patterns)
    splits[split] = []
    for row in json_file(path, list) if path else ():
      if "template" in row:
        file = suffixes.actual(f"{row['id']}.webm")
        label = number(_plain(row["template"]))
        splits[split].append(Entry(str(row["id"]), file, (label,)))
  answers = first_file(folder, "*test-answers.csv")
  if answers is not None and not splits["test"]:
    splits["test"] = [
      Entry(entry.id, suffixes.actual(entry.path), entry.labels)
      for entry in _answers(
        answers, lambda name: number(_plain(name)), "{}.webm"
      )
    ]
  return Listing(request.video_folder, {HEAD: names}, request.chosen(splits))


def _answers(
  path: pathlib.Path, number: Callable[[str], int], file: str
) -> Iterator[Entry]:
  """Clips of the lines `id;label`."""
  for count, line in enumerate(text_lines(path), 1):
    name, found, label = line.partition(";")
    if not found:
      raise FormatError(
        f"{path}, line {count}: {line!r} is not `id;label`: correct it."
      )
    yield Entry(name, file.format(name), (number(label),))


def _plain(template: str) -> str:
  return template.replace("[", "").replace("]", "")


def _file(folder: pathlib.Path, *patterns: str) -> pathlib.Path:
  path = first_file(folder, *patterns)
  if path is None:
    raise FormatError(
      f"{folder} has no file {patterns[0]}: name the folder of the official "
      "annotations."
    )
  return path
