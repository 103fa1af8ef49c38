"""Opens whatever a manifest's path names: a file, images or a record."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from vidjax.data.backends import open_video
from vidjax.data.container import check_frames
from vidjax.data.decode import Transform, Video, VideoError, VideoInfo
from vidjax.data.records import Record, RecordError, read_record, split_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Folders of frames may hold optical flow as well.
_PREFIXES = ("", "img_", "image_", "frame_", "frame")


class ImageFrames:
  """A video of which every frame is an image: files, or their content.

  Raises:
    VideoError: if there is no frame.
  """

  def __init__(
    self, path: pathlib.Path, images: Sequence[pathlib.Path] | Sequence[bytes]
  ):
    if not images:
      raise VideoError(path, "no_frames")
    self._path = path
    self._images = images

  @property
  def frames(self) -> int:
    """Number of frames."""
    return len(self._images)

  @property
  def info(self) -> VideoInfo:
    """All facts; the frame rate is not known (0)."""
    first = self.image(0)
    kind = "png" if self._content(0).startswith(b"\x89PNG") else "mjpeg"
    height, width = first.shape[:2]
    return VideoInfo(
      frames=self.frames, fps=0.0, width=width, height=height, codec=kind
    )

  def read(
    self,
    indices: Sequence[int] | Int[np.ndarray, " t"],
    transform: Transform | None = None,
  ) -> UInt8[np.ndarray, "t h w 3"]:
    """Reads frames; see `vidjax.data.decode.Video.read`."""
    wanted = [int(index) for index in indices]
    check_frames(self._path, wanted, self.frames)
    images = {}
    for index in dict.fromkeys(wanted):
      image = self.image(index)
      images[index] = image if transform is None else transform(image)
    if len({image.shape for image in images.values()}) > 1:
      raise VideoError(self._path, "corrupt")
    return np.stack([images[index] for index in wanted])

  def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns one frame in RGB.

    Raises:
      VideoError: if the image is missing or damaged.
    """
    data = np.frombuffer(self._content(index), np.uint8)
    try:
      image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except cv2.error as error:
      if error.code == cv2.Error.StsNoMem:
        raise MemoryError(f"{self._path}, frame {index}: no memory") from error
      image = None
    if image is None:
      raise VideoError(self._path, "corrupt")
    return np.asarray(image)

  def _content(self, index: int) -> bytes:
    image = self._images[index]
    if isinstance(image, bytes):
      return image
    try:
      return image.read_bytes()
    except OSError as error:
      raise VideoError(self._path, "unreadable") from error


Frames: TypeAlias = Video | ImageFrames


@contextlib.contextmanager
def open_clip(
  path: str | os.PathLike[str], decoder: str = "planned"
) -> Iterator[Any]:
  """Opens a video, as a context manager that gives it with `frames` and `read`.

  Args:
    path: of a video file, of a folder with an image for each frame, or of a
      record, `shard#number`.
    decoder: of files, a name of `vidjax.data.backends.BACKENDS`; what "planned"
      gives has the facts of `Frames` too.

  Raises:
    VideoError: if it is missing or bad.
    ImportError: if the decoder, or for a record `array_record`, is not
      installed.
  """
  path = pathlib.Path(path)
  if split_name(path) is not None:
    with _open_record(path) as video:
      yield video
  elif path.is_dir():
    yield ImageFrames(path, [path / name for name in frame_files(path)])
  else:
    with open_video(path, decoder) as video:
      yield video


@contextlib.contextmanager
def _open_record(path: pathlib.Path) -> Iterator[Frames]:
  record = record_of(path)
  if record.video is None:
    yield ImageFrames(path, record.frames)
    return
  with Video(path, record.video) as video:
    yield video


def record_of(path: pathlib.Path) -> Record:
  """Returns a record; a VideoError says why it cannot be read."""
  try:
    return read_record(path)
  except FileNotFoundError as error:
    raise VideoError(path, "missing") from error
  except (RecordError, OSError) as error:
    raise VideoError(path, "corrupt") from error


def frame_files(folder: pathlib.Path) -> list[str]:
  """Returns the names of a folder's frames in their order.

  Names are a number with any prefix, such as `00001.jpg` or `img_00001.jpg`;
  the first one may be 0 or 1. If there are several prefixes, those of optical
  flow are left out.
  """
  found: dict[str, list[tuple[int, str]]] = {}
  for name in os.listdir(folder):
    stem, suffix = os.path.splitext(name)
    match = re.fullmatch(r"(.*?)(\d+)", stem)
    if suffix.lower() in IMAGE_SUFFIXES and match is not None:
      found.setdefault(match[1], []).append((int(match[2]), name))
  usual = [prefix for prefix in _PREFIXES if prefix in found]
  prefix = (
    usual[0]
    if usual
    else max(found, key=lambda prefix: len(found[prefix]), default="")
  )
  return [name for _, name in sorted(found.get(prefix, ()))]
