"""Saliency: how much a class's logit depends on each pixel of each frame."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vidjax.checks import at_least
from vidjax.explain.intermediates import Video
from vidjax.models.backbone import Backbone
from vidjax.nn.functional import merge, split


@dataclasses.dataclass(frozen=True)
class Saliency:
  """What a logit depends on.

  Attributes:
    pixels: saliency of each pixel, 0 or more; it has no unit.
    label: number of the class whose logit it is.
    logits: of the model (b k).
  """

  pixels: Float[np.ndarray, "t h w"]
  label: int
  logits: Float[np.ndarray, "b k"]


def saliency(
  model: Backbone,
  video: Video,
  *,
  label: int | None = None,
  samples: int = 16,
  noise: float = 0.15,
  seed: int = 0,
) -> Saliency:
  """Returns the size of gradient times input of a logit, by pixel.

  The gradient is the mean of those of copies of the clip with normal noise
  (SmoothGrad, Smilkov et al. 2017), times the clip (Shrikumar et al. 2016): to
  first order, what the logit would lose if the pixel had the data's mean
  colour. Its three colours are added, and the sign is dropped.

  Args:
    model: any; nothing inside of it is looked at.
    video: one normalised clip (1 t h w 3).
    label: number of the class; None is the one that the model predicts.
    samples: noisy copies; their gradients are taken one by one.
    noise: standard deviation of the noise over the range of the clip's values;
      0 is the plain gradient.
    seed: of the noise.

  Raises:
    ValueError: if there is no such class, or a number is out of range.
  """
  at_least(1, samples=samples)
  if noise < 0:
    raise ValueError(f"noise is {noise}; use 0 or more")
  definition, params, stats = split(model)
  video = jnp.asarray(video)
  deviation = noise * float(video.max() - video.min())

  @jax.jit
  def predict(params: Any, stats: Any, video: jax.Array) -> jax.Array:
    return merge(definition, params, stats)(video)

  @jax.jit
  def mean_gradient(
    params: Any, stats: Any, video: jax.Array, label: jax.Array
  ) -> jax.Array:
    def logit(video: jax.Array) -> jax.Array:
      return merge(definition, params, stats)(video)[0, label]

    def gradient(key: jax.Array) -> jax.Array:
      noisy = video + deviation * jax.random.normal(key, video.shape)
      return jax.grad(logit)(noisy)

    keys = jax.random.split(jax.random.key(seed), samples)
    return jax.lax.map(gradient, keys).mean(axis=0)

  logits = np.asarray(predict(params, stats, video))
  label = int(logits[0].argmax()) if label is None else label
  classes = logits.shape[1]
  if not 0 <= label < classes:
    raise ValueError(
      f"there is no class {label}; the model has {classes}, counted from 0"
    )
  gradient = mean_gradient(params, stats, video, jnp.array(label))
  pixels = np.asarray(jnp.abs((gradient * video)[0].sum(axis=-1)))
  return Saliency(pixels, label, logits)
