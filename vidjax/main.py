"""Trains or evaluates a configuration.

    python -m vidjax.main --config=configs/xvit_motion.py --workdir=runs/demo
    python -m vidjax.main --config=... --workdir=... --mode=eval

Any value of the configuration can be set as `--config.data.root=DIR`. The last
line of stdout is a JSON summary. SIGTERM saves and exits with status 0; the
same command then continues the run.

On several machines the same command is started on each of them. Under Slurm's
`srun`, Open MPI's `mpirun` and on TPU pods of GKE the processes find each
other; on TPU virtual machines and Kubernetes they do with `--distributed`;
elsewhere `--coordinator=HOST:PORT --num_processes=N --process_id=I` tells them.
"""

import json
import logging as stdlib_logging
import pathlib
import sys
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Configuration file, e.g. configs/xvit_motion.py[:variant]."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of checkpoints, metrics and report."
)
_MODE = flags.DEFINE_enum(
  "mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint."
)
_PRINT_SHARDING = flags.DEFINE_bool(
  "print_sharding", False, "Print where every parameter lives, and end."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Find the processes of the job by JAX's detection."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of process 0, for a job of several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Processes of the job.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Number of this process in the job.", lower_bound=0
)
_START_SECONDS = flags.DEFINE_integer(
  "start_seconds", 300, "How long processes wait for all others.", lower_bound=1
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
  "heartbeat_seconds",
  100,
  "Silence after which a process counts as lost, which ends the job.",
  lower_bound=10,
)
flags.mark_flag_as_required("config")


@flags.multi_flags_validator(
  ["workdir", "print_sharding"], "--workdir must have a value"
)
def _has_workdir(values: dict[str, Any]) -> bool:
  return bool(values["workdir"] or values["print_sharding"])


def main(arguments: list[str]) -> None:
  """Runs the configuration of the flags."""
  if len(arguments) > 1:
    raise app.UsageError(
      f"unexpected argument {arguments[1]!r}; options are --name=value"
    )
  _quiet_libraries()
  # Not at the top: decoding workers import this module and need no JAX.
  import jax

  from vidjax.train import distributed

  if jax.config.values["jax_num_cpu_devices"] > 1:
    # Simulated devices share one thread pool: two programs at once could each
    # wait for threads of the other in a collective.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
  try:
    with distributed.job(
      coordinator=_COORDINATOR.value,
      num_processes=_NUM_PROCESSES.value,
      process_id=_PROCESS_ID.value,
      detect=_DISTRIBUTED.value,
      start_seconds=_START_SECONDS.value,
      heartbeat_seconds=_HEARTBEAT_SECONDS.value,
    ):
      _run()
  except distributed.JobError as error:
    _fail(error)


def _run() -> None:
  import jax

  from vidjax.train import loop

  run = {"train": loop.train, "eval": loop.evaluate_only}[_MODE.value]
  workdir = _WORKDIR.value
  try:
    if _PRINT_SHARDING.value or workdir is None:
      from vidjax.train import sharding_table

      result = sharding_table.describe(_CONFIG.value)
    else:
      result = json.dumps(run(_CONFIG.value, pathlib.Path(workdir)))
  except loop.EXPECTED_ERRORS as error:
    _fail(error)
  if jax.process_index() == 0:
    print(result)


def _fail(error: Exception) -> NoReturn:
  logging.debug("what led to the error:", exc_info=True)
  print(f"error: {error}", file=sys.stderr)
  sys.exit(1)


def _quiet_libraries() -> None:
  """Keeps other libraries' messages below warnings out of the log."""
  folder = str(pathlib.Path(__file__).parent)

  def ours(record: stdlib_logging.LogRecord) -> bool:
    return (
      record.levelno >= stdlib_logging.WARNING
      or record.pathname.startswith(folder)
    )

  if logging.get_verbosity() <= logging.INFO:
    logging.get_absl_handler().addFilter(ours)


def parse(arguments: list[str]) -> list[str]:
  """Parses the flags; a wrong one ends the program with one sentence."""
  try:
    rest = flags.FLAGS(arguments)
    _CONFIG.value.to_dict()  # reads the file, which is lazy
  except (AttributeError, KeyError) as error:
    cause = error.args[0]  # ml_collections wraps one in the other
    key = cause.args[0] if isinstance(cause, KeyError) else cause
    _refuse(f"unknown configuration key {key}")
  except (flags.Error, OSError, ValueError) as error:
    cause = error
    while cause.__context__ is not None and "Traceback" in str(cause):
      cause = cause.__context__  # what the flag's parser wraps
    _refuse(str(cause))
  return rest


def _refuse(reason: str) -> NoReturn:
  sentence = " ".join(reason.split())
  print(f"error: in the command line: {sentence}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
