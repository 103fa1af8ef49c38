"""Every family of state dicts that vidjax can start from, by name."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from vidjax.models.backbone import Backbone
from vidjax.models.resnet import ResNet
from vidjax.models.swin import Swin
from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.weights import laps, sifa, swin, vit
from vidjax.weights.entries import State
from vidjax.weights.keys import Ignored, WeightsError
from vidjax.weights.layouts import Layout, first_block, three_frame_blocks

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Family:
  """State dicts of one code base.

  Attributes:
    title: what it is.
    backbones: models that it fits.
    recognise: given shapes by key, whether they are of this family.
    keys: regular expression of its keys, to tell which family is nearest.
    adapt: brings its keys to those of the model's official layout.
    fresh: paths of the model that it has nothing for.
    grid: how a ViT's positions are resized (`vidjax.weights.resize`).
    rows: how its temporal positions are.
  """

  title: str
  backbones: tuple[type[Backbone], ...]
  recognise: Callable[[Shapes], bool]
  keys: str
  adapt: Callable[[State, Any, Layout], State]
  fresh: tuple[Ignored, ...] = ()
  grid: str = "bilinear"
  rows: str = "repeated"


def recognise(shapes: Shapes, layout: Layout) -> str:
  """Returns the name of the family that has such keys.

  Args:
    shapes: of all arrays by key.
    layout: of the model; its own family comes first where several have them.

  Raises:
    WeightsError: if none has; the message names the nearest.
  """
  found = [
    name for name, family in FAMILIES.items() if family.recognise(shapes)
  ]
  if found:
    return layout.system if layout.system in found else found[0]
  unknown = {
    name: [key for key in shapes if not re.fullmatch(family.keys, key)]
    for name, family in FAMILIES.items()
  }
  nearest = min(unknown, key=lambda name: len(unknown[name]))
  rest = unknown[nearest]
  known = len(shapes) - len(rest)
  first = ", ".join(rest[:5])
  if not known:
    raise WeightsError(
      f"none of the {len(shapes)} keys is of a known family; the first are "
      f"{first}; the families are {', '.join(FAMILIES)}"
    )
  others = f"the first others are {first}" if rest else "some are missing"
  raise WeightsError(
    f"the weights are of no known family; the nearest is {nearest!r} "
    f"({FAMILIES[nearest].title}) with {known} of {len(shapes)} keys, and "
    f"{others}; give another file, or name the family"
  )


def check_backbone(name: str, model: Backbone) -> None:
  """Checks that a family fits a model's backbone.

  Raises:
    WeightsError: if it does not.
  """
  family = FAMILIES[name]
  if not isinstance(model, family.backbones):
    fitting = [
      name
      for name, other in FAMILIES.items()
      if isinstance(model, other.backbones)
    ]
    kinds = " or ".join(kind.__name__ for kind in family.backbones)
    raise WeightsError(
      f"these are weights of {family.title} (family {name!r}) for a {kinds}, "
      f"but the model is a {type(model).__name__}; give weights of "
      f"{', '.join(fitting)}, or another model"
    )


def _has(shapes: Shapes, pattern: str, axes: int | None = None) -> bool:
  return any(
    re.fullmatch(pattern, key) and axes in (None, len(shape))
    for key, shape in shapes.items()
  )


def _has_all(
  *patterns: str, patch: int | None = None
) -> Callable[[Shapes], bool]:
  """Whether each pattern has a key, and the patch embedding so many axes."""

  def recognised(shapes: Shapes) -> bool:
    kernel = r"(.*\.)?patch_embed\.proj\.weight"
    return all(_has(shapes, pattern) for pattern in patterns) and (
      patch is None or _has(shapes, kernel, patch)
    )

  return recognised


def _is_tps(shapes: Shapes) -> bool:
  index = r".*\.relative_position_index"
  return _has(shapes, r"backbone\.layers\.0\..*") and not _has(shapes, index, 2)


def _is_video_swin(shapes: Shapes) -> bool:
  index = r".*\.relative_position_index"
  return _has(shapes, r"backbone\.layers\.0\..*") and not _has(shapes, index, 3)


def _is_sifa(shapes: Shapes) -> bool:
  return _has(shapes, r"conv1\.weight", 5) or _has(shapes, r".*\.tda_norm\..*")


def _is_resnet(shapes: Shapes) -> bool:
  return _has(shapes, r"conv1\.weight", 4) and _has(shapes, r"layer1\.0\..*")


def _is_swin(shapes: Shapes) -> bool:
  return _has_all(r"layers\.0\.blocks\.0\.attn\.qkv\.weight", patch=4)(shapes)


def _is_timm_swin(shapes: Shapes) -> bool:
  """Its stages start with the merging."""
  starts = not _has(shapes, r"layers\.0\.downsample\..*")
  starts &= _has(shapes, r"layers\.1\.downsample\..*")
  return _is_swin(shapes) and (starts or _has(shapes, r"head\.fc\..*"))


def _as_is(state: State, model: Backbone, layout: Layout) -> State:
  del model, layout
  return state


def _xvit(state: State, model: ViT, layout: Layout) -> State:
  """Official code moves the classifier if its dropout is 0."""
  del model
  homes = ("base_model.head", "new_fc")
  if layout.head not in homes:
    return state
  result = {}
  for key, entry in state.items():
    home, _, kind = key.rpartition(".")
    result[f"{layout.head}.{kind}" if home in homes else key] = entry
  return result


def _sifa(state: State, model: Backbone, layout: Layout) -> State:
  del model, layout
  sifa.check_correlations(state)
  return state


def _timesformer(state: State, model: ViT, layout: Layout) -> State:
  del model, layout
  return {f"model.{key.removeprefix('model.')}": x for key, x in state.items()}


def _laps(state: State, model: Backbone, layout: Layout) -> State:
  return _headed(laps.official_keys(state), model, layout, "base_model.head")


def _headed(
  state: State, model: Backbone, layout: Layout, head: str = "head"
) -> State:
  """Moves the linear classifier to where official code has it."""
  del model
  result = {}
  for key, entry in state.items():
    home, _, kind = key.rpartition(".")
    if home != head:
      result[key] = entry
    elif layout.head is None:
      reason = "a linear classifier, which the model's head has not"
      result[key] = entry.dropped(reason)
    else:
      result[f"{layout.head}.{kind}"] = entry
  return result


def _image_vit(state: State, model: ViT, layout: Layout) -> State:
  """A ViT by timm's names."""
  result, reason = {}, "a layer of images ahead of their classifier"
  before_head = any(key.startswith("pre_logits.") for key in state)
  if layout.system == "timesformer":
    state = vit.start_divided(state)
  for key, entry in state.items():
    if key.startswith("pre_logits."):
      result[key] = entry.dropped(reason)
    elif key.startswith("head."):
      head = entry.dropped("a classifier of pre_logits")
      result[key] = head if before_head else entry
    else:
      result[f"{layout.prefix}{key}"] = entry
  return _headed(result, model, layout)


