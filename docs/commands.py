r"""Runs the commands that the pages show.

    python -m docs.commands [PAGE ...]

Every block of `bash`, `console` (lines that start with $) or `python` is run,
from the top of a page to its end, or says why not in a note above it that no
reader sees; another note runs shell commands that the page does not show:

    <!-- not run: needs a TPU -->
    <!-- prepare: cp -r videos mine -->

All pages share one new folder, in the order of the site: what one makes, a
later one has. The first page, which trains `runs/demo`, is always run. In the
folder are `configs` and `videos`, real ones where ../shared has them. Python
blocks of a page share their variables. Trainings are cut to two steps: pages of
`configs` run as their variant "smoke", those of the motion clips with the same
model on fewer clips.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 300  # a block may take
LANGUAGES = ("bash", "console", "python")
# Pages that others write or that are made, and why none of their blocks runs.
EXCUSED = {
  "models.md": "written by vidjax.tools.zoo; needs an official checkpoint",
  "tpu.md": "compiles for TPUs, which takes libtpu and many minutes",
}
# What a block that names no language is taken for.
_GUESSES = {
  "console": re.compile(r"^\$ ", re.M),
  "bash": re.compile(r"^(\w+=\S+ )*(python|pip|make|git|cd) ", re.M),
}

_FENCE = re.compile(
  r"(?P<notes>(?:^ *<!-- (?:not run|prepare): .*? -->\n)*)"
  r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
  re.M | re.S,
)
_NOTE = re.compile(r"<!-- (not run|prepare): (.*?) -->", re.S)
_FEW = shlex.join(
  f"--config.{key}={value}"
  for key, value in {
    "motion.train_clips": 32,
    "motion.val_clips": 12,
    "train.epochs": 0,
    "train.steps": 2,
    "schedule.warmup_epochs": 0,
    "eval.batch_size": 12,
    "eval.every_epochs": 0,
    "eval.every_steps": 2,
    "checkpoint.every_epochs": 0,
    "checkpoint.every_steps": 2,
  }.items()
)
# Names of ../shared/videos that pages use; motion clips stand for them where
# there is no such folder.
_VIDEOS = ("arm_wrestling.mp4", "class_test.mp4", "nasa_13013.mp4")


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block of a page.

  Attributes:
    page: file name below docs/.
    line: of the fence, from 1.
    language: as written behind the fence, or as its commands look; may be
      empty.
    code: without the fence.
    excuse: why it is not run; empty if it is.
    prepare: shell commands to run first.
  """

  page: str
  line: int
  language: str
  code: str
  excuse: str
  prepare: str


def read_blocks(page: str) -> list[Block]:
  """Returns the fenced blocks of a page below docs/."""
  text = (ROOT / "docs" / page).read_text()
  blocks = []
  for match in _FENCE.finditer(text):
    notes: dict[str, list[str]] = {"not run": [], "prepare": []}
    for kind, note in _NOTE.findall(match["notes"]):
      notes[kind].append(note)
    indent = len(match["indent"])
    blocks.append(
      Block(
        page=page,
        line=text[: match.start("language")].count("\n") + 1,
        language=match["language"] or _guess(match["code"]),
        code="".join(
          line[indent:] for line in match["code"].splitlines(keepends=True)
        ),
        excuse=" ".join(notes["not run"]) or EXCUSED.get(page, ""),
        prepare="\n".join(notes["prepare"]),
      )
    )
  return blocks


def _guess(code: str) -> str:
  looks = (name for name, look in _GUESSES.items() if look.search(code))
  return next(looks, "")


def pages() -> list[str]:
  """Returns the written pages in the order of the site."""

  def walk(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
      yield entry
    for inner in entry if isinstance(entry, list) else ():
      yield from walk(inner)
    for inner in entry.values() if isinstance(entry, dict) else ():
      yield from walk(inner)

  nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
  return [page for page in walk(nav) if (ROOT / "docs" / page).exists()]


def shortened(command: str) -> str:
  """Returns shell commands whose trainings take two steps.

  The recipe stays what it is; the model too, on the pages of the motion clips.
  """

  def smoke(match: re.Match[str]) -> str:
    page, variant = match[1], match[2] or ""
    if re.search(r"/(xvit|tps|laps|sifa)_motion\.py$", page):
      return f"--config={page}{variant} {_FEW}"
    return f"--config={page}{f'{variant},' if variant else ':'}smoke"

  command = re.sub(r"--config=(configs/\w+\.py)(:[\w,-]+)?", smoke, command)
  return re.sub(r"(--config\.train\.steps)=\d+", r"\1=2", command)


def shell_of(block: Block) -> str:
  """Returns the commands of a block of `bash` or `console`."""
  if block.language == "bash":
    return block.code
  joined = block.code.replace("\\\n", "")
  return "\n".join(
    line.removeprefix("$ ")
    for line in joined.splitlines()
    if line.startswith("$ ")
  )


class BlockError(Exception):
  """A block ended with an error; the text is what it printed."""


def run_shell(commands: str) -> None:
  """Runs shell commands in the current folder.

  Raises:
    BlockError: if one of them fails, or they take too long.
  """
  # What this process simulates, so that its Python blocks have a mesh.
  environment = {
    key: value
    for key, value in os.environ.items()
    if key != "JAX_NUM_CPU_DEVICES"
  }
  try:
    done = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", shortened(commands)],
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      timeout=SECONDS,
    )
  except subprocess.TimeoutExpired as error:
    raise BlockError(f"it took more than {SECONDS} seconds") from error
  if done.returncode:
    raise BlockError(done.stdout[-4000:])


