"""One HTML page about a run, with everything inside it.

python -m vidjax.report WORKDIR
"""

import argparse
import base64
import datetime
import importlib.resources
import io
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from vidjax.train.throughput import with_prefix

# Colours that stand for the page's own, so that charts follow its dark mode.
_INK, _MUTED, _GRID = "#000001", "#000002", "#000003"
_SERIES = ("#000004", "#000005", "#000006")
_CSS_COLORS = {
  _INK: "var(--ink)",
  _MUTED: "var(--muted)",
  _GRID: "var(--line)",
  **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES, 1)},
}
_RIGHT, _WRONG = (0x2A, 0x6F, 0xDB), (0xD9, 0x48, 0x3B)  # confusion matrix
_STYLE: dict[Any, Any] = {
  "axes.facecolor": "none",
  "axes.edgecolor": _GRID,
  "axes.labelcolor": _MUTED,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "figure.facecolor": "none",
  "font.size": 9,
  "grid.color": _GRID,
  "grid.linewidth": 0.6,
  "lines.solid_joinstyle": "round",
  "svg.fonttype": "none",  # text stays text, in the page's font
  "xtick.color": _MUTED,
  "ytick.color": _MUTED,
}

# Title of a chart, and the metrics that it shows with their names.
_CURVES = (
  ("Loss", (("train/loss", "training"), ("eval/loss", "evaluation"))),
  (
    "Accuracy",
    (
      ("train/accuracy", "training top-1"),
      ("eval/top1", "evaluation top-1"),
      ("eval/top5", "evaluation top-5"),
    ),
  ),
  ("Learning rate", (("train/lr", "training"),)),
  ("Clips per second", (("train/clips_per_s", "training"),)),
  ("Share of time spent waiting for data", (("train/data_wait", "training"),)),
  ("Gradient norm", (("train/gradient_norm", "training"),)),
)
_SHARES = ("Accuracy", "Share of time spent waiting for data")
_POINTS = 400  # of a curve; more are averaged
_NAMED = 40  # classes of a confusion matrix that still have their names
_COUNTED = 20  # classes of a confusion matrix that still has its numbers
_SIDE = 160  # pixels of an example clip
_FRAME_MS = 120
_ACCURACIES = {
  "eval/top1": "Top-1",
  "eval/top5": "Top-5",
  "eval/class_accuracy": "Mean over classes",
}
_RESULTS = ("top1", "top5", "views", "videos")  # of eval.json
# Parts of the summary that the page shows in a place of their own.
_PLACED = {
  "name", "model", "params", "gmacs_per_view", "steps", "train_seconds",
  "device", "versions", "eval/views", "eval/videos", "eval/failed",
  *_ACCURACIES,
}  # fmt: skip


class ReportError(ValueError):
  """A folder has nothing to report, or a file of it cannot be read."""


def write_report(workdir: pathlib.Path) -> pathlib.Path:
  """Writes `workdir/report.html`, one file that needs no other and no network.

  Args:
    workdir: folder of a run: metrics.jsonl and, each optional, config.json,
      summary.json and eval.json with its example clips.

  Returns:
    The path of the page.

  Raises:
    ReportError: if metrics.jsonl is missing or a file cannot be read.
    OSError: if the page cannot be written.
  """
  metrics = _read_metrics(workdir / "metrics.jsonl")
  config = _read_json(workdir / "config.json")
  result = _read_json(workdir / "eval.json")
  summary = {
    **{f"eval/{key}": result[key] for key in _RESULTS if key in result},
    **_read_json(workdir / "summary.json"),
  }
  classes = result.get("classes", [])
  confusion = np.array(result.get("confusion", []), np.float64)
  template = (
    importlib.resources.files("vidjax").joinpath("report.html.j2").read_text()
  )
  environment = jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters["percent"] = _percent
  page = environment.from_string(template).render(
    title=summary.get("name") or config.get("name") or workdir.resolve().name,
    summary=_describe(summary),
    tiles=_tiles(summary),
    curves=_curves(metrics),
    accuracies=_accuracies(summary),
    per_class=_per_class(classes, result.get("per_class", [])),
    confusion=_confusion_chart(confusion, classes) if classes else None,
    mistakes=_mistakes(confusion, classes) if classes else [],
    examples=_examples(workdir, result.get("examples", []), classes),
    failed=result.get("failed", []),
    failures=summary.get("eval/failed", len(result.get("failed", []))),
    config=_flat(config),
    versions=_flat(summary.get("versions", {})),
    extras=[row for row in _flat(summary) if _is_extra(row[0])],
  )
  path = workdir / "report.html"
  path.write_text(page, encoding="utf-8")
  return path


