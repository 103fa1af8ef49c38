"""Periodic shift: a few channels of every head come from the next frames.

LAPS (Zhang et al. 2022) moves channels of what attention returns, ahead of its
projection: of each head one part from the next frame, one from the previous.
"Periodic" is the pattern along the channels, which repeats from head to head;
in time nothing wraps around.
"""

import jax
from einops import rearrange
from jaxtyping import Float

from vidjax.ops.channel_shift import shift_channels

_NEXT_AND_PREVIOUS = (1, -1)


def periodic_shift(
  y: Float[jax.Array, "b t n c"], heads: int, fold_div: int
) -> Float[jax.Array, "b t n c"]:
  """Shifts channels of every head (LAPS, periodic shift).

  With f = d // fold_div, channels 0 to f of a head come from frame t + 1 and f
  to 2 f from t - 1; zero stands for frames outside the clip.

  Args:
    y: tokens, channels head-major.
    heads: g; the channels divide into g heads of d.
    fold_div: at least 2.

  Raises:
    ValueError: if the parts do not fit in a head.
  """
  parts = rearrange(y, "b t n (g d) -> b t n g d", g=heads)
  fold = parts.shape[-1] // fold_div
  return shift_channels(parts, _NEXT_AND_PREVIOUS, fold).reshape(y.shape)


def plain_shift(
  y: Float[jax.Array, "b t n c"], fold_div: int
) -> Float[jax.Array, "b t n c"]:
  """The same on the whole channel axis at once, the heads ignored.

  Args:
    y: tokens.
    fold_div: at least 2.

  Raises:
    ValueError: if the parts do not fit in the channels.
  """
  return periodic_shift(y, 1, fold_div)
