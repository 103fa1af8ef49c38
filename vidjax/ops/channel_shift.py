"""Channel shift: some channels of a frame come from its neighbours.

TSM (Lin et al. 2019, section 3) and, on the class token only, TokShift (Zhang
et al. 2021); space-time mixing (X-ViT) applies the same move to keys and
values.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float


def shift_channels(
  x: Float[jax.Array, "b t *rest c"], offsets: Sequence[int], width: int
) -> Float[jax.Array, "b t *rest c"]:
  """Takes the i-th group of `width` channels from frame `t + offsets[i]`.

  The channels behind the last group stay; nothing wraps around: frames outside
  the clip are zero.

  Args:
    x: any float array with frames on axis 1 and channels last.
    offsets: signed frame distances, one for each group of channels.
    width: channels of a group; `len(offsets) * width` must not exceed `c`.

  Raises:
    ValueError: if the groups do not fit in the channels.
  """
  frames, channels = x.shape[1], x.shape[-1]
  moved = len(offsets) * width
  if width < 0 or moved > channels:
    raise ValueError(
      f"{len(offsets)} groups of {width} channels do not fit in {channels} "
      "channels; use a larger divisor"
    )
  if width == 0:
    return x

  def placed(first: int, last: int, offset: int) -> jax.Array:
    padding = [(0, 0, 0)] * x.ndim
    padding[1] = (-offset, offset, 0)  # negative padding cuts frames off
    padding[-1] = (first, channels - last, 0)
    return lax.pad(x[..., first:last], jnp.zeros((), x.dtype), padding)

  # A sum of disjoint zero-padded pieces, which is exact, and not a
  # concatenation: XLA fuses it into whatever reads the result, so that the
  # shifted array never exists (measured by benchmarks/mixing.py).
  result = placed(moved, channels, 0)
  for group, offset in enumerate(offsets):
    if abs(offset) < frames:
      result += placed(group * width, (group + 1) * width, offset)
  return result