# --- reading


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns what a file holds; nothing if there is no such file."""
  if not path.exists():
    return {}
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ReportError(
      f"{path} is not a JSON file ({error}): remove or repair it"
    ) from error


def _read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  if not path.is_file():
    raise ReportError(
      f"{path} does not exist: give the --workdir of a run that has logged at "
      "least one step"
    )
  lines = path.read_text(encoding="utf-8").splitlines()
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except ValueError as error:
      if number == len(lines):
        break  # of a run that is writing it
      raise ReportError(
        f"line {number} of {path} is not JSON ({error}): remove it"
      ) from error
  return rows


# --- words and tables


def _percent(share: int | float | None) -> str:
  if share is None or math.isnan(share):
    return "-"
  return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _views(text: str) -> str:
  """Writes "1x3" as 1 clip times 3 crops."""
  parts = zip(text.split("x"), ("clip", "crop"), strict=False)
  return " \N{MULTIPLICATION SIGN} ".join(
    f"{count} {unit}{'' if count == '1' else 's'}" for count, unit in parts
  )


def _duration(seconds: int | float) -> str:
  if seconds < 60:
    return f"{seconds:.0f} s"
  if seconds < 3600:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
  return str(datetime.timedelta(seconds=round(seconds)))


def _count(number: int | float) -> str:
  for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.3g} {unit}"
  return f"{number:g}"


def _describe(summary: Mapping[str, Any]) -> str:
  """Says in a paragraph what was trained and how well it does."""
  sentences = []
  if "model" in summary:
    sentences.append(_say_trained(summary))
  if "eval/top1" in summary:
    sentences.append(_say_reached(summary))
  return " ".join(sentences)


def _say_trained(summary: Mapping[str, Any]) -> str:
  size = []
  if "params" in summary:
    size.append(f"{_count(summary['params'])} parameters")
  if "gmacs_per_view" in summary:
    macs = with_prefix(1e9 * summary["gmacs_per_view"])
    size.append(f"{macs} multiply-adds per view")
  text = summary["model"] + (f" ({', '.join(size)})" if size else "")
  text += f" was trained for {summary.get('steps', 0):,} steps"
  if "train_seconds" in summary:
    text += f" in {_duration(summary['train_seconds'])}"
  if "device" in summary:
    text += f" on {summary['device']}"
  return text + "."


def _say_reached(summary: Mapping[str, Any]) -> str:
  text = f"It reaches {_percent(summary['eval/top1'])} top-1"
  if "eval/top5" in summary:
    text += f" and {_percent(summary['eval/top5'])} top-5"
  text += " accuracy"
  if "eval/videos" in summary:
    text += f" on {summary['eval/videos']:,} videos"
  if "eval/views" in summary:
    text += f", each seen as {_views(summary['eval/views'])}"
  return text + "."


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """Number, name and remark of what is shown first."""
  views = _views(summary.get("eval/views", ""))
  makers = {
    "eval/top1": lambda v: (_percent(v), "top-1", views),
    "eval/top5": lambda v: (_percent(v), "top-5", views),
    "params": lambda v: (_count(v), "parameters", ""),
    "gmacs_per_view": lambda v: (
      with_prefix(1e9 * v),
      "multiply-adds",
      "per view",
    ),
    "train_seconds": lambda v: (_duration(v), "training", ""),
  }
  return [
    make(summary[key])
    for key, make in makers.items()
    if summary.get(key) is not None
  ]


def _accuracies(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  return [
    {
      "name": name,
      "share": summary[key],
      "views": _views(summary.get("eval/views", "")),
      "videos": f"{summary['eval/videos']:,}"
      if "eval/videos" in summary
      else "",
    }
    for key, name in _ACCURACIES.items()
    if key in summary
  ]


def _per_class(
  classes: Sequence[str], shares: Sequence[int | float | None]
) -> list[tuple[str, int | float | None]]:
  """Classes with their accuracy, the lowest first, unknown ones last."""
  pairs = zip(classes, shares, strict=False)
  return sorted(pairs, key=lambda p: (p[1] is None, p[1] or 0, p[0]))


def _mistakes(
  confusion: Float64[np.ndarray, "k k"], classes: Sequence[str]
) -> list[dict[str, Any]]:
  """The ten most frequent mistakes."""
  wrong = confusion * (1 - np.eye(len(confusion)))
  order = np.argsort(-wrong, axis=None, kind="stable")[:10]
  rows = []
  for label, prediction in zip(
    *np.unravel_index(order, wrong.shape), strict=True
  ):
    if wrong[label, prediction]:
      rows.append(
        {
          "label": classes[label],
          "prediction": classes[prediction],
          "count": int(wrong[label, prediction]),
          "total": int(confusion[label].sum()),
        }
      )
  return rows


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
  """Rows of dotted key and JSON value, nested mappings opened."""
  rows = []
  for key, value in tree.items():
    if isinstance(value, Mapping):
      rows += _flat(value, f"{prefix}{key}.")
    else:
      text = value if isinstance(value, str) else json.dumps(value)
      rows.append((f"{prefix}{key}", text))
  return rows


def _is_extra(key: str) -> bool:
  return key.split(".")[0] not in _PLACED


# --- pictures


def _svg(figure: Figure, label: str) -> str:
  """Draws a figure as SVG that takes its colours from the page."""
  buffer = io.StringIO()
  # Equal pages for equal runs: no dates, no random names.
  FigureCanvasSVG(figure).print_svg(
    buffer,
    metadata={
      **dict.fromkeys(("Creator", "Date", "Format", "Type")),
      "Title": label,
    },
  )
  text = buffer.getvalue()
  text = text[text.index("<svg") :]
  for color, variable in _CSS_COLORS.items():
    text = text.replace(color, variable)
  return text


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Charts of what was logged: title, names of the lines, picture."""
  charts = []
  for title, lines in _CURVES:
    series = {name: _series(metrics, key) for key, name in lines}
    series = {name: points for name, points in series.items() if len(points)}
    if series:
      with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        picture = _curve_chart(title, list(series.values()))
      charts.append({"title": title, "lines": list(series), "svg": picture})
  return charts


