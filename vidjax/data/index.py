"""Builds a manifest: inspects every listed video and writes what was found."""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from vidjax.data.formats import Entry, FormatError, Listing
from vidjax.data.guard import Job, inspect_all
from vidjax.data.inspection import Inspection
from vidjax.data.manifest import GOOD
from vidjax.data.records import split_name

JOURNAL = "journal.jsonl"
THUMBNAILS = 24
# Whatever was wrong then may not be so now.
_AGAIN = ("missing", "unreadable", "timeout", "memory", "crashed")

Progress = Callable[[int, int, Mapping[str, int]], None]


@dataclasses.dataclass(frozen=True)
class Limits:
  """How the videos are inspected.

  Attributes:
    workers: processes.
    check: "full" or "fast", see `vidjax.data.inspection.inspect_video`.
    timeout: seconds without a sign of life after which a video is given up.
    memory: MiB that a video may take.
  """

  workers: int = 1
  check: str = "full"
  timeout: float = 120.0
  memory: int = 4096


@dataclasses.dataclass(frozen=True)
class Row:
  """A clip with what was found in its file.

  Attributes:
    entry: the annotation.
    found: of the file.
    status: of the clip: that of the file, or "truncated" if the file is shorter
      than the annotation says.
    span: first frame, and the frame after the last one, if it is a part.
  """

  entry: Entry
  found: Inspection
  status: str
  span: tuple[int, int] | None


def index_videos(
  listing: Listing,
  out: pathlib.Path,
  limits: Limits,
  progress: Progress = lambda done, total, counts: None,
) -> dict[str, list[Row]]:
  """Inspects the videos of a listing, each file once.

  What is known is kept in `journal.jsonl`, to which every result is appended:
  an interrupted index goes on where it was, and files that have not changed
  are not looked at again.

  Args:
    listing: the annotations.
    out: folder of the journal; is made.
    limits: how to inspect.
    progress: called with the number of files that are done, of all files, and
      the number of files by status.

  Returns:
    The rows of each split.
  """
  out.mkdir(parents=True, exist_ok=True)
  paths = list(
    dict.fromkeys(e.path for clips in listing.splits.values() for e in clips)
  )
  stamps = {path: _stamp(listing.videos / path) for path in paths}
  known = {
    path: found
    for path, (stamp, found) in _read_journal(out, limits.check).items()
    if stamps.get(path) == stamp and found.status not in _AGAIN
  }
  counts = collections.Counter(found.status for found in known.values())
  progress(len(known), len(paths), counts)
  todo = [path for path in paths if path not in known]
  shown = set(_spread(paths, THUMBNAILS))
  jobs = {str(listing.videos / path): path for path in todo}
  results = inspect_all(
    [Job(full, limits.check, path in shown) for full, path in jobs.items()],
    workers=max(min(limits.workers, len(todo)), 1),
    timeout=limits.timeout,
    memory=limits.memory,
  )
  with (out / JOURNAL).open("a", encoding="utf-8") as journal:
    for job, found in results if todo else ():
      path = jobs[job.path]
      known[path] = found
      _append(journal, path, stamps[path], limits.check, found)
      counts[found.status] += 1
      progress(len(known), len(paths), counts)
  return {
    split: [_row(entry, known[entry.path]) for entry in entries]
    for split, entries in listing.splits.items()
  }


def _stamp(path: pathlib.Path) -> list[int]:
  """Size and time of a file, which show a change; [] if it is missing."""
  record = split_name(path)
  try:
    found = (record[0] if record else path).stat()
  except OSError:
    return []
  return [found.st_size, found.st_mtime_ns]


def _read_journal(
  out: pathlib.Path, check: str
) -> dict[str, tuple[list[int], Inspection]]:
  path = out / JOURNAL
  known = {}
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    return {}
  whole = data[: data.rfind(b"\n") + 1]
  if len(whole) < len(data):  # a line that was being written at the end
    with path.open("r+b") as file:
      file.truncate(len(whole))
  for number, line in enumerate(whole.splitlines(), 1):
    try:
      entry = json.loads(line)
      # A full check answers for a fast one.
      if entry.pop("check") in ("full", check):
        name, stamp = entry.pop("path"), entry.pop("stamp")
        for key in ("notes", "keyframes"):
          entry[key] = tuple(entry[key])
        known[name] = (stamp, Inspection(**entry))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise FormatError(
        f"{path}, line {number}, is damaged or of another version ({error!r}): "
        "delete it to inspect all videos again."
      ) from error
  return known


def _append(
  journal: TextIO, path: str, stamp: list[int], check: str, found: Inspection
) -> None:
  entry = {"path": path, "stamp": stamp, "check": check}
  journal.write(json.dumps(entry | dataclasses.asdict(found)) + "\n")
  journal.flush()


def _spread(items: Sequence[str], count: int) -> list[str]:
  step = max(len(items) / count, 1.0)
  return [items[int(i * step)] for i in range(min(count, len(items)))]


def _row(entry: Entry, found: Inspection) -> Row:
  span, status = entry.span, found.status
  if status == GOOD:
    if entry.seconds is not None and found.fps:
      first, last = (round(time * found.fps) for time in entry.seconds)
      span = (first, max(last, first + 1))
    if entry.frames is not None and entry.frames < found.frames:
      span = (0, entry.frames)
    short = entry.frames is not None and entry.frames > found.frames
    if short or (span is not None and span[0] >= found.frames):
      status = "truncated"
    elif span is not None:
      span = (span[0], min(span[1], found.frames))
  return Row(entry, found, status, span)


def hold_out(listing: Listing, share: float) -> Listing:
  """Moves a share of each class from the split "train" to a new split "val".

  The choice depends on the ids alone, and a class of two keeps one in each.

  Args:
    listing: with a split "train" and none called "val".
    share: to move, in (0, 1).

  Raises:
    ValueError: if the splits or the share are others.
  """
  if not 0 < share < 1:
    raise ValueError(f"the share to hold out is {share}; use one in (0, 1)")
  if "train" not in listing.splits or "val" in listing.splits:
    raise ValueError(
      "a share is held out of the split 'train' as 'val', but the splits are "
      f"{', '.join(listing.splits)}: leave it out"
    )
  by_class: dict[tuple[int, ...], list[Entry]] = {}
  for entry in listing.splits["train"]:
    by_class.setdefault(entry.labels, []).append(entry)
  held = set()
  for entries in by_class.values():
    count = max(round(share * len(entries)), min(len(entries) - 1, 1))
    ranked = sorted(entries, key=lambda e: _rank(e.id))
    held.update(entry.id for entry in ranked[:count])
  parts: dict[str, Sequence[Entry]] = dict(listing.splits)
  parts["train"], parts["val"] = (
    [e for e in listing.splits["train"] if (e.id in held) == inside]
    for inside in (False, True)
  )
  return dataclasses.replace(listing, splits=parts)


def _rank(name: str) -> str:
  return hashlib.sha256(name.encode()).hexdigest()
