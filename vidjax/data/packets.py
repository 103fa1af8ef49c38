"""The packet table of a stream, and which packets some frames need."""

import bisect
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vidjax.data.container import Source, VideoError

NO_TIME = -(1 << 63)  # as FFmpeg's AV_NOPTS_VALUE
_KEEP_BYTES = 64 << 20  # packets of larger files are read again, not held
_VCL_TYPES = range(1, 6)  # H.264 NAL units that carry a picture


class Row(NamedTuple):
  """One packet of a stream.

  Attributes:
    pts: presentation time in the stream's time base; `NO_TIME` if it has none.
    key: whether decoding may start here.
    shown: whether it gives a frame.
    reference: whether other pictures may depend on it.
  """

  pts: int
  key: bool
  shown: bool
  reference: bool


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


def packets_of(
  container: InputContainer, stream: VideoStream
) -> Iterator[av.Packet]:
  """Yields the packets of a stream from where the container stands."""
  return (packet for packet in container.demux(stream) if packet.size)


def scan(
  container: InputContainer, stream: VideoStream, source: Source
) -> tuple[list[Row], list[av.Packet] | None]:
  """Reads all packets.

  Returns:
    Their table, and the packets themselves unless they are too large to hold.

  Raises:
    VideoError: if a packet is incomplete or damaged, or there is none.
  """
  rows, packets, size = [], [], 0
  codec = stream.codec_context.codec.canonical_name
  prefix = _nal_prefix(codec, stream.codec_context.extradata or b"")
  for packet in packets_of(container, stream):
    if packet.is_corrupt:
      raise VideoError(source.path, "truncated")
    hidden, reference = packet.is_discard, True
    if prefix:
      intact, reference = _nals(bytes(packet), prefix)
      if not intact:
        raise VideoError(source.path, "corrupt")
    elif codec == "vp8":
      hidden |= not memoryview(packet)[0] & 0x10
    pts = packet.pts
    rows.append(
      Row(
        NO_TIME if pts is None else pts,
        packet.is_keyframe,
        not hidden,
        reference or codec != "h264",
      )
    )
    size += packet.size
    if size <= _KEEP_BYTES:
      packets.append(packet)
    else:
      packets.clear()
  if not any(row.shown for row in rows):
    raise VideoError(source.path, "no_frames")
  return rows, packets if size <= _KEEP_BYTES else None


def _nal_prefix(codec: str, extradata: bytes) -> int:
  """Bytes of the length before each NAL unit; 0 if there is no such length."""
  at = {"h264": 4, "hevc": 21}.get(codec)
  if at is None or len(extradata) <= at or extradata[0] != 1:
    return 0
  return (extradata[at] & 3) + 1


def _nals(data: bytes, prefix: int) -> tuple[bool, bool]:
  """Whether NAL units fill the packet, and whether H.264 refers to one.

  A picture is a reference if nal_ref_idc of its slices is not 0 (ITU-T H.264,
  7.4.1); a packet may hold two fields, so all of its units are looked at.
  """
  at, end, pictures, reference = 0, len(data), False, False
  while at + prefix < end:
    body = at + prefix
    head = data[body]
    if head & 0x1F in _VCL_TYPES:
      pictures = True
      reference |= head & 0x60 > 0
    at = body + int.from_bytes(data[at:body], "big")
  return at <= end, reference or not pictures


def times_are_true(stream: VideoStream, rows: Sequence[Row]) -> bool:
  """Whether presentation times tell frames apart and order them.

  AVI stores none, so those of reordered pictures are guessed; MPEG-4 part 2 may
  pack two pictures into a packet, whose times are then shifted.
  """
  times = [row.pts for row in rows if row.shown]
  if NO_TIME in times or len(set(times)) < len(times):
    return False
  context = stream.codec_context
  guessed = stream.container.format.name == "avi" or context.name == "mpeg4"
  return not (guessed and context.has_b_frames)
