r"""Trains a table of models under one budget and compares them.

    python -m vidjax.tools.ablate --config=configs/ablation_motion.py \
        --workdir=runs/ablation [--rows=xvit,pst] [--notrain]

The configuration is a training's, and so the budget, with a section `ablation`:
`rows` are the models by name, `tables` name the rows that are shown together.
Each row is trained with each of `ablation.seeds` on the same clips, one after
the other; then the train steps of all of them are timed in turns.
`ablation.json`, `ablation.md` and `ablation.png` in the work directory say what
is known so far: accuracy with its interval, parameters, multiply-adds, memory,
time of a step. The same command goes on where it was stopped; with `--notrain`
it measures and shows what has been trained. A row that fails is named, and the
others go on.
"""

import copy
import dataclasses
import gc
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import flags

from vidjax.checks import Config
from vidjax.data.source import open_splits
from vidjax.models.registry import model_spec
from vidjax.tools.ablation_report import write_report
from vidjax.tools.aot import build_run, define_config, parse_flags
from vidjax.tools.bench import Subject, random_batch, summarise, time_in_turns
from vidjax.train import loop
from vidjax.train.results import write_json
from vidjax.train.sharding import input_sharding

_COSTS = "costs.json"


@dataclasses.dataclass(frozen=True)
class Finished:
  """A trained row.

  Attributes:
    top1: share of the evaluation videos.
    videos: their number.
    steps: of the training.
    params: number of parameters.
    multiply_adds: of the forward pass of one clip.
  """

  top1: float
  videos: int
  steps: int
  params: int
  multiply_adds: int

  @classmethod
  def of(cls, summary: Mapping[str, Any]) -> "Finished":
    """Takes what it needs of a run's summary."""
    return cls(
      top1=summary["eval/top1"],
      videos=summary["eval/videos"],
      steps=summary["steps"],
      params=summary["params"],
      multiply_adds=round(1e9 * summary["gmacs_per_view"]),
    )


def row_config(
  config: Config, row: str, seed: int, clips: pathlib.Path
) -> Config:
  """Returns the configuration that trains a row.

  Args:
    config: of the ablation.
    row: one of `config.ablation.rows`.
    seed: of the weights and of all draws in training.
    clips: folder of the motion clips, if `data.root` is empty.
  """
  shared = {key: config[key] for key in config if key != "ablation"}
  shared["model"] = config.ablation.rows[row]
  config = ml_collections.ConfigDict(copy.deepcopy(shared)).lock()
  config.name = f"{config.name}: {row}"
  config.seed = seed
  config.data.root = config.data.root or str(clips)
  return config


def shown_rows(config: Config) -> list[str]:
  """Returns all rows in the order of the tables, which completes tables early.

  Raises:
    ValueError: if a table names an unknown row, or a row is in no table or
      builds what another does.
  """
  section = config.ablation
  shown = [row for _, rows in section.tables for _, row in rows]
  _check_known(config, shown)
  for row in section.rows:
    if row not in shown:
      raise ValueError(
        f"row {row!r} is in none of ablation.tables and would not be shown; "
        "add it to one, or remove it"
      )
  _check_distinct(section.rows)
  return list(dict.fromkeys(shown))


def _check_known(config: Config, rows: Sequence[str]) -> None:
  known = config.ablation.rows
  for row in rows:
    if row not in known:
      raise ValueError(
        f"there is no row {row!r}; use one of {', '.join(known)}"
      )


def _check_distinct(rows: Config) -> None:
  seen: dict[str, str] = {}
  for row, model in rows.items():
    options = model.to_dict()
    options.pop("name")
    key = json.dumps(options, sort_keys=True, default=str)
    if key in seen:
      raise ValueError(
        f"rows {seen[key]!r} and {row!r} have the same options; remove one, "
        "and let its table name the other"
      )
    seen[key] = row


# --- cost


def prepare_row(config: Config) -> tuple[Subject, int]:
  """Compiles a row's train step.

  Args:
    config: as of `row_config`.

  Returns:
    What `bench.time_in_turns` runs; and the bytes of the compiled train step's
    arguments (state and batch) and temporaries (mostly activations).

  Raises:
    ValueError: if a part of the configuration does not fit another.
  """
  run = build_run(config)
  batch = {
    name: jax.device_put(array, input_sharding(name, array.shape, run.mesh))
    for name, array in random_batch(config).items()
  }
  state = run.init(jax.random.key(config.seed))
  program = run.lower(state, batch).compile()
  memory = program.memory_analysis()

  def train() -> None:
    nonlocal state
    state, metrics = program(state, batch)
    jax.block_until_ready((state, metrics))

  subject = Subject(config, run.multiply_adds, {"train": train}, lambda: 0.0)
  size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return subject, size


