"""Contact sheets and films of shares over the frames of a clip."""

import dataclasses
import fractions
import os
from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

Clip = UInt8[np.ndarray, "t h w 3"]

# From paper to ink: nothing is white, so that the frame can be seen.
INK = LinearSegmentedColormap.from_list(
  "ink", ["#ffffff", "#ffd75e", "#f4743b", "#b3194b", "#3d0b4f"]
)
MARK = "#00b7ff"
_ACROSS = 8  # frames in a row of a sheet
_CELL = 1.25  # inches of a frame
_DPI = 110
_FILM_FPS = 4


@dataclasses.dataclass(frozen=True)
class Row:
  """One map over the clip.

  Attributes:
    label: at the left, in one or two lines.
    shares: of the cells of every map; each stands for t / s frames.
    captions: below each map.
    reach: the cells that can have a share, drawn with an outline; None for
      all.
  """

  label: str
  shares: Float[np.ndarray, "s y x"]
  captions: Sequence[str]
  reach: Bool[np.ndarray, "s y x"] | None = None


@dataclasses.dataclass(frozen=True)
class Sheet:
  """What a picture shows.

  Attributes:
    title: in one or two lines.
    clip: the frames.
    rows: maps, of the same number of frames.
    scale: what the colours mean.
    mark: the map's frame and the cell (row, column) that asks, of a grid of
      rows and columns; no cell for the whole frame, None for no mark.
    grid: rows and columns of the grid of the mark.
  """

  title: str
  clip: Clip
  rows: Sequence[Row]
  scale: str
  mark: tuple[int, tuple[int, int] | None] | None = None
  grid: tuple[int, int] = (1, 1)

  @property
  def maps(self) -> int:
    """Number s of maps over the clip."""
    return len(self.rows[0].shares)

  @property
  def most(self) -> float:
    """The largest share, which has the darkest ink."""
    return max(float(row.shares.max()) for row in self.rows) or 1.0

  def span(self, number: int) -> range:
    """Returns the frames that a map stands for."""
    each = -(-len(self.clip) // self.maps)
    return range(number * each, min((number + 1) * each, len(self.clip)))


def contact_sheet(sheet: Sheet) -> Figure:
  """Draws the clip's frames in a row, and below it every map over them.

  Clips of many frames have several such rows.
  """
  across = min(sheet.maps, _ACROSS)
  chunks = -(-sheet.maps // across)
  lines = 1 + len(sheet.rows)
  figure = _figure(across * _CELL + 1.9, chunks * lines * (_CELL + 0.22) + 0.6)
  figure.suptitle(sheet.title, fontsize=10, x=0.01, ha="left")
  axes = figure.subplots(chunks * lines, across, squeeze=False)
  for cell in axes.flat:
    cell.axis("off")
  for number in range(sheet.maps):
    chunk, column = divmod(number, across)
    place = axes[chunk * lines :, column]
    _draw_frame(place[0], sheet, number, shown=_middle(sheet.span(number)))
    for row, cell in zip(sheet.rows, place[1:], strict=False):
      _draw_map(cell, sheet, row, number, shown=_middle(sheet.span(number)))
  for chunk in range(chunks):
    for i, row in enumerate(sheet.rows, 1):
      _label(axes[chunk * lines + i, 0], row.label)
  _colour_bar(figure, axes, sheet)
  return figure


def film(sheet: Sheet, path: str | os.PathLike[str]) -> None:
  """Writes an mp4 film: each frame with the maps over it beside it.

  Raises:
    ValueError: if this build of FFmpeg cannot write H.264.
    OSError: if the file cannot be written.
  """
  if "libx264" not in av.codecs_available:
    raise ValueError(
      "this build of FFmpeg cannot write H.264 (libx264 is missing); install "
      "the wheel of the package av, or draw a .png"
    )
  convert = VideoReformatter()
  with av.open(os.fspath(path), "w", format="mp4") as container:
    stream = container.add_stream("libx264", fractions.Fraction(_FILM_FPS))
    stream.pix_fmt = "yuv420p"
    for number in range(sheet.maps):
      for shown in sheet.span(number):
        image = _film_frame(sheet, number, shown)
        if not stream.codec_context.is_open:
          stream.height, stream.width = image.shape[:2]
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = convert.reformat(frame, format="yuv420p", threads=1)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _film_frame(
  sheet: Sheet, number: int, shown: int
) -> UInt8[np.ndarray, "h w 3"]:
  columns = 1 + len(sheet.rows)
  figure = _figure(max(2.4 * columns + 0.8, 6.0), 3.4)
  figure.suptitle(sheet.title, fontsize=9, x=0.01, ha="left")
  axes = figure.subplots(1, columns, squeeze=False)
  for cell in axes.flat:
    cell.axis("off")
  _draw_frame(axes[0, 0], sheet, number, shown)
  for row, cell in zip(sheet.rows, axes[0, 1:], strict=True):
    _draw_map(cell, sheet, row, number, shown)
    cell.set_title(row.label, fontsize=8)
  _colour_bar(figure, axes, sheet)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  image = np.asarray(canvas.buffer_rgba())[:, :, :3]
  height, width = (n - n % 2 for n in image.shape[:2])
  return np.ascontiguousarray(image[:height, :width])


def _figure(width: float, height: float) -> Figure:
  figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def _middle(span: range) -> int:
  return span[len(span) // 2]


def _draw_frame(axes: Axes, sheet: Sheet, number: int, shown: int) -> None:
  span = sheet.span(number)
  name = f"frame {span[0]}"
  if len(span) > 1:
    name = f"frames {span[0]} to {span[-1]}"
  height, width = sheet.clip.shape[1:3]
  axes.imshow(sheet.clip[shown], extent=(0, width, height, 0))
  axes.set_title(name, fontsize=8, pad=3)
  if sheet.mark is None or sheet.mark[0] != number:
    return
  cell = sheet.mark[1]
  rows, columns = sheet.grid if cell is not None else (1, 1)
  row, column = cell if cell is not None else (0, 0)
  corner = (column * width / columns, row * height / rows)
  for colour, line in (("black", 4), (MARK, 2)):
    axes.add_patch(
      Rectangle(
        corner,
        width / columns,
        height / rows,
        fill=False,
        edgecolor=colour,
        linewidth=line,
        clip_on=False,
      )
    )


def _draw_map(
  axes: Axes, sheet: Sheet, row: Row, number: int, shown: int
) -> None:
  shares = row.shares[number]
  height, width = sheet.clip.shape[1:3]
  grey = sheet.clip[shown].mean(axis=-1, keepdims=True) / 255
  image = _stretch(shares / sheet.most, height, width)
  inked = INK(image)[:, :, :3] * (0.7 + 0.3 * grey)
  axes.imshow(inked, extent=(0, width, height, 0))
  axes.text(
    0.5,
    -0.03,
    row.captions[number],
    fontsize=8,
    ha="center",
    va="top",
    transform=axes.transAxes,
  )
  if row.reach is None or row.reach.all():
    return
  reach = row.reach[number]
  if reach.all():
    reach = np.ones((1, 1), bool)
  rows, columns = reach.shape
  for y, x in np.argwhere(reach):
    axes.add_patch(
      Rectangle(
        (x * width / columns, y * height / rows),
        width / columns,
        height / rows,
        fill=False,
        edgecolor="#333333",
        linewidth=0.6,
      )
    )


def _stretch(
  cells: Float[np.ndarray, "y x"], height: int, width: int
) -> Float[np.ndarray, "h w"]:
  """Gives every pixel the number of its cell."""
  rows = np.arange(height) * cells.shape[0] // height
  columns = np.arange(width) * cells.shape[1] // width
  return cells[rows[:, None], columns]


def _label(axes: Axes, text: str) -> None:
  axes.text(
    -0.06,
    0.5,
    text,
    fontsize=8,
    ha="right",
    va="center",
    transform=axes.transAxes,
  )


def _colour_bar(figure: Figure, axes: np.ndarray, sheet: Sheet) -> None:
  scale = ScalarMappable(Normalize(0, sheet.most), INK)
  bar = figure.colorbar(scale, ax=axes, fraction=0.02, pad=0.01)
  bar.set_label(sheet.scale, fontsize=8)
  bar.ax.tick_params(labelsize=7)
