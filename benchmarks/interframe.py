r"""What SIFA's inter-frame attention costs, beside its plain formulations.

    python -m benchmarks.interframe [--dtype=bfloat16] [--batch=4] [--rounds=9]

Without offsets beside products and sums of moved maps, neighbour by neighbour,
and with offsets beside gathers of four pixels a sample, for four frames of the
maps of ResNet-50 (a 7 x 7 kernel too) and of Swin-B's first stage.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from benchmarks.side_by_side import interleave, ratios, temporary_bytes
from vidjax.ops.bilinear import sampling_places
from vidjax.ops.interframe import displacements, interframe_attention

FRAMES = 4
# Rows, channels, kernel.
MAPS = ((56, 128, 3), (28, 128, 3), (14, 256, 3), (7, 512, 3), (14, 256, 7))

Clip = Float[jax.Array, "b t h w c"]


def moved_maps(x: Clip, offsets: jax.Array | None, kernel: int) -> Clip:
  """Without offsets: one neighbour after the other, as slices."""
  del offsets
  h, w, c = x.shape[2:]
  edge = kernel // 2
  query = x[:, :-1]
  edges = [(0, 0), (0, 0), (edge, edge), (edge, edge), (0, 0)]
  padded = jnp.pad(x[:, 1:], edges)
  y = jnp.zeros_like(query)
  for i, j in (displacements(kernel) + edge).tolist():
    sample = padded[:, :, i : i + h, j : j + w]
    y += (query * sample).sum(axis=-1, keepdims=True) / c * sample
  return jnp.pad(y, [(0, 0), (0, 1), *[(0, 0)] * 3])


def gathers(x: Clip, offsets: jax.Array, kernel: int) -> Clip:
  """With offsets: four pixels a sample, zero outside of the map."""
  b, t, h, w, c = x.shape
  query = x[:, :-1].reshape(-1, h, w, c)
  key = jnp.pad(x[:, 1:].reshape(-1, h, w, c), [(0, 0), (1, 1), (1, 1), (0, 0)])
  key = key.reshape(len(key), -1, c)
  places = sampling_places(offsets, displacements(kernel))
  rows, columns = (p.reshape(len(query), h, w, -1) for p in places)
  inside = (rows > -1) & (rows < h) & (columns > -1) & (columns < w)
  rows, columns = jnp.where(inside, rows, 0), jnp.where(inside, columns, 0)
  top, left = (
    jax.lax.stop_gradient(jnp.floor(p)).astype(int) for p in (rows, columns)
  )
  y = jnp.zeros_like(query)
  for n in range(kernel**2):

    def pixel(i: int, j: int, n: int = n) -> jax.Array:
      row, column = top[..., n] + i, left[..., n] + j
      hats = (1 - jnp.abs(row - rows[..., n])) * (
        1 - jnp.abs(column - columns[..., n])
      )
      index = ((row + 1) * (w + 2) + column + 1).reshape(len(key), -1, 1)
      found = jnp.take_along_axis(key, index, axis=1).reshape(query.shape)
      return (hats * inside[..., n])[..., None].astype(x.dtype) * found

    sample = pixel(0, 0) + pixel(0, 1) + pixel(1, 0) + pixel(1, 1)
    y += (query * sample).sum(axis=-1, keepdims=True) / c * sample
  y = y.reshape(b, t - 1, h, w, c)
  return jnp.pad(y, [(0, 0), (0, 1), *[(0, 0)] * 3])


def ours(x: Clip, offsets: jax.Array | None, kernel: int) -> Clip:
  """The operation of the package."""
  return interframe_attention(x, x, x, offsets, kernel=kernel)


def gradient(attend: Callable[..., jax.Array]) -> Callable[..., tuple]:
  """Returns the gradient of the sum of squares by map and offsets."""

  def loss(x, offsets):
    return (attend(x, offsets).astype(jnp.float32) ** 2).sum()

  def run(x, offsets):
    arguments = (0,) if offsets is None else (0, 1)
    return jax.grad(loss, arguments)(x, offsets)

  return run


def main() -> None:
  """Prints a line for each map and program, and a JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=9)
  options = parser.parse_args()
  results = []
  for rows, channels, kernel in MAPS:
    shape = (options.batch, FRAMES, rows, rows, channels)
    x = jax.random.normal(jax.random.key(0), shape, options.dtype)
    shape = (options.batch, FRAMES - 1, rows, rows, kernel**2, 2)
    offsets = 3 * jax.random.normal(jax.random.key(1), shape)
    for given, plain in ((None, moved_maps), (offsets, gathers)):
      for what, wrap in (("forward", lambda f: f), ("gradient", gradient)):
        programs = {
          name: jax.jit(wrap(functools.partial(form, kernel=kernel)))
          .lower(x, given)
          .compile()
          for name, form in (("ours", ours), ("plain", plain))
        }
        times = interleave(
          {
            name: functools.partial(program, x, given)
            for name, program in programs.items()
          },
          options.rounds,
        )
        median, best = ratios(times, "ours", "plain")
        result = {
          "map": [rows, channels],
          "kernel": kernel,
          "plain": plain.__name__,
          "program": what,
          "median_ms": 1e3 * statistics.median(times["ours"]),
          "ratio_of_medians": median,
          "ratio_of_minima": best,
          "temporary_mib": {
            name: temporary_bytes(program) / 2**20
            for name, program in programs.items()
          },
        }
        results.append(result)
        print(
          f"{rows:2} x {rows:2} x {channels:3}, K = {kernel}, {what}: "
          f"{result['median_ms']:7.2f} ms, {median:.2f} of {plain.__name__} "
          f"(minima {best:.2f}), MiB {result['temporary_mib']}",
          flush=True,
        )
  device = jax.devices()[0].device_kind
  print(json.dumps({"device": device, **vars(options), "rows": results}))


if __name__ == "__main__":
  main()
