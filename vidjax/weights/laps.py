"""Key tables of the official LAPS code: Visformer, and ViT with its plugs.

All variants of a backbone share one table: leap attention, the shifts and joint
attention have no parameters.
"""

import re

from vidjax.models.visformer import PATCHES
from vidjax.weights.entries import State
from vidjax.weights.keys import (
  Ignored,
  KeyTable,
  Rule,
  batch_norm_rules,
  block_rules,
  linear_rules,
  norm_rules,
)
from vidjax.weights.transforms import (
  CONV,
  MAP,
  POINTWISE,
  patch_conv,
  squeeze,
)
from vidjax.weights.transforms import PATCHES as IMAGE_PATCHES


def _stage_rules(number: int) -> list[Rule]:
  """The rules of a stage that the official code counts from 1."""
  embed = f"base_model.patch_embed{number}"
  block = f"base_model.stage{number}.{{}}"
  stage = f"stages/{number - 1}"
  ours = f"{stage}/blocks/{{}}"
  return [
    Rule(f"base_model.pos_embed{number}", f"{stage}/position", MAP),
    Rule(
      f"{embed}.proj.weight",
      f"{stage}/embed/proj/kernel",
      patch_conv(PATCHES[number - 1]),
    ),
    Rule(f"{embed}.proj.bias", f"{stage}/embed/proj/bias"),
    *batch_norm_rules(f"{embed}.norm.bn", f"{stage}/norm"),
    *batch_norm_rules(f"{block}.norm1.bn", f"{ours}/norm1"),
    *batch_norm_rules(f"{block}.norm2.bn", f"{ours}/norm2"),
    *(
      Rule(
        f"{block}.attn.{name}.weight",
        f"{ours}/attention/{name}/kernel",
        POINTWISE,
      )
      for name in ("qkv", "proj")
    ),
    *(
      Rule(f"{block}.mlp.{name}.weight", f"{ours}/mlp/{name}/kernel", layout)
      for name, layout in (
        ("conv1", POINTWISE),
        ("conv2", CONV),
        ("conv3", POINTWISE),
      )
    ),
  ]


VISFORMER = KeyTable(
  rules=[
    Rule("base_model.stem.0.weight", "stem/conv/kernel", CONV),
    *batch_norm_rules("base_model.stem.1.bn", "stem/norm"),
    *_stage_rules(1),
    *_stage_rules(2),
    *_stage_rules(3),
    *batch_norm_rules("base_model.norm.bn", "norm"),
    *linear_rules("base_model.head", "head/fc"),
  ],
  ignored=[
    Ignored(
      r".*\.num_batches_tracked",
      "a counter that PyTorch needs without a momentum only",
    )
  ],
)

VIT = KeyTable(
  rules=[
    Rule("base_model.cls_token", "class_token", squeeze(0, 1)),
    Rule("base_model.pos_embed", "position", squeeze(0)),
    Rule(
      "base_model.patch_embed.proj.weight",
      "patch_embed/proj/kernel",
      IMAGE_PATCHES,
    ),
    Rule("base_model.patch_embed.proj.bias", "patch_embed/proj/bias"),
    *block_rules("base_model.blocks.{}", "blocks/{}"),
    *norm_rules("base_model.norm", "norm"),
    *linear_rules("base_model.head", "head/fc"),
  ]
)

_BATCH_NORM = re.compile(r"(base_model\.(?:.*\.)?(?:norm\d?|stem\.1))\.(\w+)")


def official_keys(state: State) -> State:
  """Renames the keys of a Visformer or ViT to those of its table.

  Takes state dicts of the official code (`base_model.`), of the image model
  and timm's `vit_*` (bare keys) and of timm's `visformer_*`, whose batch norms
  are named without `.bn`.
  """
  result = {}
  batch_norms = any(key.endswith(".running_mean") for key in state)
  for key, value in state.items():
    renamed = f"base_model.{key.removeprefix('base_model.')}"
    found = _BATCH_NORM.fullmatch(renamed) if batch_norms else None
    result[f"{found[1]}.bn.{found[2]}" if found else renamed] = value
  return result
