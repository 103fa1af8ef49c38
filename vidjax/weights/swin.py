"""From image weights of Swin to video: inflation, tables of other sizes.

Liu et al. 2022 (Video Swin) start from the weights of 2-D Swin, and TPS does
the same: the patch embedding is spread over the frames of a patch, and every
difference of frames starts with the image's position bias.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from vidjax.ops.position_bias import resize_bias_table

_CONSTANTS = ("relative_position_index", "attn_mask")


def inflate_patches(
  weight: Float[np.ndarray, "o i p q"], frames: int
) -> Float[np.ndarray, "o i s p q"]:
  """Spreads an image's patch convolution over frames, at equal shares."""
  return np.repeat(weight[:, :, None], frames, axis=2) / np.float32(frames)


def inflate_bias(
  table: Float[np.ndarray, "r g"], window: tuple[int, int, int]
) -> Float[np.ndarray, "r2 g"]:
  """Repeats an image's flat bias table for every difference of frames.

  Args:
    table: rows by difference of rows and columns, of a square window.
    window: frames, rows and columns of the video model's table.

  Raises:
    ValueError: if the table is not of a square window.
  """
  side = round(len(table) ** 0.5)
  if side * side != len(table) or not side % 2:
    raise ValueError(
      f"a position bias table of {len(table)} rows is not of a square window; "
      "give the weights of a Swin with windows of n x n tokens"
    )
  square = table.reshape(1, side, side, -1)
  resized = np.asarray(resize_bias_table(jnp.asarray(square), window))
  return resized.reshape(-1, table.shape[1])


def inflate(
  state: Mapping[str, Shaped[np.ndarray, "..."]],
  *,
  patch_frames: int,
  window: tuple[int, int, int],
) -> dict[str, Shaped[np.ndarray, "..."]]:
  """Turns a 2-D Swin state dict to that of TPS's backbone.

  Args:
    state: Microsoft Swin's keys (its file's entry "model") and arrays.
    patch_frames: frames of a patch of the video model.
    window: frames, rows and columns of its bias tables.

  Returns:
    The state of the backbone, under `backbone.`; without the image classifier
    and constants.
  """
  result = {}
  for key, value in state.items():
    if key.startswith("head.") or any(name in key for name in _CONSTANTS):
      continue
    if key == "patch_embed.proj.weight":
      value = inflate_patches(value, patch_frames)
    elif key.endswith("relative_position_bias_table"):
      value = inflate_bias(value, window)
    result[f"backbone.{key}"] = value
  return result


def resize_biases(
  state: Mapping[str, Shaped[np.ndarray, "..."]],
  *,
  old_window: tuple[int, int, int],
  window: tuple[int, int, int],
) -> dict[str, Shaped[np.ndarray, "..."]]:
  """Resizes the bias tables of a video Swin's state dict to another window.

  A rule of ours, since the official code runs at one number of frames only
  (`vidjax.ops.position_bias.resize_bias_table`).

  Args:
    state: official keys and arrays; other entries are passed on.
    old_window: frames, rows and columns of its tables.
    window: those of the model to be filled.
  """
  shape = tuple(2 * n - 1 for n in old_window)

  def resized(table: np.ndarray) -> np.ndarray:
    cut = jnp.asarray(table.reshape(*shape, table.shape[1]))
    return np.asarray(resize_bias_table(cut, window)).reshape(
      -1, table.shape[1]
    )

  return {
    key: resized(value)
    if key.endswith("relative_position_bias_table")
    else value
    for key, value in state.items()
  }
