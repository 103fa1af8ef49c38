r"""Times a configuration on the devices at hand: forward pass and train step.

    python -m vidjax.tools.bench --config=configs/xvit_k400.py \
        --config.dtype=bfloat16 [--steps=20] [--json]

Clips per second, time of a step, share of the devices' peak FLOP/s (MFU), peak
memory. The batch is random and lies on the devices; `--data` trains on the
configuration's own input instead and adds the share of the time spent waiting
for it (built-in clips are written to `--workdir`). `--against=CONFIG` times a
second configuration in turns with the first and gives the ratio of their times:
a busy machine slows both alike. Its values are set as
`--against.data.batch_size=8`.
"""

import contextlib
import dataclasses
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from vidjax.checks import Config
from vidjax.data.pipeline import train_batches
from vidjax.data.source import open_splits
from vidjax.nn.functional import merge
from vidjax.tools.aot import build_run, define_config, parse_flags
from vidjax.train.distributed import batch_part
from vidjax.train.inputs import normalise
from vidjax.train.prefetch import Batch, DevicePrefetch
from vidjax.train.run import Run
from vidjax.train.sharding import input_sharding, on_mesh
from vidjax.train.throughput import peak_flops

# Floating point operations by multiply-add of a forward pass: a backward pass
# costs twice the forward pass.
FLOPS = {"forward": 2, "train": 6}


@dataclasses.dataclass(frozen=True)
class Subject:
  """A configuration ready to be timed.

  Attributes:
    config: the configuration.
    multiply_adds: of the forward pass of one clip.
    programs: functions that run "forward" or "train" once and wait for it.
    waited: returns the seconds waited for data so far.
  """

  config: Config
  multiply_adds: int
  programs: Mapping[str, Callable[[], None]]
  waited: Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of every counted run of a program, and those it waited for data."""

  wall: list[float]
  waited: list[float]


@contextlib.contextmanager
def prepared(
  config: Config, workdir: pathlib.Path | None = None
) -> Iterator[Subject]:
  """Builds a configuration, with random weights, for as long as it is timed.

  Args:
    config: complete configuration.
    workdir: folder of the built-in clips, if the train step has batches of the
      configuration's data; None for the same random one again and again.

  Raises:
    ValueError: if a part of the configuration does not fit another, or there
      is no data set.
  """
  run = build_run(config)
  noise = _Same(
    {
      name: jax.device_put(array, input_sharding(name, array.shape, run.mesh))
      for name, array in random_batch(config).items()
    }
  )
  with _pipeline(config, run, workdir) if workdir else noise as batches:
    yield Subject(
      config=config,
      multiply_adds=run.multiply_adds,
      programs={
        "forward": _forward(config, run, next(noise)["video"]),
        "train": _trainer(
          run.init(jax.random.key(config.seed)), run.train_step, batches
        ),
      },
      waited=lambda: batches.waited,
    )


def random_batch(config: Config) -> dict[str, np.ndarray]:
  """Returns a batch of noise as the input pipeline would give it.

  "video" `(b, t, h, w, 3)` of bytes, "label" `(b,)`, "erase" `(b, 4)` and
  "weight" `(b,)`, of the configuration's batch and clips.
  """
  data = config.data
  rng = np.random.default_rng(0)
  clips, side = data.batch_size, data.image_size
  shape = (clips, data.frames, side, side, 3)
  return {
    "video": rng.integers(256, size=shape, dtype=np.uint8),
    "label": rng.integers(config.model.num_classes, size=clips, dtype=np.int32),
    "erase": np.zeros((clips, 4), np.int32),
    "weight": np.ones(clips, np.float32),
  }


def time_in_turns(
  subjects: Mapping[str, Subject], steps: int
) -> dict[tuple[str, str], Times]:
  """Times every program once a turn; the first turn, a warm-up, is not counted.

  Returns:
    Times by name of the subject and program.
  """
  runs = [
    (name, program) for name in subjects for program in subjects[name].programs
  ]
  times = {run: Times([], []) for run in runs}
  for turn in range(steps + 1):
    for name, program in runs if turn % 2 else runs[::-1]:
      subject = subjects[name]
      waited, start = subject.waited(), time.perf_counter()
      subject.programs[program]()
      if turn:
        times[name, program].wall.append(time.perf_counter() - start)
        times[name, program].waited.append(subject.waited() - waited)
  return times


def summarise(
  subject: Subject, program: str, times: Times, device_kind: str, devices: int
) -> dict[str, float | None]:
  """Returns the figures of one program.

  Args:
    subject: whose program it is.
    program: "forward" or "train".
    times: of its runs.
    device_kind: as JAX names it.
    devices: their number.

  Returns:
    `median_ms` and `fastest_ms` of a step, `clips_per_s` over all devices (by
    the median), `mfu` (share of the peak, by the median; None if the peak of
    the device is not known), `data_wait` (share of the time).
  """
  config = subject.config
  median = statistics.median(times.wall)
  peak = peak_flops(device_kind, config.dtype)
  clips = config.data.batch_size
  flops = FLOPS[program] * subject.multiply_adds * clips
  return {
    "median_ms": 1e3 * median,
    "fastest_ms": 1e3 * min(times.wall),
    "clips_per_s": clips / median,
    "mfu": None if peak is None else flops / median / (peak * devices),
    "data_wait": sum(times.waited) / sum(times.wall),
  }


def peak_memory() -> int | None:
  """Returns the most bytes that any device has held since the process began.

  None if the devices do not count them, as CPUs do not.
  """
  found = [device.memory_stats() for device in jax.local_devices()]
  peaks = [stats["peak_bytes_in_use"] for stats in found if stats]
  return max(peaks, default=None)


def bench(
  configs: Mapping[str, Config],
  steps: int,
  workdir: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Times the configurations in turns.

  Args:
    configs: by name; the first is compared with each of the others.
    steps: counted runs of every program.
    workdir: see `prepared`.

  Returns:
    `device`, `devices`, `steps`, `peak_bytes` (see `peak_memory`; of all
    configurations together), and for each of `configs` its batch, dtype and
    what `summarise` says of "forward" and "train"; `ratios` of the first's
    times to each other's: of the medians and of the fastest runs.
  """
  device, devices = jax.devices()[0].device_kind, jax.device_count()
  with contextlib.ExitStack() as stack:
    subjects = {
      name: stack.enter_context(prepared(config, workdir))
      for name, config in configs.items()
    }
    times = time_in_turns(subjects, steps)
  found = {
    name: {
      "batch": subject.config.data.batch_size,
      "dtype": subject.config.dtype,
      **{
        program: summarise(
          subject, program, times[name, program], device, devices
        )
        for program in subject.programs
      },
    }
    for name, subject in subjects.items()
  }
  first, *others = configs
  return {
    "device": device,
    "devices": devices,
    "steps": steps,
    "data": "random" if workdir is None else "pipeline",
    "peak_bytes": peak_memory(),
    "configs": found,
    "ratios": {
      other: {
        program: _ratio(times[first, program], times[other, program])
        for program in FLOPS
      }
      for other in others
    },
  }


