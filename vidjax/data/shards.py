"""Writes the videos of a split into ArrayRecord shards.

A shard is made on its own, by any process that sees the files: its videos are
re-encoded, written under another name, read back, compared, and only then does
the shard get its name, with a report beside it. A shard that has its report is
not made again. `vidjax.data.records` reads them.
"""

import collections
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidjax.data.decode import VideoError
from vidjax.data.manifest import GOOD, Clip, Manifest, load_manifest
from vidjax.data.records import Record, pack_record
from vidjax.data.transcode import Encoding, TranscodeError, transcode

_VERSION = 2  # of what is written
# A record is read alone, and video does not compress any further.
_OPTIONS = "group_size:1,uncompressed"


class ShardError(RuntimeError):
  """Shards that cannot be written or are not as they were written."""


@dataclasses.dataclass(frozen=True)
class Job:
  """A split that becomes shards.

  Attributes:
    root: folder of the data set.
    split: name of the split.
    out: folder of the shards.
    shards: number of shards.
    seed: of the order of the clips, which are shuffled over all shards.
    encoding: how the videos are written.
  """

  root: pathlib.Path
  split: str
  out: pathlib.Path
  shards: int
  seed: int = 0
  encoding: Encoding = dataclasses.field(default_factory=Encoding)

  def shard(self, number: int) -> pathlib.Path:
    """Returns the path of a shard."""
    name = f"{self.split}-{number:05d}-of-{self.shards:05d}.array_record"
    return self.out / name

  def manifest(self) -> Manifest:
    """Returns the split."""
    return _manifest(self.root, self.split)

  def clips(self, number: int) -> list[Clip]:
    """Returns the clips of a shard."""
    clips = self.manifest().clips
    order = np.random.default_rng(self.seed).permutation(len(clips))
    return [clips[i] for i in order[number :: self.shards]]

  def fingerprint(self) -> str:
    """Returns what changes if the shards of this job would be others."""
    seen = (_VERSION, self.manifest().digest(), self.shards, self.seed)
    return hashlib.sha256(repr((*seen, self.encoding)).encode()).hexdigest()


# A worker makes many shards of one split; reading its manifest takes seconds.
@functools.lru_cache(4)
def _manifest(root: pathlib.Path, split: str) -> Manifest:
  return load_manifest(root, split)


@dataclasses.dataclass(frozen=True)
class Report:
  """What is in a shard, and what is not.

  Attributes:
    job: fingerprint of the job.
    size: bytes of the shard.
    rows: manifest lines of the records, in their order.
    failed: manifest lines of the videos that are left out, with their status.
    counters: sums over the shard, see `write_shard`.
  """

  job: str
  size: int
  rows: Sequence[Mapping[str, Any]]
  failed: Sequence[Mapping[str, Any]]
  counters: Mapping[str, int]


def write_shard(job: Job, number: int) -> Report:
  """Makes a shard, unless it is there already.

  Videos that cannot be read are left out and reported.

  Args:
    job: what to write.
    number: of the shard, from 0.

  Returns:
    Its report. The counters are "videos" (written), "frames", "bytes_in",
    "bytes_out", and "failed_<reason>" for each reason.

  Raises:
    ShardError: if what was written cannot be read back.
    ImportError: if `array_record` is not installed.
  """
  report = read_report(job, number)
  if report is not None:
    return report
  path = job.shard(number)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f"{path.name}.part-{uuid.uuid4().hex[:8]}")
  try:
    filled = _fill(job, number, part)
    verify_shard(part, filled.digests)
    size = part.stat().st_size
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)
  report = Report(
    job.fingerprint(), size, filled.rows, filled.failed, dict(filled.counters)
  )
  _write_json(_report_path(path), dataclasses.asdict(report))
  return report


@dataclasses.dataclass
class _Filled:
  """What went into a shard."""

  rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  failed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  digests: list[str] = dataclasses.field(default_factory=list)
  counters: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )


def _fill(job: Job, number: int, part: pathlib.Path) -> _Filled:
  """Writes the records of a shard."""
  filled = _Filled()
  name, counters = job.shard(number).name, filled.counters
  writer = array_record().ArrayRecordWriter(str(part), _OPTIONS)
  try:
    for clip in job.clips(number):
      row = _line(job, clip)
      try:
        record, facts = _record(job, clip)
      except (VideoError, TranscodeError) as error:
        reason = getattr(error, "reason", "different")
        filled.failed.append(row | {"status": reason, "message": str(error)})
        counters[f"failed_{reason}"] += 1
        continue
      data = pack_record(record)
      writer.write(data)
      filled.digests.append(hashlib.sha256(data).hexdigest())
      place = {"path": f"{name}#{len(filled.rows)}"}
      filled.rows.append(row | facts | place)
      counters["videos"] += 1
      counters["frames"] += facts["frames"]
      counters["bytes_in"] += _bytes(job.manifest().file(clip))
      counters["bytes_out"] += len(data)
  finally:
    writer.close()
  return filled


