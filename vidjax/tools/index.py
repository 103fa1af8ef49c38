r"""Makes a manifest of your videos, and tells which of them cannot be used.

    python -m vidjax.tools.index /data/mine --format=folders --out=/data/mine
    python -m vidjax.tools.index annotations --format=kinetics \
        --videos=/data/k400 --out=/data/k400 --workers=32

Every video is decoded in a child process of limited time and memory: a file
that is damaged, or that makes the decoder hang or crash, becomes a line of the
report, and never an end of the index. An interrupted index goes on where it was
when the same command is given again; files that have not changed are not looked
at twice.

OUT then holds `labels.json` and a manifest of each split (docs/data.md),
`report.html` and `report.json`, and the journal of all results.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vidjax.data.formats import FORMATS, Request, read_listing
from vidjax.data.formats.base import HEAD, Heads, json_file, text_lines
from vidjax.data.guard import InspectorError
from vidjax.data.index import Limits, hold_out, index_videos
from vidjax.data.index_report import describe, summarise, write_page
from vidjax.data.inspection import CHECKS
from vidjax.data.manifest_writer import write_data_set


def known_heads(
  out: pathlib.Path, classes: pathlib.Path | None
) -> Heads | None:
  """Returns the classes that are known before any annotation is read.

  Args:
    out: a folder whose `labels.json`, if there is one, has them.
    classes: a file with one name a line, which goes before.

  Raises:
    FormatError: if a file is wrong.
  """
  if classes is not None:
    return {HEAD: tuple(line.strip() for line in text_lines(classes))}
  path = out / "labels.json"
  if not path.exists():
    return None
  table = json_file(path, dict)
  heads = table.get("heads", {HEAD: table.get("classes", ())})
  return {name: tuple(map(str, names)) for name, names in heads.items()}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
  """Indexes what the command line asks for.

  Returns:
    The report.

  Raises:
    ValueError: if the annotations or an option are wrong.
    OSError: if a file cannot be read or written.
  """
  began = time.monotonic()
  listing = read_listing(
    arguments.format,
    Request(
      source=arguments.source,
      videos=arguments.videos,
      split=arguments.split,
      heads=known_heads(arguments.out, arguments.classes),
    ),
  )
  if arguments.holdout:
    listing = hold_out(listing, arguments.holdout)
  limits = Limits(
    workers=arguments.workers,
    check=arguments.check,
    timeout=arguments.timeout,
    memory=arguments.memory,
  )
  rows = index_videos(listing, arguments.out, limits, progress_line())
  write_data_set(arguments.out, listing, rows, parquet=arguments.parquet)
  report = summarise(
    listing,
    rows,
    source=str(arguments.source),
    format=arguments.format,
    limits=dataclasses.asdict(limits),
    seconds=round(time.monotonic() - began, 1),
  )
  text = json.dumps(report, indent=1) + "\n"
  (arguments.out / "report.json").write_text(text, "utf-8")
  write_page(arguments.out / "report.html", report, rows)
  return report


def progress_line() -> Callable[[int, int, Mapping[str, int]], None]:
  """Returns a function that shows the progress of an index on stderr."""
  live, began = sys.stderr.isatty(), time.monotonic()
  start, shown = 0, -1.0

  def show(done: int, total: int, counts: Mapping[str, int]) -> None:
    nonlocal start, shown
    now = time.monotonic()
    if shown < 0:
      start = done
    elif done < total and now - shown < (0.2 if live else 10):
      return
    shown = now
    rate = (done - start) / max(now - began, 1e-9)
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    bad = {k: v for k, v in counts.items() if k != "ok"}
    line = f"index: {done}/{total} files, {rate:.1f}/s{left}, bad: {bad or 0}"
    end = "\n" if done == total or not live else ""
    print(f"\r\x1b[K{line}" if live else line, end=end, file=sys.stderr)

  return show


def parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  new = argparse.ArgumentParser(
    prog="python -m vidjax.tools.index",
    description=(__doc__ or "").strip(),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  path, default = pathlib.Path, Limits(workers=os.cpu_count() or 1)
  new.add_argument("source", type=path, help="annotations: a file or folder")
  new.add_argument("--format", required=True, choices=FORMATS)
  new.add_argument("--out", required=True, type=path, help="the data set")
  new.add_argument("--videos", type=path, help="folder of the videos")
  new.add_argument("--split", help="the only split, or the name of an unnamed")
  new.add_argument("--classes", type=path, help="file with one name a line")
  new.add_argument(
    "--holdout", type=float, help="share of train that becomes val"
  )
  new.add_argument("--workers", type=int, default=default.workers)
  new.add_argument(
    "--check", choices=CHECKS, default=default.check, help="frames to decode"
  )
  new.add_argument(
    "--timeout", type=float, default=default.timeout, help="seconds a video"
  )
  new.add_argument(
    "--memory", type=int, default=default.memory, help="MiB a video"
  )
  new.add_argument(
    "--parquet", action="store_true", help="write <split>.parquet, not .jsonl"
  )
  return new


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  given = parser().parse_args(arguments)
  try:
    report = run(given)
  except (ValueError, OSError, ImportError, InspectorError) as error:
    sys.exit(f"error: {error}")
  except KeyboardInterrupt:
    sys.exit("stopped: the same command goes on from here")
  print(describe(report))
  print(f"{given.out / 'report.html'}")


if __name__ == "__main__":
  main()
