r"""Draws the figures of the systems' pages, with the library's own functions.

    python -m docs.figures [FOLDER]

What is drawn is what the operations do: frames and places are read off arrays
that went through them.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vidjax.ops.bilinear import sampling_places
from vidjax.ops.corners import spread
from vidjax.ops.interframe import displacements
from vidjax.ops.leap import leap_distance, legal_levels, paired_frames
from vidjax.ops.mixing import mix_frames
from vidjax.ops.patch_shift import mosaic
from vidjax.ops.periodic_shift import periodic_shift, plain_shift

FOLDER = pathlib.Path(__file__).resolve().parent / "figures"
WIDTH = 5.4  # inches: on a phone, letters are then about as large as the text
NEXT, PREVIOUS, OWN, ZERO = "#d1772b", "#2d6fb5", "#e6e6e6", "#2b2b2b"
_SOURCES = {
  "frame t + 1": NEXT,
  "frame t - 1": PREVIOUS,
  "its own frame t": OWN,
  "zero": ZERO,
}
_STYLE: dict[Any, Any] = {
  "font.size": 9,
  "axes.titlesize": 9,
  "axes.titlelocation": "left",
  "svg.hashsalt": "vidjax",  # the same file from the same drawing
  "svg.fonttype": "path",
}


def sources(
  move: Callable[[Float[Any, "b t n c"]], Float[Any, "b t n c"]],
  frames: int,
  channels: int,
) -> Int[np.ndarray, "t c"]:
  """Returns where each channel comes from: 0 to 3, in the order of `_SOURCES`.

  Args:
    move: the operation.
    frames: of the clip.
    channels: of a token.
  """
  # A number that tells the frame; none is zero.
  time = np.arange(1, frames + 1)
  clip = np.broadcast_to(time[:, None, None], (frames, 1, channels))
  moved = np.asarray(move(jnp.asarray(clip[None], jnp.float32)))[0, :, 0]
  distance = np.round(moved).astype(int) - time[:, None]
  kinds = [moved == 0, distance == 1, distance == -1, distance == 0]
  return np.select(kinds, [3, 0, 1, 2], default=-1)


def _frames_by_channel(
  axes: Axes, table: Int[np.ndarray, "t c"], heads: int, title: str
) -> None:
  colours = ListedColormap(list(_SOURCES.values()))
  frames, channels = table.shape
  axes.imshow(
    table,
    cmap=colours,
    norm=BoundaryNorm(np.arange(5) - 0.5, 4),
    aspect="auto",
    interpolation="nearest",
    extent=(0, channels, frames - 0.5, -0.5),
  )
  for edge in range(0, channels + 1, channels // heads):
    axes.axvline(edge, color="white", linewidth=1.2)
  for frame in range(frames):
    axes.axhline(frame + 0.5, color="white", linewidth=0.6)
  axes.set_xticks(
    (np.arange(heads) + 0.5) * channels / heads, map(str, range(heads))
  )
  axes.set_yticks(range(0, frames, max(frames // 4, 1)))
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  axes.set_ylabel("frame t")
  axes.set_title(title)


def _legend(figure: Figure, names: Sequence[str] = tuple(_SOURCES)) -> None:
  figure.legend(
    handles=[Patch(color=_SOURCES[name], label=name) for name in names],
    loc="outside lower center",
    ncols=len(names),
    frameon=False,
    handlelength=1,
    columnspacing=1.2,
  )


def _figure(height: float) -> Figure:
  figure = Figure(figsize=(WIDTH, height), layout="constrained")
  FigureCanvasSVG(figure)
  return figure


def mixing() -> Figure:
  """X-ViT: which frame each channel of a key comes from, by head."""
  figure = _figure(5.2)
  heads, channels, frames = 12, 768, 8
  rows: dict[str, dict[str, Any]] = {
    "25 % (shift_div 8), split over all channels": {"shift_div": 8},
    "50 % (shift_div 4), split over all channels": {"shift_div": 4},
    "25 %, split in every head (the paper's Eq. 9)": {
      "shift_div": 8,
      "heads": heads,
    },
  }
  panels = figure.subplots(len(rows), 1)
  for axes, (title, options) in zip(panels, rows.items(), strict=True):
    table = sources(lambda x, o=options: mix_frames(x, **o), frames, channels)
    _frames_by_channel(axes, table, heads, title)
  panels[-1].set_xlabel("channels of a key or value, by attention head")
  _legend(figure)
  return figure


def patch_shift() -> Figure:
  """TPS: the patterns, over a window of 7 x 7 tokens."""
  figure = _figure(6.0)
  patterns = ("a3", "b4", "c9", "d16")
  most = 8
  for axes, name in zip(
    figure.subplots(2, 2).reshape(-1), patterns, strict=True
  ):
    offsets = mosaic(name, 7, 7).reshape(7, 7)
    axes.imshow(offsets, cmap="PuOr_r", vmin=-most, vmax=most)
    for (row, column), offset in np.ndenumerate(offsets):
      axes.text(
        column,
        row,
        f"{-offset:+d}" if offset else "0",
        ha="center",
        va="center",
        fontsize=8,
        color="white" if abs(offset) > 5 else "black",
      )
    for edge in range(1, 7):
      axes.axhline(edge - 0.5, color="white", linewidth=1)
      axes.axvline(edge - 0.5, color="white", linewidth=1)
    axes.set_axis_off()
    others = len(np.unique(offsets))
    note = " (all published models)" if name == "c9" else ""
    axes.set_title(f"{name}: {others} frames{note}")
  figure.supxlabel("frame that a token is taken from, relative to t", size=9)
  return figure


def leap() -> Figure:
  """LAPS: pairs of frames by level, and the channels that then move."""
  figure = _figure(5.6)
  frames, heads, channels = 8, 6, 384
  top, middle, bottom = figure.subplots(3, 1, height_ratios=(1.5, 1, 1))
  for place, level in enumerate(legal_levels(frames)):
    top.text(-0.6, -place, f"level {level}", ha="right", va="center")
    for first, second in paired_frames(frames, level):
      centre, radius = (first + second) / 2, (second - first) / 2
      angle = np.linspace(0, np.pi, 40)
      height = 0.62 * radius / (frames // 4)
      top.plot(
        centre + radius * np.cos(angle),
        -place + height * np.sin(angle),
        color=(NEXT, PREVIOUS)[int(first) % 2],
        linewidth=1.6,
      )
    top.plot(range(frames), [-place] * frames, "o", color=ZERO, markersize=5)
    leap = leap_distance(frames, level)
    top.text(frames - 0.4, -place, f"leap {leap}", va="center")
  for frame in range(frames):
    top.text(frame, -len(legal_levels(frames)) + 0.45, str(frame), ha="center")
  top.set_xlim(-2, frames + 1)
  top.set_axis_off()
  top.set_title("leap attention: each frame attends with one other")
  for axes, move, title in (
    (middle, periodic_shift, "periodic shift: a part of every head"),
    (bottom, plain_shift, "plain shift: the same of all channels at once"),
  ):
    arguments = (heads, 4) if move is periodic_shift else (4,)
    table = sources(lambda x, m=move, a=arguments: m(x, *a), frames, channels)
    _frames_by_channel(axes, table, heads, title)
  bottom.set_xlabel("channels of what attention returns, by head")
  _legend(figure)
  return figure


def interframe() -> Figure:
  """SIFA: the places in the next frame that a position looks at."""
  figure = _figure(3.3)
  size, row, column = 9, 4, 3
  grid = displacements(3)
  # Made up: as of something that moves to the right and grows.
  random = np.random.default_rng(1)
  drawn = (-0.5, 1.9) + 0.45 * grid + random.normal(0, 0.12, (len(grid), 2))
  offsets = np.zeros((1, size, size, len(grid), 2), np.float32)
  offsets[0, row, column] = drawn
  places = sampling_places(jnp.asarray(offsets), grid)
  rows, columns = (np.asarray(x)[0, row, column] for x in places)
  shares = spread(
    jnp.full((1, 1, 1, len(grid)), 1.0),
    jnp.asarray(rows).reshape(1, 1, -1),
    jnp.asarray(columns).reshape(1, 1, -1),
    size=(size, size),
  )[0, 0, 0]
  left, right = figure.subplots(1, 2)
  asked = np.zeros((size, size))
  asked[row, column] = 1
  for axes, shade in ((left, asked), (right, np.asarray(shares))):
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1.6)
    for edge in range(size + 1):
      axes.axhline(edge - 0.5, color="#d8d8d8", linewidth=0.7)
      axes.axvline(edge - 0.5, color="#d8d8d8", linewidth=0.7)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_axis_off()
  left.plot(column, row, "o", color=ZERO, markersize=7)
  left.set_title("frame t: position p asks")
  regular = grid + np.array([row, column])
  right.plot(
    regular[:, 1],
    regular[:, 0],
    "o",
    mfc="none",
    mec=ZERO,
    label="regular grid",
  )
  for (y, x), r, c in zip(regular, rows, columns, strict=True):
    right.annotate(
      "", (c, r), (x, y), arrowprops={"arrowstyle": "->", "color": NEXT}
    )
  right.plot(columns, rows, "o", color=NEXT, label="moved by offsets")
  right.set_title("frame t + 1: nine places")
  figure.legend(
    handles=[
      *right.lines[-2:],
      Patch(color="#6aaed6", label="read by the samples"),
    ],
    loc="outside lower center",
    ncols=3,
    frameon=False,
  )
  return figure


FIGURES: dict[str, Callable[[], Figure]] = {
  "mixing": mixing,
  "patch_shift": patch_shift,
  "leap": leap,
  "interframe": interframe,
}


def main(arguments: list[str]) -> None:
  """Writes all figures into a folder, by default docs/figures."""
  folder = pathlib.Path(arguments[0]) if arguments else FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  with mpl.rc_context(_STYLE):
    for name, draw in FIGURES.items():
      draw().savefig(folder / f"{name}.svg", dpi=200, metadata={"Date": None})


if __name__ == "__main__":
  main(sys.argv[1:])
