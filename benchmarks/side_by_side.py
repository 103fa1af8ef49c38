"""Times several models in turns in one process; what benchmarks share.

A busy or throttled machine slows all sides alike, so that the ratio of the
medians is what counts.
"""

import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vidjax.nn.functional import merge, split

PROGRAMS = ("forward", "train step")


def compile_program(
  model: Any, what: str, video: jax.Array
) -> tuple[Any, Callable[[], Any]]:
  """Compiles a program of a model.

  Args:
    model: with real weights.
    what: "forward", or "train step" (forward, backward, SGD).
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

  program = {"forward": forward, "train step": train_step}[what]
  compiled = jax.jit(program).lower(params, video).compile()
  return compiled, lambda: compiled(params, video)


def count_operations(compiled: Any, names: str) -> int:
  """Returns how many operations "a|b|c" an optimised program has."""
  return len(re.findall(rf"= \S+ (?:{names})\(", compiled.as_text()))


def temporary_bytes(compiled: Any) -> int:
  """Returns the memory that a program needs beside inputs and outputs."""
  return compiled.memory_analysis().temp_size_in_bytes


def interleave(
  runs: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Times each run once a round, in turns; the first round is not counted."""
  times: dict[str, list[float]] = {name: [] for name in runs}
  for number in range(rounds + 1):
    names = list(runs)
    for name in names if number % 2 else names[::-1]:
      start = time.perf_counter()
      jax.block_until_ready(runs[name]())
      if number:
        times[name].append(time.perf_counter() - start)
  return times


def ratios(
  times: Mapping[str, list[float]], name: str, base: str
) -> tuple[float, float]:
  """Returns the ratio of the medians and that of the minima."""
  return (
    statistics.median(times[name]) / statistics.median(times[base]),
    min(times[name]) / min(times[base]),
  )
