"""Exact frames of a video file for the least decoding work.

The file is demultiplexed once into a packet table, which says how many frames
there are and where the keyframes lie. A read then decodes, in each group of
pictures that holds a wanted frame, only from its keyframe to the last wanted
frame, without the pictures that nothing refers to. Frames are told apart by
their presentation time; where a file's times cannot be trusted its frames are
counted from the start instead.
"""

import bisect
import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import types
from collections.abc import Callable, Iterator, Sequence, Set
from typing import NamedTuple

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int, UInt8

_KEEP_BYTES = 64 << 20  # packets of larger files are read again, not held
_REASONS = {
  "missing": "does not exist: check the path, or remove it from the manifest",
  "unreadable": "cannot be read: check its type and its permissions",
  "empty": "is empty (0 bytes): copy or download it again",
  "not_a_video": "is not a video file: replace it or remove it from the "
  "manifest",
  "truncated": "is cut short: copy or download it again",
  "no_video": "has no video stream: replace it or remove it from the manifest",
  "no_frames": "has a video stream without frames: replace it or remove it "
  "from the manifest",
  "unsupported": "has a codec that this build of FFmpeg cannot decode: "
  "transcode it to H.264",
  "corrupt": "is damaged and cannot be decoded: copy or download it again, or "
  "transcode it",
}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska, WebM
_SIGNATURES = ((4, b"ftyp"), (0, b"RIFF"), (0, _EBML))
_NO_TIME = -(1 << 63)  # as FFmpeg's AV_NOPTS_VALUE
_VCL_TYPES = range(1, 6)  # H.264 NAL units that carry a picture

Transform = Callable[[np.ndarray], np.ndarray]


