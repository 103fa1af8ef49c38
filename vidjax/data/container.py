"""Opening a video file, or saying in one word why it cannot be used."""

import contextlib
import dataclasses
import io
import os
import pathlib
from collections.abc import Collection, Iterator

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

REASONS = {
  "missing": "does not exist: check the path, or remove it from the manifest",
  "unreadable": "cannot be read: check its type and its permissions",
  "empty": "is empty (0 bytes): copy or download it again",
  "not_a_video": "is not a video file: replace it or remove it from the "
  "manifest",
  "truncated": "is cut short: copy or download it again",
  "no_video": "has no video stream: replace it or remove it from the manifest",
  "no_frames": "has no frames (a folder: no images with numbers, such as "
  "00001.jpg): replace it or remove it from the manifest",
  "unsupported": "has a codec that this build of FFmpeg cannot decode: "
  "transcode it to H.264",
  "corrupt": "is damaged and cannot be decoded: copy or download it again, or "
  "transcode it",
}
_MP4, _EBML, _SEGMENT = b"ftyp", b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_SIGNATURES = ((4, _MP4), (0, b"RIFF"), (0, _EBML))
# FFmpeg decodes a picture or more of every file that it opens and parses every
# packet, to learn what mp4 files of some codecs say anyway: 5 to 8 % of the
# time of a short read.
_AS_SAID = {"codec_whitelist": "none", "fflags": "+noparse+nofillin"}
_SAID = ("h264", "hevc", "vp9", "av1")  # canonical names


class VideoError(ValueError):
  """A video file that cannot be used.

  Attributes:
    path: the file.
    reason: one of missing, unreadable, empty, not_a_video, truncated, no_video,
      no_frames, unsupported, corrupt.
  """

  def __init__(self, path: str | os.PathLike[str], reason: str):
    super().__init__(f"{os.fspath(path)} {REASONS[reason]}.")
    self.path = pathlib.Path(path)
    self.reason = reason

  def __reduce__(self) -> tuple[type, tuple[pathlib.Path, str]]:
    return type(self), (self.path, self.reason)


@contextlib.contextmanager
def damage_of(path: pathlib.Path) -> Iterator[None]:
  """Turns FFmpeg's errors on damaged data into a VideoError."""
  try:
    yield
  except FFmpegError as error:
    raise VideoError(path, "corrupt") from error


@dataclasses.dataclass(frozen=True)
class Source:
  """A video file, on disk or in memory.

  Attributes:
    path: of the file; its name in errors if it is in memory.
    content: all of its bytes, if it is in memory.
  """

  path: pathlib.Path
  content: bytes | None = None

  def size(self) -> int:
    """Returns the number of bytes."""
    if self.content is not None:
      return len(self.content)
    return self.path.stat().st_size

  def open(self) -> InputContainer:
    """Opens the file as FFmpeg's players do.

    Raises:
      VideoError: if it is missing, empty or not a video.
    """
    return self._open(self._head(), {})

  def open_quickly(self) -> InputContainer:
    """Opens the file without a look at its pictures where its header will do.

    Raises:
      VideoError: if it is missing, empty or not a video.
    """
    head = self._head()
    if not head.startswith(_MP4, 4):
      return self._open(head, {})
    container = self._open(head, _AS_SAID)
    for stream in container.streams.video:
      context = stream.codec_context
      said = context is not None and context.codec.canonical_name in _SAID
      if not (said and stream.width and stream.average_rate):
        container.close()
        return self._open(head, {})
    return container

  def _head(self) -> bytes:
    if self.content is not None:
      head = self.content[:64]
    else:
      try:
        with self.path.open("rb") as file:
          head = file.read(64)
      except FileNotFoundError as error:
        raise VideoError(self.path, "missing") from error
      except OSError as error:
        raise VideoError(self.path, "unreadable") from error
    if not head:
      raise VideoError(self.path, "empty")
    if _matroska_end(head) > self.size():
      raise VideoError(self.path, "truncated")
    return head

  def _open(self, head: bytes, options: dict[str, str]) -> InputContainer:
    file = str(self.path) if self.content is None else io.BytesIO(self.content)
    try:
      # Titles may be in any encoding; they are of no interest.
      return av.open(file, "r", options=options, metadata_errors="replace")
    except FFmpegError as error:
      known = any(head.startswith(mark, at) for at, mark in _SIGNATURES)
      reason = "truncated" if known else "not_a_video"
      raise VideoError(self.path, reason) from error

  def stream(self, container: InputContainer) -> VideoStream:
    """Returns the first video stream that is not a cover picture.

    Raises:
      VideoError: if there is none, its codec is unknown, or the file is cut
        short by what its index says.
    """
    for stream in container.streams.video:
      if not stream.disposition & Disposition.attached_pic:
        break
    else:
      raise VideoError(self.path, "no_video")
    if stream.codec_context is None:
      raise VideoError(self.path, "unsupported")
    index = stream.index_entries
    if len(index):
      last = index[len(index) - 1]
      if last.pos + last.size > self.size():
        raise VideoError(self.path, "truncated")
    return stream


def _matroska_end(head: bytes) -> int:
  """Where a Matroska file says that it ends; 0 if it is none or does not say.

  Its packets give no sign of a missing end (RFC 8794: an element is an id, its
  size with a length prefix, and its data; all ones is an unknown size).
  """
  at = 0
  for mark in (_EBML, _SEGMENT):
    at += len(mark)
    if head[at - len(mark) : at] != mark or at >= len(head) or not head[at]:
      return 0
    width = 9 - head[at].bit_length()
    ones = (1 << 7 * width) - 1
    size = int.from_bytes(head[at : at + width], "big") & ones
    if size == ones:
      return 0
    at += width + size
  return at


def check_frames(
  path: pathlib.Path, numbers: Collection[int], frames: int
) -> None:
  """Checks that frames are asked for, and that a video has them.

  Raises:
    ValueError: if none is.
    IndexError: if one is outside of the video.
  """
  if not numbers:
    raise ValueError(f"no frames of {path} were asked for: give some.")
  for number in (min(numbers), max(numbers)):
    if not 0 <= number < frames:
      raise IndexError(
        f"frame {number} of {path} was asked for: it has {frames} frames, ask "
        f"for 0 to {frames - 1}."
      )
