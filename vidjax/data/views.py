"""The views of a video that a model is shown: some clips, some crops of each.

A whole video and every window of a long one are seen in the same way, by the
rules of evaluation.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vidjax.checks import at_least, one_of
from vidjax.data.geometry import ResizeCut, eval_crops
from vidjax.data.sampling import SAMPLERS


@dataclasses.dataclass(frozen=True)
class Views:
  """How many views, and what each of them shows.

  Attributes:
    frames: of a clip.
    image_size: side of the square crops, in pixels.
    sampling: a name of `vidjax.data.sampling.SAMPLERS`.
    stride: native frames between two of a clip (not "segments").
    segments: parts of the video that frames come from ("snippets").
    clips: of a video.
    crops: of a clip, 1 or 3.
    crop_style: see `vidjax.data.geometry.eval_crops`.
    short_side: of the scaled frames, in pixels; 0 for the image size.

  Raises:
    ValueError: if there can be no such views.
  """

  frames: int
  image_size: int
  sampling: str
  stride: int
  segments: int = 1
  clips: int = 1
  crops: int = 1
  crop_style: str = "slowfast"
  short_side: int = 0

  def __post_init__(self) -> None:
    one_of("data.sampling", self.sampling, SAMPLERS)
    at_least(
      1, frames=self.frames, image_size=self.image_size, clips=self.clips
    )
    # Both refuse numbers of views that do not exist.
    self.indices(1)
    self.cuts(1, 1)

  @property
  def count(self) -> int:
    """Number of views of a video."""
    return self.clips * self.crops

  def indices(self, n: int) -> Int[np.ndarray, " i"]:
    """Returns the frames of all clips, one clip after the other.

    Args:
      n: frames of the video, or of the part that counts.
    """
    sampler = SAMPLERS[self.sampling]
    keys = ("frames", "stride", *sampler.options)
    options = {key: getattr(self, key) for key in keys}
    return np.concatenate(
      [
        sampler.eval(n, clip=clip, clips=self.clips, **options)
        for clip in range(self.clips)
      ]
    )

  def cuts(self, height: int, width: int) -> list[ResizeCut]:
    """Returns the crops of a frame of this size."""
    return eval_crops(
      height,
      width,
      size=self.image_size,
      crops=self.crops,
      style=self.crop_style,
      short=self.short_side,
    )


class Cutter:
  """Makes views of the frames of one video, whose size it learns."""

  def __init__(self, views: Views):
    self._views = views
    self._cuts: list[ResizeCut] = []

  def scale(
    self, frame: UInt8[np.ndarray, "h w 3"]
  ) -> UInt8[np.ndarray, "a b 3"]:
    """Scales a frame as all crops of it need; it may be the same array."""
    if not self._cuts:
      self._cuts = self._views.cuts(*frame.shape[:2])
    return self._cuts[0].scale(frame)

  def cut(
    self, frames: UInt8[np.ndarray, "i a b 3"]
  ) -> UInt8[np.ndarray, "v t s s 3"]:
    """Returns all views; crops run fastest.

    Args:
      frames: scaled, those of `Views.indices` in their order.
    """
    return np.stack(
      [
        cut.cut(part)
        for part in np.split(frames, self._views.clips)
        for cut in self._cuts
      ]
    )


def read_views(
  video: Any, views: Views, first: int, count: int
) -> UInt8[np.ndarray, "v t s s 3"]:
  """Reads all views of a part of a video; each frame is decoded once.

  Args:
    video: of `vidjax.data.clips.open_clip`.
    views: which.
    first: first frame of the part.
    count: its frames.

  Raises:
    VideoError: if a frame cannot be decoded.
  """
  cutter = Cutter(views)
  return cutter.cut(video.read(first + views.indices(count), cutter.scale))