class VideoError(ValueError):
  """A video file that cannot be used.

  Attributes:
    path: the file.
    reason: one of missing, unreadable, empty, not_a_video, truncated, no_video,
      no_frames, unsupported, corrupt.
  """

  def __init__(self, path: str | os.PathLike[str], reason: str):
    super().__init__(f"{os.fspath(path)} {_REASONS[reason]}.")
    self.path = pathlib.Path(path)
    self.reason = reason


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a file holds.

  Attributes:
    frames: number of frames that are shown (edit lists are honoured).
    fps: mean frames per second; 0 if the file does not say.
    width: pixels, after the rotation that the file asks for.
    height: pixels, after the rotation that the file asks for.
    codec: FFmpeg's name of the codec.
  """

  frames: int
  fps: float
  width: int
  height: int
  codec: str


class Row(NamedTuple):
  """One packet of a stream.

  Attributes:
    pts: presentation time in the stream's time base; `_NO_TIME` if it has none.
    key: whether decoding may start here.
    shown: whether it gives a frame.
    reference: whether other pictures may depend on it.
  """

  pts: int
  key: bool
  shown: bool
  reference: bool


def probe(path: str | os.PathLike[str]) -> VideoInfo:
  """Returns what a file holds; decodes one frame.

  Raises:
    VideoError: if the file is missing or bad.
  """
  with Video(path) as video:
    return video.info


def decode(
  path: str | os.PathLike[str],
  indices: Sequence[int] | Int[np.ndarray, " t"],
  *,
  transform: Transform | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
  """Opens a file and reads frames; see `Video.read`."""
  with Video(path) as video:
    return video.read(indices, transform)


class Video:
  """An open video file; a context manager.

  ```
  with Video(path) as video:
    frames = video.read(sample(video.frames))
  ```

  Entering opens the file and reads its packet table; it raises a VideoError if
  the file is missing or bad. The object belongs to one thread.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = pathlib.Path(path)
    self._reformatter = VideoReformatter()

  def __enter__(self) -> "Video":
    self._container = _open(self.path)
    try:
      self._stream = _video_stream(self._container, self.path)
      self._context = self._stream.codec_context
      # Parallelism is over clips; threads inside one only add overhead.
      self._context.thread_type = ThreadType.NONE
      self._context.thread_count = 1
      self._size = (self._stream.width, self._stream.height)
      with _named(self.path):
        self._rows, self._packets = _scan(
          self._container, self._stream, self.path
        )
    except BaseException:
      self._container.close()
      raise
    self._timed = _times_are_true(self._stream, self._rows)
    self._order = [i for i, row in enumerate(self._rows) if row.shown]
    if self._timed:
      self._order.sort(key=lambda i: self._rows[i].pts)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self._packets = None
    self._container.close()

  @property
  def frames(self) -> int:
    """Number of frames; known without decoding."""
    return len(self._order)

  @property
  def info(self) -> VideoInfo:
    """All facts; decodes the first frame, whose rotation gives the size."""
    with _named(self.path):
      first = next(self._sequential(), None)
    if first is None:
      raise VideoError(self.path, "corrupt")
    turned = _quarter_turns(first) % 2
    width, height = reversed(self._size) if turned else self._size
    rate = self._stream.average_rate or self._stream.guessed_rate
    return VideoInfo(
      frames=self.frames,
      fps=float(rate or 0),
      width=width,
      height=height,
      codec=self._context.codec.canonical_name,
    )

  def read(
    self,
    indices: Sequence[int] | Int[np.ndarray, " t"],
    transform: Transform | None = None,
  ) -> UInt8[np.ndarray, "t h w 3"]:
    """Reads frames, equal to those of a full decode from the start.

    Args:
      indices: frame numbers in showing order, in [0, frames); in any order, and
        repeated ones are decoded once.
      transform: applied to each RGB frame (h, w, 3) before it is stored, so
        that crops are resized frame by frame into the clip that is returned.

    Returns:
      RGB frames, in the order of `indices`.

    Raises:
      VideoError: if a wanted frame cannot be decoded.
      IndexError: if an index is out of range.
      ValueError: if no index is given.
    """
    places = self._places(indices)
    found = set()
    out = None
    with _named(self.path):
      for index, frame in self._frames(set(places)):
        image = self._rgb(frame)
        if transform is not None:
          image = transform(image)
        if out is None:
          out = np.empty((len(indices), *image.shape), np.uint8)
        for place in places[index]:
          out[place] = image
        found.add(index)
    if out is None or len(found) < len(places):
      raise VideoError(self.path, "corrupt")
    return out

  def _places(
    self, indices: Sequence[int] | Int[np.ndarray, " t"]
  ) -> dict[int, list[int]]:
    """Where each distinct frame number goes."""
    places = collections.defaultdict(list)
    for place, index in enumerate(indices):
      places[int(index)].append(place)
    if not places:
      raise ValueError(f"no frames of {self.path} were asked for: give some.")
    for index in (min(places), max(places)):
      if not 0 <= index < self.frames:
        raise IndexError(
          f"frame {index} of {self.path} was asked for: it has {self.frames} "
          f"frames, ask for 0 to {self.frames - 1}."
        )
    return places

  def _frames(self, wanted: Set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields the wanted frames that can be decoded, with their numbers.

    A frame may come twice; the last one is right.
    """
    number = {self._rows[self._order[i]].pts: i for i in wanted}
    left = set(wanted)
    if self._timed:
      for frame in self._decode(
        plan(self._rows, {self._order[i] for i in wanted})
      ):
        if frame.is_corrupt:
          # What a decoder patches up depends on where it started.
          left = set(wanted)
          break
        if frame.pts in number:
          left.discard(number[frame.pts])
          yield number[frame.pts], frame
    for count, frame in enumerate(self._sequential() if left else ()):
      index = number.get(frame.pts or 0) if self._timed else count
      if index in left:
        left.remove(index)
        yield index, frame
      if not left:
        return

  def _sequential(self) -> Iterator[av.VideoFrame]:
    return self._decode([range(len(self._rows))])

  def _decode(self, groups: Sequence[Sequence[int]]) -> Iterator[av.VideoFrame]:
    """Decodes ascending groups of rows, each afresh, in the decoder's order."""
    packets = self._fetch(list(itertools.chain.from_iterable(groups)))
    for group in groups:
      self._context.flush_buffers()
      for packet in itertools.islice(packets, len(group)):
        yield from self._context.decode(packet)
      yield from self._context.decode(None)

  def _fetch(self, rows: list[int]) -> Iterator[av.Packet]:
    """Yields the packets of ascending rows."""
    if self._packets is not None:
      yield from map(self._packets.__getitem__, rows)
      return
    chosen = set(rows)
    with _open(self.path) as container:
      packets = _packets(container, _video_stream(container, self.path))
      for row, packet in enumerate(packets):
        if row in chosen:
          yield packet
        if row == rows[-1]:
          return

  def _rgb(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    width, height = self._size
    rgb = self._reformatter.reformat(
      frame, width=width, height=height, format="rgb24", threads=1
    )
    turns = _quarter_turns(frame)
    image = rgb.to_ndarray()
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def plan(rows: Sequence[Row], wanted: Set[int]) -> list[list[int]]:
  """Chooses the packets that must be decoded for some frames.

  Args:
    rows: the packets of a stream in decoding order, with presentation times.
    wanted: numbers of the rows whose frames are wanted.

  Returns:
    Groups of ascending row numbers; the decoder is flushed between groups.
  """
  keys = [i for i, row in enumerate(rows) if row.key or not i]
  spans = []
  for row in wanted:
    key = bisect.bisect_right(keys, row) - 1
    # A picture that is shown before its keyframe (open group of pictures) may
    # also depend on the group before.
    if key and rows[row].pts < rows[keys[key]].pts:
      key -= 1
    spans.append((keys[key], row))
  merged = []
  for first, last in sorted(spans):
    if merged and first <= merged[-1][1]:
      merged[-1][1] = max(merged[-1][1], last)
    else:
      merged.append([first, last])
  return [
    [i for i in range(first, last + 1) if rows[i].reference or i in wanted]
    for first, last in merged
  ]


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
  """Turns FFmpeg's errors on damaged data into a VideoError."""
  try:
    yield
  except FFmpegError as error:
    raise VideoError(path, "corrupt") from error


def _open(path: pathlib.Path) -> InputContainer:
  try:
    with path.open("rb") as file:
      head = file.read(64)
  except FileNotFoundError as error:
    raise VideoError(path, "missing") from error
  except OSError as error:
    raise VideoError(path, "unreadable") from error
  if not head:
    raise VideoError(path, "empty")
  if _matroska_end(head) > path.stat().st_size:
    raise VideoError(path, "truncated")
  try:
    return av.open(str(path))
  except FFmpegError as error:
    known = any(head[at:].startswith(mark) for at, mark in _SIGNATURES)
    raise VideoError(path, "truncated" if known else "not_a_video") from error


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


def _video_stream(container: InputContainer, path: pathlib.Path) -> VideoStream:
  """Returns the first video stream that is not a cover picture."""
  for stream in container.streams.video:
    if not stream.disposition & Disposition.attached_pic:
      break
  else:
    raise VideoError(path, "no_video")
  if stream.codec_context is None:
    raise VideoError(path, "unsupported")
  index = stream.index_entries
  if len(index):
    last = index[len(index) - 1]
    if last.pos + last.size > path.stat().st_size:
      raise VideoError(path, "truncated")
  return stream


def _packets(
  container: InputContainer, stream: VideoStream
) -> Iterator[av.Packet]:
  return (packet for packet in container.demux(stream) if packet.size)


def _scan(
  container: InputContainer, stream: VideoStream, path: pathlib.Path
) -> tuple[list[Row], list[av.Packet] | None]:
  """Reads all packets; returns them too unless they are too large to hold."""
  rows, packets, size = [], [], 0
  codec = stream.codec_context.codec.canonical_name
  prefix = _nal_prefix(codec, stream.codec_context.extradata or b"")
  for packet in _packets(container, stream):
    data = memoryview(packet)
    if packet.is_corrupt:
      raise VideoError(path, "truncated")
    intact, reference = _nals(data, prefix) if prefix else (True, True)
    if not intact:
      raise VideoError(path, "corrupt")
    hidden = packet.is_discard or (codec == "vp8" and not data[0] & 0x10)
    rows.append(
      Row(
        _NO_TIME if packet.pts is None else packet.pts,
        packet.is_keyframe,
        shown=not hidden,
        reference=reference or codec != "h264",
      )
    )
    size += packet.size
    if size <= _KEEP_BYTES:
      packets.append(packet)
    else:
      packets.clear()
  if not any(row.shown for row in rows):
    raise VideoError(path, "no_frames")
  return rows, packets if size <= _KEEP_BYTES else None


def _nal_prefix(codec: str, extradata: bytes) -> int:
  """Bytes of the length before each NAL unit; 0 if there is no such length."""
  at = {"h264": 4, "hevc": 21}.get(codec)
  if at is None or len(extradata) <= at or extradata[0] != 1:
    return 0
  return (extradata[at] & 3) + 1


def _nals(data: memoryview, prefix: int) -> tuple[bool, bool]:
  """Whether NAL units fill the packet, and whether H.264 refers to one.

  A picture is a reference if nal_ref_idc of its slices is not 0 (ITU-T H.264,
  7.4.1); a packet may hold two fields, so all of its units are looked at.
  """
  at, pictures, reference = 0, 0, False
  while at + prefix < len(data):
    head = data[at + prefix]
    if head & 0x1F in _VCL_TYPES:
      pictures += 1
      reference |= head & 0x60 > 0
    at += prefix + int.from_bytes(data[at : at + prefix], "big")
  return at <= len(data), reference or not pictures


def _times_are_true(stream: VideoStream, rows: Sequence[Row]) -> bool:
  """Whether presentation times tell frames apart and order them.

  AVI stores none, so those of reordered pictures are guessed; MPEG-4 part 2 may
  pack two pictures into a packet, whose times are then shifted.
  """
  times = [row.pts for row in rows if row.shown]
  if _NO_TIME in times or len(set(times)) < len(times):
    return False
  context = stream.codec_context
  guessed = stream.container.format.name == "avi" or context.name == "mpeg4"
  return not (guessed and context.has_b_frames)


def _quarter_turns(frame: av.VideoFrame) -> int:
  return round(frame.rotation / 90) % 4
