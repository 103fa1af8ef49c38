r"""What space-time mixing costs: X-ViT against the same ViT without mixing.

    python -m benchmarks.mixing [--model=xvit_b16_8f_ssv2] [--dtype=bfloat16]

Also compares the transposes in the compiled programs, and on accelerators
prints the share of the peak FLOP/s.
"""

import argparse
import json
import statistics
from typing import Any

import jax
from flax import nnx

from benchmarks.side_by_side import (
  PROGRAMS,
  compile_program,
  count_operations,
  interleave,
  keep_memory,
  ratios,
)
from vidjax.models.cost import multiply_adds
from vidjax.models.registry import create_model, model_spec
from vidjax.train.throughput import peak_flops


def main() -> None:
  """Prints a table and one JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="xvit_b16_8f_ssv2")
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=15)
  arguments = parser.parse_args()
  keep_memory()
  name, spec = arguments.model, model_spec(arguments.model)
  size = spec.image_size
  video = jax.random.normal(
    jax.random.key(0), (arguments.batch, spec.frames, size, size, 3)
  )
  abstract = nnx.eval_shape(lambda: create_model(name))
  flops = 2 * multiply_adds(abstract, video)
  peak = peak_flops(jax.devices()[0].device_kind, arguments.dtype)
  ops = {"mixing": dict(spec.options["temporal"]), "no mixing": {"op": "none"}}
  models = {
    label: create_model(
      name, temporal=op, dtype=arguments.dtype, dropout_rate=0.0
    )
    for label, op in ops.items()
  }
  result: dict[str, Any] = {
    "model": name,
    "batch": arguments.batch,
    "dtype": arguments.dtype,
    "device": jax.devices()[0].device_kind,
  }
  for what in PROGRAMS:
    built = {
      label: compile_program(model, what, video)
      for label, model in models.items()
    }
    runs = {label: run for label, (_, run) in built.items()}
    times = interleave(runs, arguments.rounds)
    medians = {label: statistics.median(t.wall) for label, t in times.items()}
    ratio = ratios(times, "mixing", "no mixing")
    multiple = 1 if what == "forward" else 3
    result[what] = {
      "mixing_ms": 1e3 * medians["mixing"],
      "no_mixing_ms": 1e3 * medians["no mixing"],
      "ratio": ratio._asdict(),
      "transposes": {
        label: count_operations(program, "transpose|copy")
        for label, (program, _) in built.items()
      },
      "peak_share": peak and multiple * flops / medians["mixing"] / peak,
    }
    print(
      f"{what:<11} mixing {1e3 * medians['mixing']:9.1f} ms, without "
      f"{1e3 * medians['no mixing']:9.1f} ms: ratio {ratio.medians:.3f} "
      f"(minima {ratio.minima:.3f}, CPU {ratio.cpu:.3f}); transposes and "
      f"copies {result[what]['transposes']}",
      flush=True,
    )
  print(json.dumps(result))


if __name__ == "__main__":
  main()
