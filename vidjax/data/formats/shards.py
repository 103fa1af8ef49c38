"""ArrayRecord shards: ours, and those of TensorFlow Datasets."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

from vidjax.data.formats.base import (
  HEAD,
  Entry,
  FormatError,
  Heads,
  Listing,
  Request,
  first_file,
  json_file,
  text_lines,
)
from vidjax.data.records import (
  RecordError,
  read_example,
  read_shard,
  unpack_record,
)

_SHARD = re.compile(r"(.+?)\.array_?record(-\d+-of-\d+)?")
_NUMBER = re.compile(r"-\d+-of-\d+$")


def read_array_record(request: Request) -> Listing:
  """Reads shards such as `train-00017-of-00256.array_record`.

  Their records are described in `vidjax.data.records`; the classes are those of
  `labels.json` in the same folder, as a manifest has it, if that is there. All
  records are read once to list them.

  Args:
    request: whose source is a folder of shards, or one shard.

  Raises:
    FormatError: if a shard is damaged or a label is missing.
  """
  heads = request.heads or _heads_beside(request.folder)
  request = dataclasses.replace(request, heads=heads)
  splits: dict[str, list[Entry]] = {}
  for split, shard in _shards(request):
    for name, data in _records(shard):
      record = unpack_record(data)
      if not record.labels:
        raise FormatError(
          f"{shard.parent / name} is not a record of ours with labels: read "
          "data of TensorFlow Datasets with the format 'tfds'."
        )
      splits.setdefault(split, []).append(
        Entry(record.key, name, record.labels)
      )
  return _listing(request, splits)


def read_tfds(request: Request) -> Listing:
  """Reads a prepared data set of TensorFlow Datasets, without TensorFlow.

  Only its files are read: shards of the format `array_record`, `features.json`
  and the names of classes. The video may be one feature of bytes (a whole file)
  or a `Video` feature (an image a frame). Every `ClassLabel` is a head. All
  records are read once to list them.

  Args:
    request: whose source is the folder of one version, such as
      `~/tensorflow_datasets/ucf101/ucf101_1/2.0.0`.

  Raises:
    FormatError: if it is in another file format, or has no labels.
  """
  about = json_file(request.folder / "dataset_info.json", dict)
  kind = about.get("fileFormat", "tfrecord")
  if kind != "array_record":
    raise FormatError(
      f"{request.folder} is in the file format {kind!r}: prepare it with "
      "download_and_prepare(file_format='array_record')."
    )
  heads = request.heads or _class_labels(request.folder)
  request = dataclasses.replace(request, heads=heads)
  prefix = f"{about['name']}-"
  splits: dict[str, list[Entry]] = {}
  for split, shard in _shards(request):
    split = split.removeprefix(prefix)
    for name, data in _records(shard):
      features = read_example(data)
      labels = tuple(int(features[head][0]) for head in heads)
      entries = splits.setdefault(split, [])
      entries.append(Entry(f"{split}_{len(entries):06d}", name, labels))
  return _listing(request, splits)


def _listing(request: Request, splits: dict[str, list[Entry]]) -> Listing:
  chosen = request.chosen(splits)
  columns = zip(
    *(e.labels for clips in chosen.values() for e in clips), strict=True
  )
  names = request.heads or {HEAD: ()}
  heads = {
    head: request.numbered(labels, head)
    for head, labels in zip(names, columns, strict=True)
  }
  return Listing(request.folder, heads, chosen)


def _shards(request: Request) -> Iterator[tuple[str, pathlib.Path]]:
  """The split and the path of every shard that was asked for."""
  paths = (
    sorted(request.source.iterdir())
    if request.source.is_dir()
    else [request.source]
  )
  for path in paths:
    match = _SHARD.fullmatch(path.name)
    if match is not None:
      yield _NUMBER.sub("", match[1]), path


def _records(shard: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  try:
    for number, data in enumerate(read_shard(shard)):
      yield f"{shard.name}#{number}", data
  except (RecordError, OSError) as error:
    raise FormatError(str(error)) from error


def _heads_beside(folder: pathlib.Path) -> Heads | None:
  path = folder / "labels.json"
  if not path.exists():
    return None
  content = json_file(path, dict)
  heads = content.get("heads", {HEAD: content.get("classes", ())})
  return {name: tuple(classes) for name, classes in heads.items()}


def _class_labels(folder: pathlib.Path) -> Heads:
  features = json_file(folder / "features.json", dict)
  found = features.get("featuresDict", {}).get("features", {})
  heads = {}
  for name, feature in found.items():
    if "classLabel" in feature:
      path = first_file(folder, f"{name}.labels.txt")
      count = int(feature["classLabel"].get("numClasses", 0))
      heads[name] = (
        tuple(text_lines(path)) if path else tuple(map(str, range(count)))
      )
  if not heads:
    raise FormatError(
      f"{folder} has no ClassLabel among its features "
      f"({', '.join(found) or 'none'}): name a labelled data set."
    )
  return heads
