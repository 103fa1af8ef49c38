"""Changes of layout between PyTorch's arrays and ours, and their inverses."""

import dataclasses
from collections.abc import Callable

import numpy as np
from einops import rearrange
from jaxtyping import Shaped

Array = Shaped[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Transform:
  """A change of layout and its inverse."""

  name: str
  forward: Callable[[Array], Array]
  inverse: Callable[[Array], Array]


def rearranged(name: str, pattern: str, **sizes: int) -> Transform:
  """An einops pattern, and the same from right to left.

  Args:
    name: of the transform.
    pattern: "source -> ours"; together with `sizes` each side must give all
      axes of the other.
    **sizes: lengths of axes, which are checked.
  """
  source, ours = pattern.split(" -> ")
  return Transform(
    name,
    lambda x: rearrange(x, pattern, **sizes),
    lambda x: rearrange(x, f"{ours} -> {source}", **sizes),
  )


def squeeze(*axes: int) -> Transform:
  """Drops axes of length one."""
  return Transform(
    f"squeeze{axes}",
    lambda x: np.squeeze(x, axes),
    lambda x: np.expand_dims(x, axes),
  )


def patch_conv(side: int) -> Transform:
  """A convolution whose stride is its kernel, as a matrix over patches."""
  return rearranged(
    f"patch_conv({side})", "o i p q -> (p q i) o", p=side, q=side
  )


def tubes(side: int) -> Transform:
  """The same of patches of several frames, with `side` rows and columns."""
  return rearranged(
    f"tubes({side})", "o i s p q -> (s p q i) o", p=side, q=side, i=3
  )


def bias_table(window: int) -> Transform:
  """A flat bias table `(frames rows columns, heads)`, cut into its axes."""
  side = 2 * window - 1
  return Transform(
    f"bias_table({window})",
    lambda x: np.reshape(x, (-1, side, side, x.shape[-1])),
    lambda x: np.reshape(x, (-1, x.shape[-1])),
  )


def _to_conv(x: Array) -> Array:
  side = round((x.shape[0] / 3) ** 0.5)
  return rearrange(x, "(p q i) o -> o i p q", p=side, q=side)


SAME = Transform("same", lambda x: x, lambda x: x)
# PyTorch stores linear weights as (out, in).
LINEAR = Transform("transpose", np.transpose, np.transpose)
# `patch_conv` of images, of any side.
PATCHES = Transform(
  "patches", lambda x: rearrange(x, "o i p q -> (p q i) o"), _to_conv
)
CONV = rearranged("conv", "o i p q -> p q i o")
POINTWISE = rearranged("pointwise", "o i 1 1 -> i o")
MAP = rearranged("map", "1 c h w -> h w c")
# The same of convolutions over video that see one frame.
FRAME_CONV = rearranged("frame_conv", "o i 1 p q -> p q i o")
FRAME_POINTWISE = rearranged("frame_pointwise", "o i 1 1 1 -> i o")
# A convolution of images' colours, whose stride in time is its kernel.
STEM = rearranged("stem", "o i s p q -> p q (s i) o", i=3)
# Past, present and future side by side, as a matrix.
THREE_FRAMES = rearranged("three_frames", "o i 1 s -> (s i) o", s=3)
FRAMES_POINTWISE = rearranged("frames_pointwise", "o i s 1 1 -> (s i) o", s=3)
