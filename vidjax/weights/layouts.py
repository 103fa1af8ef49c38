"""The official state dict of a model: its keys, and the constants in it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vidjax.models.backbone import Backbone
from vidjax.models.heads import AverageHead, TemporalAttentionHead
from vidjax.models.resnet import STEM_FRAMES, Bottleneck, ResNet
from vidjax.models.swin import Swin
from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.nn.interframe import InterFrame
from vidjax.nn.space_time import DividedAttention
from vidjax.nn.windows import WindowBlock
from vidjax.ops.patch_shift import mosaic, source_frames
from vidjax.ops.windows import fit_window, padded_size, window_mask
from vidjax.weights import laps, sifa, tps, vit, xvit
from vidjax.weights.keys import KeyTable, WeightsError
from vidjax.weights.transforms import Array

Constants = Callable[[Any, int | None], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Layout:
  """The state dict that official code has for a model.

  Attributes:
    system: the family of the code.
    table: its keys.
    prefix: of all keys of the backbone.
    head: key of the linear classifier, None if the head is no such.
    constants: given the model and the frames of a clip, what the code stores
      beside the weights.
  """

  system: str
  table: KeyTable
  prefix: str
  head: str | None
  constants: Constants


def layout_of(model: Backbone) -> Layout:
  """Returns the official state dict's layout of a model.

  Args:
    model: any, abstract ones too.

  Raises:
    WeightsError: if no official code has such a backbone.
  """
  for kind, layout in _LAYOUTS.items():
    if isinstance(model, kind):
      return layout(model)
  raise WeightsError(
    f"{type(model).__name__} has no official state dict; the backbones that "
    f"have are {', '.join(kind.__name__ for kind in _LAYOUTS)}"
  )


def _vit(model: ViT) -> Layout:
  base = "base_model."
  if isinstance(model.head, TemporalAttentionHead):
    table = xvit.TEMPORAL_ATTENTION
    return Layout("xvit", table, base, None, _unused_classifier)
  if any(isinstance(b.temporal, DividedAttention) for b in model.blocks):
    return Layout("timesformer", vit.TIMESFORMER, "model.", "model.head", _none)
  if model.temporal_position is None:
    return Layout("laps", laps.VIT, base, "base_model.head", _none)
  assert isinstance(model.head, AverageHead)
  if model.head.dropout_rate == 0:
    table, head = xvit.AVERAGE_WITHOUT_DROPOUT, "base_model.head"
  else:
    table, head = xvit.AVERAGE, "new_fc"
  return Layout("xvit", table, base, head, _none)


def _swin(model: Swin) -> Layout:
  block = first_block(model)
  sides = {"patch": model.patch_embed.size[1], "window": block.window[1]}
  if any(isinstance(b.temporal, InterFrame) for _, b in _window_blocks(model)):
    table = sifa.swin_table(**sides)
    return Layout("sifa", table, "", "fc", _sifa_swin_constants)
  joint = block.window[0] > 1
  return Layout(
    "video_swin" if joint else "tps",
    tps.tps_table(**sides),
    tps.BACKBONE,
    "cls_head.fc_cls",
    _window_indices if joint else _patch_shift_indices,
  )


def _visformer(model: Visformer) -> Layout:
  del model
  return Layout("laps", laps.VISFORMER, "base_model.", "base_model.head", _none)


def _resnet(model: ResNet) -> Layout:
  table = sifa.resnet_table(three_frame_blocks(model))
  return Layout("sifa", table, "", "fc", _sifa_net_constants)


_LAYOUTS: dict[type[Backbone], Callable[[Any], Layout]] = {
  ViT: _vit,
  Swin: _swin,
  Visformer: _visformer,
  ResNet: _resnet,
}


def first_block(model: Swin) -> WindowBlock:
  """Returns a Swin's first block."""
  return next(iter(_window_blocks(model)))[1]


def three_frame_blocks(model: ResNet) -> list[str]:
  """Returns official names of the blocks that convolve three frames."""
  return [name for name, block in _bottlenecks(model) if block.kind == "T"]


