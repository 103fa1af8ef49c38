"""The built-in data set: short mp4 clips whose class is a motion.

    python -m vidjax.data.motion --root=DIR

The files are made on first use and kept. The scenes and their classes are in
`vidjax.data.motion_scenes`.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from vidjax.data.motion_scenes import CLASSES, FLIPPED, REVERSED, render

__all__ = ["CLASSES", "FLIPPED", "REVERSED", "render", "write_motion_clips"]

VERSION = 2  # of what the generator draws; another one makes the set anew
FPS = 12

_STAMP = "motion.json"
_SPLITS = ("train", "val")
_OURS = re.compile(
  rf"{_STAMP}|labels\.json|({'|'.join(_SPLITS)})"
  rf"(\.jsonl|/({'|'.join(CLASSES)})/\d{{5,}}\.mp4)"
)
_X264 = {
  "preset": "veryfast",
  "tune": "fastdecode",
  "crf": "23",
  "bf": "0",
  "g": "12",
  # It would spend more bits on early frames, which shows the direction of time,
  # and its results vary from run to run below 64 pixels.
  "mbtree": "0",
}
_MPEG4 = {"qscale": "4", "g": "12"}  # for builds of FFmpeg without libx264


@dataclasses.dataclass(frozen=True)
class _Files:
  """What a folder holds.

  Attributes:
    count: files that a motion set has, but for the stamp.
    size: their bytes.
    foreign: a file that no motion set has, if there is one.
  """

  count: int
  size: int
  foreign: str | None


def write_motion_clips(
  root: str | os.PathLike[str],
  *,
  train_clips: int = 2400,
  val_clips: int = 480,
  frames: int = 16,
  size: int = 64,
  seed: int = 0,
  threads: int | None = None,
) -> pathlib.Path:
  """Makes the motion clips in a folder, unless it has them already.

  The folder then is a data set for `vidjax.data.manifest.load_manifest` with
  the splits "train" and "val". Clip i of a split shows class i modulo 12. A
  clip depends on the seed, its split and i only, and its bytes on nothing but
  these and the version of FFmpeg. The folder is complete or not there: it is
  made under another name and renamed.

  Args:
    root: the folder. A motion set in it that was made with other arguments, or
      has lost files, is replaced.
    train_clips: number of training clips.
    val_clips: number of validation clips.
    frames: length of a clip; 12 frames last a second.
    size: side of the square frames in pixels, even.
    seed: of every draw.
    threads: clips made at once; None is one for each processor.

  Returns:
    The root.

  Raises:
    ValueError: if an argument is out of range.
    FileExistsError: if the folder holds anything but a motion set.
  """
  root = pathlib.Path(root)
  arguments = {
    "train_clips": train_clips,
    "val_clips": val_clips,
    "frames": frames,
    "size": size,
    "seed": seed,
  }
  _check(arguments)
  if _is_intact(root, arguments):
    return root
  _refuse_foreign(root)
  root.parent.mkdir(parents=True, exist_ok=True)
  work = root.with_name(f".{root.name}-{uuid.uuid4().hex[:8]}")
  try:
    _write_set(work, arguments, threads or os.cpu_count() or 1)
    _put_in_place(work, root, arguments)
  finally:
    shutil.rmtree(work, ignore_errors=True)
  return root


def _check(arguments: dict[str, int]) -> None:
  least = {"train_clips": 1, "val_clips": 1, "frames": 2, "size": 16, "seed": 0}
  for name, value in arguments.items():
    if value < least[name]:
      raise ValueError(
        f"{name} of the motion clips is {value}: use {least[name]} or more."
      )
  if arguments["size"] % 2:
    raise ValueError(
      f"size of the motion clips is {arguments['size']}: use an even number, "
      "which the video format needs."
    )


def _is_intact(root: pathlib.Path, arguments: dict[str, int]) -> bool:
  """Whether the folder's stamp fits the arguments, and its files the stamp."""
  try:
    stamp = json.loads((root / _STAMP).read_text("utf-8"))
  except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
    return False
  return stamp == _stamp(arguments, _survey(root))


def _stamp(arguments: dict[str, int], files: _Files) -> dict[str, Any]:
  return {
    "generator": "vidjax.data.motion",
    "version": VERSION,
    "arguments": arguments,
    "files": files.count,
    "bytes": files.size,
  }


def _survey(root: pathlib.Path) -> _Files:
  count, size, foreign = 0, 0, None
  for folder, _, names in os.walk(root):
    for name in names:
      path = pathlib.Path(folder, name)
      relative = path.relative_to(root).as_posix()
      if not _OURS.fullmatch(relative):
        foreign = foreign or relative
      elif relative != _STAMP:
        count += 1
        size += path.stat().st_size
  return _Files(count, size, foreign)


