"""A picture of what is seen when: a strip of time for each class."""

import os

import matplotlib
import numpy as np
from jaxtyping import Bool, Float32, Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vidjax.prediction.results import Prediction, Timeline, best_classes

_INK, _MUTED, _GRID = "#1d2433", "#667085", "#d7dce5"
_BEST, _REST = "#2a6fdb", "#b9cdf0"  # where the class is the best, and not
_ROWS = 8  # strips of a picture
_FEWEST = 3  # strips, even if one class is the best throughout
_WIDTH, _ROW, _FRAME = 9.0, 0.62, 0.95  # inches
_DPI = 110
_LABEL, _NAME = 26, 48  # letters of a class and of a file; more are cut
_STYLE: dict = {
  "axes.edgecolor": _GRID,
  "axes.labelcolor": _MUTED,
  "axes.titlecolor": _MUTED,
  "font.size": 10,
  "xtick.color": _MUTED,
  "ytick.color": _MUTED,
}


def timeline_rows(
  timeline: Timeline, head_sizes: tuple[int, ...] = ()
) -> list[int]:
  """Returns the classes to show, in the order in which they come first.

  They are the eight that are the best of most of the time; if these are fewer
  than three, the ones with the highest mean follow.

  Args:
    timeline: of a video.
    head_sizes: classes of each head; empty if there is one.
  """
  best = best_classes(timeline.probabilities, head_sizes)
  time = (best * np.diff(timeline.edges)[:, None]).sum(axis=0)
  often = (-time).argsort(kind="stable")[: min(_ROWS, (time > 0).sum())]
  in_order = sorted(often, key=lambda label: best[:, label].argmax())
  by_mean = (-timeline.probabilities.mean(axis=0)).argsort(kind="stable")
  fill = [label for label in by_mean if label not in often]
  fill = fill[: max(_FEWEST - len(often), 0)]
  return [int(label) for label in [*in_order, *fill]]


def draw_timeline(prediction: Prediction) -> Figure:
  """Draws the probability of the main classes over time.

  A moment shows the window whose middle is nearest to it; blue is where a class
  is the most probable one.

  Raises:
    ValueError: if the video was predicted as a whole.
  """
  timeline = prediction.timeline
  if timeline is None:
    raise ValueError(
      f"{prediction.path} was predicted as a whole: give a window (in seconds) "
      "to see what happens when"
    )
  rows = timeline_rows(timeline, prediction.head_sizes)
  best = best_classes(timeline.probabilities, prediction.head_sizes)
  with matplotlib.rc_context(_STYLE):
    figure = Figure(
      figsize=(_WIDTH, _FRAME + _ROW * len(rows)),
      dpi=_DPI,
      layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for ax, label in zip(axes, rows, strict=True):
      scores = timeline.probabilities[:, label]
      _draw_row(ax, timeline.edges, scores, best[:, label])
      ax.set_ylabel(
        _cut(prediction.labels[label], _LABEL).replace("$", r"\$"),
        rotation=0,
        ha="right",
        va="center",
        color=_INK,
      )
    axes[0].tick_params(labelright=True)
    axes[0].set_yticks([0, 1], ["0", "100 %"])
    axes[-1].set_xlabel("time")
    axes[-1].tick_params(axis="x", bottom=True)
    axes[0].set_title(
      _title(prediction, timeline), loc="left", color=_INK, fontsize=11
    )
    axes[0].set_title(_legend(best, rows), loc="right", fontsize=9)
  return figure


def save_timeline(prediction: Prediction, path: str | os.PathLike[str]) -> None:
  """Writes the picture of `draw_timeline` as PNG.

  Raises:
    ValueError: if the video was predicted as a whole.
    OSError: if the file cannot be written.
  """
  draw_timeline(prediction).savefig(os.fspath(path), format="png")


def _draw_row(
  ax: Axes,
  edges: Float64[np.ndarray, " e"],
  scores: Float32[np.ndarray, " w"],
  best: Bool[np.ndarray, " w"],
) -> None:
  for chosen, color in ((~best, _REST), (best, _BEST)):
    values = np.where(chosen, scores, 0)
    ax.stairs(values, edges, fill=True, color=color, linewidth=0)
  ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), yticks=[0, 1])
  ax.tick_params(
    left=False, right=False, labelleft=False, labelright=False, length=3
  )
  ax.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 3, 6, 10]))
  ax.xaxis.set_major_formatter(FuncFormatter(clock))
  ax.tick_params(axis="x", bottom=False)
  for side in ("top", "left", "right"):
    ax.spines[side].set_visible(False)


def clock(seconds: float | int, position: int | None = None) -> str:
  """Returns a time as a clock shows it, such as 1:05 or 2.5 s."""
  del position
  if seconds < 60:
    return f"{seconds:g} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _title(prediction: Prediction, timeline: Timeline) -> str:
  length = float((timeline.stop - timeline.start).mean())
  count = len(timeline.start)
  each = f"{count} windows" if count > 1 else "1 window"
  name = _cut(prediction.path.name, _NAME).replace("$", r"\$")
  return f"{name}  ·  {each} of {clock(float(f'{length:.2g}'))}"


def _legend(best: Bool[np.ndarray, "w k"], rows: list[int]) -> str:
  others = int(np.delete(best, rows, axis=1).any(axis=0).sum())
  noun = "class is" if others == 1 else "classes are"
  more = f" ({others} more {noun} at times)" if others else ""
  return f"dark: most probable{more}"


def _cut(text: str, letters: int) -> str:
  text = " ".join(text.split())
  return text if len(text) <= letters else text[: letters - 1] + "…"
