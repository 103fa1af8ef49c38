"""From image weights of Swin to video: inflation, tables of other sizes.

Liu et al. 2022 (Video Swin) start from the weights of 2-D Swin, and TPS does
the same: the patch embedding is spread over the frames of a patch, and every
difference of frames starts with the image's position bias.
"""

import re

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vidjax.ops.position_bias import resize_bias_table
from vidjax.weights.entries import State
from vidjax.weights.keys import WeightsError

_CONSTANT = re.compile(r".*\.(attn\.relative_position_index|attn_mask)")
_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample\.(.+)")


def microsoft_keys(state: State) -> State:
  """Renames timm's keys of a Swin, whose stages start with their merging."""
  result = {}
  for key, entry in state.items():
    found = _DOWNSAMPLE.fullmatch(key)
    if found:
      key = f"layers.{int(found[1]) - 1}.downsample.{found[2]}"
    result[key.replace("head.fc.", "head.", 1)] = entry
  return result


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
    WeightsError: if the table is not of a square window.
  """
  side = round(len(table) ** 0.5)
  if side * side != len(table) or not side % 2:
    raise WeightsError(
      f"a position bias table of {len(table)} rows is not of a square window; "
      "give the weights of a Swin with windows of n x n tokens"
    )
  square = table.reshape(1, side, side, -1)
  resized = np.asarray(resize_bias_table(jnp.asarray(square), window))
  return resized.reshape(-1, table.shape[1])


def inflate_tables(state: State, window: tuple[int, int, int]) -> State:
  """Repeats all bias tables, and names the constants of windows as unused.

  Args:
    state: Microsoft Swin's keys (its file's entry "model").
    window: frames, rows and columns of the video model's tables.
  """
  result = {}
  for key, entry in state.items():
    if _CONSTANT.fullmatch(key):
      entry = entry.dropped("a constant that follows from the windows")
    elif key.endswith("relative_position_bias_table"):
      table = inflate_bias(entry.value, window)
      if table.shape != entry.value.shape:
        size = " x ".join(map(str, window))
        entry = entry.changed(table, f"repeated for windows of {size}")
    result[key] = entry
  return result


def inflate(
  state: State,
  *,
  patch_frames: int,
  window: tuple[int, int, int],
) -> State:
  """Turns a 2-D Swin state dict to that of TPS's backbone, without a prefix.

  Args:
    state: Microsoft Swin's keys (its file's entry "model").
    patch_frames: frames of a patch of the video model.
    window: frames, rows and columns of its bias tables.
  """
  result, key = inflate_tables(state, window), "patch_embed.proj.weight"
  if key in result:
    spread = inflate_patches(result[key].value, patch_frames)
    change = f"spread over {patch_frames} frames"
    result[key] = result[key].changed(spread, change)
  return result
