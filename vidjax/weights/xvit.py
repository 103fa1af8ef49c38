"""Key table of the official X-ViT code (state dict under `model_state`)."""

from vidjax.weights.keys import (
  Ignored,
  KeyTable,
  Rule,
  block_rules,
  linear_rules,
  norm_rules,
)
from vidjax.weights.transforms import PATCHES, squeeze

_VIT = [
  Rule("base_model.cls_token", "class_token", squeeze(0, 1)),
  Rule("base_model.pos_embed", "position", squeeze(0)),
  Rule("base_model.temp_embed", "temporal_position", squeeze(0, 2)),
  Rule(
    "base_model.patch_embed.proj.weight", "patch_embed/proj/kernel", PATCHES
  ),
  Rule("base_model.patch_embed.proj.bias", "patch_embed/proj/bias"),
  *block_rules("base_model.blocks.{}", "blocks/{}"),
  *norm_rules("base_model.norm", "norm"),
]

TEMPORAL_ATTENTION = KeyTable(
  rules=[
    *_VIT,
    Rule("consensus.cls_token", "head/class_token", squeeze(0, 1)),
    *block_rules("consensus.temporal_encoder.{}", "head/blocks/{}"),
    *norm_rules("consensus.mlp_head.0", "head/norm"),
    *linear_rules("consensus.mlp_head.1", "head/fc1"),
    *linear_rules("consensus.mlp_head.4", "head/fc2"),
  ],
  ignored=[
    Ignored(
      r"new_fc\.(weight|bias)", "the classifier that temporal attention ignores"
    )
  ],
)
AVERAGE = KeyTable(rules=[*_VIT, *linear_rules("new_fc", "head/fc")])
# With a dropout of 0 the official code classifies in the backbone.
AVERAGE_WITHOUT_DROPOUT = KeyTable(
  rules=[*_VIT, *linear_rules("base_model.head", "head/fc")]
)
