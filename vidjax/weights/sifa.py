"""Key tables of the official SIFA code, and its start from image weights."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Shaped

from vidjax.nn.functional import Tree
from vidjax.weights import keys
from vidjax.weights.keys import (
  LINEAR,
  Ignored,
  KeyTable,
  Rule,
  Transform,
  WeightsError,
  batch_norm_rules,
  block_rules,
  linear_rules,
  norm_rules,
  tubes,
)
from vidjax.weights.tps import bias_table

CONV = Transform(
  "conv",
  lambda x: rearrange(x, "o i 1 p q -> p q i o"),
  lambda x: rearrange(x, "p q i o -> o i 1 p q"),
)
POINTWISE = Transform(
  "pointwise",
  lambda x: rearrange(x, "o i 1 1 1 -> i o"),
  lambda x: rearrange(x, "i o -> o i 1 1 1"),
)
# The stem's convolution, whose stride in time is its kernel.
STEM = Transform(
  "stem",
  lambda x: rearrange(x, "o i s p q -> p q (s i) o"),
  lambda x: rearrange(x, "p q (s i) o -> o i s p q", i=3),
)
# Past, present and future side by side, as a matrix.
THREE_FRAMES = Transform(
  "three_frames",
  lambda x: rearrange(x, "o i 1 s -> (s i) o"),
  lambda x: rearrange(x, "(s i) o -> o i 1 s", s=3),
)

_CONSTANT = "def_cor.weight"
_IGNORED = [
  Ignored(
    rf"(.*\.)?{re.escape(_CONSTANT)}",
    "one over the channels, which the operation divides by",
  ),
  Ignored(
    r"(.*\.)?num_batches_tracked",
    "a counter that PyTorch needs without a momentum only",
  ),
  Ignored(
    r".*\.(attn\.relative_position_index|attn_mask)",
    "a constant that follows from the size of the windows",
  ),
]


def bottleneck_rules(source: str, target: str) -> list[Rule]:
  """A bottleneck, with what only some of them have."""
  return [
    Rule(f"{source}conv1.weight", f"{target}conv1/kernel", POINTWISE),
    Rule(f"{source}conv2.weight", f"{target}conv2/kernel", CONV),
    Rule(f"{source}conv3.weight", f"{target}conv3/kernel", POINTWISE),
    *(
      rule
      for number in (1, 2, 3)
      for rule in batch_norm_rules(
        f"{source}bn{number}", f"{target}norm{number}"
      )
    ),
    Rule(
      f"{source}downsample.0.weight", f"{target}shortcut/conv/kernel", POINTWISE
    ),
    *batch_norm_rules(f"{source}downsample.1", f"{target}shortcut/norm"),
    *linear_rules(f"{source}fc1", f"{target}context/fc1"),
    *linear_rules(f"{source}fc2", f"{target}context/fc2"),
    Rule(
      f"{source}conv_offset.weight",
      f"{target}temporal/attention/offset/conv/kernel",
      CONV,
    ),
  ]


BOTTLENECK = KeyTable(bottleneck_rules("", ""), _IGNORED)

RESNET = KeyTable(
  rules=[
    Rule("conv1.weight", "stem/conv/kernel", STEM),
    *batch_norm_rules("bn1", "stem/norm"),
    *(
      rule
      for number in (1, 2, 3, 4)
      for rule in bottleneck_rules(
        f"layer{number}.{{}}.", f"stages/{number - 1}/{{}}/"
      )
    ),
    *bottleneck_rules("layer4_dual.{}.", "dual_stage/{}/"),
    *linear_rules("fc", "head/fc"),
    *linear_rules("fc_dual", "dual_head/fc"),
  ],
  ignored=_IGNORED,
)


def swin_table(window: int = 7) -> KeyTable:
  """The keys of SIFA-Swin with windows of a side."""
  block, ours = "layers.{}.blocks.{}", "stages/{}/blocks/{}"
  merge = "layers.{}.downsample"
  return KeyTable(
    rules=[
      Rule("patch_embed.proj.weight", "patch_embed/proj/kernel", tubes(4)),
      Rule("patch_embed.proj.bias", "patch_embed/proj/bias"),
      Rule(
        f"{block}.attn.relative_position_bias_table",
        f"{ours}/bias/table",
        bias_table(window),
      ),
      *block_rules(block, ours),
      *norm_rules(f"{block}.tda_norm", f"{ours}/temporal/norm"),
      Rule(
        f"{block}.conv.weight", f"{ours}/temporal/conv/kernel", THREE_FRAMES
      ),
      *norm_rules(f"{merge}.norm", "stages/{}/merge/norm"),
      Rule(
        f"{merge}.reduction.weight", "stages/{}/merge/reduction/kernel", LINEAR
      ),
      *norm_rules("norm", "norm"),
      *linear_rules("fc", "head/fc"),
    ],
    ignored=_IGNORED,
  )


def load(
  table: KeyTable, source: Mapping[str, Any], params: Tree, stats: Tree
) -> tuple[Tree, Tree]:
  """Fills parameters and running statistics from an official state dict.

  Args:
    table: `RESNET` or a `swin_table`.
    source: official keys, with or without the trainer's "module.", to arrays.
    params: only shapes and dtypes are read, as of the next.
    stats: running statistics.

  Raises:
    WeightsError: listing every unknown, missing and mis-shaped key; or if a
      stored weight of the correlation is not one over the channels.
  """
  state = {key.removeprefix("module."): value for key, value in source.items()}
  for key, value in state.items():
    if key.endswith(_CONSTANT):
      constant = np.asarray(value)
      if not np.allclose(constant * len(constant), 1, atol=1e-5):
        raise WeightsError(
          f"{key} is not 1 / {len(constant)} everywhere, as it is in official "
          "weights, and vidjax has no other correlation; convert weights that "
          "were made by the official code"
        )
  return keys.load(table, state, params, stats)


def _third_frame(
  weight: Float[np.ndarray, "o i p q"],
) -> Float[np.ndarray, "o i 4 p q"]:
  """Lets a convolution of four frames start by seeing the third alone."""
  result = np.zeros((*weight.shape[:2], 4, *weight.shape[2:]), weight.dtype)
  result[:, :, 2] = weight
  return result


def inflate_resnet(
  state: Mapping[str, Shaped[np.ndarray, "..."]],
) -> dict[str, Shaped[np.ndarray, "..."]]:
  """Turns an ImageNet ResNet's state dict (torchvision) to SIFA-Net's.

  The last stage starts both heads. Offsets, global context and classifiers
  are not in it and keep their own initial values.
  """
  result = {}
  for key, value in state.items():
    if key.startswith("fc."):
      continue
    if key == "conv1.weight":
      value = _third_frame(value)
    elif "conv" in key or "downsample.0" in key:
      value = value[:, :, None]
    result[key] = value
    if key.startswith("layer4."):
      result[key.replace("layer4.", "layer4_dual.", 1)] = value
  return result


def inflate_swin(
  state: Mapping[str, Shaped[np.ndarray, "..."]],
) -> dict[str, Shaped[np.ndarray, "..."]]:
  """Turns a 2-D Swin state dict to SIFA-Swin's.

  Temporal convolutions start at zero. The norms behind the attention are not
  in it (zero by their own initial values), nor is the classifier; the norm
  that the image model has behind its patch embedding is left out.

  Args:
    state: Microsoft Swin's keys (its file's entry "model") and arrays.
  """
  result = {}
  for key, value in state.items():
    if key.startswith(("head.", "patch_embed.norm.")):
      continue
    if key == "patch_embed.proj.weight":
      value = _third_frame(value)
    result[key] = value
    if key.endswith("mlp.fc1.weight"):
      c = value.shape[1]
      name = key.replace("mlp.fc1", "conv")
      result[name] = np.zeros((c, c, 1, 3), value.dtype)
  return result
