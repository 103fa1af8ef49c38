"""Naive float64 NumPy layers, written from the equations, and test modules.

The layers read the weights of the modules under test but share no code.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vidjax.nn.functional import merge, split

# Tests compile many small programs and run each once: compiling them without
# optimisation takes a ninth of the time (measured on a ViT's gradient).
jit = functools.partial(
  jax.jit,
  compiler_options={
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
  },
)
DEFAULTS = {"dtype": jnp.float32}


def initial(make, *arguments, **options):
  """The module that `make` makes, with its own initial values."""
  definitions = []

  def values(key):
    module = make(*arguments, **DEFAULTS | options, rngs=nnx.Rngs(params=key))
    definition, *trees = split(module)
    definitions.append(definition)
    return trees

  trees = jit(values)(jax.random.key(0))
  return merge(definitions[0], *trees)


def build(make, *arguments, seed=0, scale=0.3, **options):
  """The same with every parameter non-trivial: zeros would hide mistakes."""
  definition, params, stats = split(
    nnx.eval_shape(
      lambda: make(*arguments, **DEFAULTS | options, rngs=nnx.Rngs(0))
    )
  )
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    gain = path[-1].key == "scale"
    value = gain + scale * rng.standard_normal(leaf.shape)
    return jnp.asarray(value, leaf.dtype)

  params = jax.tree.map_with_path(draw, params)
  stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), stats)
  return merge(definition, params, stats)


def call(module, x, *arguments, **keywords):
  """`module(x, ...)`, compiled; only the array x may be traced."""
  definition, params, stats = split(module)

  @jit
  def run(params, stats, x):
    return merge(definition, params, stats)(x, *arguments, **keywords)

  return run(params, stats, x)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def array(value):
  value = value[...] if isinstance(value, nnx.Variable) else value
  return np.asarray(value, np.float64)


def linear(layer, x):
  y = array(x) @ array(layer.kernel)
  return y if layer.bias is None else y + array(layer.bias)


def layer_norm(layer, x, eps):
  x = array(x)
  centred = x - x.mean(-1, keepdims=True)
  variance = (centred**2).mean(-1, keepdims=True)
  normed = centred / np.sqrt(variance + eps)
  return normed * array(layer.scale) + array(layer.bias)


def gelu(x):
  erf = np.vectorize(math.erf, otypes=[float])
  return 0.5 * array(x) * (1 + erf(array(x) / math.sqrt(2)))


def mlp(layer, x):
  return linear(layer.fc2, gelu(linear(layer.fc1, x)))


def attend(q, k, v, heads):
  """Softmax attention of (n, c) on (m, c): head by head, query by query."""
  q, k, v = array(q), array(k), array(v)
  d = q.shape[-1] // heads
  y = np.zeros(q.shape)
  for head in range(heads):
    own = slice(head * d, (head + 1) * d)
    for i in range(len(q)):
      scores = [float(q[i, own] @ key[own]) / math.sqrt(d) for key in k]
      weights = [math.exp(s - max(scores)) for s in scores]
      for weight, value in zip(weights, v, strict=True):
        y[i, own] += weight / sum(weights) * value[own]
  return y


def attend_frames(q, k, v, heads):
  """`attend` in each frame of (b, t, n, c)."""
  return np.stack(
    [
      np.stack([attend(*frame, heads) for frame in zip(*clip, strict=True)])
      for clip in zip(q, k, v, strict=True)
    ]
  )


def project(attention, x):
  """q, k, v of an attention module: the thirds of one linear layer."""
  qkv = linear(attention.qkv, x)
  c = qkv.shape[-1] // 3
  return qkv[..., :c], qkv[..., c : 2 * c], qkv[..., 2 * c :]


def shift(x, offsets, width):
  """Group i of `width` channels from frame t + offsets[i], zeros outside."""
  x = array(x)
  y = x.copy()
  frames = x.shape[1]
  for t in range(frames):
    for group, offset in enumerate(offsets):
      for c in range(group * width, (group + 1) * width):
        source = t + offset
        inside = 0 <= source < frames
        y[:, t, ..., c] = x[:, source, ..., c] if inside else 0
  return y


def mix(x, *, shift_div, window, boundary_only, segment, heads):
  """Eq. 9 of X-ViT, one channel of one frame at a time."""
  x = array(x)
  frames, channels = x.shape[1], x.shape[-1]
  y = x.copy()
  offsets = []
  for distance in range(1, window + 1):
    if distance == window or not boundary_only:
      offsets += [distance, -distance]
  if not offsets:
    return y
  segment = segment or frames
  size = channels // heads if heads else channels
  width = math.floor(2 * size / (shift_div * len(offsets)))
  for t in range(frames):
    for c in range(channels):
      group = (c % size) // width if width else len(offsets)
      if group < len(offsets):
        source = t + offsets[group]
        same = 0 <= source < frames and source // segment == t // segment
        y[:, t, :, c] = x[:, source, :, c] if same else 0
  return y


def cubic(d, a=-0.75):
  d = abs(d)
  if d <= 1:
    return (a + 2) * d**3 - (a + 3) * d**2 + 1
  if d < 2:
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
  return 0.0


def bicubic(table, new_size, scale):
  """PyTorch's bicubic resize, output cell by output cell, tap by tap."""
  table = array(table)
  height, width, channels = table.shape
  result = np.zeros((*new_size, channels))
  for row in range(new_size[0]):
    for column in range(new_size[1]):
      y = (row + 0.5) / scale[0] - 0.5  # where its centre lies in the table
      x = (column + 0.5) / scale[1] - 0.5
      for i in range(math.floor(y) - 1, math.floor(y) + 3):
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
          inside_i = min(max(i, 0), height - 1)
          inside_j = min(max(j, 0), width - 1)
          taps = cubic(y - i) * cubic(x - j)
          result[row, column] += taps * table[inside_i, inside_j]
  return result
