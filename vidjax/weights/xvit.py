"""Key table of the official X-ViT code (state dict under `model_state`)."""

from vidjax.weights.keys import (
  LINEAR,
  PATCHES,
  Ignored,
  KeyTable,
  Rule,
  squeeze,
)


def _linear(source: str, target: str) -> list[Rule]:
  return [
    Rule(f"{source}.weight", f"{target}/kernel", LINEAR),
    Rule(f"{source}.bias", f"{target}/bias"),
  ]


def _norm(source: str, target: str) -> list[Rule]:
  return [
    Rule(f"{source}.weight", f"{target}/scale"),
    Rule(f"{source}.bias", f"{target}/bias"),
  ]


def _block(source: str, target: str) -> list[Rule]:
  return [
    *_norm(f"{source}.norm1", f"{target}/norm1"),
    *_linear(f"{source}.attn.qkv", f"{target}/attention/qkv"),
    *_linear(f"{source}.attn.proj", f"{target}/attention/proj"),
    *_norm(f"{source}.norm2", f"{target}/norm2"),
    *_linear(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
    *_linear(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
  ]


_VIT = [
  Rule("base_model.cls_token", "class_token", squeeze(0, 1)),
  Rule("base_model.pos_embed", "position", squeeze(0)),
  Rule("base_model.temp_embed", "temporal_position", squeeze(0, 2)),
  Rule(
    "base_model.patch_embed.proj.weight", "patch_embed/proj/kernel", PATCHES
  ),
  Rule("base_model.patch_embed.proj.bias", "patch_embed/proj/bias"),
  *_block("base_model.blocks.{}", "blocks/{}"),
  *_norm("base_model.norm", "norm"),
]

TEMPORAL_ATTENTION = KeyTable(
  rules=[
    *_VIT,
    Rule("consensus.cls_token", "head/class_token", squeeze(0, 1)),
    *_block("consensus.temporal_encoder.{}", "head/blocks/{}"),
    *_norm("consensus.mlp_head.0", "head/norm"),
    *_linear("consensus.mlp_head.1", "head/fc1"),
    *_linear("consensus.mlp_head.4", "head/fc2"),
  ],
  ignored=[
    Ignored(
      r"new_fc\.(weight|bias)", "the classifier that temporal attention ignores"
    )
  ],
)
AVERAGE = KeyTable(rules=[*_VIT, *_linear("new_fc", "head/fc")])
# With a dropout of 0 the official code classifies in the backbone.
AVERAGE_WITHOUT_DROPOUT = KeyTable(
  rules=[*_VIT, *_linear("base_model.head", "head/fc")]
)
