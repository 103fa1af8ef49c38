"""Re-encodes a video so that it is small and decodes fast.

Frames are scaled to a short side, turned upright and encoded with keyframes a
few frames apart and without B-frames; sound is left out, and times are kept.
"""

import dataclasses
import fractions
import io
import os
from collections.abc import Callable, Iterator

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from vidjax.data.clips import Frames, open_clip
from vidjax.data.decode import Video, VideoInfo

_IMAGE_FPS = (
  12  # of folders of images, which do not say; as Something-Something
)
_TICKS = 60_000  # a second; MPEG-4 allows at most 65,535
_SKETCH = 8  # sides of the little pictures that are compared
_TOLERANCE = 16.0  # mean difference of those, in grey levels
# Without mbtree, whose results vary from run to run in small frames.
_X264 = {"tune": "fastdecode", "bf": "0", "mbtree": "0"}
# For builds of FFmpeg without libx264; of a constant quality.
_MPEG4 = {"qmin": "4", "qmax": "4", "bf": "0"}


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How videos are written.

  Attributes:
    short_side: of the frames, in pixels; smaller ones keep their size.
    crf: x264's quality, 0 (lossless) to 51.
    gop: frames from one keyframe to the next.
    preset: of x264.
  """

  short_side: int = 256
  crf: int = 25
  gop: int = 12
  preset: str = "fast"

  def size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the height and width that a frame is scaled to; both even."""
    scale = min(self.short_side / min(height, width), 1.0)
    return _even(height * scale), _even(width * scale)


@dataclasses.dataclass(frozen=True)
class Transcoded:
  """A re-encoded video.

  Attributes:
    content: bytes of an mp4 file.
    frames: number of frames.
    fps: mean frames per second.
    height: pixels.
    width: pixels.
    codec: FFmpeg's name of the codec.
  """

  content: bytes
  frames: int
  fps: float
  height: int
  width: int
  codec: str


class TranscodeError(ValueError):
  """What was written is not what was read."""


def transcode(
  path: str | os.PathLike[str],
  encoding: Encoding,
  part: Callable[[int], tuple[int, int]] = lambda frames: (0, frames),
) -> Transcoded:
  """Re-encodes a video, or a part of one, and compares the result with it.

  The result is decoded again: it must have as many frames, and a sketch of 8 x
  8 pixels of each must be that of the original's up to 16 grey levels in mean.

  Args:
    path: of a video file, a folder of images, or a record `shard#number`.
    encoding: how to write it.
    part: from the number of frames to the first one, and how many, to write.

  Raises:
    VideoError: if the video is missing or bad.
    TranscodeError: if the result is not the same video.
  """
  with open_clip(path) as video:
    first, count = part(video.frames)
    frames = (
      _stored(video, first, count)
      if isinstance(video, Video)
      else _images(video, first, count)
    )
    file = io.BytesIO()
    seconds, sketches = _write(file, frames, encoding)
  content = file.getvalue()
  info = _compare(path, content, sketches)
  return Transcoded(
    content,
    frames=count,
    fps=count / seconds,
    height=info.height,
    width=info.width,
    codec=info.codec,
  )


def _stored(
  video: Video, first: int, count: int
) -> Iterator[tuple[float, np.ndarray]]:
  """When frames are shown, in seconds, and the frames."""
  # In RGB: readers ignore what a file says of its colours, and what is written
  # must look to them as what was read.
  rate = video.fps or _IMAGE_FPS
  for number, frame in enumerate(video.walk(first, first + count)):
    time = video.seconds(frame)
    yield number / rate if time is None else time, video.rgb(frame)


def _images(
  video: Frames, first: int, count: int
) -> Iterator[tuple[float, np.ndarray]]:
  for number in range(count):
    (image,) = video.read([first + number])
    yield number / _IMAGE_FPS, image


def _write(
  file: io.BytesIO,
  frames: Iterator[tuple[float, np.ndarray]],
  encoding: Encoding,
) -> tuple[float, list[np.ndarray]]:
  """Encodes frames; returns how long they last (s), and their sketches."""
  sketches, ticks, begin = [], -1, None
  reformatter = VideoReformatter()
  with av.open(file, "w", format="mp4") as container:
    stream = None
    for time, image in frames:
      if stream is None or begin is None:
        begin = time
        stream = _stream(container, image.shape, encoding)
      frame = reformatter.reformat(
        av.VideoFrame.from_ndarray(image, format="rgb24"),
        width=stream.width,
        height=stream.height,
        format="yuv420p",
        interpolation=Interpolation.BICUBIC,
        threads=1,
      )
      ticks = max(ticks + 1, round((time - begin) * _TICKS))
      frame.pts, frame.time_base = ticks, fractions.Fraction(1, _TICKS)
      container.mux(stream.encode(frame))
      sketches.append(_sketch(image))
    if stream is not None:
      container.mux(stream.encode(None))
  step = (
    ticks / (len(sketches) - 1) if len(sketches) > 1 else _TICKS / _IMAGE_FPS
  )
  return (ticks + step) / _TICKS, sketches


def _stream(
  container: OutputContainer, shape: tuple[int, ...], encoding: Encoding
) -> VideoStream:
  x264 = "libx264" in av.codecs_available
  quality = {"crf": str(encoding.crf), "preset": encoding.preset}
  options = _X264 | quality if x264 else _MPEG4
  stream = container.add_stream(
    "libx264" if x264 else "mpeg4",
    rate=30,
    options=options | {"g": str(encoding.gop)},
  )
  stream.height, stream.width = encoding.size(*shape[:2])
  stream.pix_fmt = "yuv420p"
  stream.codec_context.time_base = fractions.Fraction(1, _TICKS)
  # x264 writes its number of threads into the file.
  stream.codec_context.thread_count = 1
  return stream


def _sketch(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
  sides = (_SKETCH, _SKETCH)
  return np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_AREA))


def _compare(
  path: str | os.PathLike[str], content: bytes, sketches: list[np.ndarray]
) -> VideoInfo:
  """Decodes what was written; returns what it is."""
  with Video(path, content) as video:
    if video.frames != len(sketches):
      raise TranscodeError(
        f"{os.fspath(path)}: {len(sketches)} frames were written, but "
        f"{video.frames} can be read: look at the video, or leave it out."
      )
    info = video.info
    got = video.read(range(video.frames), _sketch)
  for number, (a, b) in enumerate(zip(got, sketches, strict=True)):
    difference = float(np.abs(a.astype(int) - b).mean())
    if difference > _TOLERANCE:
      raise TranscodeError(
        f"{os.fspath(path)}: frame {number} differs by {difference:.1f} grey "
        f"levels from what was read (at most {_TOLERANCE:.0f}): look at the "
        "video, lower the crf, or leave it out."
      )
  return info


def _even(side: float) -> int:
  return max(round(side / 2) * 2, 16)
