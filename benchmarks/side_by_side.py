"""Times several models in turns in one process; what benchmarks share.

A busy or throttled machine slows all sides alike, so that the ratio of the
medians is what counts. Beside it stands the ratio of the CPU seconds, which
other processes disturb less; with an accelerator it says nothing.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vidjax.models.registry import create_model
from vidjax.nn.functional import merge, split

PROGRAMS = ("forward", "train step")
# On Linux, memory is kept between two runs, in large pages. Otherwise it goes
# back to the system after each, and longer clips pay more than their share of
# page faults: on a shared machine up to half of their time. One arena, because
# glibc maps what the others cannot hold whatever it is told, and XLA computes
# in threads of its own.
_VARIABLE = "GLIBC_TUNABLES"
_KEEP_MEMORY = (
  "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
  "glibc.malloc.trim_threshold=68719476736"
)

# Label of a row: options of the model, and frames.
Table = Mapping[str, tuple[dict[str, Any], int]]


def compile_program(
  model: Any, what: str, video: jax.Array
) -> tuple[Any, Callable[[], Any]]:
  """Compiles a program of a model.

  Args:
    model: with real weights; a train step takes them away.
    what: "forward", or "train step" (forward, backward, SGD), which changes the
      parameters in place, as in training.
    video: the input.

  Returns:
    The compiled program, and a function without arguments that runs it.
  """
  definition, params, stats = split(model)

  def forward(params, video):
    return merge(definition, params, stats)(video)

  def train_step(params, video):
    def loss(params):
      return jnp.mean(forward(params, video) ** 2)

    gradients = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients)

  if what == "forward":
    compiled = jax.jit(forward).lower(params, video).compile()
    return compiled, lambda: compiled(params, video)
  donating = jax.jit(train_step, donate_argnums=0)
  compiled = donating.lower(params, video).compile()

  def run() -> Any:
    nonlocal params
    params = compiled(params, video)
    return params

  return compiled, run


def count_operations(compiled: Any, names: str) -> int:
  """Returns how many operations "a|b|c" an optimised program has."""
  return len(re.findall(rf"= \S+ (?:{names})\(", compiled.as_text()))


def temporary_bytes(compiled: Any) -> int:
  """Returns the memory that a program needs beside inputs and outputs."""
  return compiled.memory_analysis().temp_size_in_bytes


class Times(NamedTuple):
  """Seconds of the runs of a program, without its first."""

  wall: list[float]
  cpu: list[float]


class Ratios(NamedTuple):
  """A program's time over another's."""

  medians: float
  minima: float
  cpu: float  # of the fastest runs' CPU seconds


def keep_memory() -> None:
  """Starts the process again with an allocator that keeps its memory."""
  if sys.platform == "linux" and os.environ.get(_VARIABLE) != _KEEP_MEMORY:
    environment = os.environ | {_VARIABLE: _KEEP_MEMORY}
    os.execve(sys.executable, sys.orig_argv, environment)


def interleave(
  runs: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, Times]:
  """Times each run once a round, in turns; the first round is not counted."""
  times = {name: Times([], []) for name in runs}
  for number in range(rounds + 1):
    names = list(runs)
    for name in names if number % 2 else names[::-1]:
      start, used = time.perf_counter(), time.process_time()
      jax.block_until_ready(runs[name]())
      if number:
        times[name].wall.append(time.perf_counter() - start)
        times[name].cpu.append(time.process_time() - used)
  return times


def ratios(times: Mapping[str, Times], name: str, base: str) -> Ratios:
  """Returns how a program's times compare with another's."""
  one, other = times[name], times[base]
  return Ratios(
    medians=statistics.median(one.wall) / statistics.median(other.wall),
    minima=min(one.wall) / min(other.wall),
    cpu=min(one.cpu) / min(other.cpu),
  )


def read_arguments(doc: str | None, model: str) -> argparse.Namespace:
  """Reads the arguments that benchmarks of models share."""
  keep_memory()
  parser = argparse.ArgumentParser(description=doc)
  parser.add_argument("--model", default=model)
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=9)
  return parser.parse_args()


def compare(
  what: str, table: Table, base: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
  """Times a program of every model of a table, and prints its lines.

  Args:
    what: "forward" or "train step".
    table: the models.
    base: the row that the others are compared with.
    arguments: see `read_arguments`.
  """
  built = {}
  for label, (options, frames) in table.items():
    model = create_model(arguments.model, dtype=arguments.dtype, **options)
    shape = (arguments.batch, frames, 224, 224, 3)
    video = jax.random.normal(jax.random.key(0), shape)
    built[label] = compile_program(model, what, video)
  runs = {label: run for label, (_, run) in built.items()}
  times = interleave(runs, arguments.rounds)
  rows = []
  for label, (program, _) in built.items():
    ratio = ratios(times, label, base)
    rows.append(
      {
        "program": what,
        "model": label,
        "median_ms": 1e3 * statistics.median(times[label].wall),
        "ratio": ratio._asdict(),
        "temporary_mib": temporary_bytes(program) / 2**20,
        "gathers": count_operations(program, "gather"),
        "scatters": count_operations(program, "scatter"),
      }
    )
    print(
      f"{what:<11} {label:<16} {rows[-1]['median_ms']:9.1f} ms, "
      f"{ratio.medians:.3f} of {base} (minima {ratio.minima:.3f}, CPU "
      f"{ratio.cpu:.3f}), "
      f"{rows[-1]['temporary_mib']:6.0f} MiB, "
      f"{rows[-1]['gathers']} gathers, {rows[-1]['scatters']} scatters",
      flush=True,
    )
  return rows


def run_tables(
  tables: Mapping[str, Table], arguments: argparse.Namespace
) -> None:
  """Compares tables, by the label of their base row; ends with a JSON line."""
  rows = []
  for what in PROGRAMS:
    for base, table in tables.items():
      rows += compare(what, table, base, arguments)
  device = jax.devices()[0].device_kind
  print(json.dumps({"device": device, **vars(arguments), "rows": rows}))
