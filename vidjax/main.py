"""Trains or evaluates a configuration.

    python -m vidjax.main --config=configs/xvit_motion.py --workdir=runs/demo
    python -m vidjax.main --config=... --workdir=... --mode=eval

Any value of the configuration can be set as `--config.data.root=DIR`. The last
line of stdout is a JSON summary. SIGTERM saves and exits with status 0; the
same command then continues the run.
"""

import json
import pathlib
import sys

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
flags.mark_flags_as_required(["config", "workdir"])


def main(arguments: list[str]) -> None:
  """Runs the configuration of the flags."""
  if len(arguments) > 1:
    raise app.UsageError(
      f"unexpected argument {arguments[1]!r}; options are --name=value"
    )
  # Not at the top: decoding workers import this module and need no JAX.
  from vidjax.train import loop

  run = {"train": loop.train, "eval": loop.evaluate_only}[_MODE.value]
  try:
    summary = run(_CONFIG.value, pathlib.Path(_WORKDIR.value))
  except (ValueError, OSError, loop.NonFiniteError) as error:
    logging.debug("what led to the error:", exc_info=True)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
  print(json.dumps(summary))


if __name__ == "__main__":
  app.run(main)
