"""Data sets on disk: which videos there are, and what they show.

A data set is a folder with one `<split>.jsonl` per split, one JSON object a
line::

  {"id": "v_001", "path": "train/v_001.mp4", "label": 3}

(or `<split>.parquet` with the same keys as columns), and one `labels.json`::

  {
    "name": "motion",
    "classes": ["left", "right"],
    "flip": {"0": 1, "1": 0},
    "reverse": {"0": 1, "1": 0},
    "videos": "../videos",
  }

The optional tables give the class that a clip shows once it is mirrored left to
right (`flip`) or played backwards (`reverse`), if it is another one. Paths are
relative to `videos`, which is relative to the folder and, if it is left out,
the folder itself. A data set with several labels a clip has `heads` instead of
`classes`, such as {"verb": ["take", ...], "noun": ["cup", ...]}, and `labels`
instead of `label` in its lines.
"""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

GOOD = "ok"
_NUMBERS = {
  "start": int,
  "stop": int,
  "frames": int,
  "fps": float,
  "duration": float,
  "width": int,
  "height": int,
}


class ManifestError(ValueError):
  """A data set whose description is missing or wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
  """One labelled video, or a part of one.

  Attributes:
    id: unique in its split.
    path: of a video file, of a folder of images, or `shard#number` of a record;
      relative to the videos of the data set.
    label: class number; of the first head if there are several.
    start: first frame of the part that counts; None for the start.
    stop: the frame after its last one; None for the end.
    frames: number of frames of the whole file, if known.
    fps: frames per second, if known.
    duration: seconds, if known.
    width: pixels, if known.
    height: pixels, if known.
    codec: FFmpeg's name of the codec, if known.
    keyframes: numbers of the frames at which decoding may start, if known.
    status: "ok", or why the video cannot be used.
    labels: class number of every head, `(label,)` if there is one.
  """

  id: str
  path: str
  label: int
  frames: int | None = None
  fps: float | None = None
  width: int | None = None
  height: int | None = None
  start: int | None = None
  stop: int | None = None
  duration: float | None = None
  codec: str | None = None
  keyframes: tuple[int, ...] | None = None
  status: str = GOOD
  labels: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    if not self.labels:
      object.__setattr__(self, "labels", (self.label,))

  def part(self, frames: int) -> tuple[int, int]:
    """Returns the first frame and the number of frames that count.

    Args:
      frames: of the whole video, at least 1.

    Returns:
      The first frame and the count (at least 1), both within the video.
    """
    first = min(self.start or 0, frames - 1)
    stop = frames if self.stop is None else min(self.stop, frames)
    return first, max(stop - first, 1)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """One split of a data set.

  Attributes:
    root: folder of the data set.
    split: name of the split, such as "train".
    name: name of the data set.
    clips: the videos.
    classes: name of each class; of the first head if there are several.
    flip: for each class, the class of its mirror image.
    reverse: for each class, the class of its clips played backwards.
    videos: folder that the clips' paths are relative to, relative to the root.
    heads: names of the classes of each head; `{"label": classes}` if there is
      one.
  """

  root: pathlib.Path
  split: str
  name: str
  clips: tuple[Clip, ...]
  classes: tuple[str, ...]
  flip: tuple[int, ...]
  reverse: tuple[int, ...]
  videos: pathlib.Path = pathlib.Path()
  heads: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if not self.heads:
      object.__setattr__(self, "heads", {"label": self.classes})

  def file(self, clip: Clip) -> pathlib.Path:
    """Returns where the video of a clip lies."""
    return self.root / self.videos / clip.path

  def bad(self) -> dict[str, int]:
    """Returns how many clips are known to be unusable, by reason."""
    return dict(
      collections.Counter(
        clip.status for clip in self.clips if clip.status != GOOD
      )
    )

  def usable(self) -> "Manifest":
    """Returns the split without the clips that are known to be unusable.

    Raises:
      ManifestError: if nothing is left.
    """
    clips = tuple(clip for clip in self.clips if clip.status == GOOD)
    if not clips:
      raise ManifestError(
        f"all {len(self.clips)} clips of split {self.split!r} in {self.root} "
        f"are marked as unusable ({self.bad()}): repair or replace them and "
        "index the videos again."
      )
    return dataclasses.replace(self, clips=clips)

  def of_head(self, name: str) -> "Manifest":
    """Returns the split with the labels of one of its heads.

    Args:
      name: of a head; the mirrored and reversed classes of all heads but the
        first are themselves.

    Raises:
      ManifestError: if there is no such head.
    """
    names = list(self.heads)
    if name not in names:
      raise ManifestError(
        f"{self.root} has no labels of the head {name!r}: set data.head to one "
        f"of {', '.join(names)}."
      )
    number = names.index(name)
    if not number:
      return self
    classes = self.heads[name]
    same = tuple(range(len(classes)))
    return dataclasses.replace(
      self,
      clips=tuple(
        dataclasses.replace(clip, label=clip.labels[number])
        for clip in self.clips
      ),
      classes=classes,
      flip=same,
      reverse=same,
    )

  def joined(self) -> "Manifest":
    """Returns the split with one label for the combination of all heads'.

    With two heads of m and n classes it is n times the first label plus the
    second. Mirror images change the first one only; `classes` and `reverse`
    stay those of the first head.
    """
    sizes = [len(classes) for classes in self.heads.values()]
    rest = math.prod(sizes[1:])
    return dataclasses.replace(
      self,
      clips=tuple(
        dataclasses.replace(
          clip, label=int(np.ravel_multi_index(clip.labels, sizes))
        )
        for clip in self.clips
      ),
      flip=tuple(
        rest * self.flip[label // rest] + label % rest
        for label in range(math.prod(sizes))
      ),
    )

  def digest(self) -> str:
    """Returns a fingerprint of what a training run sees of the split.

    Ids, paths, labels, parts and their order count; facts such as the size do
    not.
    """
    total = hashlib.sha256(repr((self.classes, self.flip)).encode())
    for clip in self.clips:
      seen = (clip.id, clip.path, clip.labels, clip.start, clip.stop)
      total.update(repr(seen).encode())
    return total.hexdigest()


def load_manifest(root: str | os.PathLike[str], split: str) -> Manifest:
  """Reads and checks one split.

  Args:
    root: folder of the data set.
    split: name of the split; its file is `<root>/<split>.jsonl`, or
      `<root>/<split>.parquet` if there is only that.

  Raises:
    ManifestError: if a file is missing, or anything in it is wrong.
  """
  root = pathlib.Path(root)
  labels = root / "labels.json"
  try:
    table = json.loads(_read(labels))
  except json.JSONDecodeError as error:
    raise ManifestError(f"{labels} is not JSON ({error}): fix it.") from error
  if not isinstance(table, dict):
    raise ManifestError(f"{labels} must hold one JSON object.")
  heads = _heads(labels, table)
  classes = next(iter(heads.values()))
  return Manifest(
    root=root,
    split=split,
    name=str(table.get("name", root.name)),
    clips=_clips(root, split, heads),
    classes=classes,
    flip=_class_table(labels, table, "flip", len(classes)),
    reverse=_class_table(labels, table, "reverse", len(classes)),
    videos=pathlib.Path(str(table.get("videos", ""))),
    heads=heads,
  )


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text("utf-8")
  except FileNotFoundError as error:
    raise ManifestError(
      f"{path} does not exist: check the data root and the split's name."
    ) from error


def _heads(
  path: pathlib.Path, table: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
  """Names of the classes by head; a data set without heads has one, "label"."""
  heads = table.get("heads", {"label": table.get("classes")})
  if not isinstance(heads, dict) or not heads:
    raise ManifestError(
      f"{path}: 'heads' must give each head's list of class names: correct it."
    )
  for name, classes in heads.items():
    if not isinstance(classes, list) or not classes:
      key = f"heads.{name}" if "heads" in table else "classes"
      raise ManifestError(
        f"{path} has no list of class names under '{key}': add it."
      )
  return {name: tuple(map(str, classes)) for name, classes in heads.items()}


def _class_table(
  path: pathlib.Path, table: Mapping[str, Any], key: str, count: int
) -> tuple[int, ...]:
  """Completes a partial table of classes with the identity."""
  full = list(range(count))
  for text, to in (table.get(key) or {}).items():
    known = text.isdecimal() and int(text) < count
    if not known or not isinstance(to, int) or not 0 <= to < count:
      raise ManifestError(
        f"{path}: '{key}' maps {text!r} to {to!r}, but the classes are 0 to "
        f"{count - 1}: correct the entry."
      )
    full[int(text)] = to
  return tuple(full)


def _entries(
  root: pathlib.Path, split: str
) -> Iterable[tuple[str, dict[str, Any]]]:
  """Yields where each entry is written, and the entry."""
  path, parquet = root / f"{split}.jsonl", root / f"{split}.parquet"
  if not path.exists() and parquet.exists():
    for number, entry in enumerate(read_parquet(parquet), 1):
      yield f"{parquet}, row {number}", entry
    return
  for number, line in enumerate(_read(path).splitlines(), 1):
    if not line.strip():
      continue
    where = f"{path}, line {number}"
    try:
      entry = json.loads(line)
    except json.JSONDecodeError as error:
      raise ManifestError(f"{where}: not JSON ({error}): fix it.") from error
    if not isinstance(entry, dict):
      raise ManifestError(f"{where}: not a JSON object: write one per line.")
    yield where, entry


def read_parquet(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a Parquet file; empty cells are None.

  Raises:
    ManifestError: if it cannot be read.
  """
  import pyarrow
  from pyarrow import parquet

  try:
    return parquet.read_table(path).to_pylist()
  except (OSError, pyarrow.ArrowException) as error:
    raise ManifestError(
      f"{path} is not a Parquet file that can be read ({error}): write it "
      "again."
    ) from error


