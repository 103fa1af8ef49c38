"""The weights of inter-frame attention, to be looked at.

`vidjax.ops.interframe` never holds them: it is faster to make tiles of sums
from tiles of products. Here they are themselves, with the places they are of.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from vidjax.checks import one_of
from vidjax.ops.bilinear import Places, correlate, sampling_places
from vidjax.ops.interframe import SCORES, displacements

Maps = Float[jax.Array, "b t h w c"]


def neighbour_places(
  maps: Maps,
  offsets: Float[jax.Array, "b s h w n 2"] | None = None,
  *,
  kernel: int = 3,
  dilation: int = 1,
) -> Float[jax.Array, "b s h w n 2"]:
  """Returns rows and columns of what each position looks at in the next frame.

  The arguments are those of `vidjax.ops.interframe.interframe_attention`; the
  last frame looks at nothing, s = t - 1.
  """
  grid = displacements(kernel, dilation)
  if offsets is None:
    b, t, h, w, _ = maps.shape
    offsets = jnp.zeros((b, t - 1, h, w, len(grid), 2))
  return jnp.stack(sampling_places(offsets, grid), axis=-1)


def neighbour_weights(
  q: Maps,
  k: Maps,
  offsets: Float[jax.Array, "b s h w n 2"] | None = None,
  *,
  kernel: int = 3,
  dilation: int = 1,
  score: str = "scaled",
) -> Float[jax.Array, "b s h w n"]:
  """Returns the weight A_k(p) of each neighbour of each position.

  Weights of the score "scaled" sum to anything, those of "softmax" to one;
  places outside of the map count as zeros.

  Args:
    q: see `vidjax.ops.interframe.interframe_attention`, as all others.
    k: maps whose frame t + 1 is compared.
    offsets: of the neighbours; None is the regular grid.
    kernel: K; n = K * K.
    dilation: distance of neighbours.
    score: "scaled" or "softmax".

  Raises:
    ValueError: if the score is unknown.
  """
  one_of("score", score, SCORES)
  places = neighbour_places(q, offsets, kernel=kernel, dilation=dilation)

  def of_pair(pair: tuple[jax.Array, ...]) -> jax.Array:
    query, key, place = pair
    return correlate(query, key, Places(place[..., 0], place[..., 1]))

  pairs = (q[:, :-1], k[:, 1:], places)
  products = lax.map(of_pair, tuple(jnp.moveaxis(x, 1, 0) for x in pairs))
  products = jnp.moveaxis(products, 0, 1)[..., 0, :]
  return _WEIGH[score](products, q.shape[-1])


_WEIGH: dict[str, Callable[[jax.Array, int], jax.Array]] = {
  "scaled": lambda products, c: products / c,
  "softmax": lambda products, c: jax.nn.softmax(products * c**-0.5, axis=-1),
}
