"""Key table of the official TPS code (mmcv and ModelScope `state_dict`)."""

import numpy as np

from vidjax.weights.keys import (
  LINEAR,
  Ignored,
  KeyTable,
  Rule,
  Transform,
  block_rules,
  linear_rules,
  norm_rules,
  tubes,
)


def bias_table(window: int) -> Transform:
  """A flat bias table `(frames rows columns, heads)`, cut into its axes."""
  side = 2 * window - 1
  return Transform(
    f"bias_table({window})",
    lambda x: np.reshape(x, (-1, side, side, x.shape[-1])),
    lambda x: np.reshape(x, (-1, x.shape[-1])),
  )


_BLOCK, _MERGE = "backbone.layers.{}.blocks.{}", "backbone.layers.{}.downsample"

TPS = KeyTable(
  rules=[
    Rule(
      "backbone.patch_embed.proj.weight", "patch_embed/proj/kernel", tubes(4)
    ),
    Rule("backbone.patch_embed.proj.bias", "patch_embed/proj/bias"),
    *norm_rules("backbone.patch_embed.norm", "patch_norm"),
    Rule(
      f"{_BLOCK}.attn.relative_position_bias_table",
      "stages/{}/blocks/{}/bias/table",
      bias_table(7),
    ),
    *block_rules(_BLOCK, "stages/{}/blocks/{}"),
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
