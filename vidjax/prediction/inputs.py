"""Which videos some paths name, and what each of them is called."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from vidjax.data.clips import frame_files
from vidjax.data.formats.base import VIDEO_SUFFIXES


class NoVideosError(ValueError):
  """Paths that name no video."""


@dataclasses.dataclass(frozen=True)
class Input:
  """One video.

  Attributes:
    path: of a file, a folder with an image for each frame, or a record.
    name: what it is called among the others, fit for a file's name.
  """

  path: pathlib.Path
  name: str


def find_inputs(paths: Sequence[str | os.PathLike[str]]) -> list[Input]:
  """Returns the videos that paths name, in order, each once.

  A folder with images named by numbers is a video; any other stands for all
  videos below it, by their usual suffixes, but for those in hidden folders.
  Everything else is taken as the path of a video, whether it can be read or
  not.

  Raises:
    NoVideosError: if no path is given, one is empty, or a folder has no video.
  """
  found: dict[pathlib.Path, str] = {}
  for text in paths:
    if not os.fspath(text):  # to pathlib it is the current folder
      raise NoVideosError(
        "the path of a video is empty (''): is a variable of the shell not set?"
      )
    path = pathlib.Path(text)
    below = _below(path) if path.is_dir() else {path: path.stem}
    if not below:
      raise NoVideosError(
        f"there is no video in {path}: name a video file, a folder with videos "
        f"({', '.join(VIDEO_SUFFIXES)}) or with an image for each frame "
        "(00001.jpg), or a record (shard#number)"
      )
    found |= {p: name for p, name in below.items() if p not in found}
  if not found:
    raise NoVideosError("no video was named: name files or folders")
  return _named(found)


def _below(folder: pathlib.Path) -> dict[pathlib.Path, str]:
  """The videos of a folder with their names."""
  if frame_files(folder):
    return {folder: folder.resolve().name}
  found = []
  for at, folders, files in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    inner = pathlib.Path(at)
    found += [
      inner / name
      for name in files
      if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
    ]
    videos = [name for name in folders if frame_files(inner / name)]
    found += [inner / name for name in videos]
    folders[:] = sorted(set(folders) - set(videos))
  return {
    path: "_".join(path.relative_to(folder).with_suffix("").parts)
    for path in sorted(found)
  }


def _named(found: dict[pathlib.Path, str]) -> list[Input]:
  """Tells videos of the same name apart by their suffixes, or by numbers."""
  suffixes: dict[str, set[str]] = {}
  for path, name in found.items():
    suffixes.setdefault(name, set()).add(path.suffix)
  taken: set[str] = set()
  inputs = []
  for path, name in found.items():
    if len(suffixes[name]) > 1:
      name += path.suffix.replace(".", "_")
    unique, number = name, 2
    while unique in taken:
      unique, number = f"{name}_{number}", number + 1
    taken.add(unique)
    inputs.append(Input(path, unique))
  return inputs