def _series(
  metrics: Sequence[Mapping[str, Any]], key: str
) -> Float64[np.ndarray, "n 2"]:
  """Steps and values of a metric; neighbours averaged if they are many."""
  points = np.array(
    [(row["step"], row[key]) for row in metrics if row.get(key) is not None],
    np.float64,
  ).reshape(-1, 2)
  size = math.ceil(len(points) / _POINTS)
  if size < 2:
    return points
  starts = range(0, len(points), size)
  return np.stack([points[i : i + size].mean(axis=0) for i in starts])


def _curve_chart(
  title: str, series: Sequence[Float64[np.ndarray, "_ 2"]]
) -> str:
  figure = Figure(figsize=(5, 2.7), layout="constrained")
  axes = figure.add_subplot()
  axes.grid(axis="y")
  axes.tick_params(length=0)
  axes.locator_params(nbins=6)
  axes.set_xlabel("step")
  axes.xaxis.set_major_formatter(lambda value, _: _count(value))
  for color, points in zip(_SERIES, series, strict=False):
    marker = "o" if len(points) <= 20 else ""
    axes.plot(*points.T, color=color, marker=marker, markersize=3.5)
  axes.yaxis.set_major_formatter(
    lambda value, _: f"{100 * value:g} %" if title in _SHARES else f"{value:g}"
  )
  return _svg(figure, title)


