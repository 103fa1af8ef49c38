"""The report on an index: JSON for programs, a page for people."""

import base64
import collections
import io
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vidjax.data.formats import Listing
from vidjax.data.index import Row
from vidjax.data.inspection import Inspection
from vidjax.data.manifest import GOOD

_NAMED = 20  # bad files that the text names
_ROWS = 500  # of the page's tables
_BINS = 30
_NAMED_CLASSES = 12  # a chart of more has no room for their names
_LETTERS = 24  # of these names
_COLOUR = "#2a6fdb"


def summarise(
  listing: Listing, rows: Mapping[str, Sequence[Row]], **about: Any
) -> dict[str, Any]:
  """Returns the report on an index, ready for JSON.

  Args:
    listing: the annotations.
    rows: of each split.
    **about: further entries for its start.
  """
  files = {
    row.entry.path: row.found for clips in rows.values() for row in clips
  }
  return {
    **about,
    "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    "videos": str(listing.videos),
    "files": len(files),
    "status": _count(found.status for found in files.values()),
    "notes": _count(note for found in files.values() for note in found.notes),
    "codecs": _count(found.codec for found in files.values() if found.codec),
    "hours": round(sum(f.duration for f in files.values()) / 3600, 3),
    "bytes": sum(found.size for found in files.values()),
    "shared": _shared(rows),
    "heads": {head: list(names) for head, names in listing.heads.items()},
    "splits": {
      split: _of_split(clips, listing) for split, clips in rows.items()
    },
    "bad": [
      {"path": path, "status": found.status, "message": found.message}
      for path, found in files.items()
      if found.status != GOOD
    ],
    "odd": [
      {"path": path, "notes": list(found.notes)}
      for path, found in files.items()
      if found.notes
    ],
  }


def _count(names: Iterable[str]) -> dict[str, int]:
  return dict(collections.Counter(names).most_common())


def _shared(rows: Mapping[str, Sequence[Row]]) -> dict[str, int]:
  """How many files are in each two splits; they should be in one."""
  paths = {
    split: {row.entry.path for row in clips if row.span is None}
    for split, clips in rows.items()
  }
  names = list(paths)
  return {
    f"{a}, {b}": len(paths[a] & paths[b])
    for i, a in enumerate(names)
    for b in names[i + 1 :]
    if paths[a] & paths[b]
  }


def _of_split(clips: Sequence[Row], listing: Listing) -> dict[str, Any]:
  good = [row for row in clips if row.status == GOOD]
  return {
    "clips": len(clips),
    "status": _count(row.status for row in clips),
    "heads": {
      head: _of_head(
        collections.Counter(r.entry.labels[i] for r in good), names
      )
      for i, (head, names) in enumerate(listing.heads.items())
    },
  }


def _of_head(counts: Mapping[int, int], names: Sequence[str]) -> dict[str, Any]:
  return {
    "classes": len(names),
    "clips": [counts.get(i, 0) for i in range(len(names))],
    "empty": [name for i, name in enumerate(names) if not counts.get(i)],
  }


def describe(report: Mapping[str, Any]) -> str:
  """Returns a report as a few lines of text."""
  lines = [
    f"{report['files']} files, {report['hours']} hours, "
    f"{report['bytes'] / 1e9:.2f} GB: {_list(report['status'])}"
  ]
  if report["notes"]:
    lines.append(f"odd, but usable: {_list(report['notes'])}")
  for split, found in report["splits"].items():
    heads = ", ".join(
      f"{found_head['classes']} {'classes' if head == 'label' else head + 's'}"
      + (f" ({len(found_head['empty'])} empty)" if found_head["empty"] else "")
      for head, found_head in found["heads"].items()
    )
    lines.append(f"{split}: {found['clips']} clips, {heads}")
    if set(found["status"]) != {GOOD}:
      lines[-1] += f"; {_list(found['status'])}"
  for splits, count in report["shared"].items():
    lines.append(f"warning: {count} files are in both splits {splits}")
  for bad in report["bad"][:_NAMED]:
    lines.append(f"  {bad['message']}")
  if len(report["bad"]) > _NAMED:
    lines.append(f"  and {len(report['bad']) - _NAMED} more in report.json")
  return "\n".join(lines)


def _list(counts: Mapping[str, int]) -> str:
  return ", ".join(f"{count} {name}" for name, count in counts.items())


