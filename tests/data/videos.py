"""Videos for tests."""

import fractions
import pathlib

import av
import numpy as np


def make(
  path,
  codec="libx264",
  options=None,
  *,
  n=60,
  size=(96, 64),
  pix_fmt="yuv420p",
  times=None,
  muxer=None,
) -> pathlib.Path:
  """Writes a video whose every frame is different.

  Times are in 1/600 s, one for each frame; 25 frames a second without.
  """
  width, height = size
  if codec == "libx264":
    # Its results vary from run to run otherwise.
    options = {"mbtree": "0"} | (options or {})
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
  scene = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
  with av.open(str(path), "w", options=muxer or {}) as container:
    stream = container.add_stream(codec, rate=25, options=options or {})
    stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
    if times is not None:
      stream.codec_context.time_base = fractions.Fraction(1, 600)
    for i in range(n):
      top, left = i % (128 - height), 2 * i % (192 - width)
      image = scene[top : top + height, left : left + width].copy()
      image[3 * i % height :, : 5 * i % width] ^= 255
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      if times is not None:
        frame.pts, frame.time_base = times[i], fractions.Fraction(1, 600)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return pathlib.Path(path)
