"""A trained model and the one clip of a video that is explained."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from vidjax.data.clips import open_clip
from vidjax.data.views import read_views
from vidjax.prediction.trained import Trained
from vidjax.train.inputs import normalise


def read_clip(
  path: str | os.PathLike[str], trained: Trained
) -> UInt8[np.ndarray, "t h w 3"]:
  """Reads the first clip of a video's evaluation, its central crop.

  Raises:
    VideoError: if the video is missing or bad.
  """
  views = dataclasses.replace(trained.views, clips=1, crops=1)
  with open_clip(path) as video:
    return read_views(video, views, 0, video.frames)[0]


def as_input(
  clip: UInt8[np.ndarray, "t h w 3"], trained: Trained
) -> Float[jax.Array, "1 t h w 3"]:
  """Returns what the model is given of a clip."""
  return normalise(jnp.asarray(clip)[None], trained.mean, trained.std)


def verdict(
  trained: Trained, logits: Float[np.ndarray, "1 k"], label: int | None = None
) -> str:
  """Returns a class and its probability; the most probable unless one is given.

  Of a model with several heads of labels the first head counts.
  """
  first = trained.head_sizes[0] if trained.head_sizes else logits.shape[1]
  head = logits[0, :first].astype(np.float64)
  probabilities = np.exp(head - head.max())
  probabilities /= probabilities.sum()
  best = int(probabilities.argmax()) if label is None else label
  if best >= first:
    return trained.labels[best]
  return f"{trained.labels[best]} ({100 * probabilities[best]:.0f} %)"
