"""What a video is, and whether it can be used: all facts of one file."""

import base64
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import UInt8

from vidjax.checks import one_of
from vidjax.data.clips import Frames, ImageFrames, open_clip, record_of
from vidjax.data.container import Source, VideoError
from vidjax.data.manifest import GOOD
from vidjax.data.records import split_name

CHECKS = ("full", "fast")
_SPREAD = 5  # frames that a fast check decodes
_LOST = 0.1  # share of frames whose loss makes a file unusable
_UNEVEN = 0.25  # a step that differs so much from the median is another one
_FEW = 0.05  # share of other steps that a constant rate may have (lost frames)
_THUMBNAIL = 160  # pixels of the longer side

Beat = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What is known of one video.

  Attributes:
    status: "ok" or why it cannot be used: a reason of `VideoError`, or
      "timeout", "memory" or "crashed" if reading it ended so.
    message: one sentence, if it cannot be used.
    notes: what is odd about it: "rotated" (a phone's upright video),
      "variable_rate", "damaged" (decodes, with errors).
    frames: number of frames.
    fps: mean frames per second, measured; 0 if it is not known.
    duration: seconds; 0 if it is not known.
    width: pixels, after the rotation.
    height: pixels, after the rotation.
    rotation: degrees that the file asks for, counter-clockwise.
    codec: FFmpeg's name of the codec.
    keyframes: numbers of the frames at which decoding may start.
    size: bytes; 0 for folders of images.
    thumbnail: a small JPEG picture in base 64, if it was asked for.
  """

  status: str = GOOD
  message: str = ""
  notes: tuple[str, ...] = ()
  frames: int = 0
  fps: float = 0.0
  duration: float = 0.0
  width: int = 0
  height: int = 0
  rotation: int = 0
  codec: str = ""
  keyframes: tuple[int, ...] = ()
  size: int = 0
  thumbnail: str = ""


def inspect_video(
  path: str,
  *,
  check: str = "full",
  thumbnail: bool = False,
  beat: Beat = lambda: None,
) -> Inspection:
  """Looks at a video; whatever is wrong with it becomes its status.

  Args:
    path: of a file, a folder of images or a record, see `open_clip`.
    check: "full" decodes every frame, "fast" five of them.
    thumbnail: whether to make a picture of the middle frame.
    beat: called every now and then, as a sign of life.

  Raises:
    ValueError: if there is no such check.
  """
  one_of("the check", check, CHECKS)
  file = pathlib.Path(path)
  size = file.stat().st_size if file.is_file() else 0
  try:
    with open_clip(file) as clip:
      beat()
      found = _facts(file, clip, check == "full", beat)
      if thumbnail and found.status == GOOD:
        picture = _picture(clip)
        found = dataclasses.replace(found, thumbnail=picture)
  except VideoError as error:
    out = isinstance(error.__cause__, MemoryError)
    status = "memory" if out else error.reason
    return Inspection(status, _sentence(status, str(error), path), size=size)
  except MemoryError:
    return Inspection("memory", _sentence("memory", "", path), size=size)
  except FFmpegError:
    message = str(VideoError(file, "corrupt"))
    return Inspection("corrupt", message, size=size)
  return dataclasses.replace(found, size=size)


def failure(status: str, path: str) -> Inspection:
  """Returns what is known of a video whose inspection did not end.

  Args:
    status: "timeout", "memory" or "crashed".
    path: of the video.
  """
  return Inspection(status, _sentence(status, "", path))


_SENTENCES = {
  "timeout": "{} keeps the decoder busy without end: replace it, or remove it "
  "from the manifest.",
  "memory": "{} needs more memory than allowed: replace it, or allow more.",
  "crashed": "{} makes the decoder crash: replace it, or remove it from the "
  "manifest.",
}


def _sentence(status: str, known: str, path: str) -> str:
  return _SENTENCES[status].format(path) if status in _SENTENCES else known


def _facts(
  path: pathlib.Path, clip: Frames, full: bool, beat: Beat
) -> Inspection:
  info = clip.info
  known: dict[str, Any] = {
    "frames": info.frames,
    "width": info.width,
    "height": info.height,
    "codec": info.codec,
  }
  if isinstance(clip, ImageFrames):
    for index in range(clip.frames) if full else _spread(clip.frames):
      clip.image(index)
      beat()
    return Inspection(**known, keyframes=tuple(range(clip.frames)))
  if not full:
    clip.read(_spread(clip.frames), lambda frame: frame[:1, :1])
  record = split_name(path) is not None
  source = Source(path, record_of(path).video if record else None)
  with source.open() as container:
    stream = source.stream(container)
    stream.codec_context.thread_type = ThreadType.NONE
    stream.codec_context.thread_count = 1
    return _file_facts(container, stream, known, info.fps, full, beat)


def _spread(frames: int) -> list[int]:
  return sorted(set(np.linspace(0, frames - 1, _SPREAD).astype(int).tolist()))


def _file_facts(
  container: InputContainer,
  stream: VideoStream,
  known: dict[str, Any],
  fps: float,
  full: bool,
  beat: Beat,
) -> Inspection:
  """Reads all packets; decodes them all, or up to the first frame."""
  packets: list[tuple[int | None, bool]] = []
  decoded, corrupt, rotation = 0, 0, 0
  for packet in container.demux(stream):
    beat()
    if packet.size and not packet.is_discard:
      packets.append((packet.pts, packet.is_keyframe))
    if full or not decoded:
      for frame in _decoded(stream, packet):
        if not decoded:
          rotation = round(frame.rotation)
        decoded += 1
        corrupt += frame.is_corrupt
  frames = known["frames"]
  lost = max(frames - decoded, 0) if full else 0
  if lost > _LOST * frames:
    raise VideoError(container.name, "corrupt")
  order = _showing_order(packets)
  notes = []
  if rotation % 360:
    notes.append("rotated")
  if corrupt or lost:
    notes.append("damaged")
  times = [packets[i][0] for i in order]
  timed = container.format.name != "avi" and None not in times
  steps = np.diff(np.array(times, np.float64)) if timed else np.zeros(0)
  if len(steps):
    seconds = float(stream.time_base or 0)
    if _uneven(steps, seconds):
      notes.append("variable_rate")
    span = float(steps.sum()) * seconds
    fps = len(steps) / span if span > 0 else fps
  return Inspection(
    **known,
    notes=tuple(notes),
    rotation=rotation % 360,
    fps=round(fps, 4),
    duration=round(frames / fps, 4) if fps else 0.0,
    keyframes=tuple(at for at, i in enumerate(order) if packets[i][1]),
  )


def _decoded(stream: VideoStream, packet: av.Packet) -> Iterator[av.VideoFrame]:
  try:
    yield from stream.codec_context.decode(packet)
  except MemoryError:
    raise
  except FFmpegError:
    return  # its frames are missing, which is counted


def _showing_order(packets: list[tuple[int | None, bool]]) -> list[int]:
  order = list(range(len(packets)))
  if any(pts is None for pts, _ in packets):
    return order
  return sorted(order, key=lambda i: packets[i][0] or 0)


def _uneven(steps: np.ndarray, seconds: float) -> bool:
  """Whether a file has no constant frame rate; lost frames do not count.

  Containers round times, to milliseconds in webm.
  """
  median = float(np.median(steps))
  slack = max(_UNEVEN * median, 0.002 / seconds if seconds else 0.0)
  return float(np.mean(np.abs(steps - median) > slack)) > _FEW


def _picture(clip: Frames) -> str:
  def small(
    frame: UInt8[np.ndarray, "h w 3"],
  ) -> UInt8[np.ndarray, "a b 3"]:
    scale = _THUMBNAIL / max(frame.shape[:2])
    side = [max(round(n * scale), 1) for n in reversed(frame.shape[:2])]
    return np.asarray(cv2.resize(frame, side, interpolation=cv2.INTER_AREA))

  image = clip.read([clip.frames // 2], small)[0]
  quality = [cv2.IMWRITE_JPEG_QUALITY, 80]
  _, data = cv2.imencode(".jpg", image[:, :, ::-1], quality)
  return base64.b64encode(data.tobytes()).decode()