def _window_blocks(model: Swin) -> Iterator[tuple[str, WindowBlock]]:
  for number, stage in enumerate(model.stages):
    for place, block in enumerate(stage.blocks):
      yield f"layers.{number}.blocks.{place}", block


def _bottlenecks(model: ResNet) -> Iterator[tuple[str, Bottleneck]]:
  stages = {f"layer{i}": s for i, s in enumerate(model.stages, start=1)}
  if model.dual_stage is not None:
    stages["layer4_dual"] = model.dual_stage
  for name, stage in stages.items():
    for place, block in enumerate(stage):
      yield f"{name}.{place}", block


def _none(model: Backbone, frames: int | None) -> dict[str, Array]:
  del model, frames
  return {}


def _unused_classifier(model: ViT, frames: int | None) -> dict[str, Array]:
  """The classifier that official X-ViT has beside temporal attention."""
  del frames
  assert isinstance(model.head, TemporalAttentionHead)
  classes, dim = model.head.fc2.kernel.shape[1], model.class_token.shape[0]
  return {
    "new_fc.weight": np.zeros((classes, dim), np.float32),
    "new_fc.bias": np.zeros(classes, np.float32),
  }


def _patch_shift_indices(model: Swin, frames: int | None) -> dict[str, Array]:
  """Rows of the bias tables: with the mosaic of nine frames, and without."""
  del frames
  result = {}
  for name, block in _window_blocks(model):
    _, height, width = block.window
    made_for = (block.bias.table.shape[0] + 1) // 2
    for key, offsets in (
      ("relative_position_index", mosaic("c9", height, width)),
      ("relative_position_index_old", np.zeros(height * width, int)),
    ):
      sources = source_frames(made_for, offsets)
      result[f"{tps.BACKBONE}{name}.attn.{key}"] = tps.position_index(
        sources, sources[:1], (made_for, height, width)
      )
  return result


def _window_indices(model: Swin, frames: int | None) -> dict[str, Array]:
  """Rows of the bias tables in windows of several frames."""
  del frames
  result = {}
  for name, block in _window_blocks(model):
    key = f"{tps.BACKBONE}{name}.attn.relative_position_index"
    frame = np.indices(block.window)[0].reshape(1, -1)
    result[key] = tps.position_index(frame, frame, block.window)[0]
  return result


def _correlation(dim: int, frames: int, kernel: int) -> Array:
  return np.full((dim, frames, kernel, kernel), 1 / dim, np.float32)


def _sifa_net_constants(model: ResNet, frames: int | None) -> dict[str, Array]:
  result = {}
  for name, block in _bottlenecks(model):
    plug = block.temporal
    if (
      frames is not None
      and isinstance(plug, InterFrame)
      and plug.attention is not None
    ):
      maps = frames // STEM_FRAMES // (2 if "dual" in name else 1)
      dim = block.conv3.kernel.shape[0]
      result[f"{name}.def_cor.weight"] = _correlation(
        dim, maps, plug.attention.kernel
      )
  return result


def _sifa_swin_constants(model: Swin, frames: int | None) -> dict[str, Array]:
  result = {}
  side = model.image_size // model.patch_embed.size[1]
  for name, block in _window_blocks(model):
    _, height, width = block.window
    zeros = np.zeros((1, height * width), int)
    result[f"{name}.attn.relative_position_index"] = tps.position_index(
      zeros, zeros, (1, height, width)
    )[0]
    rows = -(-side // 2 ** int(name.split(".")[1]))
    size = (1, rows, rows)
    window, shift = fit_window(size, block.window, block.shift)
    if any(shift):
      mask = window_mask(padded_size(size, window), window, shift)
      result[f"{name}.attn_mask"] = mask[:, 0]
    plug = block.temporal
    assert isinstance(plug, InterFrame)
    if frames is not None and plug.attention is not None:
      result[f"{name}.def_cor.weight"] = _correlation(
        block.attention.qkv.kernel.shape[0],
        frames // model.patch_embed.size[0],
        plug.attention.kernel,
      )
  return result
