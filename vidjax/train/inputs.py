"""What happens to uint8 clips on the device before the model sees them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, UInt8


def normalise(
  video: UInt8[jax.Array, "*batch h w 3"],
  mean: Sequence[float],
  std: Sequence[float],
) -> Float[jax.Array, "*batch h w 3"]:
  """Returns `(pixel / 255 - mean) / std` in float32, channel by channel."""
  scaled = video.astype(jnp.float32) / 255
  return (scaled - jnp.asarray(mean)) / jnp.asarray(std)


def erase(
  video: Float[jax.Array, "b t h w 3"], boxes: Int[jax.Array, "b 4"]
) -> Float[jax.Array, "b t h w 3"]:
  """Sets one box of each clip to 0, the mean pixel, in all of its frames.

  Args:
    video: normalised clips.
    boxes: y0, x0, height and width in pixels; an empty box erases nothing.
  """
  rows = jnp.arange(video.shape[2])
  columns = jnp.arange(video.shape[3])
  y0, x0, height, width = (boxes[:, i, None] for i in range(4))
  in_rows = (rows >= y0) & (rows < y0 + height)
  in_columns = (columns >= x0) & (columns < x0 + width)
  inside = in_rows[:, None, :, None, None] & in_columns[:, None, None, :, None]
  return jnp.where(inside, 0, video)