def _refuse_foreign(root: pathlib.Path) -> None:
  """Raises FileExistsError if the folder holds what is not ours to replace."""
  if not root.exists():
    return
  if not root.is_dir():
    raise FileExistsError(
      f"{root} is a file: choose another folder for the motion clips."
    )
  files = _survey(root)
  if files.foreign is None and files.count and not (root / _STAMP).exists():
    files = dataclasses.replace(files, foreign="clips without " + _STAMP)
  if files.foreign is not None:
    raise FileExistsError(
      f"{root} holds {files.foreign}, which is not of a motion set: choose "
      "another folder for the motion clips, or empty this one."
    )


def _put_in_place(
  work: pathlib.Path, root: pathlib.Path, arguments: dict[str, int]
) -> None:
  """Renames the finished set; the old one goes only once this one is made."""
  old = work.with_name(work.name + "-old")
  try:
    if root.exists():
      root.rename(old)
    work.rename(root)
  except OSError:
    # Another process may have made the same set meanwhile.
    if not _is_intact(root, arguments):
      raise
  finally:
    shutil.rmtree(old, ignore_errors=True)


def _write_set(
  work: pathlib.Path, arguments: dict[str, int], threads: int
) -> None:
  clips = {split: arguments[f"{split}_clips"] for split in _SPLITS}
  for split in _SPLITS:
    for name in CLASSES:
      (work / split / name).mkdir(parents=True)
  jobs = [(split, i) for split in _SPLITS for i in range(clips[split])]
  # NumPy and the encoder release the GIL, and threads need no new imports.
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    made = pool.map(lambda job: _write_clip(work, job, arguments), jobs)
    entries = list(_with_progress(made, len(jobs)))
  for split in _SPLITS:
    lines = [
      json.dumps(entry) + "\n"
      for (of, _), entry in zip(jobs, entries, strict=True)
      if of == split
    ]
    (work / f"{split}.jsonl").write_text("".join(lines), "utf-8")
  labels = {
    "name": "motion",
    "classes": CLASSES,
    "flip": FLIPPED,
    "reverse": REVERSED,
  }
  (work / "labels.json").write_text(json.dumps(labels, indent=1), "utf-8")
  stamp = _stamp(arguments, _survey(work))
  (work / _STAMP).write_text(json.dumps(stamp, indent=1), "utf-8")


def _with_progress(made: Iterator[Any], total: int) -> Iterator[Any]:
  """Passes items on and counts them on one line of stderr."""
  live = sys.stderr.isatty()
  for done, item in enumerate(made, 1):
    if done == total or (live and done % 20 == 0):
      line = f"motion clips: {done}/{total}"
      print(
        f"\r{line}" if live else line,
        end="\n" if done == total else "",
        file=sys.stderr,
        flush=True,
      )
    yield item


def _write_clip(
  work: pathlib.Path, job: tuple[str, int], arguments: dict[str, int]
) -> dict[str, Any]:
  """Makes one video, (split, number), and returns its manifest line."""
  split, i = job
  label = i % len(CLASSES)
  entropy = (arguments["seed"], _SPLITS.index(split), i)
  video = render(
    label,
    np.random.default_rng(np.random.SeedSequence(entropy)),
    frames=arguments["frames"],
    size=arguments["size"],
  )
  path = f"{split}/{CLASSES[label]}/{i:05d}.mp4"
  _encode(video, work / path)
  return {
    "id": f"{split}_{i:05d}",
    "path": path,
    "label": label,
    "frames": len(video),
    "fps": FPS,
    "width": arguments["size"],
    "height": arguments["size"],
  }


def _encode(video: UInt8[np.ndarray, "t h w 3"], path: pathlib.Path) -> None:
  """Writes an mp4 file, H.264 if this build of FFmpeg has it."""
  x264 = "libx264" in av.codecs_available
  with av.open(path, "w", format="mp4") as container:
    stream = container.add_stream(
      "libx264" if x264 else "mpeg4",
      rate=FPS,
      options=_X264 if x264 else _MPEG4,
      height=video.shape[1],
      width=video.shape[2],
      pix_fmt="yuv420p",
    )
    # x264 writes its number of threads into the file.
    stream.codec_context.thread_count = 1
    convert = VideoReformatter()
    for image in video:
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame = convert.reformat(frame, format="yuv420p", threads=1)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def main() -> None:
  """Makes the clips that the command line asks for."""
  parser = argparse.ArgumentParser(
    prog="python -m vidjax.data.motion",
    description="Makes the built-in motion clips in a folder.",
  )
  parser.add_argument("--root", required=True, help="Folder to make.")
  defaults = write_motion_clips.__kwdefaults__ or {}
  for name in ("train_clips", "val_clips", "frames", "size", "seed"):
    parser.add_argument(
      f"--{name}", type=int, default=defaults[name], help="%(default)s"
    )
  try:
    root = write_motion_clips(**vars(parser.parse_args()))
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  print(root)


if __name__ == "__main__":
  main()
