"""Videos inside ArrayRecord shards.

A record is named `shard#number`. It is either ours, a msgpack map ::

  {"v": 1, "key": str, "labels": [int, ...],
   "video": bytes of a file, or "frames": [bytes of an image, ...]}

or a `tf.train.Example`, as TensorFlow Datasets writes it, whose largest feature
of bytes is the video. Both are read without TensorFlow.
"""

import dataclasses
import functools
import importlib
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgpack

_NAME = re.compile(r"(.+\.array_?record[^/#]*)#(\d+)")
_EXAMPLE = b"\x0a"  # the first field of the protocol buffer is a message
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG")
_OPEN_SHARDS = 256  # that stay open; each is a file and a small index


class RecordError(ValueError):
  """A shard or a record that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Record:
  """One labelled video.

  Attributes:
    key: its name.
    labels: class number of each head.
    video: content of a video file, or None.
    frames: content of an image for each frame, if there is no video.
    facts: whatever else is known.
  """

  key: str
  labels: tuple[int, ...]
  video: bytes | None = None
  frames: Sequence[bytes] = ()
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def split_name(path: str | os.PathLike[str]) -> tuple[pathlib.Path, int] | None:
  """Returns the shard and the number that a path names, if it names any."""
  match = _NAME.fullmatch(os.fspath(path))
  return None if match is None else (pathlib.Path(match[1]), int(match[2]))


def pack_record(record: Record) -> bytes:
  """Returns the bytes of a record."""
  content: dict[str, Any] = {
    "v": 1,
    "key": record.key,
    "labels": list(record.labels),
    **record.facts,
  }
  if record.video is None:
    content["frames"] = list(record.frames)
  else:
    content["video"] = record.video
  return bytes(msgpack.packb(content) or b"")


def unpack_record(data: bytes) -> Record:
  """Returns the record that some bytes are.

  Raises:
    RecordError: if they are none.
  """
  if data.startswith(_EXAMPLE):
    return _from_example(data)
  try:
    content = msgpack.unpackb(data)
    known = {"v", "key", "labels", "video", "frames"}
    return Record(
      key=str(content["key"]),
      labels=tuple(map(int, content["labels"])),
      video=content.get("video"),
      frames=tuple(content.get("frames", ())),
      facts={k: v for k, v in content.items() if k not in known},
    )
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise RecordError(
      "a record is neither a msgpack map with key and labels nor a "
      f"tf.train.Example ({error!r}): write the shard again."
    ) from error


def _from_example(data: bytes) -> Record:
  features = read_example(data)
  blobs = {k: v for k, v in features.items() if v and isinstance(v[0], bytes)}
  if not blobs:
    raise RecordError(
      f"a tf.train.Example has no bytes, only {', '.join(features)}: name a "
      "data set of videos."
    )
  largest = max(blobs, key=lambda name: sum(map(len, blobs[name])))
  values = blobs[largest]
  images = len(values) > 1 or values[0].startswith(_IMAGES)
  return Record(
    key="",
    labels=(),
    video=None if images else values[0],
    frames=values if images else (),
    facts={k: v for k, v in features.items() if k != largest},
  )


def read_example(data: bytes) -> dict[str, list[Any]]:
  """Returns the features of a `tf.train.Example`; needs no TensorFlow.

  Raises:
    RecordError: if the bytes are none.
  """
  from google.protobuf.message import DecodeError
  from tensorflow_datasets.proto import tf_example_pb2

  try:
    # The module makes its classes when it is imported.
    example = getattr(tf_example_pb2, "Example").FromString(data)  # noqa: B009
  except DecodeError as error:
    raise RecordError(
      f"a record is not a tf.train.Example ({error}): write the shard again."
    ) from error
  lists = {
    name: (feature, feature.WhichOneof("kind"))
    for name, feature in example.features.feature.items()
  }
  return {
    name: list(getattr(feature, kind).value) if kind else []
    for name, (feature, kind) in lists.items()
  }


@functools.lru_cache(_OPEN_SHARDS)
def _reader(shard: str) -> Any:
  try:
    module = importlib.import_module("array_record.python.array_record_module")
  except ImportError as error:
    raise ImportError(
      f"reading {shard} needs the package array_record: pip install "
      "'array-record' (Linux and macOS), or use video files."
    ) from error
  if not os.path.getsize(shard):
    raise RecordError(f"{shard} is empty: write it again.")
  try:
    reader = module.ArrayRecordReader(shard)
    reader.num_records()
  except (RuntimeError, ValueError) as error:
    raise RecordError(
      f"{shard} is not an ArrayRecord file ({error}): write it again."
    ) from error
  if not reader.ok():
    raise RecordError(f"{shard} is not an ArrayRecord file: write it again.")
  return reader


def read_record(path: str | os.PathLike[str]) -> Record:
  """Reads one record.

  Args:
    path: `shard#number`.

  Raises:
    RecordError: if there is no such record, or it is damaged.
    OSError: if the shard cannot be opened.
  """
  name = split_name(path)
  if name is None:
    raise RecordError(f"{path} does not name a record as shard#number.")
  shard, number = name
  try:
    data = _reader(str(shard)).read([number])[0]
  except (RuntimeError, ValueError, IndexError) as error:
    if isinstance(error, RecordError):
      raise
    raise RecordError(
      f"{path} cannot be read ({error}): write the shard again."
    ) from error
  return unpack_record(data)


def read_shard(shard: pathlib.Path) -> Iterator[bytes]:
  """Yields the content of the records of a shard, one at a time.

  Raises:
    RecordError: if the shard is damaged.
    OSError: if it cannot be opened.
  """
  reader = _reader(str(shard))
  for number in range(reader.num_records()):
    try:
      yield reader.read([number])[0]
    except (RuntimeError, ValueError) as error:
      raise RecordError(
        f"{shard}#{number} cannot be read ({error}): write the shard again."
      ) from error
