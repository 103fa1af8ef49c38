"""The tables and the picture of an ablation, with intervals."""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import stdtrit

from vidjax.train.results import write_json

LEVEL = 0.95
_COLUMNS = (
  "row", "top-1, %", "95 % interval", "runs", "parameters, M",
  "multiply-adds, M", "train step, ms", "memory, MiB",
)  # fmt: skip
# Keys of a row, units and digits of the last four columns.
_COSTS = (
  ("params", 1e6, 3),
  ("multiply_adds", 1e6, 1),
  ("fastest_ms", 1, 0),
  ("memory_bytes", 2**20, 0),
)
_INK, _MUTED, _GRID, _DOT = "#222222", "#666666", "#dddddd", "#2a6fdb"
_CHANCE = 50  # what a model without the order of frames reaches at best, in %


class Interval(NamedTuple):
  """A confidence interval of an accuracy, as shares.

  Attributes:
    low: its lower end, not below 0.
    high: its upper end, not above 1.
    kind: "t" or "Wilson".
  """

  low: float
  high: float
  kind: str


def wilson(share: float, count: int) -> Interval:
  """Returns Wilson's score interval of a share of `count` videos.

  It knows of the finite number of videos alone, not of what another seed would
  have given (Wilson 1927).
  """
  z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
  centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
  spread = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
  half = spread * z / (1 + z**2 / count)
  return Interval(max(0.0, centre - half), min(1.0, centre + half), "Wilson")


def intervals(
  runs: Mapping[str, Sequence[float]], videos: int
) -> dict[str, Interval]:
  """Returns an interval of the mean over seeds for each of some rows.

  The rows are taken to vary alike from seed to seed, as in an analysis of
  variance: their deviations from their own means give one standard deviation s
  with d degrees of freedom (all runs less all rows), and the interval of a mean
  of n runs is t(d) s / sqrt(n) wide to each side. If no row has two runs it is
  Wilson's.

  Args:
    runs: accuracies of the seeds, as shares, by row; at least one each.
    videos: that each accuracy is a share of.
  """
  freedom = sum(len(values) - 1 for values in runs.values())
  means = {row: statistics.fmean(values) for row, values in runs.items()}
  if not freedom:
    return {row: wilson(mean, videos) for row, mean in means.items()}
  squares = sum(
    (value - means[row]) ** 2 for row in runs for value in runs[row]
  )
  scale = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(
    squares / freedom
  )
  return {
    row: Interval(
      max(0.0, mean - scale / math.sqrt(len(runs[row]))),
      min(1.0, mean + scale / math.sqrt(len(runs[row]))),
      "t",
    )
    for row, mean in means.items()
  }


def with_intervals(result: Mapping[str, Any]) -> dict[str, Any]:
  """Adds mean, low, high and interval to every row that was run.

  Rows of one backbone are taken to vary alike.
  """
  rows = {name: dict(row) for name, row in result["rows"].items()}
  families: dict[str, dict[str, list[float]]] = {}
  for name, row in rows.items():
    if row["top1"]:
      runs = families.setdefault(row["backbone"], {})
      runs[name] = list(row["top1"].values())
  for runs in families.values():
    for name, found in intervals(runs, result["videos"]).items():
      rows[name] |= {
        "mean": statistics.fmean(runs[name]),
        "low": found.low,
        "high": found.high,
        "interval": found.kind,
      }
  return {**result, "rows": rows}


def markdown(result: Mapping[str, Any]) -> str:
  """Returns the tables of a result, one for each title."""
  blocks = [
    f"{result['steps']} steps of {result['batch_size']} clips, "
    f"{result['frames']} frames of {result['image_size']} pixels, seeds "
    f"{', '.join(map(str, result['seeds']))}, {result['videos']} evaluation "
    f"videos, {result['device']}."
  ]
  for table in result["tables"]:
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    lines += [
      _line(_cells(label, result["rows"].get(name, {"top1": {}})))
      for label, name in table["rows"]
    ]
    blocks.append(f"### {table['title']}\n\n" + "\n".join(lines))
  return "\n\n".join(blocks) + "\n"


