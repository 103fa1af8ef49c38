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


def from_frame(
  x: Float[jax.Array, "b t *rest"], offset: int
) -> Float[jax.Array, "b t *rest"]:
  """Moves whole frames: frame t of the result is frame `t + offset` of x.

  Frames that would come from outside the clip are zero.
  """
  if abs(offset) >= x.shape[1]:
    return jnp.zeros_like(x)
  padding = [(0, 0, 0)] * x.ndim
  padding[1] = (-offset, offset, 0)  # negative padding cuts frames off
  return lax.pad(x, jnp.zeros((), x.dtype), padding)


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
  moved = len(offsets) * width
  if width < 0 or moved > x.shape[-1]:
    raise ValueError(
      f"{len(offsets)} groups of {width} channels do not fit in "
      f"{x.shape[-1]} channels; use a larger divisor"
    )
  if width == 0:
    return x
  groups = [
    from_frame(x[..., i * width : (i + 1) * width], offset)
    for i, offset in enumerate(offsets)
  ]
  return jnp.concatenate([*groups, x[..., moved:]], axis=-1)
