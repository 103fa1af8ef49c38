"""Writes a data set that was indexed: its classes and its splits."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vidjax.data.formats import Listing, mirror_classes
from vidjax.data.formats.base import HEAD
from vidjax.data.index import Row
from vidjax.data.manifest import GOOD, ManifestError


def write_data_set(
  out: pathlib.Path,
  listing: Listing,
  rows: Mapping[str, Sequence[Row]],
  *,
  parquet: bool = False,
) -> None:
  """Writes `labels.json` and a manifest of each split.

  A `labels.json` that is there keeps its folder of videos and all that is not
  about the names of classes.

  Args:
    out: the folder.
    listing: the annotations.
    rows: of each split.
    parquet: whether to write `<split>.parquet` and not `<split>.jsonl`.

  Raises:
    ManifestError: if the folder holds a data set of other classes.
  """
  path = out / "labels.json"
  old = json.loads(path.read_text("utf-8")) if path.exists() else {}
  heads = {name: list(names) for name, names in listing.heads.items()}
  kept = _kept(path, old, heads)
  videos = old.get("videos") or _relative(listing.videos, out)
  moved = os.path.relpath(listing.videos.resolve(), (out / videos).resolve())
  for split, clips in rows.items():
    lines = [_line(row, moved) for row in clips]
    other = "jsonl" if parquet else "parquet"
    (out / f"{split}.{other}").unlink(missing_ok=True)
    if parquet:
      _write_parquet(out / f"{split}.parquet", lines)
    else:
      text = "".join(json.dumps(line) + "\n" for line in lines)
      _write(out / f"{split}.jsonl", text)
  first = next(iter(heads.values()))
  labels = {
    "name": out.name,
    **({"classes": first} if len(heads) == 1 else {"heads": heads}),
    "flip": {str(k): v for k, v in mirror_classes(first).items()},
    **kept,
    "videos": videos,
  }
  _write(path, json.dumps(labels, indent=1) + "\n")


def _kept(
  path: pathlib.Path,
  old: Mapping[str, Any],
  heads: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
  """What stays of a former `labels.json`; flips do if no class has changed."""
  if not old:
    return {}
  former = old.get("heads", {HEAD: old.get("classes", [])})
  counts = [
    {name: len(names) for name, names in table.items()}
    for table in (former, heads)
  ]
  if counts[0] != counts[1]:
    raise ManifestError(
      f"{path} is of a data set with other classes ({counts[0]} of each head, "
      f"{counts[1]} now): name another folder with --out, or delete it and "
      "index all splits again."
    )
  names = {"classes", "heads"} | ({"flip"} if former != heads else set())
  return {key: value for key, value in old.items() if key not in names}


def _relative(videos: pathlib.Path, out: pathlib.Path) -> str:
  """Relative to the data set if one is inside the other: both can be moved."""
  here, there = out.resolve(), videos.resolve()
  if here.is_relative_to(there) or there.is_relative_to(here):
    return pathlib.Path(os.path.relpath(there, here)).as_posix()
  return there.as_posix()


def _line(row: Row, moved: str) -> dict[str, Any]:
  """What the manifest says of a clip; facts that are not known are left out."""
  entry, found = row.entry, row.found
  path = entry.path
  if moved != "." and not os.path.isabs(path):
    path = pathlib.PurePath(os.path.normpath(f"{moved}/{path}")).as_posix()
  line: dict[str, Any] = {"id": entry.id, "path": path}
  if len(entry.labels) == 1:
    line["label"] = entry.labels[0]
  else:
    line["labels"] = list(entry.labels)
  if row.status != GOOD:
    return line | {"status": row.status}
  if row.span is not None:
    line |= {"start": row.span[0], "stop": row.span[1]}
  facts = {
    name: getattr(found, name)
    for name in ("frames", "fps", "duration", "width", "height", "codec")
  }
  line |= {name: value for name, value in facts.items() if value}
  keys = _useful_keys(found.keyframes, row.span)
  # Every frame of a folder of images is one.
  if len(keys) < found.frames:
    line["keyframes"] = keys
  return line


def _useful_keys(
  keys: Sequence[int], span: tuple[int, int] | None
) -> list[int]:
  """Keyframes of a part: those inside, and the last one before it."""
  if span is None:
    return list(keys)
  before = [key for key in keys if key <= span[0]][-1:]
  return before + [key for key in keys if span[0] < key < span[1]]


def _write(path: pathlib.Path, text: str) -> None:
  part = path.with_name(path.name + ".part")
  part.write_text(text, "utf-8")
  os.replace(part, path)


def _write_parquet(
  path: pathlib.Path, lines: Sequence[Mapping[str, Any]]
) -> None:
  import pyarrow
  from pyarrow import parquet

  # A column is there if any row has it; the first rows need not.
  names = dict.fromkeys(name for line in lines for name in line)
  columns = {name: [line.get(name) for line in lines] for name in names}
  part = path.with_name(path.name + ".part")
  parquet.write_table(pyarrow.table(columns), part)
  os.replace(part, path)
