r"""Runs the notebooks and says how long each takes.

    python -m colabs.run [NAME ...] [--smoke] [--keep=FOLDER]

Names may be cut short: `01`, `03a`. Every notebook runs in a new, empty folder.
With `--smoke` all of them are small enough for a test on a CPU: they read the
environment variable VIDJAX_SMOKE. The exit status is 1 if one fails.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

FOLDER = pathlib.Path(__file__).resolve().parent
SECONDS = 900  # a cell may take
# Small programs: most of the time would be their compilation.
_SMOKE = {
  "VIDJAX_SMOKE": "1",
  "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


def notebooks() -> dict[str, pathlib.Path]:
  """Returns the notebooks by name, in their order."""
  return {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}


def run(
  path: pathlib.Path, folder: pathlib.Path
) -> tuple[nbformat.NotebookNode, str]:
  """Runs a notebook in a folder.

  Returns:
    The notebook with its outputs, and the error of a cell that failed, or "".
  """
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(
    notebook,
    timeout=SECONDS,
    kernel_name="python3",
    extra_arguments=["--log-level=ERROR"],
    resources={"metadata": {"path": str(folder)}},
  )
  try:
    client.execute()
  except (CellExecutionError, CellTimeoutError) as error:
    return notebook, str(error)
  return notebook, ""


@contextlib.contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
  """Sets those environment variables that are not set, for a while."""
  added = {key: value for key, value in values.items() if key not in os.environ}
  os.environ.update(added)
  try:
    yield
  finally:
    for key in added:
      del os.environ[key]


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the notebooks that are named, or all; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m colabs.run", description="Runs the notebooks."
  )
  parser.add_argument("names", nargs="*", metavar="NAME", help="such as 03a")
  parser.add_argument("--smoke", action="store_true", help="smaller sizes")
  parser.add_argument(
    "--keep", type=pathlib.Path, help="folder for notebooks with outputs"
  )
  options = parser.parse_args(arguments)
  known = notebooks()
  for name in options.names:
    if not any(stem.startswith(name) for stem in known):
      parser.error(f"there is no notebook {name}; there are {', '.join(known)}")
  wanted = tuple(options.names) or ("",)
  chosen = {k: path for k, path in known.items() if k.startswith(wanted)}
  failures, began = 0, time.perf_counter()
  for name, path in chosen.items():
    start = time.perf_counter()
    with (
      tempfile.TemporaryDirectory(prefix="vidjax-colabs-") as folder,
      variables(_SMOKE if options.smoke else {}),
    ):
      notebook, error = run(path, pathlib.Path(folder))
    failures += bool(error)
    text = f"FAILED\n{error}" if error else "ok"
    print(f"{time.perf_counter() - start:6.1f}s  {name}  {text}", flush=True)
    if options.keep:
      options.keep.mkdir(parents=True, exist_ok=True)
      nbformat.write(notebook, options.keep / path.name)
  print(
    f"{len(chosen)} notebooks, {failures} failed, "
    f"{time.perf_counter() - began:.0f} s, {sum(os.times()[:4]):.0f} CPU-s"
  )
  return min(failures, 1)


if __name__ == "__main__":
  sys.exit(main())