def _clips(
  root: pathlib.Path, split: str, heads: Mapping[str, tuple[str, ...]]
) -> tuple[Clip, ...]:
  clips: dict[str, Clip] = {}
  for where, entry in _entries(root, split):
    clip = _clip(entry, where, len(heads))
    for label, (head, classes) in zip(clip.labels, heads.items(), strict=True):
      if not 0 <= label < len(classes):
        kind = "label" if len(heads) == 1 else f"{head} label"
        raise ManifestError(
          f"{where}: clip {clip.id!r} has {kind} {label}, but labels.json "
          f"lists {len(classes)} classes (0 to {len(classes) - 1}): correct "
          "one of them."
        )
    if clip.id in clips:
      raise ManifestError(
        f"{where}: the id {clip.id!r} occurs twice: make the ids unique."
      )
    clips[clip.id] = clip
  if not clips:
    raise ManifestError(
      f"{root / split}.jsonl lists no clips: add at least one line."
    )
  return tuple(clips.values())


def _clip(entry: dict[str, Any], where: str, heads: int) -> Clip:
  """Builds a clip from a parsed line."""
  key = "label" if heads == 1 else "labels"
  for name in ("id", "path", key):
    if name not in entry:
      raise ManifestError(f"{where}: the key '{name}' is missing: add it.")
  labels = [entry["label"]] if heads == 1 else entry["labels"]
  # bool is an int to Python, but no class number.
  if not isinstance(labels, list) or {type(x) for x in labels} != {int}:
    kind = "an integer" if heads == 1 else "a list of integers"
    raise ManifestError(
      f"{where}: '{key}' must be {kind}: correct clip {entry['id']!r}."
    )
  if len(labels) != heads:
    raise ManifestError(
      f"{where}: clip {entry['id']!r} has {len(labels)} labels, but "
      f"labels.json has {heads} heads: correct one of them."
    )
  try:
    facts: dict[str, Any] = {
      name: kind(entry[name])
      for name, kind in _NUMBERS.items()
      if entry.get(name) is not None
    }
    if entry.get("keyframes") is not None:
      facts["keyframes"] = tuple(map(int, entry["keyframes"]))
  except (TypeError, ValueError) as error:
    raise ManifestError(
      f"{where}: {', '.join(_NUMBERS)} and keyframes must be numbers: correct "
      f"clip {entry['id']!r}."
    ) from error
  for name in ("codec", "status"):
    if entry.get(name) is not None:
      facts[name] = str(entry[name])
  return Clip(
    str(entry["id"]),
    str(entry["path"]),
    labels[0],
    labels=tuple(labels),
    **facts,
  )
