"""A trained model from a run's work directory."""

import json
import pathlib

import ml_collections

from vidjax.checks import Config
from vidjax.models.backbone import Backbone
from vidjax.models.registry import from_json
from vidjax.nn.functional import merge, split
from vidjax.train.init_from import read_run
from vidjax.train.run import abstract_model
from vidjax.train.sharding import make_mesh
from vidjax.weights.pretrained import fill


def load_run(
  workdir: pathlib.Path,
) -> tuple[Backbone, Config, str]:
  """Loads the best checkpoint of a run, else its newest.

  Args:
    workdir: of a training run, with `config.json` and `checkpoints`.

  Returns:
    The model, with the moving average of its weights if the run kept one; the
    run's configuration; and the checkpoint that was taken.

  Raises:
    ValueError: if there is no run or no checkpoint, or if it is damaged.
  """
  try:
    text = (workdir / "config.json").read_text()
    config: Config = ml_collections.ConfigDict(from_json(json.loads(text)))
  except (OSError, json.JSONDecodeError) as error:
    raise ValueError(
      f"{workdir} is not the work directory of a run ({error}); name the one "
      "that was given as --workdir"
    ) from error
  best = config.checkpoint.best
  saved, name = read_run(workdir.absolute(), make_mesh(), best)
  model = abstract_model(config)
  filled = fill(saved, model, name, new_head=False)
  definition, _, _ = split(model)
  return merge(definition, filled.params, filled.stats), config, name
