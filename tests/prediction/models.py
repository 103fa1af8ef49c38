"""A tiny model as a run and as a pretrained folder."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import vidjax
from configs.xvit_motion import get_config
from tests import oracles
from vidjax.data.motion import CLASSES, write_motion_clips
from vidjax.models.registry import create_model
from vidjax.nn.functional import split
from vidjax.prediction.results import Prediction, Timeline
from vidjax.train.checkpoint import Checkpoints
from vidjax.train.results import prepare_workdir
from vidjax.train.state import TrainState
from vidjax.weights.info import page_preprocessing


def page(**views):
  config = get_config("smoke")
  config.data.frames = 4
  config.data.update({"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)})
  config.eval.update({"batch_size": 4, "clips": 2, "crops": 3, **views})
  return config


def model_of(config):
  options = config.model.to_dict()
  return oracles.build(create_model, options.pop("name"), **options)


def write_run(workdir: pathlib.Path, config) -> pathlib.Path:
  """A run that has just been initialised, with its motion clips."""
  prepare_workdir(workdir, config)
  write_motion_clips(workdir / "motion", **config.motion)
  _, params, stats = split(model_of(config))
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, {}, None)
  state = jax.device_put(state, jax.devices()[0])
  with Checkpoints(
    workdir / "checkpoints", keep=1, best_metric="eval/top1"
  ) as saved:
    saved.save(1, state, {"eval/top1": 0.5})
  return workdir


def write_folder(path: pathlib.Path, config, **changes) -> pathlib.Path:
  """A pretrained folder of the same weights."""
  return vidjax.save_pretrained(
    model_of(config),
    path,
    labels=CLASSES,
    preprocessing=page_preprocessing(config) | changes,
  )


def prediction(path="a.mp4", *, windows=None, labels=("a", "b", "c"), heads=()):
  """A prediction with a timeline of rows (start, stop, probabilities)."""
  timeline = None
  if windows:
    start, stop, scores = zip(*windows, strict=True)
    timeline = Timeline(
      np.array(start, float), np.array(stop, float), np.float32(scores)
    )
  scores = np.float32(windows[0][2] if windows else [0.2, 0.5, 0.3])
  return Prediction(
    path=pathlib.Path(path),
    labels=tuple(labels),
    head_sizes=heads,
    probabilities=scores,
    frames=24,
    seconds=2.0,
    timeline=timeline,
  )


def with_path(one: Prediction, path) -> Prediction:
  return dataclasses.replace(one, path=pathlib.Path(path))
