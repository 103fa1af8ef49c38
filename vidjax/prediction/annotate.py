"""A copy of a video with what is predicted drawn on its frames."""

import fractions
import functools
import os
import pathlib

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from vidjax.data.clips import open_clip
from vidjax.data.decode import VideoError
from vidjax.data.stream import frame_rate, timed_frames
from vidjax.prediction.results import Guess, Prediction

_TICKS = 60_000  # a second; MPEG-4 allows at most 65,535
_X264 = {"crf": "20", "preset": "veryfast"}
_LETTER = 0.042  # height of letters, as a share of the frame's
_SMALLEST = 9  # pixels of a letter that can still be read
_LARGEST_PANEL = 0.45  # share of the frame's height
_WIDEST = 24  # letters' heights that the panel may be wide
_SHADE, _BAR, _TEXT = (12, 16, 24, 165), (74, 144, 255, 205), (255, 255, 255)


class AnnotateError(ValueError):
  """A video that cannot be drawn on."""


def annotate(
  prediction: Prediction, out: str | os.PathLike[str], *, top: int = 3
) -> None:
  """Writes a video again, with its best classes and their probabilities.

  Frames keep their size (an odd side gains a pixel, which H.264 needs) and
  their times, and are upright. With a timeline each frame shows the window
  whose middle is nearest. There is no sound. The file is H.264 in mp4; it
  appears whole or not at all.

  Args:
    prediction: of a video that is still where it was.
    out: file to write.
    top: how many classes to draw; fewer on small frames.

  Raises:
    VideoError: if the video is missing or bad.
    AnnotateError: if this build of FFmpeg has no x264, or cannot encode it.
    OSError: if the file cannot be written.
  """
  if "libx264" not in av.codecs_available:
    raise AnnotateError(
      "this build of FFmpeg cannot write H.264 (libx264 is missing): install "
      "the wheel of the package av"
    )
  path = pathlib.Path(out)
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    with part.open("wb") as file:
      options = {"movflags": "+faststart"}
      with av.open(file, "w", format="mp4", options=options) as container:
        _write(container, prediction, top)
    part.replace(path)
  except FFmpegError as error:
    raise AnnotateError(
      f"{prediction.path} cannot be encoded as H.264 to {path} "
      f"({error.strerror}): choose another video"
    ) from error
  finally:
    part.unlink(missing_ok=True)


def draw_panel(
  height: int, width: int, guesses: list[Guess]
) -> UInt8[np.ndarray, "a b 4"]:
  """Draws classes, best first, on a dark ground that lets the frame through.

  On small frames there are fewer rows, long names are cut, and where name and
  percentage do not fit side by side, the bar alone gives the probability.

  Args:
    height: rows of the frame.
    width: columns of the frame.
    guesses: classes and their probabilities.

  Returns:
    The panel, with an alpha channel; it belongs at the frame's lower left.
  """
  letter = max(round(_LETTER * min(height, width)), _SMALLEST)
  row, gap = round(1.5 * letter), max(letter // 3, 2)
  rows = max(int((_LARGEST_PANEL * height - 2 * gap) / row), 1)
  shown = guesses[:rows]
  panel = min(width, _WIDEST * letter)
  size = (panel, min(row * len(shown) + 2 * gap, height))
  image = Image.new("RGBA", size, _SHADE)
  canvas = ImageDraw.Draw(image)
  font = _font(letter)
  right = panel - 2 * gap
  for number, guess in enumerate(shown):
    y = gap + number * row
    length = guess.probability * (panel - 2 * gap)
    if length >= 1:
      canvas.rectangle((gap, y + 1, gap + length, y + row - 2), fill=_BAR)
    share = _percent(guess.probability)
    room = right - 2 * gap - font.getlength(share + " ")
    if font.getlength(guess.label) <= max(room, right / 2):
      canvas.text((right, y + row / 2), share, _TEXT, font, anchor="rm")
    else:
      room = right - 2.0 * gap
    name = _fitted(guess.label, font, room)
    canvas.text((2 * gap, y + row / 2), name, _TEXT, font, anchor="lm")
  return np.asarray(image)


def draw_over(
  frame: UInt8[np.ndarray, "h w 3"], panel: UInt8[np.ndarray, "a b 4"]
) -> UInt8[np.ndarray, "h w 3"]:
  """Returns a frame with a panel at its lower left."""
  height, width = panel.shape[:2]
  drawn = frame.copy()
  part = Image.fromarray(drawn[-height:, :width]).convert("RGBA")
  part = Image.alpha_composite(part, Image.fromarray(panel))
  drawn[-height:, :width] = np.asarray(part.convert("RGB"))
  return drawn


def _write(
  container: OutputContainer, prediction: Prediction, top: int
) -> None:
  timeline = prediction.timeline
  top = min(top, max(prediction.head_sizes or (len(prediction.labels),)))
  stream, ticks, height, width = None, -1, 0, 0
  panels: dict[int | None, np.ndarray] = {}  # of the last window only
  reformatter = VideoReformatter()
  with open_clip(prediction.path) as video:
    rate = frame_rate(video)
    for time, image in timed_frames(video):
      if stream is None:
        height, width = image.shape[:2]
        stream = _stream(container, height, width, rate)
      if image.shape[:2] != (height, width):  # a folder of unequal images
        raise VideoError(prediction.path, "corrupt")
      window = None if timeline is None else timeline.at(time)
      if window not in panels:
        guesses = prediction.top(top, window)
        panels = {window: draw_panel(height, width, guesses)}
      drawn = _even(draw_over(image, panels[window]))
      frame = reformatter.reformat(
        av.VideoFrame.from_ndarray(drawn, format="rgb24"),
        format="yuv420p",
        threads=1,
      )
      ticks = max(ticks + 1, round(time * _TICKS))
      frame.pts, frame.time_base = ticks, fractions.Fraction(1, _TICKS)
      container.mux(stream.encode(frame))
  if stream is not None:
    container.mux(stream.encode(None))


def _stream(
  container: OutputContainer, height: int, width: int, rate: float
) -> VideoStream:
  stream = container.add_stream(
    "libx264",
    rate=fractions.Fraction(rate).limit_denominator(1001),
    options=_X264,
  )
  stream.height, stream.width = (side + side % 2 for side in (height, width))
  stream.pix_fmt = "yuv420p"
  stream.codec_context.time_base = fractions.Fraction(1, _TICKS)
  return stream


def _even(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "a b 3"]:
  height, width = image.shape[:2]
  if height % 2 or width % 2:
    sides = ((0, height % 2), (0, width % 2), (0, 0))
    image = np.pad(image, sides, mode="edge")
  return np.ascontiguousarray(image)


@functools.lru_cache(16)
def _font(size: int) -> ImageFont.FreeTypeFont:
  # It comes with matplotlib, so it is everywhere, and has many scripts.
  path = font_manager.findfont("DejaVu Sans")
  return ImageFont.truetype(path, size)


def _percent(probability: float) -> str:
  return f"{100 * probability:.0f} %" if probability >= 0.005 else "<1 %"


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + "…") > width:
    text = text[:-1]
  return text + "…" if text else ""