def run_python(code: str, variables: dict[str, Any], name: str) -> None:
  """Runs Python code in this process, in the current folder.

  Raises:
    BlockError: if it raises.
  """
  with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
    try:
      exec(compile(code, name, "exec"), variables)
    except Exception as error:
      raise BlockError(traceback.format_exc()) from error


def run_page(page: str, done: set[str]) -> int:
  """Runs the blocks of a page; returns how many failed.

  Args:
    page: file name below docs/.
    done: shell blocks that ran on a page before; those of this one are added.
  """
  variables: dict[str, Any] = {"__name__": "__main__"}
  failures = 0
  for block in read_blocks(page):
    name = f"docs/{page}:{block.line}"
    if block.language not in LANGUAGES:
      continue
    if block.excuse:
      print(f"{'':>7}  {name}  not run: {block.excuse}")
      continue
    if block.code in done:
      print(f"{'':>7}  {name}  has run before")
      continue
    if block.language != "python":
      done.add(block.code)
    start = time.perf_counter()
    try:
      if block.prepare:
        run_shell(block.prepare)
      if block.language == "python":
        run_python(block.code, variables, name)
      else:
        run_shell(shell_of(block))
      text = "ok"
    except BlockError as error:
      failures += 1
      text = f"FAILED\n{block.code}\n{error}"
    print(f"{time.perf_counter() - start:6.1f}s  {name}  {text}", flush=True)
  return failures


def set_up(folder: pathlib.Path) -> None:
  """Makes the folder that the commands run in, and goes there."""
  os.environ["PATH"] = os.pathsep.join(
    (os.path.dirname(sys.executable), os.environ["PATH"])
  )
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
  # Most of the time would be compilation.
  os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / ".xla"))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
  os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
  for name in ("configs", "benchmarks"):
    (folder / name).symlink_to(ROOT / name)
  real = ROOT.parent / "shared" / "videos"
  os.chdir(folder)
  if real.is_dir():
    (folder / "videos").symlink_to(real)
    return
  from vidjax.data.motion import write_motion_clips

  clips = write_motion_clips(
    folder / "clips", train_clips=12, val_clips=12, frames=32, size=64, seed=0
  )
  (folder / "videos").mkdir()
  found = sorted((clips / "train").rglob("*.mp4"))
  for name, clip in zip(_VIDEOS, found, strict=False):
    (folder / "videos" / name).symlink_to(clip)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the pages that are named, or all."""
  parser = argparse.ArgumentParser(
    prog="python -m docs.commands",
    description="Runs the commands that the pages of the site show.",
  )
  parser.add_argument("pages", nargs="*", metavar="PAGE", help="such as data")
  options = parser.parse_args(arguments)
  known = pages()
  wanted = [f"{name.removesuffix('.md')}.md" for name in options.pages]
  unknown = sorted(set(wanted) - set(known))
  if unknown:
    parser.error(f"there is no page {', '.join(unknown)}; there are {known}")
  chosen = [
    page for page in known if not wanted or page in (*wanted, "quickstart.md")
  ]
  start = time.perf_counter()
  with tempfile.TemporaryDirectory(prefix="vidjax-docs-") as folder:
    before = pathlib.Path.cwd()
    set_up(pathlib.Path(folder))
    try:
      done: set[str] = set()
      failures = sum(run_page(page, done) for page in chosen)
    finally:
      os.chdir(before)
  print(
    f"{len(chosen)} pages, {failures} blocks failed, "
    f"{time.perf_counter() - start:.0f} s, {sum(os.times()[:4]):.0f} CPU-s"
  )
  return min(failures, 1)


if __name__ == "__main__":
  sys.exit(main())
