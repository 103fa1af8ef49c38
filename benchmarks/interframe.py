r"""What SIFA's inter-frame attention costs, beside its plain formulations.

    python -m benchmarks.interframe [--dtype=bfloat16] [--batch=4] [--rounds=9]

With offsets beside gathers of the samples, and beside PyTorch's `grid_sample`
where PyTorch is installed; without them beside products and sums of moved maps,
neighbour by neighbour; for four frames of the maps of ResNet-50's stages.
"gradient" is the value and its gradient by map and offsets.
"""

import argparse
import functools
import importlib.util
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from benchmarks.side_by_side import (
  interleave,
  keep_memory,
  ratios,
  temporary_bytes,
)
from vidjax.ops.bilinear import sampling_places
from vidjax.ops.interframe import displacements, interframe_attention

FRAMES = 4
# Rows, channels, kernel.
MAPS = ((28, 128, 3), (14, 256, 3), (7, 512, 3), (14, 256, 7))

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
  """With offsets: samples of four pixels each, for all places at once."""
  h, w, c = x.shape[2:]

  def sample(image, row, column):
    inside = (row > -1) & (row < h) & (column > -1) & (column < w)
    row, column = jnp.where(inside, row, 0), jnp.where(inside, column, 0)
    top, left = (
      jax.lax.stop_gradient(jnp.floor(p)).astype(int) for p in (row, column)
    )

    def pixel(i: int, j: int) -> jax.Array:
      share = (1 - jnp.abs(top + i - row)) * (1 - jnp.abs(left + j - column))
      return share.astype(image.dtype) * image[top + i + 1, left + j + 1]

    return inside * (pixel(0, 0) + pixel(0, 1) + pixel(1, 0) + pixel(1, 1))

  def attend(query, key, rows, columns):
    padded = jnp.pad(key, [(1, 1), (1, 1), (0, 0)])
    each = functools.partial(sample, padded)
    samples = jax.vmap(jax.vmap(jax.vmap(each)))(rows, columns)
    scores = jnp.einsum("hwc,hwnc->hwn", query, samples) / c
    return jnp.einsum("hwn,hwnc->hwc", scores, samples)

  places = sampling_places(offsets, displacements(kernel))
  y = jax.vmap(jax.vmap(attend))(x[:, :-1], x[:, 1:], *places)
  return jnp.pad(y, [(0, 0), (0, 1), *[(0, 0)] * 3])


def ours(x: Clip, offsets: jax.Array | None, kernel: int) -> Clip:
  """The operation of the package."""
  return interframe_attention(x, x, x, offsets, kernel=kernel)


def gradient(attend: Callable[..., jax.Array]) -> Callable[..., tuple]:
  """Returns value and gradient of the sum of squares by map and offsets."""

  def loss(x, offsets):
    return (attend(x, offsets).astype(jnp.float32) ** 2).sum()

  def run(x, offsets):
    arguments = (0,) if offsets is None else (0, 1)
    return jax.value_and_grad(loss, arguments)(x, offsets)

  return run


def grid_sample(
  x: Clip, offsets: jax.Array, kernel: int, what: str
) -> Callable[[], Any]:
  """Returns a run of the same in PyTorch, with its layout `(b c h w)`."""
  import torch

  def tensor(array: jax.Array) -> Any:
    return torch.tensor(array.astype(jnp.float32).tolist()).to(kind)

  kind = getattr(torch, x.dtype.name)
  h, w, c = x.shape[2:]
  frames = tensor(x).permute(0, 1, 4, 2, 3).contiguous().requires_grad_()
  moved = tensor(offsets).requires_grad_()
  start = tensor(
    jnp.stack(
      sampling_places(jnp.zeros((h, w, kernel**2, 2)), displacements(kernel)),
      -1,
    )
  )
  size = torch.tensor([w - 1, h - 1], dtype=kind)

  def attend():
    query, key = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
    places = (start + moved).flatten(0, 1).permute(0, 3, 1, 2, 4)
    places = 2 * places.flip(-1).reshape(len(key), -1, w, 2) / size - 1
    samples = torch.nn.functional.grid_sample(
      key, places, align_corners=True
    ).reshape(len(key), c, kernel**2, h, w)
    scores = (query[:, :, None] * samples).sum(1, keepdim=True) / c
    return (scores * samples).sum(2)

  def forward():
    with torch.no_grad():
      return attend()

  def backward():
    loss = attend().float().square().sum()
    return torch.autograd.grad(loss, (frames, moved))

  return {"forward": forward, "gradient": backward}[what]


def compare(
  shape: tuple[int, int, int], deformed: bool, what: str, options: Any
) -> dict[str, Any]:
  """Times ours and the plain forms for one map; returns a row."""
  rows, channels, kernel = shape
  size = (options.batch, FRAMES, rows, rows, channels)
  x = jax.random.normal(jax.random.key(0), size, options.dtype)
  size = (options.batch, FRAMES - 1, rows, rows, kernel**2, 2)
  offsets = 3 * jax.random.normal(jax.random.key(1), size) if deformed else None
  wrap = {"forward": lambda f: f, "gradient": gradient}[what]
  programs = {
    form.__name__: jax.jit(wrap(functools.partial(form, kernel=kernel)))
    .lower(x, offsets)
    .compile()
    for form in (ours, gathers if deformed else moved_maps)
  }
  runs: dict[str, Callable[[], Any]] = {
    name: functools.partial(program, x, offsets)
    for name, program in programs.items()
  }
  if offsets is not None and importlib.util.find_spec("torch"):
    runs["grid_sample"] = grid_sample(x, offsets, kernel, what)
  times = interleave(runs, options.rounds)
  return {
    "map": [rows, channels],
    "kernel": kernel,
    "program": what,
    "median_ms": 1e3 * statistics.median(times["ours"].wall),
    "times_faster_than": {
      name: ratios(times, name, "ours")._asdict()
      for name in runs
      if name != "ours"
    },
    "temporary_mib": {
      name: temporary_bytes(program) / 2**20
      for name, program in programs.items()
    },
  }


def main() -> None:
  """Prints a line for each map and program, and a JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=9)
  options = parser.parse_args()
  keep_memory()
  results = []
  for shape in MAPS:
    for deformed in (False, True):
      for what in ("forward", "gradient"):
        row = compare(shape, deformed, what, options)
        results.append(row)
        faster = ", ".join(
          f"{ratio['medians']:.2f} (minima {ratio['minima']:.2f}) x {name}"
          for name, ratio in row["times_faster_than"].items()
        )
        memory = ", ".join(
          f"{name} {mib:.1f}" for name, mib in row["temporary_mib"].items()
        )
        print(
          f"{shape[0]:2} x {shape[0]:2} x {shape[1]:3}, K = {shape[2]}, "
          f"{what:<8} {row['median_ms']:7.2f} ms; as fast as {faster}; MiB: "
          f"{memory}",
          flush=True,
        )
  device = jax.devices()[0].device_kind
  print(json.dumps({"device": device, **vars(options), "rows": results}))


if __name__ == "__main__":
  main()
