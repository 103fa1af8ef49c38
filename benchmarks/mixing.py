r"""What space-time mixing costs: X-ViT against the same ViT without mixing.

    python benchmarks/mixing.py [--model=xvit_b16_8f_ssv2] [--dtype=bfloat16]

Forward passes and train steps (forward, backward, SGD) of both models take
turns in one process, so that a busy machine slows both; the ratio of the
medians is what counts. Also compares the transposes in the compiled programs,
and on accelerators prints the share of the peak FLOP/s.
"""

import argparse
import functools
import json
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vidjax.models.cost import multiply_adds
from vidjax.models.registry import create_model, model_spec
from vidjax.nn.functional import merge, split
from vidjax.train.throughput import peak_flops


def build(name: str, op: dict[str, Any], dtype: str) -> tuple[Any, Any, Any]:
  """Returns definition, parameters and statistics of one of the models."""
  model = create_model(name, temporal=op, dtype=dtype, dropout_rate=0.0)
  return split(model)


def programs(definition: Any, stats: Any) -> dict[str, Callable[..., Any]]:
  """Returns the two functions that are timed, not yet compiled."""

  def forward(params, video):
    return merge(definition, params, stats)(video)

  def train_step(params, video):
    def loss(params):
      return jnp.mean(forward(params, video) ** 2)

    gradients = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients)

  return {"forward": forward, "train step": train_step}


def count_transposes(compiled: Any) -> int:
  """Returns the transposes and copies in an optimised program."""
  return len(re.findall(r"= \S+ (?:transpose|copy)\(", compiled.as_text()))


def interleave(
  runs: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Times each run once a round, in turns; the first round is not counted."""
  times: dict[str, list[float]] = {name: [] for name in runs}
  for number in range(rounds + 1):
    order = list(runs) if number % 2 else list(reversed(runs))
    for name in order:
      start = time.perf_counter()
      jax.block_until_ready(runs[name]())
      if number:
        times[name].append(time.perf_counter() - start)
  return times


def main() -> None:
  """Prints a table and one JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="xvit_b16_8f_ssv2")
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=15)
  arguments = parser.parse_args()
  name, spec = arguments.model, model_spec(arguments.model)
  size = spec.image_size
  video = jax.random.normal(
    jax.random.key(0), (arguments.batch, spec.frames, size, size, 3)
  )
  abstract = nnx.eval_shape(lambda: create_model(name))
  flops = 2 * multiply_adds(abstract, video)
  peak = peak_flops(jax.devices()[0].device_kind, arguments.dtype)
  ops = {"mixing": dict(spec.options["temporal"]), "no mixing": {"op": "none"}}
  built = {label: build(name, op, arguments.dtype) for label, op in ops.items()}
  result: dict[str, Any] = {
    "model": name,
    "batch": arguments.batch,
    "dtype": arguments.dtype,
    "device": jax.devices()[0].device_kind,
  }
  for what, multiple in (("forward", 1), ("train step", 3)):
    compiled = {
      label: jax.jit(programs(definition, stats)[what])
      .lower(params, video)
      .compile()
      for label, (definition, params, stats) in built.items()
    }
    runs = {
      label: functools.partial(program, built[label][1], video)
      for label, program in compiled.items()
    }
    times = interleave(runs, arguments.rounds)
    medians = {label: statistics.median(t) for label, t in times.items()}
    ratio = medians["mixing"] / medians["no mixing"]
    best = min(times["mixing"]) / min(times["no mixing"])
    result[what] = {
      "mixing_ms": 1e3 * medians["mixing"],
      "no_mixing_ms": 1e3 * medians["no mixing"],
      "ratio_of_medians": ratio,
      "ratio_of_minima": best,
      "transposes": {k: count_transposes(c) for k, c in compiled.items()},
      "peak_share": peak and multiple * flops / medians["mixing"] / peak,
    }
    print(
      f"{what:<11} mixing {1e3 * medians['mixing']:9.1f} ms, without "
      f"{1e3 * medians['no mixing']:9.1f} ms: ratio {ratio:.3f} "
      f"(minima {best:.3f}); transposes and copies "
      f"{result[what]['transposes']}",
      flush=True,
    )
  print(json.dumps(result))


if __name__ == "__main__":
  main()
