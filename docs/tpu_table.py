r"""Compiles the rows that the table of docs/tpu.md lacks.

    PYTHONPATH=.venv/libtpu python -m docs.tpu_table [--only=sifa]

Every published page on three slices, with as many clips on each device as the
page's batch gives to each of 16; pages of long clips on the slice that their
mesh splits frames over. Rows that are there stay: to compile one anew, take it
out. A row takes one core 2 to 17 minutes, and several commands may run at once
if their `--only` differ. `--list` says what is missing; with `--largest-batch`,
which takes two to three times as long, also the rows that lack that figure.
"""

import argparse
import importlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "tpu.md"
DTYPE = "bfloat16"
# Devices of the slices; the first is what the batches of the pages are for.
SLICES = {"v5e:4x4": 16, "v5e:16x16": 256, "v5p:2x2x4": 16}
LONG_SLICE = "v5e:2x4"
_NOT_PAGES = ("__init__", "common")
_UNPUBLISHED = ("_recipe", "_motion")


class Row(NamedTuple):
  """A program of the table.

  Attributes:
    page: name of the configuration.
    topology: the slice.
    clips: of a train step, over all devices.
    evaluated: clips of an evaluation step.
  """

  page: str
  topology: str
  clips: int
  evaluated: int

  @property
  def cells(self) -> str:
    """The row's first three cells, which tell it from others."""
    return (
      f"| `{self.page}.py`, dtype={DTYPE} | {self.topology} | {self.clips} |"
    )

  @property
  def command(self) -> list[str]:
    """What compiles the row and adds it to the table."""
    options = {
      "config": f"configs/{self.page}.py",
      "config.dtype": DTYPE,
      "config.data.batch_size": self.clips,
      "config.eval.batch_size": self.evaluated,
      "topology": self.topology,
      "append": TABLE,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "vidjax.tools.aot", *arguments]


def rows() -> Iterator[Row]:
  """Yields the rows of a complete table, in its order."""
  for path in sorted((ROOT / "configs").glob("*.py")):
    page = path.stem
    if page in _NOT_PAGES or page.endswith(_UNPUBLISHED):
      continue
    config = importlib.import_module(f"configs.{page}").get_config()
    batch, evaluated = config.data.batch_size, config.eval.batch_size
    if config.mesh.frames > 1:
      yield Row(page, LONG_SLICE, batch, evaluated)
      continue
    parts = config.train.accumulate
    reference = SLICES["v5e:4x4"]
    each = round(batch / reference / parts)  # clips of a device's micro-batch
    for topology, devices in SLICES.items():
      share = devices // reference
      yield Row(page, topology, each * parts * devices, evaluated * share)


def missing(text: str, only: str = "", *, largest: bool = False) -> list[Row]:
  """Returns the rows that a table lacks.

  Args:
    text: with the table.
    only: part of the pages' names.
    largest: a row without the largest batch counts as missing.
  """

  def complete(row: Row) -> bool:
    lines = [line for line in text.splitlines() if line.startswith(row.cells)]
    return any(not (largest and line.endswith("| - |")) for line in lines)

  return [row for row in rows() if only in row.page and not complete(row)]


def in_order(text: str) -> str:
  """Returns the text with the rows of its table in the order of `rows`."""
  lines = text.splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith("| `"))
  found = [row.cells for row in rows()]

  def place(line: str) -> int:
    return next(
      (i for i, cells in enumerate(found) if line.startswith(cells)), len(found)
    )

  return "\n".join(lines[:start] + sorted(lines[start:], key=place)) + "\n"


def main() -> int:
  """Compiles what is missing; returns the number of rows that failed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--list", action="store_true", help="compile nothing")
  parser.add_argument("--largest-batch", action="store_true")
  parser.add_argument("--only", default="", help="part of a page's name")
  arguments = parser.parse_args()
  largest = arguments.largest_batch
  todo = missing(TABLE.read_text(), arguments.only, largest=largest)
  failed = 0
  for number, row in enumerate(todo, 1):
    print(f"{number}/{len(todo)} {row.cells}", flush=True)
    if arguments.list:
      continue
    command = row.command + ["--largest-batch"] * largest
    failed += subprocess.run(command, cwd=ROOT, check=False).returncode != 0
    TABLE.write_text(in_order(TABLE.read_text()))
  return failed


if __name__ == "__main__":
  sys.exit(main())
