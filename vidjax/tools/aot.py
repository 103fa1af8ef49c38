r"""Compiles a configuration for a TPU slice, on a machine without one.

    python -m vidjax.tools.aot --config=configs/xvit_k400.py \
        --config.dtype=bfloat16 --topology=v5e:4x4

Prints what the train step and the evaluation of one view of each video need on
each device: memory, floating point operations, collectives, and names gathers,
transpositions and float32 products that cost more than they should. Any value
of the configuration can be set as `--config.data.batch_size=128`.

`--largest-batch` searches the largest global batch whose train step fits: two
compilations give the line that memory follows, further ones verify. `--json`
prints one JSON object, `--hlo=FOLDER` writes the optimised programs,
`--append=FILE` adds a row to the Markdown table at the end of a file
(docs/tpu.md). Needs libtpu: `pip install 'vidjax[tpu-aot]'`.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from vidjax.checks import Config
from vidjax.tools import hlo

GB = 10**9
# Memory of a device in GB as the vendor states it; the runtime of a v5e leaves
# 15.75 GiB = 16.9 GB to programs, so these figures are on the safe side.
HBM_GB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
_STEPS_PER_EPOCH = 1000  # of a data set that is not there
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}  # log2
_FULL = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMGTP]?)(?: of|\))")
_MAX_VERIFICATIONS = 4


class TooLargeError(Exception):
  """A program needs more memory than a device has.

  Attributes:
    bytes: what it needs.
  """

  def __init__(self, needed: int):
    super().__init__(f"the program needs {needed / GB:.1f} GB on each device")
    self.bytes = needed


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


def hbm_bytes(topology: str) -> int | None:
  """Returns the memory of a device of a slice; None if it is not known."""
  gigabytes = HBM_GB.get(topology.partition(":")[0])
  return None if gigabytes is None else gigabytes * GB


def build_run(config: Config, devices: list[Any] | None = None) -> Any:
  """Builds a run of a data set that is not there.

  Only the schedule depends on its size.

  Args:
    config: complete configuration.
    devices: of the mesh; None takes all there are.

  Raises:
    ValueError: if a part of the configuration does not fit another.
  """
  from vidjax.train.durations import in_steps
  from vidjax.train.run import build

  epoch = config.train.steps or _STEPS_PER_EPOCH
  total = in_steps("train.", config.train, epoch)
  return build(config, total, epoch, devices)


def lower_programs(config: Config, devices: list[Any]) -> dict[str, Any]:
  """Traces the train step and the evaluation step of a configuration.

  Args:
    config: complete configuration.
    devices: of the mesh.

  Returns:
    Programs to be compiled, by "train" and "eval".

  Raises:
    ValueError: if a part of the configuration does not fit another.
  """
  import jax
  from jax.sharding import NamedSharding, PartitionSpec

  from vidjax.train.metrics import ClassificationSums
  from vidjax.train.sharding import input_sharding, on_mesh
  from vidjax.train.step import make_eval_step

  run = build_run(config, devices)
  whole = NamedSharding(run.mesh, PartitionSpec())
  data = config.data
  frame = (data.frames, data.image_size, data.image_size, 3)

  def batch(rows: int, views: tuple[int, ...], **fields: Any) -> dict[str, Any]:
    fields |= {"video": ((*views, *frame), "uint8"), "label": ((), "int32")}
    return {
      name: jax.ShapeDtypeStruct(
        (rows, *shape),
        dtype,
        sharding=input_sharding(name, (rows, *shape), run.mesh),
      )
      for name, (shape, dtype) in fields.items()
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
    "train": run.lower(state, train),
    "eval": on_mesh(run.mesh, evaluate.lower)(
      state.eval_params, state.stats, sums, evaluated
    ),
  }


def compile_program(lowered: Any) -> Any:
  """Compiles a traced program.

  Raises:
    TooLargeError: if it needs more memory than the compiler knows there is.
  """
  import jax

  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = _FULL.search(str(error))
    if needed is None:
      raise
    size = float(needed[1]) * 2 ** _UNITS[needed[2]]
    raise TooLargeError(int(size)) from error


def describe(program: Any, dtype: str) -> dict[str, Any]:
  """Returns what a compiled program needs on each device, once it is run.

  Args:
    program: compiled.
    dtype: the compute dtype.

  Returns:
    `argument_bytes`, `output_bytes` and `alias_bytes` (outputs in the place of
    arguments), `temporary_bytes`, `program_bytes` (the code), and all of them
    together `hbm_peak_bytes`. `flops`: of products and convolutions, two for a
    multiply-add, every turn of a loop counted. `collectives`: count and bytes
    by kind (`vidjax.tools.hlo.Traffic`). `warnings`: sentences.
  """
  parsed = hlo.parse(program.as_text())
  return _memory(program) | {
    "flops": hlo.flops(parsed),
    "collectives": {
      kind: dataclasses.asdict(traffic)
      for kind, traffic in hlo.collectives(parsed).items()
    },
    "warnings": [str(finding) for finding in hlo.findings(parsed, dtype)],
  }


def batch_unit(config: Config, devices: int) -> int:
  """Returns the number that a global batch must be a multiple of.

  Every micro-batch divides over the devices, the groups of batch norm and
  those of mixup.
  """
  mesh = config.mesh
  clips = devices // (mesh.frames * mesh.tensor)  # devices with other clips
  parts = [clips, config.model.get("bn_groups", 1)]
  if config.train.mixup_alpha:
    parts.append(config.train.mixup_group)
  return math.lcm(*parts) * config.train.accumulate


def largest_batch(
  needed: Callable[[int], int], unit: int, capacity: int, known: dict[int, int]
) -> tuple[int, dict[int, int]]:
  """Searches the largest batch that fits; its memory has been measured.

  Memory is close to linear in the batch: the line through two batches says
  which one to try next, the line through the nearest two what then. Where the
  compiler's choices hide the slope between those, it is that of all.

  Args:
    needed: bytes that a step of a batch needs; it compiles, which is slow.
    unit: batches are multiples of it.
    capacity: bytes of a device.
    known: bytes of a batch that has been compiled already.

  Returns:
    The largest batch that was found to fit (0 if one unit does not), and the
    bytes of each that was tried. It is the largest there is if the next
    multiple was tried too, or if memory follows the line.
  """
  tried = {
    batch // unit: size for batch, size in known.items() if not batch % unit
  }
  for number in (1, 2):
    if len(tried) < 2 and number not in tried:
      tried[number] = needed(number * unit)
  for _ in range(_MAX_VERIFICATIONS):
    fits = [number for number, size in tried.items() if size <= capacity]
    low, high = _nearest(tried, capacity)
    slope = _slope(tried, low, high)
    overall = max(_slope(tried, min(tried), max(tried)), 1)
    slope = slope if slope > overall / 2 else overall
    start = max(fits, default=low)
    guess = math.floor(start + (capacity - tried[start]) / slope)
    too_large = [n for n in tried if n > start and n not in fits]
    guess = min([guess, *(number - 1 for number in too_large)])
    if guess in tried or guess < 1:
      break
    tried[guess] = needed(guess * unit)
  best = max((n for n, size in tried.items() if size <= capacity), default=0)
  return best * unit, {n * unit: tried[n] for n in sorted(tried)}


def _nearest(tried: dict[int, int], capacity: int) -> tuple[int, int]:
  """Returns the two numbers whose memory is the nearest to the capacity."""
  order = sorted(tried, key=lambda number: abs(tried[number] - capacity))
  low, high = sorted(order[:2])
  return low, high


def _slope(tried: dict[int, int], low: int, high: int) -> float:
  return (tried[high] - tried[low]) / (high - low)


def _memory(program: Any) -> dict[str, int]:
  memory = program.memory_analysis()
  sizes = {
    "argument_bytes": memory.argument_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "alias_bytes": memory.alias_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    "program_bytes": memory.generated_code_size_in_bytes,
  }
  peak = sum(sizes.values()) - 2 * sizes["alias_bytes"]
  return {"hbm_peak_bytes": peak} | sizes


def report(config: Config, topology: str, folder: str = "") -> dict[str, Any]:
  """Compiles both programs of a configuration and describes them.

  Args:
    config: complete configuration.
    topology: such as "v5e:4x4".
    folder: where the optimised programs are written; "" for nowhere.

  Returns:
    `topology`, `global_batch`, `devices`, `hbm_bytes` (of a device), and for
    "train" and "eval" what `describe` says, with `fits`. Of a program that the
    compiler refuses, only `hbm_peak_bytes` is known.
  """
  devices = slice_devices(topology)
  capacity = hbm_bytes(topology)
  result: dict[str, Any] = {
    "topology": topology,
    "devices": len(devices),
    "hbm_bytes": capacity,
    "global_batch": config.data.batch_size,
    "eval_batch": config.eval.batch_size,
  }
  for name, lowered in lower_programs(config, devices).items():
    try:
      program = compile_program(lowered)
    except TooLargeError as error:
      result[name] = {"hbm_peak_bytes": error.bytes, "fits": False}
      continue
    result[name] = describe(program, config.dtype)
    fits = capacity and result[name]["hbm_peak_bytes"] <= capacity
    result[name]["fits"] = fits if capacity is None else bool(fits)
    if folder:
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
      file = pathlib.Path(folder) / f"{name}.txt"
      file.write_text(program.as_text())
  return result


def search_batch(config: Config, result: dict[str, Any]) -> dict[str, Any]:
  """Returns the largest global batch of a configuration, and what was tried.

  Args:
    config: complete configuration; its batch is changed.
    result: of `report`.

  Returns:
    `largest_batch`, and `tried`: the memory of a device by batch.

  Raises:
    ValueError: if the memory of the devices is not known.
  """
  topology, capacity = result["topology"], result["hbm_bytes"]
  if capacity is None:
    raise ValueError(
      f"the memory of {topology} is not known; add it to HBM_GB in {__file__}"
    )
  devices = slice_devices(topology)

  def needed(batch: int) -> int:
    config.data.batch_size = batch
    try:
      lowered = lower_programs(config, devices)["train"]
      size = _memory(compile_program(lowered))["hbm_peak_bytes"]
    except TooLargeError as error:
      size = error.bytes
    print(f"batch {batch}: {size / GB:.2f} GB", file=sys.stderr, flush=True)
    return size

  known = {result["global_batch"]: result["train"]["hbm_peak_bytes"]}
  unit = batch_unit(config, len(devices))
  best, tried = largest_batch(needed, unit, capacity, known)
  return {"largest_batch": best, "tried": tried}


def _read_flags(arguments: list[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command = ["aot", *arguments]
  define_config("config", values, command)
  flags.mark_flag_as_required("config", flag_values=values)
  flags.DEFINE_string("topology", "v5e:4x4", "TPU slice.", flag_values=values)
  flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
  flags.DEFINE_string("hlo", "", "Folder of programs.", flag_values=values)
  flags.DEFINE_string("append", "", "File with a table.", flag_values=values)
  flags.DEFINE_bool(
    "largest-batch", False, "Search the largest batch.", flag_values=values
  )
  parse_flags(values, command)
  return values


def define_config(
  name: str, values: flags.FlagValues, command: list[str]
) -> None:
  """Defines the flag of a configuration, and of all its keys.

  Args:
    name: of the flag.
    values: where it is defined.
    command: the command line that says which file it is.
  """
  config_flags.DEFINE_config_file(
    name,
    None,
    "Configuration file[:variant].",
    flag_values=values,
    sys_argv=command,
  )


def parse_flags(values: flags.FlagValues, command: Sequence[str]) -> None:
  """Parses a command line with a configuration.

  Raises:
    ValueError: if it sets a key that the configuration does not have.
    absl.flags.Error: if it is wrong otherwise.
  """
  try:
    values(command)
  except (AttributeError, KeyError) as error:
    cause = error.args[0]  # ml_collections wraps one in the other
    key = cause.args[0] if isinstance(cause, KeyError) else cause
    raise ValueError(f"unknown configuration key {key}") from error


def table_row(page: str, result: dict[str, Any]) -> str:
  """Returns a row of the table in docs/tpu.md.

  Args:
    page: configuration, with its changes.
    result: of `report`.
  """
  train, evaluation = result["train"], result["eval"]

  def size(row: dict[str, Any], key: str) -> str:
    return f"{row[key] / GB:.2f}" if key in row else "-"

  def traffic(row: dict[str, Any]) -> str:
    kinds = row.get("collectives")
    if kinds is None:
      return "-"
    return "; ".join(
      f"{kind} {found['count']} x, {found['bytes'] / 1e6:.0f} MB"
      for kind, found in kinds.items()
    )

  cells = [
    page,
    result["topology"],
    str(result["global_batch"]),
    *(
      size(train, key)
      for key in ("argument_bytes", "temporary_bytes", "hbm_peak_bytes")
    ),
    {True: "yes", False: "no", None: "?"}[train["fits"]],
    f"{train['flops'] / 1e12:.2f}" if "flops" in train else "-",
    traffic(train),
    size(evaluation, "hbm_peak_bytes"),
    str(result.get("largest_batch", "-")),
  ]
  return "| " + " | ".join(cells) + " |"


def append_row(file: pathlib.Path, row: str) -> None:
  """Adds a row to the table at the end of a file, in the place of an older one.

  Rows that agree in their first three cells (page, slice, batch) are of the
  same program.
  """

  def program(line: str) -> list[str]:
    return line.split("|")[1:4]

  lines = file.read_text().splitlines()
  kept = [line for line in lines if program(line) != program(row)]
  file.write_text("\n".join([*kept, row]) + "\n")


def _print_report(name: str, result: dict[str, Any]) -> None:
  print(
    f"{name} on {result['topology']}, {result['global_batch']} clips a step"
  )
  for program in ("train", "eval"):
    row = result[program]
    fits = {True: "fits", False: "does NOT fit", None: "memory not known"}
    print(
      f"{program:<6} {row['hbm_peak_bytes'] / GB:.2f} GB a device: "
      f"{fits[row['fits']]}"
    )
    if "flops" not in row:
      continue
    print(
      f"       arguments {row['argument_bytes'] / GB:.2f}, outputs "
      f"{(row['output_bytes'] - row['alias_bytes']) / GB:.2f} beside them, "
      f"temporaries {row['temporary_bytes'] / GB:.2f} GB; "
      f"{row['flops'] / 1e12:.3f} TFLOP"
    )
    for kind, found in row["collectives"].items():
      print(f"       {kind}: {found['count']}, {found['bytes'] / 1e6:.1f} MB")
    for warning in row["warnings"]:
      print(f"       warning: {warning}")
  if "largest_batch" in result:
    print(f"largest global batch that fits: {result['largest_batch']}")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  # The slice is not of this machine: jax must not look for one.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Compilers do not share a device: two may run at the same time.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  try:
    values = _read_flags(sys.argv[1:] if arguments is None else arguments)
    config = values.config
    found = report(config, values.topology, values.hlo)
    if values["largest-batch"].value:
      found |= search_batch(config, found)
  except (flags.Error, ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  if values.append:
    row = table_row(_page(values["config"]), found)
    append_row(pathlib.Path(values.append), row)
  if values.json:
    print(json.dumps(found))
  else:
    _print_report(config.name, found)
  return 0


def _page(flag: Any) -> str:
  """Returns the configuration's page with what else was set."""
  name = pathlib.Path(config_flags.get_config_filename(flag)).name
  changes = config_flags.get_override_values(flag)
  changes = {k: v for k, v in changes.items() if not k.endswith("batch_size")}
  return ", ".join([f"`{name}`", *(f"{k}={v}" for k, v in changes.items())])


if __name__ == "__main__":
  sys.exit(main())
