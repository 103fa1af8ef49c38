"""AutoAugment's policy "v0" for clips (Cubuk et al. 2019, as in timm)."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.Image import Resampling

from vidjax.data import image_ops
from vidjax.data.image_ops import Op

_RESAMPLINGS = (Resampling.BILINEAR, Resampling.BICUBIC)


def auto_augment(
  video: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
  """Changes a clip by AutoAugment's policy "v0" (timm), RGB.

  One of the 25 pairs of `POLICIES` is drawn, and for each of its operations
  whether it is applied and with which sign; all frames share these draws. Only
  the filter of geometric operations, bilinear or bicubic, is drawn for each
  frame. Pixels from outside the frame are (128, 128, 128).

  Args:
    video: the clip, before it is cropped.
    rng: source of the draws.

  Returns:
    The changed clip; the argument itself if nothing was to be applied.
  """
  policy = POLICIES[rng.integers(len(POLICIES))]
  drawn = [op for op in policy if rng.random() < op[1]]
  if not drawn:
    return video
  frames = [Image.fromarray(frame) for frame in video]
  for name, _, level in drawn:
    op = OPS[name]
    if not op.geometric:
      frames = [op(frame, level) for frame in frames]
    else:
      signed = int(rng.choice((-level, level)))
      filters = rng.integers(len(_RESAMPLINGS), size=len(frames))
      frames = [
        op(frame, signed, _RESAMPLINGS[i])
        for frame, i in zip(frames, filters, strict=True)
      ]
  return np.stack([np.asarray(frame) for frame in frames])


# By timm's names; levels are 0 to 10, and have a sign if the op is geometric.
OPS: dict[str, Op] = {
  "AutoContrast": Op(image_ops.auto_contrast),
  "Color": Op(image_ops.color, lambda level: 0.1 + 0.18 * level),
  "Equalize": Op(image_ops.equalize),
  "Invert": Op(image_ops.invert),
  "Posterize": Op(image_ops.posterize, lambda level: int(level / 10 * 4)),
  "Rotate": Op(image_ops.rotate, lambda level: 3 * level, geometric=True),
  "ShearX": Op(image_ops.shear_x, lambda level: 0.03 * level, geometric=True),
  "ShearY": Op(image_ops.shear_y, lambda level: 0.03 * level, geometric=True),
  "Solarize": Op(image_ops.solarize, lambda level: int(level / 10 * 256)),
  "SolarizeAdd": Op(
    image_ops.solarize_add, lambda level: int(level / 10 * 110)
  ),
  "TranslateYRel": Op(
    image_ops.translate_y, lambda level: 0.045 * level, geometric=True
  ),
}

# Pairs of (operation, probability, level).
POLICIES: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
  (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
  (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
  (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
  (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
  (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
  (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
  (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
  (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
  (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
  (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
  (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
  (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
  (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
  (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
  (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
  (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
  (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
  (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
  (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
  (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
  (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
  (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
  (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
  (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
  (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)
