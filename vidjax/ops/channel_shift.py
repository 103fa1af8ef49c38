"""Channel shift: some channels of a frame come from its neighbours.

TSM (Lin et al. 2019, section 3) and, on the class token only, TokShift (Zhang
et al. 2021); space-time mixing (X-ViT) applies the same move to keys and
values, and TPS (Xiang et al. 2022) to the channels of every head.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from vidjax.checks import one_of

BORDERS = ("zero", "keep")


def shift_channels(
  x: Float[jax.Array, "b t *rest c"],
  offsets: Sequence[int],
  width: int,
  *,
  border: str = "zero",
) -> Float[jax.Array, "b t *rest c"]:
  """Takes the i-th group of `width` channels from frame `t + offsets[i]`.

  The channels behind the last group stay; nothing wraps around.

  Args:
    x: any float array with frames on axis 1 and channels last.
    offsets: signed frame distances, one for each group of channels.
    width: channels of a group; `len(offsets) * width` must not exceed `c`.
    border: what stands for a frame outside the clip: "zero" (TSM), or "keep",
      the token's own channels (TPS, Xiang et al. 2022).

  Raises:
    ValueError: if the groups do not fit in the channels, or the border is
      unknown.
  """
  one_of("border", border, BORDERS)
  frames, channels = x.shape[1], x.shape[-1]
  moved = len(offsets) * width
  if width < 0 or moved > channels:
    raise ValueError(
      f"{len(offsets)} groups of {width} channels do not fit in {channels} "
      "channels; use a larger divisor"
    )
  if width == 0:
    return x

  # A sum of disjoint zero-padded pieces, which is exact, and not a
  # concatenation: XLA fuses it into whatever reads the result, so that the
  # shifted array never exists (measured by benchmarks/mixing.py).
  result = _placed(x, moved, channels, (0, 0))
  for group, offset in enumerate(offsets):
    first, last = group * width, (group + 1) * width
    inside = max(frames - abs(offset), 0)
    if inside:
      # Negative padding cuts frames off.
      result += _placed(x, first, last, (-offset, offset))
    if border == "keep" and offset > 0:
      result += _placed(x[:, inside:], first, last, (inside, 0))
    if border == "keep" and offset < 0:
      outside = frames - inside
      result += _placed(x[:, :outside], first, last, (0, inside))
  return result


def _placed(
  x: jax.Array, first: int, last: int, frames: tuple[int, int]
) -> jax.Array:
  """Channels first to last of x, zeros in the others, frames padded."""
  padding = [(0, 0, 0)] * x.ndim
  padding[1] = (*frames, 0)
  padding[-1] = (first, x.shape[-1] - last, 0)
  return lax.pad(x[..., first:last], jnp.zeros((), x.dtype), padding)
