"""RandAugment for clips (Cubuk et al. 2020, as in timm)."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.Image import Resampling

from vidjax.data import image_ops
from vidjax.data.image_ops import Op

_COUNT = 4  # operations of a clip
_PROBABILITY = 0.5  # of applying one that is drawn
_LEVEL, _SPREAD, _MAX_LEVEL = 7.0, 0.5, 10.0


def rand_augment(
  video: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
  """Changes a clip by timm's "rand-m7-n4-mstd0.5-inc1" (MViT, VideoMAE).

  Four of the 15 operations of `OPS` are drawn with replacement. Each is applied
  with probability 0.5, at a level that is normal around 7 with standard
  deviation 0.5, clipped to [0, 10], and with a random sign; all frames share
  these draws. The filter of geometric operations is bicubic, and pixels from
  outside the frame are (128, 128, 128).

  Args:
    video: the clip.
    rng: source of the draws.

  Returns:
    The changed clip; the argument itself if nothing was to be applied.
  """
  drawn = []
  for name in rng.choice(tuple(OPS), size=_COUNT).tolist():
    if rng.random() < _PROBABILITY:
      level = rng.normal(_LEVEL, _SPREAD)
      level = min(max(level, 0.0), _MAX_LEVEL)
      drawn.append((OPS[name], level * int(rng.choice((-1, 1)))))
  if not drawn:
    return video
  frames = [Image.fromarray(frame) for frame in video]
  for op, level in drawn:
    options = (Resampling.BICUBIC,) if op.geometric else ()
    frames = [op(frame, level, *options) for frame in frames]
  return np.stack([np.asarray(frame) for frame in frames])


# By timm's names; the level is 0 to 10 and has a sign, which some ignore.
OPS: dict[str, Op] = {
  "AutoContrast": Op(image_ops.auto_contrast),
  "Equalize": Op(image_ops.equalize),
  "Invert": Op(image_ops.invert),
  "Rotate": Op(image_ops.rotate, lambda level: 3 * level, geometric=True),
  "PosterizeIncreasing": Op(
    image_ops.posterize, lambda level: 4 - int(abs(level) / 10 * 4)
  ),
  "SolarizeIncreasing": Op(
    image_ops.solarize, lambda level: 256 - int(abs(level) / 10 * 256)
  ),
  "SolarizeAdd": Op(
    image_ops.solarize_add, lambda level: int(abs(level) / 10 * 110)
  ),
  "ColorIncreasing": Op(image_ops.color, lambda level: 1 + 0.09 * level),
  "ContrastIncreasing": Op(image_ops.contrast, lambda level: 1 + 0.09 * level),
  "BrightnessIncreasing": Op(
    image_ops.brightness, lambda level: 1 + 0.09 * level
  ),
  "SharpnessIncreasing": Op(
    image_ops.sharpness, lambda level: 1 + 0.09 * level
  ),
  "ShearX": Op(image_ops.shear_x, lambda level: 0.03 * level, geometric=True),
  "ShearY": Op(image_ops.shear_y, lambda level: 0.03 * level, geometric=True),
  "TranslateXRel": Op(
    image_ops.translate_x, lambda level: 0.045 * level, geometric=True
  ),
  "TranslateYRel": Op(
    image_ops.translate_y, lambda level: 0.045 * level, geometric=True
  ),
}