def _npz_vit(state: State, model: ViT, layout: Layout) -> State:
  heads = model.blocks[0].attention.heads
  return _image_vit(vit.from_npz(state, heads), model, layout)


def _videomae(state: State, model: ViT, layout: Layout) -> State:
  grid = model.position.shape[0] - 1
  return _image_vit(vit.from_videomae(state, grid), model, layout)


def _image_swin(state: State, model: Swin, layout: Layout) -> State:
  """A 2-D Swin by Microsoft's names."""
  block = first_block(model)
  frames = (block.bias.table.shape[0] + 1) // 2
  window = (frames, block.window[1], block.window[2])
  if layout.system == "sifa":
    state = sifa.inflate_swin(swin.inflate_tables(state, window))
  else:
    spread = model.patch_embed.size[0]
    state = swin.inflate(state, patch_frames=spread, window=window)
  return _headed(
    {
      key if key.startswith("head.") else f"{layout.prefix}{key}": entry
      for key, entry in state.items()
    },
    model,
    layout,
  )


def _timm_swin(state: State, model: Swin, layout: Layout) -> State:
  return _image_swin(swin.microsoft_keys(state), model, layout)


def _image_resnet(state: State, model: ResNet, layout: Layout) -> State:
  del layout
  return sifa.inflate_resnet(
    state,
    dual=model.dual_stage is not None,
    three_frames=three_frame_blocks(model),
  )


