"""Exact frames of a video file for the least decoding work.

The file is demultiplexed once into a packet table, which says how many frames
there are and where the keyframes lie. A read then decodes, in each group of
pictures that holds a wanted frame, only from its keyframe to the last wanted
frame, without the pictures that nothing refers to. Frames are told apart by
their presentation time; where a file's times cannot be trusted its frames are
counted from the start instead.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import types
from collections.abc import Callable, Generator, Iterable, Sequence, Set

import av
import numpy as np
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int, UInt8

from vidjax.data.container import (
  Source,
  VideoError,
  check_frames,
  damage_of,
)
from vidjax.data.packets import packets_of, plan, scan, times_are_true

__all__ = ["Transform", "Video", "VideoError", "VideoInfo", "decode", "probe"]

Transform = Callable[[np.ndarray], np.ndarray]


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

  Args:
    path: of the file.
    content: its bytes, if they are in memory already; the path is then only
      its name in errors.
  """

  def __init__(
    self, path: str | os.PathLike[str], content: bytes | None = None
  ):
    self.path = pathlib.Path(path)
    self._source = Source(self.path, content)
    self._reformatter = VideoReformatter()

  def __enter__(self) -> "Video":
    with contextlib.ExitStack() as stack:
      container = stack.enter_context(self._source.open_quickly())
      self._stream = self._source.stream(container)
      self._context = _single_threaded(self._stream)
      self._size = (self._stream.width, self._stream.height)
      with damage_of(self.path):
        self._rows, self._packets = scan(container, self._stream, self._source)
      self._container = container
      self._close = stack.pop_all()
    self._timed = times_are_true(self._stream, self._rows)
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
    self._close.close()

  @property
  def frames(self) -> int:
    """Number of frames; known without decoding."""
    return len(self._order)

  @property
  def fps(self) -> float:
    """Mean frames per second; 0 if the file does not say."""
    return float(self._stream.average_rate or self._stream.guessed_rate or 0)

  @property
  def keyframes(self) -> list[int]:
    """Numbers of the frames at which decoding may start."""
    return [i for i, row in enumerate(self._order) if self._rows[row].key]

  @property
  def info(self) -> VideoInfo:
    """All facts; decodes the first frame, whose rotation gives the size."""
    with damage_of(self.path), contextlib.closing(self._frames({0})) as frames:
      _, first = next(frames, (0, None))
    if first is None:
      raise VideoError(self.path, "corrupt")
    turned = quarter_turns(first) % 2
    width, height = reversed(self._size) if turned else self._size
    return VideoInfo(
      frames=self.frames,
      fps=self.fps,
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
        The frame is lent: what is kept of it must be a copy.

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
    with damage_of(self.path):
      for index, frame in self._frames(set(places)):
        image = self.rgb(frame)
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

  def walk(
    self, first: int = 0, stop: int | None = None
  ) -> Generator[av.VideoFrame]:
    """Yields consecutive frames as they are stored, in showing order.

    Args:
      first: number of the first frame.
      stop: number of the frame after the last one; None for the end.

    Raises:
      VideoError: if a frame cannot be decoded.
    """
    stop = self.frames if stop is None else stop
    due = first
    with damage_of(self.path):
      for index, frame in self._frames(set(range(first, stop))):
        if index > due:
          break
        if index == due:
          yield frame
          due += 1
    if due < stop:
      raise VideoError(self.path, "corrupt")

  def seconds(self, frame: av.VideoFrame) -> float | None:
    """Returns when a frame is shown; None if the file's times are not true."""
    if frame.pts is None or not self._timed:
      return None
    return float(frame.pts * (self._stream.time_base or 0))

  def rgb(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a frame upright and in RGB; it may share the frame's memory."""
    width, height = self._size
    rgb = self._reformatter.reformat(
      frame, width=width, height=height, format="rgb24", threads=1
    )
    plane = rgb.planes[0]
    rows = np.asarray(memoryview(plane)).reshape(-1, plane.line_size)
    image = rows[:height, : 3 * width].reshape(height, width, 3)
    turns = quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

  def _places(
    self, indices: Sequence[int] | Int[np.ndarray, " t"]
  ) -> dict[int, list[int]]:
    """Where each distinct frame number goes."""
    places = collections.defaultdict(list)
    for place, index in enumerate(indices):
      places[int(index)].append(place)
    check_frames(self.path, places, self.frames)
    return places

  def _frames(self, wanted: Set[int]) -> Generator[tuple[int, av.VideoFrame]]:
    """Yields the wanted frames that can be decoded, with their numbers.

    A frame may come twice; the last one is right.
    """
    number = {self._rows[self._order[i]].pts: i for i in wanted}
    left = set(wanted)
    if self._timed:
      for frame in self._planned(wanted):
        if frame.is_corrupt:
          # What a decoder patches up depends on where it started.
          left = set(wanted)
          break
        if frame.pts in number:
          left.discard(number[frame.pts])
          yield number[frame.pts], frame
    if not left:
      return
    with contextlib.closing(self._sequential()) as frames:
      for count, frame in enumerate(frames):
        index = number.get(frame.pts or 0) if self._timed else count
        if index in left:
          left.remove(index)
          yield index, frame
        if not left:
          return

  def _planned(self, wanted: Set[int]) -> Generator[av.VideoFrame]:
    """Decodes what the frames need, in the decoder's order."""
    for group in plan(self._rows, {self._order[i] for i in wanted}):
      self._context.flush_buffers()
      for packet in self._fetch(group):
        yield from self._context.decode(packet)
      yield from self._context.decode(None)

  def _fetch(self, group: list[int]) -> Iterable[av.Packet]:
    """The packets of ascending rows, of which the first is a keyframe."""
    if self._packets is not None:
      return map(self._packets.__getitem__, group)
    first = self._rows[group[0]].pts
    self._container.seek(first, stream=self._stream)
    packets = itertools.dropwhile(
      lambda packet: packet.pts != first,
      packets_of(self._container, self._stream),
    )
    chosen = set(group)
    span = range(group[0], group[-1] + 1)
    return (p for row, p in zip(span, packets, strict=False) if row in chosen)

  def _sequential(self) -> Generator[av.VideoFrame]:
    """Decodes the whole file afresh, as a player does."""
    with self._source.open() as container:
      stream = self._source.stream(container)
      context = _single_threaded(stream)
      for packet in packets_of(container, stream):
        yield from context.decode(packet)
      yield from context.decode(None)


def _single_threaded(stream: VideoStream) -> VideoCodecContext:
  """Parallelism is over clips; threads inside one only add overhead."""
  context = stream.codec_context
  context.thread_type = ThreadType.NONE
  context.thread_count = 1
  return context


def quarter_turns(frame: av.VideoFrame) -> int:
  """Returns how often a frame must be turned to the left to stand upright."""
  return round(frame.rotation / 90) % 4
