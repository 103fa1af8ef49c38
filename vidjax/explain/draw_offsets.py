"""Pictures of where inter-frame attention looks in the next frame."""

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vidjax.explain.draw import INK, MARK
from vidjax.explain.layers import Query
from vidjax.explain.offsets import Neighbours

Clip = UInt8[np.ndarray, "t h w 3"]


def draw_offsets(
  clip: Clip, found: Neighbours, query: Query | None, title: str
) -> Figure:
  """Draws pairs of maps: who asks, and where it looks in the next one.

  Without a query there is a line of the picture for each pair, with an arrow
  from each position to the mean of its places. With one there is its pair
  alone, with each place of that position, coloured by its weight.

  Args:
    clip: whose frames the maps are made of, some to a map.
    found: places and weights.
    query: a position; its frame is that of the map.
    title: of the picture.

  Raises:
    ValueError: if there is no such position.
  """
  pairs = range(len(found.places))
  if query is not None:
    _check(found, query)
    pairs = [query.frame]
  each = len(clip) // (len(found.places) + 1)
  figure = Figure(
    figsize=(6.4, 3.1 * len(pairs) + 0.5), dpi=110, layout="constrained"
  )
  FigureCanvasAgg(figure)
  figure.suptitle(title, fontsize=9, x=0.01, ha="left")
  axes = figure.subplots(len(pairs), 2, squeeze=False)
  for (now, later), pair in zip(axes, pairs, strict=True):
    for side, number in ((now, pair), (later, pair + 1)):
      first, last = number * each, (number + 1) * each - 1
      shown = first + each // 2
      _frame(side, clip[shown])
      many = f"frames {first} to {last} (here {shown})"
      side.set_title(many if each > 1 else f"frame {first}", fontsize=8)
    if query is None or query.place is None:
      _arrows(now, later, clip, found.moves[pair])
    else:
      _places(figure, now, later, clip, found, query.frame, query.place)
  return figure


def _frame(axes: Axes, frame: UInt8[np.ndarray, "h w 3"]) -> None:
  height, width = frame.shape[:2]
  axes.imshow(frame)
  axes.set(xlim=(-0.5, width - 0.5), xticks=[], yticks=[])
  axes.set(ylim=(height - 0.5, -0.5))


def _arrows(
  now: Axes, later: Axes, clip: Clip, moves: Float[np.ndarray, "y x 2"]
) -> None:
  scale = _scale(clip, moves.shape[:2])
  own = np.indices(moves.shape[:2])
  rows, columns = (_pixels(own[i], scale[i]) for i in (0, 1))
  now.scatter(columns, rows, s=6, c="white", edgecolors="black", lw=0.4)
  later.quiver(
    columns,
    rows,
    moves[..., 1] * scale[1],
    moves[..., 0] * scale[0],
    angles="xy",
    scale_units="xy",
    scale=1,
    width=0.008,
    color="white",
    edgecolor="black",
    linewidth=0.4,
  )


def _places(
  figure: Figure,
  now: Axes,
  later: Axes,
  clip: Clip,
  found: Neighbours,
  pair: int,
  place: tuple[int, int],
) -> None:
  row, column = place
  scale = _scale(clip, found.places.shape[1:3])
  corner = (column * scale[1] - 0.5, row * scale[0] - 0.5)
  for axes in (now, later):
    for colour, line in (("black", 3.5), (MARK, 1.8)):
      axes.add_patch(
        Rectangle(
          corner,
          scale[1],
          scale[0],
          fill=False,
          edgecolor=colour,
          linewidth=line,
        )
      )
  places = found.places[pair, row, column]
  rows, columns = (_pixels(places[:, i], scale[i]) for i in (0, 1))
  weights = found.weights[pair, row, column]
  low, high = min(0.0, weights.min()), max(0.0, weights.max())
  points = later.scatter(
    columns,
    rows,
    s=55,
    c=weights,
    cmap="PuOr" if low < 0 else INK,
    vmin=-max(-low, high) if low < 0 else 0,
    vmax=max(-low, high) or 1,
    edgecolors="black",
    linewidths=0.8,
    zorder=3,
  )
  # Places beyond the border are part of the truth: they see zeros.
  height, width = clip.shape[1:3]
  for axes in (now, later):
    axes.set_xlim(min(-0.5, columns.min() - 2), max(width, columns.max() + 2))
    axes.set_ylim(max(height, rows.max() + 2), min(-0.5, rows.min() - 2))
  bar = figure.colorbar(points, ax=later, fraction=0.046, pad=0.02)
  bar.set_label("weight A of a place", fontsize=8)
  bar.ax.tick_params(labelsize=7)


def _scale(clip: Clip, grid: tuple[int, ...]) -> tuple[float, float]:
  """Pixels of a position of the map, along rows and columns."""
  return clip.shape[1] / grid[0], clip.shape[2] / grid[1]


def _pixels(positions: np.ndarray, scale: float) -> np.ndarray:
  return (positions + 0.5) * scale - 0.5


def _check(found: Neighbours, query: Query) -> None:
  pairs, height, width = found.weights.shape[:3]
  if query.place is None:
    raise ValueError(
      "inter-frame attention has no class token; ask at a row and a column"
    )
  row, column = query.place
  if not (
    0 <= query.frame < pairs and 0 <= row < height and 0 <= column < width
  ):
    raise ValueError(
      f"{found.name} has no position {row}, {column} of map {query.frame}; its "
      f"maps 0 to {pairs - 1} look at the next one, each with {height} x "
      f"{width} positions, counted from 0"
    )