_NOT_IN_IMAGES = (
  Ignored(r"temporal_position", "images have no time"),
  Ignored(r".*/temporal/.*", "a part of the temporal operation"),
  Ignored(r".*/context/.*", "images' blocks have no global context"),
)
_VIT_KEYS = (
  r"cls_token|pos_embed|patch_embed\.proj\..*|blocks\.\d+\."
  r"(norm|attn|mlp).*|norm\..*|head\..*|pre_logits\..*"
)
_SWIN_KEYS = r"patch_embed\..*|layers\.\d+\..*|norm\..*"

FAMILIES: dict[str, Family] = {
  "xvit": Family(
    "X-ViT",
    (ViT,),
    _has_all(r"base_model\.temp_embed"),
    r"(base_model|consensus|new_fc)\..*",
    _xvit,
    grid="bicubic",
  ),
  "laps": Family(
    "LAPS or TokShift",
    (Visformer, ViT),
    lambda shapes: (
      _has(shapes, r"base_model\.(blocks\.0|stem\.0)\..*")
      and not _has(shapes, r"base_model\.temp_embed")
    ),
    r"base_model\..*",
    _laps,
  ),
  "tps": Family("TPS", (Swin,), _is_tps, r"(backbone|cls_head)\..*", _as_is),
  "video_swin": Family(
    "Video Swin",
    (Swin,),
    _is_video_swin,
    r"(backbone|cls_head)\..*",
    _as_is,
  ),
  "sifa": Family(
    "SIFA",
    (ResNet, Swin),
    _is_sifa,
    r"(conv1|bn1|layer\d(_dual)?|fc(_dual)?)\..*"
    rf"|(?!.*patch_embed\.norm)({_SWIN_KEYS})",
    _sifa,
  ),
  "timesformer": Family(
    "TimeSformer",
    (ViT,),
    _has_all(r"(model\.)?blocks\.0\.temporal_attn\.qkv\.weight"),
    rf"(model\.)?(time_embed|blocks\.\d+\.temporal.*|{_VIT_KEYS})",
    _timesformer,
    grid="nearest",
    rows="nearest",
  ),
  "videomae": Family(
    "VideoMAE (a fine-tuned ViT)",
    (ViT,),
    _has_all(r"blocks\.0\.attn\.q_bias", patch=5),
    r"blocks\..*|patch_embed\.proj\..*|(fc_)?norm\..*|head\..*",
    _videomae,
    (*_NOT_IN_IMAGES, Ignored(r"class_token", "VideoMAE has no class token")),
  ),
  "vit_npz": Family(
    "an image ViT (JAX file)",
    (ViT,),
    _has_all(r"Transformer/encoder_norm/scale"),
    r"cls|(Transformer|embedding|head|pre_logits)/.*",
    _npz_vit,
    _NOT_IN_IMAGES,
  ),
  "vit": Family(
    "an image ViT (timm's names)",
    (ViT,),
    lambda shapes: (
      _has_all(r"cls_token", r"blocks\.0\.attn\.qkv\.weight", patch=4)(shapes)
      and not _has(shapes, r"blocks\.0\.temporal_attn\..*")
    ),
    _VIT_KEYS,
    _image_vit,
    _NOT_IN_IMAGES,
  ),
  "swin": Family(
    "an image Swin (Microsoft)",
    (Swin,),
    lambda shapes: _is_swin(shapes) and not _is_timm_swin(shapes),
    rf"{_SWIN_KEYS}|head\.(weight|bias)",
    _image_swin,
    _NOT_IN_IMAGES,
  ),
  "swin_timm": Family(
    "an image Swin (timm)",
    (Swin,),
    _is_timm_swin,
    rf"{_SWIN_KEYS}|head\.fc\..*",
    _timm_swin,
    _NOT_IN_IMAGES,
  ),
  "visformer": Family(
    "an image Visformer (official or timm)",
    (Visformer,),
    _has_all(r"stem\.0\.weight", r"stage1\.0\..*"),
    r"pos_embed\d|(stem|stage\d|patch_embed\d|norm|head)\..*",
    _laps,
    _NOT_IN_IMAGES,
  ),
  "resnet": Family(
    "an image ResNet (torchvision or timm)",
    (ResNet,),
    _is_resnet,
    r"(conv1|bn1|layer\d|fc)\..*",
    _image_resnet,
    _NOT_IN_IMAGES,
  ),
}