def write_page(
  path: pathlib.Path,
  report: Mapping[str, Any],
  rows: Mapping[str, Sequence[Row]],
) -> None:
  """Writes a report as one HTML page with charts and pictures inside.

  Args:
    path: of the page.
    report: of `summarise`.
    rows: of each split.
  """
  files = {
    row.entry.path: row.found for clips in rows.values() for row in clips
  }
  good = [found for found in files.values() if found.status == GOOD]
  pictures = [
    (name, found.thumbnail) for name, found in files.items() if found.thumbnail
  ]
  charts = [chart(good) for chart in _CHARTS] if good else []
  for split, found in report["splits"].items():
    for head, of_head in found["heads"].items():
      title = f"{split}: clips by {head}"
      names = report["heads"][head]
      charts.append(_class_chart(title, of_head["clips"], names))
  page = jinja2.Environment(autoescape=True).from_string(_PAGE)
  html = page.render(
    report=report,
    text=describe(report),
    charts=charts,
    pictures=pictures,
    bad=report["bad"][:_ROWS],
    odd=report["odd"][:_ROWS],
    rows=_ROWS,
  )
  path.write_text(html, "utf-8")


def _duration_chart(good: Sequence[Inspection]) -> str:
  seconds = [found.duration for found in good if found.duration]
  return _histogram("Seconds", seconds)


def _size_chart(good: Sequence[Inspection]) -> str:
  return _histogram(
    "Pixels of the short side", [min(f.width, f.height) for f in good]
  )


def _rate_chart(good: Sequence[Inspection]) -> str:
  return _histogram("Frames per second", [f.fps for f in good if f.fps])


def _group_chart(good: Sequence[Inspection]) -> str:
  return _histogram(
    "Frames from keyframe to keyframe",
    [f.frames / len(f.keyframes) for f in good if f.keyframes],
  )


_CHARTS = (_duration_chart, _size_chart, _rate_chart, _group_chart)


def _histogram(title: str, values: Sequence[int] | Sequence[float]) -> str:
  figure, axes = _axes(title)
  bins = min(max(len(set(values)), 1), _BINS)
  axes.hist(values, bins=bins, color=_COLOUR)
  axes.set_ylabel("files")
  return _svg(figure)


def _class_chart(
  title: str, counts: Sequence[int], names: Sequence[str]
) -> str:
  figure, axes = _axes(title)
  ranked = sorted(range(len(counts)), key=lambda i: -counts[i])
  axes.bar(range(len(ranked)), [counts[i] for i in ranked], color=_COLOUR)
  axes.yaxis.set_major_locator(MaxNLocator(integer=True))
  if len(ranked) <= _NAMED_CLASSES:
    labels = [names[i][:_LETTERS] for i in ranked]
    axes.set_xticks(range(len(ranked)), labels, rotation=30, ha="right")
  else:
    axes.set_xlabel("classes, the most frequent first")
  return _svg(figure)


def _axes(title: str) -> tuple[Figure, Axes]:
  figure = Figure(figsize=(4.6, 2.4), layout="constrained")
  axes = figure.subplots()
  axes.set_title(title, fontsize=10, loc="left")
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)
  return figure, axes


def _svg(figure: Figure) -> str:
  file = io.StringIO()
  FigureCanvasSVG(figure).print_svg(file)
  return base64.b64encode(file.getvalue().encode()).decode()


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Index of {{ report.videos }}</title>
<style>
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px; color: #1b2330;
  font: 15px/1.5 system-ui, sans-serif; background: #fff; }
pre { background: #f6f7f9; padding: 12px 16px; overflow-x: auto; }
.grid { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }
.pictures { grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); }
img { max-width: 100%; }
small { color: #667085; display: block; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: 4px 14px 4px 0; vertical-align: top;
  border-bottom: 1px solid #e3e7ed; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>Index of {{ report.videos }}</h1>
<p>{{ report.source }} as {{ report.format }}, {{ report.time }},
{{ report.seconds }} s with {{ report.limits.workers }} processes,
check: {{ report.limits.check }}.</p>
<pre>{{ text }}</pre>
<div class="grid">
{% for chart in charts %}
<img alt="chart" src="data:image/svg+xml;base64,{{ chart }}">
{% endfor %}
</div>
{% if bad %}
<h2>Not usable: {{ report.bad|length }}</h2>
<table>
<tr><th>verdict</th><th>file</th></tr>
{% for file in bad %}
<tr><td>{{ file.status }}</td><td>{{ file.path }}
<small>{{ file.message }}</small></td></tr>
{% endfor %}
</table>
{% if report.bad|length > rows %}<p>The rest is in report.json.</p>{% endif %}
{% endif %}
{% if odd %}
<h2>Odd, but usable: {{ report.odd|length }}</h2>
<table>
<tr><th>note</th><th>file</th></tr>
{% for file in odd %}
<tr><td>{{ file.notes|join(", ") }}</td><td>{{ file.path }}</td></tr>
{% endfor %}
</table>
{% if report.odd|length > rows %}<p>The rest is in report.json.</p>{% endif %}
{% endif %}
<h2>Some of the videos</h2>
<div class="grid pictures">
{% for name, picture in pictures %}
<div><img alt="" src="data:image/jpeg;base64,{{ picture }}">
<small>{{ name }}</small></div>
{% endfor %}
</div>
</body>
</html>
"""
