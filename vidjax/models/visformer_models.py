"""The named models on Visformer: LAPS, and the rows of its ablation."""

from typing import Any

from vidjax.models.spec import ModelSpec, specify
from vidjax.models.visformer import Visformer

SMALL: dict[str, Any] = {
  "stem_width": 32,
  "dim": 384,
  "depths": (7, 4, 4),
  "heads": 6,
}
# For the built-in motion clips, 8 frames of 64 x 64 pixels.
MOTION: dict[str, Any] = {
  "image_size": 64,
  "stem_width": 16,
  "dim": 96,
  "depths": (1, 2, 2),
  "heads": 4,
}
LEAP: dict[str, Any] = {
  "op": "leap",
  "levels": (1, 2, 3),
  "shift": "periodic",
  "fold_div": 4,
  "blocks": None,
}
LONG_LEAP: dict[str, Any] = LEAP | {"levels": (1, 2, 3, 4, 5)}


def _laps(
  size: dict[str, Any],
  num_classes: int,
  frames: int = 8,
  temporal: dict[str, Any] = LEAP,
  **options: Any,
) -> ModelSpec:
  system = "LAPS" if temporal in (LEAP, LONG_LEAP) else "LAPS baseline"
  options = {"temporal": dict(temporal)} | size | options
  return specify(Visformer, system, frames, num_classes=num_classes, **options)


VISFORMER_MODELS: dict[str, ModelSpec] = {
  "laps_visformer_s_k400": _laps(SMALL, 400),
  "laps_visformer_s_320_k400": _laps(SMALL, 400, 32, LONG_LEAP, image_size=320),
  "laps_visformer_s_360_k400": _laps(SMALL, 400, 32, LONG_LEAP, image_size=360),
  # Leap attention, periodic shift, neither; all channels shifted as one; and
  # all frames joined.
  "visformer_s_la_k400": _laps(SMALL, 400, 8, LEAP | {"shift": "none"}),
  "visformer_s_ps_k400": _laps(SMALL, 400, 8, LEAP | {"levels": (None,)}),
  "visformer_s_plain_k400": _laps(
    SMALL, 400, 8, LEAP | {"levels": (None,), "shift": "plain"}
  ),
  "visformer_s_2d_k400": _laps(SMALL, 400, 8, {"op": "none"}),
  "visformer_s_joint_k400": _laps(SMALL, 400, 8, {"op": "joint"}),
  "laps_visformer_motion": _laps(MOTION, 12),
  "visformer_2d_motion": _laps(MOTION, 12, 8, {"op": "none"}),
  "visformer_la_motion": _laps(MOTION, 12, 8, LEAP | {"shift": "none"}),
  "visformer_ps_motion": _laps(MOTION, 12, 8, LEAP | {"levels": (None,)}),
}
