r"""What patch shift costs: PST against the same Swin, and against Video Swin.

    python -m benchmarks.patch_shift [--dtype=bfloat16] [--batch=4]

PST-T at 32 x 224 x 224 beside the same Swin without any shift and beside joint
windows of 8 x 7 x 7, and PST-T at 16, 32 and 64 frames.
"""

import argparse
import json
import statistics
from typing import Any

import jax

from benchmarks.side_by_side import (
  PROGRAMS,
  compile_program,
  count_operations,
  interleave,
  ratios,
  temporary_bytes,
)
from vidjax.models.registry import create_model

NONE = {"op": "none"}
# Label: options of the model, and frames.
SHIFTS: dict[str, tuple[dict[str, Any], int]] = {
  "PST": ({}, 32),
  "no shift": ({"temporal": NONE}, 32),
  "joint 8x7x7": ({"temporal": NONE, "window": (8, 7, 7)}, 32),
}
LENGTHS: dict[str, tuple[dict[str, Any], int]] = {
  f"PST, {frames} frames": ({"bias_frames": frames // 2}, frames)
  for frames in (16, 32, 64)
}


def compare(
  what: str,
  table: dict[str, tuple[dict[str, Any], int]],
  base: str,
  arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
  """Times a program of every model of a table, and prints its lines."""
  built = {}
  for label, (options, frames) in table.items():
    model = create_model(
      arguments.model,
      dtype=arguments.dtype,
      dropout_rate=0.0,
      drop_path=0.0,
      **options,
    )
    shape = (arguments.batch, frames, 224, 224, 3)
    video = jax.random.normal(jax.random.key(0), shape)
    built[label] = compile_program(model, what, video)
  runs = {label: run for label, (_, run) in built.items()}
  times = interleave(runs, arguments.rounds)
  rows = []
  for label, (program, _) in built.items():
    ratio, best = ratios(times, label, base)
    rows.append(
      {
        "program": what,
        "model": label,
        "median_ms": 1e3 * statistics.median(times[label]),
        "ratio_of_medians": ratio,
        "ratio_of_minima": best,
        "temporary_mib": temporary_bytes(program) / 2**20,
        "scatters": count_operations(program, "scatter"),
      }
    )
    print(
      f"{what:<11} {label:<15} {rows[-1]['median_ms']:9.1f} ms, "
      f"{ratio:.3f} of {base} (minima {best:.3f}), "
      f"{rows[-1]['temporary_mib']:7.0f} MiB, "
      f"{rows[-1]['scatters']} scatters",
      flush=True,
    )
  return rows


def main() -> None:
  """Prints a table and one JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="pst_t_k400")
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=9)
  arguments = parser.parse_args()
  rows = []
  for what in PROGRAMS:
    rows += compare(what, SHIFTS, "no shift", arguments)
    rows += compare(what, LENGTHS, "PST, 16 frames", arguments)
  device = jax.devices()[0].device_kind
  print(json.dumps({"device": device, **vars(arguments), "rows": rows}))


if __name__ == "__main__":
  main()