def _ratio(one: Times, other: Times) -> dict[str, float]:
  return {
    "medians": statistics.median(one.wall) / statistics.median(other.wall),
    "minima": min(one.wall) / min(other.wall),
  }


class _Same:
  """The same batch again and again, in the place of a `DevicePrefetch`."""

  waited = 0.0

  def __init__(self, batch: Batch):
    self._batch = batch

  def __enter__(self) -> "_Same":
    return self

  def __exit__(self, *exception: object) -> None:
    pass

  def __next__(self) -> Batch:
    return self._batch


@contextlib.contextmanager
def _pipeline(
  config: Config, run: Run, workdir: pathlib.Path
) -> Iterator[DevicePrefetch]:
  split, _ = open_splits(config, workdir)
  host, hosts = batch_part(run.mesh)
  with (
    train_batches(
      split,
      config.data,
      seed=config.seed,
      host=host,
      hosts=hosts,
    ) as host_batches,
    DevicePrefetch(host_batches, run.mesh) as batches,
  ):
    yield batches


def _trainer(
  state: Any, step: Callable[..., Any], batches: Any
) -> Callable[[], None]:
  def train() -> None:
    nonlocal state
    state, metrics = step(state, next(batches))
    jax.block_until_ready((state, metrics))

  return train


def _forward(config: Config, run: Run, video: jax.Array) -> Callable[[], None]:
  state = run.init(jax.random.key(config.seed))
  params, stats = state.eval_params, state.stats

  def logits(params: Any, stats: Any, video: jax.Array) -> jax.Array:
    model = merge(run.definition, params, stats)
    return model(normalise(video, config.data.mean, config.data.std))

  program = on_mesh(run.mesh, jax.jit(logits))
  return lambda: jax.block_until_ready(program(params, stats, video))


def _read_flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command = ["bench", *arguments]
  for name in ("config", "against"):
    define_config(name, values, command)
  flags.mark_flag_as_required("config", flag_values=values)
  flags.DEFINE_integer("steps", 20, "Counted runs.", 1, flag_values=values)
  flags.DEFINE_bool("data", False, "Train on real data.", flag_values=values)
  flags.DEFINE_string(
    "workdir", "runs/bench", "Folder of motion clips.", flag_values=values
  )
  flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
  parse_flags(values, command)
  return values


def _show(result: Mapping[str, Any]) -> None:
  print(f"{result['devices']} x {result['device']}, {result['steps']} steps")
  for name, row in result["configs"].items():
    print(f"{name}: {row['batch']} clips a step, {row['dtype']}")
    for program in FLOPS:
      found = row[program]
      mfu = "not known" if found["mfu"] is None else f"{found['mfu']:.1%}"
      print(
        f"  {program:<8} {found['median_ms']:9.1f} ms (fastest "
        f"{found['fastest_ms']:.1f}), {found['clips_per_s']:.2f} clips/s, MFU "
        f"{mfu}, data wait {found['data_wait']:.0%}"
      )
  peak = result["peak_bytes"]
  said = "not known" if peak is None else f"{peak / 1e9:.2f} GB a device"
  print(f"peak memory: {said}")
  for other, ratios in result["ratios"].items():
    for program, ratio in ratios.items():
      print(
        f"{program} over {other}: {ratio['medians']:.3f} "
        f"(fastest runs {ratio['minima']:.3f})"
      )


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  try:
    values = _read_flags(sys.argv[1:] if arguments is None else arguments)
    configs = {values.config.name: values.config}
    if values.against is not None:
      other = values.against
      name = other.name
      configs[name if name not in configs else f"{name} (2)"] = other
    workdir = pathlib.Path(values.workdir) if values.data else None
    result = bench(configs, values.steps, workdir)
  except (flags.Error, ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  if values.json:
    print(json.dumps(result))
  else:
    _show(result)
  return 0


if __name__ == "__main__":
  sys.exit(main())
