"""The named models on ViT: X-ViT, and baselines of its size."""

from collections.abc import Mapping
from typing import Any

from vidjax.models.spec import ModelSpec, specify
from vidjax.models.vit import ViT

B16: dict[str, Any] = {"patch_size": 16, "dim": 768, "depth": 12, "heads": 12}
B32: dict[str, Any] = B16 | {"patch_size": 32}
L16: dict[str, Any] = {"patch_size": 16, "dim": 1024, "depth": 24, "heads": 16}
L32: dict[str, Any] = L16 | {"patch_size": 32}
# For the built-in motion clips, 64 x 64 pixels.
TINY: dict[str, Any] = {
  "image_size": 64,
  "patch_size": 16,
  "dim": 96,
  "depth": 4,
  "heads": 4,
  "dropout_rate": 0.0,
  "init_std": 0.1,
}
MIXING: dict[str, Any] = {
  "op": "mixing",
  "mix": "kv",
  "shift_div": 8,
  "window": 1,
  "boundary_only": False,
  "segment": None,
  "split": "channels",
  "summary_tokens": False,
  "blocks": None,
}
ATTENTION: dict[str, Any] = {
  "kind": "temporal_attention",
  "layers": 1,
  "mlp_dim": None,
}
LEAP: dict[str, Any] = {
  "op": "leap",
  "levels": (1, 2, 3, 1),
  "shift": "periodic",
  "fold_div": 4,
  "blocks": None,
}
TOKEN_SHIFT: dict[str, Any] = {
  "op": "token_shift",
  "fold_div": 4,
  "blocks": None,
}
AVERAGE: dict[str, Any] = {"kind": "average"}


def _vit(
  system: str,
  size: Mapping[str, Any],
  num_classes: int,
  frames: int,
  temporal: Mapping[str, Any],
  head: Mapping[str, Any] = AVERAGE,
  **options: Any,
) -> ModelSpec:
  head = dict(head) | ({"heads": size["heads"]} if head is ATTENTION else {})
  return specify(
    ViT,
    system,
    frames,
    num_classes=num_classes,
    temporal=dict(temporal),
    head=head,
    **dict(size) | options,
  )


def _xvit(
  size: Mapping[str, Any], num_classes: int, frames: int, **mixing: Any
) -> ModelSpec:
  return _vit("X-ViT", size, num_classes, frames, MIXING | mixing, ATTENTION)


def _image_vit(
  system: str,
  size: Mapping[str, Any],
  num_classes: int,
  frames: int,
  temporal: Mapping[str, Any],
  **options: Any,
) -> ModelSpec:
  """An image's ViT, frame by frame: no temporal positions, no dropout."""
  options = {"temporal_positions": 0, "dropout_rate": 0.0} | options
  head = AVERAGE | {"init_std": 0.02}
  return _vit(system, size, num_classes, frames, temporal, head, **options)


def _baselines(
  suffix: str, size: Mapping[str, Any], num_classes: int, frames: int
) -> dict[str, ModelSpec]:
  """The same ViT with the other plugs and an averaging head."""
  system = "ViT baseline"
  plain = (size, num_classes, frames)
  divided = {"op": "divided", "blocks": None}
  return {
    # Without temporal positions, so that it cannot know the frames' order.
    f"vit_{suffix}": _vit(system, *plain, {"op": "none"}, temporal_positions=0),
    f"vit_joint_{suffix}": _vit(system, *plain, {"op": "joint"}),
    f"timesformer_{suffix}": _vit(
      system, *plain, divided, class_positions=False
    ),
    f"tsm_vit_{suffix}": _vit(
      system, *plain, {"op": "channel_shift", "fold_div": 8, "blocks": None}
    ),
    f"tokshift_vit_{suffix}": _vit(system, *plain, TOKEN_SHIFT),
  }


VIT_MODELS: dict[str, ModelSpec] = {
  # The released Kinetics models mix within two segments of 8 frames.
  "xvit_b16_k400": _xvit(B16, 400, 16, segment=8),
  "xvit_b16_k600": _xvit(B16, 600, 16, segment=8),
  "xvit_b16_ssv2": _xvit(B16, 174, 16, shift_div=4),
  "xvit_b16_8f_ssv2": _xvit(B16, 174, 8, shift_div=4),
  "xvit_b32_8f_ssv2": _xvit(B32, 174, 8, shift_div=4),
  "xvit_l16_8f_ssv2": _xvit(L16, 174, 8, shift_div=4, blocks=tuple(range(15))),
  "xvit_l32_8f_ssv2": _xvit(L32, 174, 8, shift_div=4, blocks=tuple(range(15))),
  **_baselines("b16_8f_k400", B16, 400, 8),
  # LAPS's level pattern repeats after four blocks, not after three.
  "laps_vit_b16_k400": _image_vit("LAPS", B16, 400, 8, LEAP),
  "laps_vit_b16_384_k400": _image_vit(
    "LAPS", B16, 400, 8, LEAP, image_size=384
  ),
  "laps_vit_l16_384_k400": _image_vit(
    "LAPS", L16, 400, 8, LEAP, image_size=384
  ),
  "tokshift_b16_k400": _image_vit("TokShift", B16, 400, 8, TOKEN_SHIFT),
  "tokshift_b16_16f_k400": _image_vit("TokShift", B16, 400, 16, TOKEN_SHIFT),
  "tokshift_b16_384_k400": _image_vit(
    "TokShift", B16, 400, 8, TOKEN_SHIFT, image_size=384
  ),
  "tokshift_l16_384_k400": _image_vit(
    "TokShift", L16, 400, 12, TOKEN_SHIFT, image_size=384
  ),
  "xvit_motion": _xvit(TINY, 12, 8, shift_div=4),
  **_baselines("motion", TINY, 12, 8),
}
