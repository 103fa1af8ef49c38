"""Other decoders than our own, by name: to compare with, or where one is liked.

All give the frames of `vidjax.data.decode.Video` on ordinary files. They differ
on odd ones: decord counts frames that an edit list hides and shows wrong ones
in open groups of pictures, OpenCV ends at the first damage without a word.
"""

import importlib
import os
import pathlib
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int, UInt8

from vidjax.checks import one_of
from vidjax.data.container import check_frames
from vidjax.data.decode import Transform, Video, VideoError

Indices = Sequence[int] | Int[np.ndarray, " t"]


class _Other:
  """A decoder of another package.

  Subclasses open the file in `_open`, which returns the number of frames, and
  give the distinct frames of ascending numbers in `_images`.
  """

  package = ""

  def __init__(self, path: str | os.PathLike[str]):
    self.path = pathlib.Path(path)
    self._package = _import(self.package)
    self._reader: Any = None
    self.frames = 0

  def __enter__(self) -> "_Other":
    if not self.path.exists():
      raise VideoError(self.path, "missing")
    try:
      self.frames = self._open()
    except Exception as error:  # each package has its own kinds
      raise VideoError(self.path, "corrupt") from error
    if self.frames < 1:
      raise VideoError(self.path, "no_frames")
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self._reader = None

  def read(
    self, indices: Indices, transform: Transform | None = None
  ) -> UInt8[np.ndarray, "t h w 3"]:
    """Reads frames; see `Video.read`."""
    numbers, places = np.unique(np.asarray(indices), return_inverse=True)
    check_frames(self.path, numbers.tolist(), self.frames)
    try:
      images = self._images(numbers.tolist())
    except Exception as error:
      raise VideoError(self.path, "corrupt") from error
    if transform is not None:
      images = [transform(image) for image in images]
    return np.stack(images)[places]

  def _open(self) -> int:
    raise NotImplementedError

  def _images(self, numbers: list[int]) -> Sequence[np.ndarray]:
    raise NotImplementedError


class _Decord(_Other):
  package = "decord"

  def _open(self) -> int:
    self._reader = self._package.VideoReader(str(self.path), num_threads=1)
    return len(self._reader)

  def _images(self, numbers: list[int]) -> Sequence[np.ndarray]:
    return list(self._reader.get_batch(numbers).asnumpy())


class _TorchCodec(_Other):
  package = "torchcodec.decoders"

  def _open(self) -> int:
    self._reader = self._package.VideoDecoder(
      str(self.path), dimension_order="NHWC", num_ffmpeg_threads=1
    )
    return len(self._reader)

  def _images(self, numbers: list[int]) -> Sequence[np.ndarray]:
    return list(self._reader.get_frames_at(numbers).data.numpy())


class _OpenCV(_Other):
  package = "cv2"

  def _open(self) -> int:
    cv2 = self._package
    options = [cv2.CAP_PROP_N_THREADS, 1]
    self._reader = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, options)
    return int(self._reader.get(cv2.CAP_PROP_FRAME_COUNT))

  def _images(self, numbers: list[int]) -> Sequence[np.ndarray]:
    cv2, images = self._package, []
    self._reader.set(cv2.CAP_PROP_POS_FRAMES, numbers[0])
    at = numbers[0]
    for number in numbers:
      while at <= number and self._reader.grab():
        at += 1
      read, image = self._reader.retrieve()
      if not read or at <= number:
        raise ValueError(f"frame {number} cannot be decoded")
      images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return images


Decoder: TypeAlias = Video | _Other

# By name; "planned" is our own.
BACKENDS: dict[str, Callable[[str | os.PathLike[str]], Decoder]] = {
  "planned": Video,
  "decord": _Decord,
  "opencv": _OpenCV,
  "torchcodec": _TorchCodec,
}


def open_video(
  path: str | os.PathLike[str], backend: str = "planned"
) -> Decoder:
  """Returns a decoder of a file, to be entered.

  Raises:
    ValueError: if there is no such decoder.
    ModuleNotFoundError: if its package is not installed.
  """
  return BACKENDS[one_of("the decoder", backend, BACKENDS)](path)


def _import(package: str) -> Any:
  try:
    return importlib.import_module(package)
  except (ImportError, RuntimeError, OSError) as error:
    name = package.partition(".")[0]
    raise ModuleNotFoundError(
      f"the decoder {name!r} cannot be loaded ({str(error).splitlines()[0]}): "
      f"install the package {name}, or choose 'planned'."
    ) from error