def _confusion_chart(
  confusion: Float64[np.ndarray, "k k"], classes: Sequence[str]
) -> str:
  """Share of each true class (rows) by prediction, as the colour's strength."""
  total = confusion.sum(axis=1, keepdims=True)
  shares = confusion / np.maximum(total, 1)
  pixels = np.empty((*shares.shape, 4))
  pixels[..., :3] = np.array(_WRONG) / 255
  pixels[np.diag_indices(len(shares))] = (*(c / 255 for c in _RIGHT), 0)
  pixels[..., 3] = np.sqrt(shares)  # so that rare mistakes can be seen
  side = min(max(4.0, 0.36 * len(classes) + 1.5), 9.0)
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "confusion"}):
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(pixels, interpolation="none")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    if len(classes) <= _NAMED:
      axes.set_xticks(range(len(classes)), classes, rotation=90)
      axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= _COUNTED:
      _write_counts(axes, confusion, shares)
    return _svg(figure, "Confusion matrix")


def _write_counts(
  axes: Axes,
  confusion: Float64[np.ndarray, "k k"],
  shares: Float64[np.ndarray, "k k"],
) -> None:
  for row, column in np.argwhere(confusion > 0):
    axes.text(
      column,
      row,
      f"{confusion[row, column]:.0f}",
      ha="center",
      va="center",
      fontsize=8,
      color="white" if shares[row, column] > 0.35 else _INK,
    )


def _examples(
  workdir: pathlib.Path,
  examples: Sequence[Mapping[str, Any]],
  classes: Sequence[str],
) -> list[dict[str, Any]]:
  """Example clips, wrong ones first, with their frames inside the page."""
  cards = []
  for example in examples:
    path = workdir / example["frames"]
    if path.is_file():
      cards.append(
        {
          "id": example["id"],
          "label": classes[example["label"]],
          "prediction": classes[example["prediction"]],
          "right": example["label"] == example["prediction"],
          "probability": example["probability"],
          "picture": _animation(path),
        }
      )
  return sorted(cards, key=lambda card: card["right"])


def _animation(path: pathlib.Path) -> str:
  """Returns a small copy of an animated picture as a data address."""
  try:
    with Image.open(path) as picture:
      frames, durations = [], []
      for frame in ImageSequence.Iterator(picture):
        frames.append(frame.convert("RGB"))
        # Known only when the frame has been decoded.
        durations.append(frame.info.get("duration", _FRAME_MS))
  except OSError as error:
    raise ReportError(
      f"{path} is not a picture ({error}): remove it or write it again"
    ) from error
  for frame in frames:
    frame.thumbnail((_SIDE, _SIDE))
  buffer = io.BytesIO()
  frames[0].save(
    buffer,
    "WEBP",
    save_all=True,
    append_images=frames[1:],
    duration=durations,
    loop=0,
    quality=70,
  )
  data = base64.b64encode(buffer.getvalue()).decode()
  return f"data:image/webp;base64,{data}"


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes the report of the folder named on the command line."""
  parser = argparse.ArgumentParser(
    prog="python -m vidjax.report", description=main.__doc__
  )
  parser.add_argument("workdir", type=pathlib.Path, help="folder of a run")
  workdir = parser.parse_args(arguments).workdir
  try:
    print(write_report(workdir))
  except (ReportError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
