"""What became of every key of a source and every array of a model."""

import dataclasses
from collections.abc import Sequence

from vidjax.nn.functional import Tree
from vidjax.weights.keys import Row

LISTED = 8  # rows of each list in the short text


@dataclasses.dataclass(frozen=True)
class Report:
  """A conversion in words.

  Attributes:
    family: name of the source's family.
    title: what the family is.
    model: class of the model.
    notes: what was done to all arrays.
    rows: the filled arrays.
    ignored: source keys that vidjax does not need, and why.
    fresh: paths that keep the model's initial values, and why.
  """

  family: str
  title: str
  model: str
  notes: tuple[str, ...]
  rows: tuple[Row, ...]
  ignored: tuple[tuple[str, str], ...]
  fresh: tuple[tuple[str, str], ...]

  def __str__(self) -> str:
    return self._text(LISTED)

  def table(self) -> str:
    """Returns the text with every key and path."""
    return self._text(None)

  def _text(self, listed: int | None) -> str:
    lines = [
      f"{self.title} (family {self.family}) -> {self.model}: "
      f"{len(self.rows)} arrays filled, {len(self.fresh)} fresh, "
      f"{len(self.ignored)} source keys ignored"
    ]
    lines += [f"  {note}" for note in self.notes]
    # What a reader must know comes first.
    lines += _section("fresh", self.fresh, listed)
    lines += _section("ignored", self.ignored, listed)
    resized = [(row.path, row.transform) for row in self.rows if row.resized]
    lines += _section("resized", resized, listed)
    rows = [
      (r.source, str(r.shape), "->", r.path, str(r.path_shape), r.transform)
      for r in self.rows
    ]
    return "\n".join(lines + _section("filled", rows, listed))


def _section(
  title: str, rows: Sequence[Sequence[str]], listed: int | None
) -> list[str]:
  """Lines of aligned columns, the first rows only."""
  if not rows:
    return []
  shown = rows[:listed]
  widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
  lines = [f"  {title}:"]
  for row in shown:
    cells = (c.ljust(w) for c, w in zip(row, widths, strict=True))
    lines.append("    " + "  ".join(cells).rstrip())
  if len(shown) < len(rows):
    more = len(rows) - len(shown)
    lines.append(f"    and {more} more; report.table() lists all")
  return lines


@dataclasses.dataclass(frozen=True)
class Converted:
  """Weights for a model, and where they are from.

  Attributes:
    params: parameters, as `vidjax.nn.functional.split` returns them.
    stats: running statistics, too.
    report: every source key and every array.
  """

  params: Tree
  stats: Tree
  report: Report