def _line(job: Job, clip: Clip) -> dict[str, Any]:
  heads = len(job.manifest().heads)
  labels = (
    {"label": clip.label} if heads == 1 else {"labels": list(clip.labels)}
  )
  return {"id": clip.id, "path": clip.path} | labels


def _record(job: Job, clip: Clip) -> tuple[Record, dict[str, Any]]:
  """Re-encodes a clip; returns its record and its facts."""
  path = job.manifest().file(clip)
  if clip.status != GOOD:
    raise _KnownError(path, clip.status)
  video = transcode(path, job.encoding, clip.part)
  facts = {
    "frames": video.frames,
    "fps": round(video.fps, 6),
    "duration": round(video.frames / video.fps, 6),
    "width": video.width,
    "height": video.height,
    "codec": video.codec,
  }
  # A record's "frames" are images.
  named = {"num_frames" if k == "frames" else k: v for k, v in facts.items()}
  return Record(clip.id, clip.labels, video.content, facts=named), facts


class _KnownError(TranscodeError):
  """A video that the manifest calls unusable."""

  def __init__(self, path: pathlib.Path, reason: str):
    super().__init__(f"{path} is marked as {reason} in the manifest.")
    self.reason = reason


def _bytes(path: pathlib.Path) -> int:
  return path.stat().st_size if path.is_file() else 0


def verify_shard(path: pathlib.Path, digests: Sequence[str]) -> None:
  """Reads a shard and compares its records with what they should be.

  Args:
    path: of the shard.
    digests: SHA-256 of each record.

  Raises:
    ShardError: if the number of records or one of them is another.
  """
  try:
    reader = array_record().ArrayRecordReader(str(path))
    count = reader.num_records()
    found = [
      hashlib.sha256(reader.read([i])[0]).hexdigest() for i in range(count)
    ]
    reader.close()
  except (RuntimeError, ValueError, IndexError) as error:
    raise ShardError(
      f"{path} cannot be read back ({error}): look at the disk, then start "
      "again."
    ) from error
  if found != list(digests):
    wrong = [
      i for i, (a, b) in enumerate(zip(found, digests, strict=False)) if a != b
    ]
    raise ShardError(
      f"{path} has {count} records of {len(digests)} that were written"
      + (f", and record {wrong[0]} is another" if wrong else "")
      + ": look at the disk, then start again."
    )


def read_report(job: Job, number: int) -> Report | None:
  """Returns the report of a shard if it is there, whole and of this job."""
  path = job.shard(number)
  try:
    report = Report(**json.loads(_report_path(path).read_text("utf-8")))
    size = path.stat().st_size
  except (FileNotFoundError, json.JSONDecodeError, TypeError):
    return None
  fits = report.job == job.fingerprint() and report.size == size
  return report if fits else None


def finish(job: Job) -> dict[str, int]:
  """Writes the manifest of the shards, once all are there.

  The folder then is a data set for `vidjax.data.manifest.load_manifest`. Videos
  that were left out stay in the manifest with their status.

  Returns:
    The counters over all shards.

  Raises:
    ShardError: if a shard is missing.
  """
  reports = [read_report(job, number) for number in range(job.shards)]
  missing = [str(i) for i, report in enumerate(reports) if report is None]
  if missing:
    raise ShardError(
      f"shards {', '.join(missing)} of {job.split!r} in {job.out} are missing: "
      "start the same command again."
    )
  done = [report for report in reports if report is not None]
  rows = [row for report in done for row in report.rows]
  failed = [row for report in done for row in report.failed]
  counters = collections.Counter()
  for report in done:
    counters.update(report.counters)
  lines = "".join(json.dumps(row) + "\n" for row in (*rows, *failed))
  _write(job.out / f"{job.split}.jsonl", lines)
  labels = json.loads((job.root / "labels.json").read_text("utf-8"))
  labels.pop("videos", None)
  _write_json(job.out / "labels.json", labels)
  summary = {"shards": job.shards} | dict(sorted(counters.items()))
  encoding = dataclasses.asdict(job.encoding)
  _write_json(
    job.out / f"{job.split}.shards.json",
    {"counters": summary, "encoding": encoding, "seed": job.seed},
  )
  return summary


def array_record() -> Any:
  """Returns the module that reads and writes ArrayRecord files.

  Raises:
    ImportError: if it is not installed.
  """
  try:
    return importlib.import_module("array_record.python.array_record_module")
  except ImportError as error:
    raise ImportError(
      "shards need the package array_record: pip install 'vidjax[shard]' (on "
      "Linux or macOS), or train from the video files."
    ) from error


def _report_path(shard: pathlib.Path) -> pathlib.Path:
  return shard.with_name(shard.name + ".json")


def _write_json(path: pathlib.Path, content: Any) -> None:
  _write(path, json.dumps(content, indent=1) + "\n")


def _write(path: pathlib.Path, text: str) -> None:
  """Writes a file that is whole or not there."""
  part = path.with_name(f"{path.name}.part-{uuid.uuid4().hex[:8]}")
  part.write_text(text, "utf-8")
  os.replace(part, path)
