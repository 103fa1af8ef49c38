"""Key table of the official TPS code (mmcv and ModelScope `state_dict`).

Video Swin (Liu et al. 2022), which TPS is built on, has the same keys.
"""

import numpy as np
from jaxtyping import Int

from vidjax.weights.keys import (
  Ignored,
  KeyTable,
  Rule,
  block_rules,
  linear_rules,
  norm_rules,
)
from vidjax.weights.transforms import LINEAR, bias_table, tubes

BACKBONE = "backbone."
_BLOCK, _MERGE = "backbone.layers.{}.blocks.{}", "backbone.layers.{}.downsample"


def tps_table(patch: int = 4, window: int = 7) -> KeyTable:
  """The keys of a PST or Video Swin with patches and windows of a side."""
  ours = "stages/{}/blocks/{}"
  return KeyTable(
    rules=[
      Rule(
        "backbone.patch_embed.proj.weight",
        "patch_embed/proj/kernel",
        tubes(patch),
      ),
      Rule("backbone.patch_embed.proj.bias", "patch_embed/proj/bias"),
      *norm_rules("backbone.patch_embed.norm", "patch_norm"),
      Rule(
        f"{_BLOCK}.attn.relative_position_bias_table",
        f"{ours}/bias/table",
        bias_table(window),
      ),
      *block_rules(_BLOCK, ours),
      *norm_rules(f"{_MERGE}.norm", "stages/{}/merge/norm"),
      Rule(
        f"{_MERGE}.reduction.weight", "stages/{}/merge/reduction/kernel", LINEAR
      ),
      *norm_rules("backbone.norm", "norm"),
      *linear_rules("cls_head.fc_cls", "head/fc"),
    ],
    ignored=[
      Ignored(
        r".*\.attn\.relative_position_index(_old)?",
        "a constant that follows from the pattern",
      )
    ],
  )


TPS = tps_table()


def position_index(
  queries: Int[np.ndarray, "t n"],
  keys: Int[np.ndarray, "#t n"],
  window: tuple[int, int, int],
) -> Int[np.ndarray, "t n n"]:
  """Returns the rows of a flat bias table, as official code stores them.

  Args:
    queries: the frame that each token of a window comes from.
    keys: the same of the keys.
    window: frames, rows and columns that the table is made for; the n tokens
      are those of one frame or of all of them.
  """
  frames, height, width = window
  spans = queries.shape[1] // (height * width)
  _, row, column = np.indices((spans, height, width)).reshape(3, -1)
  index = queries[:, :, None] - keys[:, None, :] + frames - 1
  for place, side in ((row, height), (column, width)):
    difference = place[:, None] - place[None, :] + side - 1
    index = index * (2 * side - 1) + difference
  return index.astype(np.int64)