def _line(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _cells(label: str, row: Mapping[str, Any]) -> list[str]:
  if "failed" in row:
    return [label, "failed", *[""] * (len(_COLUMNS) - 2)]
  top1, interval = "not run", ""
  if row["top1"]:
    top1 = f"{100 * row['mean']:.1f}"
    interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    interval += "" if row["interval"] == "t" else f" ({row['interval']})"
  cost = [
    f"{row[key] / unit:.{digits}f}" if key in row else ""
    for key, unit, digits in _COSTS
  ]
  return [label, top1, interval, str(len(row["top1"])), *cost]


def draw(result: Mapping[str, Any]) -> Figure:
  """Draws accuracies with their intervals, a panel for each table."""
  halves = _halves(result["tables"])
  tallest = max(
    sum(len(table["rows"]) + 1.6 for table in half) for half in halves
  )
  figure = Figure(figsize=(9.6, 0.215 * tallest + 0.6), layout="constrained")
  FigureCanvasAgg(figure)
  for column, half in zip(
    figure.subfigures(1, len(halves), squeeze=False)[0], halves, strict=True
  ):
    panels = column.subplots(
      len(half),
      1,
      sharex=True,
      squeeze=False,
      height_ratios=[len(table["rows"]) + 0.4 for table in half],
    )[:, 0]
    for axes, table in zip(panels, half, strict=True):
      _panel(axes, table, result["rows"])
    panels[-1].set_xlabel("top-1 accuracy, %", color=_MUTED, fontsize=9)
  return figure


def _halves(tables: Sequence[Any]) -> list[list[Any]]:
  """Two columns of about the same height, in the order of the tables."""
  sizes = [len(table["rows"]) + 1.6 for table in tables]
  cut = min(
    range(1, len(tables) + 1),
    key=lambda n: abs(sum(sizes[:n]) - sum(sizes[n:])),
  )
  return [half for half in (list(tables[:cut]), list(tables[cut:])) if half]


def _panel(axes: Axes, table: Mapping[str, Any], rows: Mapping[str, Any]):
  labels = [label for label, _ in table["rows"]]
  axes.set_title(
    table["title"], loc="left", fontsize=9.5, color=_INK, fontweight="bold"
  )
  axes.axvline(_CHANCE, color=_MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
  for place, (_, name) in enumerate(table["rows"]):
    row = rows.get(name, {"top1": {}})
    if not row["top1"]:
      axes.text(
        2, place, "failed" if "failed" in row else "not run",
        va="center", fontsize=8, color=_MUTED,
      )  # fmt: skip
      continue
    ends = 100 * row["low"], 100 * row["high"]
    axes.plot(ends, (place, place), color=_DOT, lw=1.6, zorder=2)
    seeds = [100 * value for value in row["top1"].values()]
    axes.plot(
      seeds, [place] * len(seeds), "|", ms=6, mew=1, color=_INK, zorder=3
    )
    axes.plot(100 * row["mean"], place, "o", ms=4.5, color=_DOT, zorder=4)
  axes.set_yticks(range(len(labels)), labels, fontsize=8.5, color=_INK)
  axes.set(xlim=(0, 101), ylim=(len(labels) - 0.4, -0.6))
  axes.set_xticks(range(0, 101, 25))
  axes.tick_params(length=0, labelsize=8.5)
  axes.tick_params(axis="x", labelcolor=_MUTED)
  axes.grid(axis="x", color=_GRID, lw=0.6)
  axes.set_axisbelow(True)
  axes.spines[:].set_visible(False)


def write_report(
  result: Mapping[str, Any], folder: pathlib.Path, *, picture: bool = True
) -> None:
  """Writes ablation.json, ablation.md and ablation.png.

  Args:
    result: of the tool: the budget (`command`, `device`, `steps`,
      `batch_size`, `frames`, `image_size`, `seeds`, `videos`), `rows` by name
      (`model`, `backbone`, `top1` by seed, and what is known of `params`,
      `multiply_adds`, `memory_bytes`, `median_ms`, `fastest_ms`, `failed`) and
      `tables` (`title`, `rows`: pairs of label and name).
    folder: where they go.
    picture: whether the picture is drawn too, which takes a second or two.
  """
  full = with_intervals(result)
  write_json(folder / "ablation.json", full)
  (folder / "ablation.md").write_text(markdown(full))
  if picture:
    draw(full).savefig(folder / "ablation.png", dpi=120)