def measure(
  configs: Mapping[str, Config], steps: int, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
  """Measures what every row costs, the time of a step in turns with all others.

  Args:
    configs: by row.
    steps: counted train steps of each.
    say: is given a line of progress.

  Returns:
    By row memory_bytes (see `prepare_row`), median_ms and fastest_ms of a train
    step; and by row that failed the reason.
  """
  subjects: dict[str, Subject] = {}
  costs: dict[str, dict[str, Any]] = {}
  failed: dict[str, str] = {}
  for number, (row, config) in enumerate(configs.items(), 1):
    try:
      subjects[row], size = prepare_row(config)
      costs[row] = {"memory_bytes": size}
    except Exception as error:  # one row must not end the others
      failed[row] = _reason(error)
    said = f"failed: {failed[row]}" if row in failed else "compiled"
    say(f"[{number}/{len(configs)}] {row}: {said}")
  times = time_in_turns(subjects, steps)
  kind, devices = jax.devices()[0].device_kind, jax.device_count()
  for row, subject in subjects.items():
    found = summarise(subject, "train", times[row, "train"], kind, devices)
    costs[row] |= {key: found[key] for key in ("median_ms", "fastest_ms")}
  return costs, failed


def _reason(error: Exception) -> str:
  return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# --- training


def finished(config: Config, workdir: pathlib.Path) -> Finished | None:
  """Returns the result of a run, None if it has not ended.

  Raises:
    ValueError: if the folder holds a run of another configuration.
  """
  try:
    made = json.loads((workdir / "config.json").read_text())
  except FileNotFoundError:
    return None
  wanted = json.loads(json.dumps(config.to_dict()))
  for fields in (made, wanted):
    fields["data"].pop("root")  # the work directory may have moved
  if made != wanted:
    raise ValueError(
      f"{workdir} holds a run of another configuration; choose another "
      "--workdir, or remove that folder"
    )
  try:
    summary = json.loads((workdir / "summary.json").read_text())
  except FileNotFoundError:
    return None
  return Finished.of(summary)


def train_row(config: Config, workdir: pathlib.Path) -> Finished | None:
  """Trains a row, or goes on with it; None if it was told to stop."""
  summary = loop.train(config, workdir)
  # Programs of a row are of no use to the next one.
  jax.clear_caches()
  gc.collect()
  return None if summary.get("stopped") else Finished.of(summary)


# --- the program


@dataclasses.dataclass
class Ablation:
  """What is known of the rows, and where it is written.

  Attributes:
    config: of the ablation.
    workdir: of everything that is written.
    rows: names of all of them.
    command: that makes these results again.
    costs: by row, see `measure`.
    results: by row and seed.
    failed: by row the reason.
  """

  config: Config
  workdir: pathlib.Path
  rows: list[str]
  command: str
  costs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  results: dict[tuple[str, int], Finished] = dataclasses.field(
    default_factory=dict
  )
  failed: dict[str, str] = dataclasses.field(default_factory=dict)

  def of(self, row: str, seed: int) -> Config:
    """Returns the configuration of a run."""
    return row_config(self.config, row, seed, self.workdir / "motion")

  def folder(self, row: str, seed: int) -> pathlib.Path:
    """Returns the work directory of a run."""
    return self.workdir / row / f"seed{seed}"

  def look(self) -> None:
    """Finds what former commands have left."""
    for seed in self.config.ablation.seeds:
      for row in self.rows:
        done = finished(self.of(row, seed), self.folder(row, seed))
        if done is not None:
          self.results[row, seed] = done
    path = self.workdir / _COSTS
    if path.exists():
      self.costs = json.loads(path.read_text())

  def train(self, rows: Sequence[str]) -> bool:
    """Trains what is not finished, seed by seed.

    Returns:
      Whether it came to the end, and was not told to stop.
    """
    every = [(row, seed) for seed in self.config.ablation.seeds for row in rows]
    todo = [run for run in every if run not in self.results]
    began = time.perf_counter()
    for number, (row, seed) in enumerate(todo, 1):
      if row in self.failed:
        continue
      try:
        result = train_row(self.of(row, seed), self.folder(row, seed))
      except Exception as error:  # one row must not end the others
        self.failed[row] = _reason(error)
        _say(f"[{number}/{len(todo)}] {row}: failed: {self.failed[row]}")
        continue
      if result is None:
        _say(f"stopped at row {row}, seed {seed}; the same command goes on")
        return False
      self.results[row, seed] = result
      self.write(picture=False)
      spent = time.perf_counter() - began
      left = spent / number * (len(todo) - number)
      _say(
        f"[{number}/{len(todo)}] {row}, seed {seed}: top-1 "
        f"{result.top1:.1%}, {left / 60:.0f} min left"
      )
    return True

  def measure(self) -> None:
    """Measures all trained rows in one go, unless all have been."""
    trained = {row for row, _ in self.results}
    if trained <= set(self.costs):
      return
    seed = self.config.ablation.seeds[0]
    configs = {row: self.of(row, seed) for row in self.rows if row in trained}
    steps = self.config.ablation.timed_steps
    self.costs, failed = measure(configs, steps, _say)
    self.failed |= failed
    write_json(self.workdir / _COSTS, self.costs)

  def write(self, picture: bool = True) -> None:
    """Writes ablation.json and .md, and .png, of what is known so far."""
    config = self.config
    result = {
      "command": self.command,
      "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
      "steps": max((r.steps for r in self.results.values()), default=0),
      "batch_size": config.data.batch_size,
      "frames": config.data.frames,
      "image_size": config.data.image_size,
      "seeds": sorted({seed for _, seed in self.results}),
      "videos": max((r.videos for r in self.results.values()), default=0),
      "rows": {row: self._row(row) for row in self.rows},
      "tables": [
        {"title": title, "rows": [list(row) for row in rows]}
        for title, rows in config.ablation.tables
      ],
    }
    write_report(result, self.workdir, picture=picture)

  def _row(self, row: str) -> dict[str, Any]:
    runs = {
      seed: self.results[row, seed]
      for seed in self.config.ablation.seeds
      if (row, seed) in self.results
    }
    size = {
      key: getattr(run, key)
      for run in runs.values()
      for key in ("params", "multiply_adds")
    }
    failed = {"failed": self.failed[row]} if row in self.failed else {}
    model = self.config.ablation.rows[row].name
    return {
      "model": model,
      "backbone": model_spec(model).backbone.__name__,
      "top1": {str(seed): run.top1 for seed, run in runs.items()},
      **size,
      **self.costs.get(row, {}),
      **failed,
    }


def _say(line: str) -> None:
  print(line, flush=True)


def _read_flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command = ["ablate", *arguments]
  define_config("config", values, command)
  flags.DEFINE_string(
    "workdir", None, "Folder of all that is written.", flag_values=values
  )
  flags.DEFINE_list("rows", [], "The only ones to train.", flag_values=values)
  flags.DEFINE_bool("train", True, "Whether to train.", flag_values=values)
  flags.mark_flags_as_required(["config", "workdir"], flag_values=values)
  parse_flags(values, command)
  if "ablation" not in values.config:
    raise ValueError(
      "the configuration has no section `ablation`; use "
      "configs/ablation_motion.py"
    )
  return values


def _command(arguments: Sequence[str]) -> str:
  """The command that makes all results, and not the part of one call."""
  kept = [
    argument
    for argument in arguments
    if not argument.startswith(("--rows", "--notrain"))
  ]
  return f"python -m vidjax.tools.ablate {shlex.join(kept)}"


def _share_programs(folder: pathlib.Path) -> None:
  """Lets the seeds of a row, and its measurement, compile it once."""
  if not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  arguments = sys.argv[1:] if arguments is None else arguments
  try:
    values = _read_flags(arguments)
    ablation = Ablation(
      config=values.config,
      workdir=pathlib.Path(values.workdir),
      rows=shown_rows(values.config),
      command=_command(arguments),
    )
    wanted = values.rows or ablation.rows
    _check_known(values.config, wanted)
    ablation.workdir.mkdir(parents=True, exist_ok=True)
    _share_programs(ablation.workdir / "xla")
    first = ablation.of(ablation.rows[0], 0)
    open_splits(first, ablation.workdir)  # makes the motion clips
    ablation.look()
    if not values.train or ablation.train(wanted):
      ablation.measure()
    ablation.write()
  except (flags.Error, ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  for row, reason in ablation.failed.items():
    print(f"error: row {row}: {reason}", file=sys.stderr)
  print((ablation.workdir / "ablation.md").read_text())
  return 1 if ablation.failed else 0


if __name__ == "__main__":
  sys.exit(main())
