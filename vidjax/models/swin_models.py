"""The named models on Swin: TPS's PST, and baselines of its size."""

from typing import Any

from vidjax.models.spec import ModelSpec, specify
from vidjax.models.swin import Swin

TINY_SIZE: dict[str, Any] = {
  "dim": 96,
  "depths": (2, 2, 6, 2),
  "heads": (3, 6, 12, 24),
}
BASE: dict[str, Any] = {
  "dim": 128,
  "depths": (2, 2, 18, 2),
  "heads": (4, 8, 16, 32),
  "drop_path": 0.2,
}
LARGE: dict[str, Any] = BASE | {"dim": 192, "heads": (6, 12, 24, 48)}
# For the built-in motion clips, 8 frames of 64 x 64 pixels. Blocks without
# patch shift have the same bias in all frames: only plugs know their order.
MOTION: dict[str, Any] = {
  "image_size": 64,
  "patch_size": (1, 8, 8),
  "dim": 64,
  "depths": (2, 2),
  "heads": (2, 4),
  "window": (1, 4, 4),
  "bias_frames": 8,
  "bias_key_frame": "same",
  "dropout_rate": 0.0,
  "drop_path": 0.0,
  "init_std": 0.1,
}
PST: dict[str, Any] = {
  "op": "patch_shift",
  "schedule": "pst",
  "pattern": "c9",
  "stages": None,
  "shift_back": True,
  "shifted_bias": True,
  "border": "keep",
}
NONE: dict[str, Any] = {"op": "none"}


def _pst(
  size: dict[str, Any], num_classes: int, frames: int = 32, **options: Any
) -> ModelSpec:
  options = {"temporal": dict(PST)} | size | options
  return specify(Swin, "TPS", frames, num_classes=num_classes, **options)


def _baseline(
  size: dict[str, Any], num_classes: int, frames: int = 32, **options: Any
) -> ModelSpec:
  options = {"temporal": dict(NONE)} | size | options
  return specify(
    Swin, "Swin baseline", frames, num_classes=num_classes, **options
  )


SWIN_MODELS: dict[str, ModelSpec] = {
  "pst_t_k400": _pst(TINY_SIZE, 400),
  "pst_t_ssv1": _pst(TINY_SIZE, 174),
  "pst_t_ssv2": _pst(TINY_SIZE, 174),
  "pst_t_diving48": _pst(TINY_SIZE, 48),
  "pst_b_k400": _pst(BASE, 400),
  "pst_b_ssv2": _pst(BASE, 174),
  "pst_l_k400": _pst(LARGE, 400),
  # Frame by frame, and with Video Swin's joint windows of 8 x 7 x 7.
  "swin_t_k400": _baseline(TINY_SIZE, 400),
  "video_swin_t_k400": _baseline(TINY_SIZE, 400, window=(8, 7, 7)),
  "pst_motion": _pst(MOTION, 12, 8),
  "swin_motion": _baseline(MOTION, 12, 8),
  "video_swin_motion": _baseline(MOTION, 12, 8, window=(8, 4, 4)),
}
