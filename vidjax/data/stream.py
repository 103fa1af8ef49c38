"""All frames of a video in turn, with the times at which they are shown."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from vidjax.data.clips import Frames
from vidjax.data.decode import Video

IMAGE_FPS = 12.0  # of videos that do not say it, such as folders of images


def frame_rate(video: Frames) -> float:
  """Returns mean frames per second; 12 where a video does not say."""
  return (video.fps if isinstance(video, Video) else 0.0) or IMAGE_FPS


def timed_frames(
  video: Frames,
) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
  """Yields the time of each frame, in seconds from the first, and the frame.

  One frame is held at a time. It is upright, in RGB, and lent: what is kept of
  it must be a copy.

  Args:
    video: of `vidjax.data.clips.open_clip`.

  Raises:
    VideoError: if a frame cannot be decoded.
  """
  rate = frame_rate(video)
  if not isinstance(video, Video):
    for number in range(video.frames):
      yield number / rate, video.image(number)
    return
  begin = None
  for number, frame in enumerate(video.walk()):
    time = video.seconds(frame)
    time = number / rate if time is None else time
    begin = time if begin is None else begin
    yield time - begin, video.rgb(frame)
