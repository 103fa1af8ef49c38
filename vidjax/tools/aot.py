r"""Compiles a configuration for a TPU slice, on a machine without one.

    python -m vidjax.tools.aot --config=configs/xvit_k400.py --topology=v5e:4x4

Prints what the train step and the evaluation of one view of each video need on
each device: memory, floating point operations, collectives. Any value of the
configuration can be set as `--config.data.batch_size=128`. `--json` prints one
JSON object; `--hlo=FOLDER` writes the optimised programs. Needs libtpu:
`pip install 'vidjax[tpu-aot]'`.
"""

import importlib.util
import json
import os
import pathlib
import re
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_STEPS_PER_EPOCH = 1000  # of a data set that is not there


def slice_devices(topology: str) -> list[Any]:
  """Returns the devices of a TPU slice such as "v5e:4x4".

  Raises:
    ValueError: if libtpu is missing or does not know the topology.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "compiling for TPUs needs libtpu; pip install 'vidjax[tpu-aot]'"
    )
  from jax.experimental import topologies

  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except Exception as error:  # libtpu raises its own kinds
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"libtpu does not know the topology {topology!r} ({reason}); use one "
      "such as v5e:2x4 or v4:2x2x2"
    ) from error
  return list(found.devices)


def compile_programs(config: Any, devices: list[Any]) -> dict[str, Any]:
  """Compiles the train step and the evaluation step of a configuration.

  Args:
    config: complete configuration.
    devices: of the mesh.

  Returns:
    Compiled programs, by "train" and "eval".

  Raises:
    ValueError: if a part of the configuration does not fit another.
  """
  import jax
  from jax.sharding import NamedSharding, PartitionSpec

  from vidjax.train.durations import in_steps
  from vidjax.train.metrics import ClassificationSums
  from vidjax.train.run import build
  from vidjax.train.sharding import batch_sharding
  from vidjax.train.step import make_eval_step

  total = in_steps("train.", config.train, _STEPS_PER_EPOCH)
  run = build(config, total, _STEPS_PER_EPOCH, devices)
  split = batch_sharding(run.mesh)
  whole = NamedSharding(run.mesh, PartitionSpec())
  data = config.data
  frame = (data.frames, data.image_size, data.image_size, 3)

  def batch(rows: int, views: tuple[int, ...], **fields: Any) -> dict[str, Any]:
    shapes = {"video": ((*views, *frame), "uint8"), "label": ((), "int32")}
    return {
      name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=split)
      for name, (shape, dtype) in (shapes | fields).items()
    }

  train = batch(data.batch_size, (), erase=((4,), "int32"), weight=((), "f4"))
  evaluated = batch(
    config.eval.batch_size,
    (1,),
    index=((), "int32"),
    mask=((), "f4"),
    readable=((), "bool"),
  )
  sums = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    jax.eval_shape(lambda: ClassificationSums.empty(config.model.num_classes)),
  )
  evaluate = jax.jit(
    make_eval_step(run.definition, config),
    out_shardings=whole,
    donate_argnums=2,
  )
  state = run.abstract_state
  return {
    "train": run.train_step.lower(state, train).compile(),
    "eval": evaluate.lower(
      state.eval_params, state.stats, sums, evaluated
    ).compile(),
  }


def describe(program: Any) -> dict[str, Any]:
  """Returns what a compiled program needs on each device.

  Returns:
    `hbm_peak_bytes`: arguments, results and temporaries at once.
    `temporary_bytes`: the temporaries alone. `flops`: floating point operations
    as XLA counts them, a loop (over micro-batches) as one turn of it.
    `collectives`: their number by kind. `gathers` and `scatters`:
    operations left in the program.
  """
  memory = program.memory_analysis()
  text = program.as_text()
  cost = program.cost_analysis()
  held = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
  )

  def count(names: str) -> int:
    return len(re.findall(rf"= .*? (?:{names})(?:-start)?\(", text))

  return {
    "hbm_peak_bytes": held + memory.temp_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    "flops": (cost[0] if isinstance(cost, list) else cost).get("flops"),
    "collectives": {
      name: number for name in COLLECTIVES if (number := count(name))
    },
    "gathers": count("gather"),
    "scatters": count("scatter"),
  }


def _read_flags(arguments: list[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command = ["aot", *arguments]
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file[:variant].",
    flag_values=values,
    sys_argv=command,
  )
  flags.mark_flag_as_required("config", flag_values=values)
  flags.DEFINE_string("topology", "v5e:4x4", "TPU slice.", flag_values=values)
  flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
  flags.DEFINE_string("hlo", "", "Folder of programs.", flag_values=values)
  values(command)
  return values


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  # The slice is not of this machine: jax must not look for one.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  try:
    values = _read_flags(sys.argv[1:] if arguments is None else arguments)
    config = values.config
    programs = compile_programs(config, slice_devices(values.topology))
  except (flags.Error, ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  result: dict[str, Any] = {
    "topology": values.topology,
    "global_batch": config.data.batch_size,
  }
  for name, program in programs.items():
    result[name] = describe(program)
    if values.hlo:
      folder = pathlib.Path(values.hlo)
      folder.mkdir(parents=True, exist_ok=True)
      (folder / f"{name}.txt").write_text(program.as_text())
  if values.json:
    print(json.dumps(result))
    return 0
  print(f"{config.name} on {values.topology}, {config.data.batch_size} clips")
  for name in programs:
    row = result[name]
    print(
      f"{name:<6} {row['hbm_peak_bytes'] / 2**30:6.2f} GiB a device "
      f"({row['temporary_bytes'] / 2**30:.2f} temporary), "
      f"{row['flops'] / 1e12:.3f} TFLOP, collectives {row['collectives']}, "
      f"{row['gathers']} gathers, {row['scatters']} scatters"
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
