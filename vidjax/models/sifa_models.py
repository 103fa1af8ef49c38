"""The named models of SIFA: on ResNet and on Swin, and ResNet baselines."""

from typing import Any

from vidjax.models.resnet import SIFA, ResNet
from vidjax.models.spec import ModelSpec, specify
from vidjax.models.swin import Swin

R101: dict[str, Any] = {"depths": (3, 4, 23, 3)}
SWIN_SMALL: dict[str, Any] = {
  "dim": 96,
  "heads": (3, 6, 12, 24),
  "drop_path": 0.3,
}
SWIN_BASE: dict[str, Any] = {
  "dim": 128,
  "heads": (4, 8, 16, 32),
  "drop_path": 0.5,
}
SWIN_LARGE: dict[str, Any] = SWIN_BASE | {"dim": 192, "heads": (6, 12, 24, 48)}
SWIN: dict[str, Any] = {
  "depths": (2, 2, 18, 2),
  "patch_size": (4, 4, 4),
  "patch_norm": False,
  "drop_whole_clips": False,
  "bias_frames": 1,
  "bias_key_frame": "same",
  "head": {"kind": "average", "init_std": 0.02},
}
SWIN_SIFA: dict[str, Any] = {
  "op": "interframe",
  "places": "even",
  "window": 7,
  "convolve": True,
  "norm": True,
  "placement": "after",
  "offsets": "none",
  "kernel": 3,
}
NONE: dict[str, Any] = {"op": "none"}
# For the built-in motion clips, 8 frames of 64 x 64 pixels.
MOTION: dict[str, Any] = {
  "image_size": 64,
  "dim": 16,
  "depths": (1, 2, 2, 2),
  "dropout_rate": 0.0,
}


def _net(num_classes: int, frames: int, **options: Any) -> ModelSpec:
  return specify(ResNet, "SIFA", frames, num_classes=num_classes, **options)


def _baseline(
  blocks: str, num_classes: int = 400, frames: int = 16, **options: Any
) -> ModelSpec:
  return specify(
    ResNet,
    "SIFA baseline",
    frames,
    num_classes=num_classes,
    blocks=(blocks,) * 4,
    temporal=dict(NONE),
    **options,
  )


def _swin(
  size: dict[str, Any], num_classes: int, frames: int, **options: Any
) -> ModelSpec:
  options = SWIN | {"temporal": dict(SWIN_SIFA)} | size | options
  return specify(Swin, "SIFA", frames, num_classes=num_classes, **options)


# With temporal={"op": "none"} a SIFA-Net keeps its global context blocks: the
# clean ablation of its attention. The baselines have neither.
SIFA_MODELS: dict[str, ModelSpec] = {
  "sifa_r50_16f_k400": _net(400, 16),
  "sifa_r50_32f_k400": _net(400, 32),
  "sifa_r50_64f_k400": _net(400, 64),
  "sifa_r50_16f_ssv1": _net(174, 16),
  "sifa_r101_16f_k400": _net(400, 16, **R101),
  "sifa_r101_32f_k400": _net(400, 32, **R101),
  "sifa_r101_64f_k400": _net(400, 64, **R101),
  "c2d_r50_16f_k400": _baseline("B"),
  "tsm_r50_16f_k400": _baseline("M"),
  "temporal_conv_r50_16f_k400": _baseline("T"),
  "sifa_swin_s_16f_k400": _swin(SWIN_SMALL, 400, 16),
  "sifa_swin_b_16f_k400": _swin(SWIN_BASE, 400, 16),
  "sifa_swin_b_64f_k400": _swin(SWIN_BASE, 400, 64),
  "sifa_swin_l_16f_k400": _swin(SWIN_LARGE, 400, 16),
  "sifa_motion": _net(
    12, 8, temporal=dict(SIFA) | {"offset_init": "zero"}, **MOTION
  ),
  "sifa_per_frame_motion": _net(
    12,
    8,
    temporal=dict(SIFA) | {"offset_init": "zero"},
    stem_frames=1,
    **MOTION,
  ),
  "c2d_motion": _baseline("B", 12, 8, stem_frames=1, **MOTION),
}
