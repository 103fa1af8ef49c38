"""Key tables of the official SIFA code, and its start from image weights."""

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from vidjax.weights.entries import Entry, State
from vidjax.weights.keys import (
  Ignored,
  KeyTable,
  Rule,
  WeightsError,
  batch_norm_rules,
  block_rules,
  linear_rules,
  norm_rules,
)
from vidjax.weights.transforms import (
  FRAME_CONV,
  FRAME_POINTWISE,
  FRAMES_POINTWISE,
  LINEAR,
  STEM,
  THREE_FRAMES,
  bias_table,
  tubes,
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
    Rule(f"{source}conv1.weight", f"{target}conv1/kernel", FRAME_POINTWISE),
    Rule(f"{source}conv2.weight", f"{target}conv2/kernel", FRAME_CONV),
    Rule(f"{source}conv3.weight", f"{target}conv3/kernel", FRAME_POINTWISE),
    *(
      rule
      for number in (1, 2, 3)
      for rule in batch_norm_rules(
        f"{source}bn{number}", f"{target}norm{number}"
      )
    ),
    Rule(
      f"{source}downsample.0.weight",
      f"{target}shortcut/conv/kernel",
      FRAME_POINTWISE,
    ),
    *batch_norm_rules(f"{source}downsample.1", f"{target}shortcut/norm"),
    *linear_rules(f"{source}fc1", f"{target}context/fc1"),
    *linear_rules(f"{source}fc2", f"{target}context/fc2"),
    Rule(
      f"{source}conv_offset.weight",
      f"{target}temporal/attention/offset/conv/kernel",
      FRAME_CONV,
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


def resnet_table(three_frames: Iterable[str] = ()) -> KeyTable:
  """The keys of a SIFA-Net or of a baseline of it.

  Args:
    three_frames: official names, such as "layer2.0", of the blocks whose first
      convolution sees three frames, a kernel of 3 x 1 x 1.
  """
  first = []
  for block in three_frames:
    stage, place = block.removeprefix("layer").split(".")
    ours = "dual_stage" if stage == "4_dual" else f"stages/{int(stage) - 1}"
    first.append(
      Rule(
        f"{block}.conv1.weight",
        f"{ours}/{place}/conv1/kernel",
        FRAMES_POINTWISE,
      )
    )
  return KeyTable([*first, *RESNET.rules], RESNET.ignored)


def swin_table(patch: int = 4, window: int = 7) -> KeyTable:
  """The keys of SIFA-Swin with patches and windows of a side."""
  block, ours = "layers.{}.blocks.{}", "stages/{}/blocks/{}"
  merge = "layers.{}.downsample"
  return KeyTable(
    rules=[
      Rule("patch_embed.proj.weight", "patch_embed/proj/kernel", tubes(patch)),
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


def check_correlations(state: State) -> None:
  """Checks that the stored weights of correlations are one over the channels.

  Raises:
    WeightsError: if one is not; vidjax has no other correlation.
  """
  for key, entry in state.items():
    if key.endswith(_CONSTANT):
      constant = entry.value
      if not np.allclose(constant * len(constant), 1, atol=1e-3):
        raise WeightsError(
          f"{key} is not 1 / {len(constant)} everywhere, as it is in official "
          "weights, and vidjax has no other correlation; convert weights that "
          "were made by the official code"
        )


def _alone(
  weight: Float[np.ndarray, "o i p q"], frame: int, frames: int
) -> Float[np.ndarray, "o i s p q"]:
  """Lets a convolution of several frames start by seeing one of them alone."""
  shape = (*weight.shape[:2], frames, *weight.shape[2:])
  result = np.zeros(shape, weight.dtype)
  result[:, :, frame] = weight
  return result


def inflate_resnet(
  state: State, *, dual: bool = True, three_frames: Iterable[str] = ()
) -> State:
  """Turns an ImageNet ResNet's state dict (torchvision, timm) to SIFA-Net's.

  The last stage starts both heads. Offsets and global context are not in it
  and keep their own initial values; the official code drops the classifier.

  Args:
    state: torchvision's keys.
    dual: whether the model has a dual head.
    three_frames: see `resnet_table`; such blocks, which the official code has
      not, start by seeing the frame in the middle.
  """
  wide = {f"{block}.conv1.weight" for block in three_frames}
  result = {}

  def add(key: str, entry: Entry) -> None:
    if key == "conv1.weight":
      entry = entry.changed(_alone(entry.value, 2, 4), "third frame of 4")
    elif key in wide:
      entry = entry.changed(_alone(entry.value, 1, 3), "second frame of 3")
    elif "conv" in key or "downsample.0" in key:
      entry = entry.changed(entry.value[:, :, None], "one frame")
    result[key] = entry

  for key, entry in state.items():
    add(key, entry)
    if dual and key.startswith("layer4."):
      add(key.replace("layer4.", "layer4_dual.", 1), entry)
  return result


def inflate_swin(state: State) -> State:
  """Turns a 2-D Swin state dict to SIFA-Swin's.

  Temporal convolutions start at zero. The norms behind the attention are not
  in it (zero by their own initial values); the norm that the image model has
  behind its patch embedding is left out.

  Args:
    state: Microsoft Swin's keys (its file's entry "model").
  """
  result = {}
  for key, entry in state.items():
    if key.startswith("patch_embed.norm."):
      entry = entry.dropped("SIFA-Swin has no norm behind its patch embedding")
    elif key == "patch_embed.proj.weight":
      entry = entry.changed(_alone(entry.value, 2, 4), "third frame of 4")
    result[key] = entry
    if key.endswith("mlp.fc1.weight"):
      c = entry.value.shape[1]
      zeros = np.zeros((c, c, 1, 3), entry.value.dtype)
      name = key.replace("mlp.fc1", "conv")
      result[name] = Entry((), zeros.shape, zeros, ("zeros",))
  return result
