"""Trains or evaluates a configuration.

    python -m vidjax.main --config=configs/xvit_motion.py --workdir=runs/demo
    python -m vidjax.main --config=... --workdir=... --mode=eval

Any value of the configuration can be set as `--config.data.root=DIR`. The last
line of stdout is a JSON summary. SIGTERM saves and exits with status 0; the
same command then continues the run.
"""

import json
import logging as stdlib_logging
import pathlib
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Configuration file, e.g. configs/xvit_motion.py[:variant]."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of checkpoints, metrics and report.", required=True
)
_MODE = flags.DEFINE_enum(
  "mode", "train", ["train", "eval"], "Train, or evaluate a checkpoint."
)
flags.mark_flag_as_required("config")


def main(arguments: list[str]) -> None:
  """Runs the configuration of the flags."""
  if len(arguments) > 1:
    raise app.UsageError(
      f"unexpected argument {arguments[1]!r}; options are --name=value"
    )
  _quiet_libraries()
  # Not at the top: decoding workers import this module and need no JAX.
  import jax

  from vidjax.train import loop

  if jax.config.values["jax_num_cpu_devices"] > 1:
    # Simulated devices share one thread pool: two programs at once could each
    # wait for threads of the other in a collective.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
  run = {"train": loop.train, "eval": loop.evaluate_only}[_MODE.value]
  try:
    summary = run(_CONFIG.value, pathlib.Path(_WORKDIR.value))
  except loop.EXPECTED_ERRORS as error:
    logging.debug("what led to the error:", exc_info=True)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
  print(json.dumps(summary))


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
