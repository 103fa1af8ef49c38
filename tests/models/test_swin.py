"""Swin's forward pass: the equations, the official activations, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.models import tiny
from tests.nn import naive_windows
from tests.nn.naive_windows import EPS, Recipe
from vidjax.models.swin import PatchMerging, Swin
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.temporal import Grid
from vidjax.ops.patch_shift import PATTERNS
from vidjax.tools import parity_tps
from vidjax.tools.golden import read_case
from vidjax.weights.tps import TPS

NONE = {"op": "none"}
C9 = PATTERNS["c9"]


def naive_embed(model, video, size, *, norm):
  """Patches of zero-padded frames, one by one, then the norm."""
  video = oracles.array(video)
  b, *extent, _ = video.shape
  counts = [-(-n // m) for n, m in zip(extent, size, strict=True)]
  padded = np.zeros((b, *(n * m for n, m in zip(counts, size, strict=True)), 3))
  padded[:, : extent[0], : extent[1], : extent[2]] = video
  s, p, q = size
  x = np.zeros((b, *counts, tiny.SWIN["dim"]))
  for t, row, column in np.ndindex(*counts):
    patch = padded[
      :,
      t * s : (t + 1) * s,
      row * p : (row + 1) * p,
      column * q : (column + 1) * q,
    ]
    token = oracles.linear(model.patch_embed.proj, patch.reshape(b, -1))
    x[:, t, row, column] = token
  return oracles.layer_norm(model.patch_norm, x, EPS) if norm else x


def naive_swin(model, video, size, recipes, *, norm=True, heads=(2, 4)):
  """Features and logits of blocks that do what the recipes say, in turn."""
  x = naive_embed(model, video, size, norm=norm)
  for stage, g in zip(model.stages, heads, strict=True):
    for place, block in enumerate(stage.blocks):
      recipe = recipes[place % 2] | {"heads": g, "shifted": place % 2 == 1}
      x = naive_windows.block(block, x, Recipe(**recipe))
    if stage.merge is not None:
      x = naive_windows.merge(stage.merge, x)
  features = oracles.layer_norm(model.norm, x, EPS).mean(axis=(2, 3))
  return features, oracles.linear(model.head.fc, features.mean(axis=1))


WINDOW = {"window": (1, 3, 3)}
PST = [WINDOW | {"channels": "keep"}, WINDOW | {"pattern": C9}]
PLAIN = [WINDOW, WINDOW]
# Frames, rows and columns in pixels, options, what the two kinds of blocks do.
MODELS = {
  "pst": ((4, 24, 24), {}, PST),
  "pst, odd frames, odd maps": (
    (5, 26, 37),  # three tokens of 7 x 10, then of 4 x 5
    {"patch_size": (2, 4, 4), "bias_frames": 3},
    PST,
  ),
  "patches of four frames, no norm, no bias of q, k, v": (
    (6, 24, 28),
    {
      "patch_size": (4, 4, 4),
      "bias_frames": 2,
      "patch_norm": False,
      "qkv_bias": False,
    },
    PST,
  ),
  "patch only, same key frame": (
    (3, 28, 24),
    {
      "temporal": {"op": "patch_shift", "schedule": "patch_only"},
      "bias_frames": 3,
      "bias_key_frame": "same",
    },
    [
      WINDOW | {"key_frame": "same"},
      WINDOW | {"pattern": C9, "key_frame": "same"},
    ],
  ),
  "any number of frames": (
    (7, 24, 24),
    {"temporal": NONE, "bias_frames": 1},
    PLAIN,
  ),
  "joint windows": (
    (5, 24, 30),
    {"temporal": NONE, "window": (2, 3, 3)},
    [{"window": (2, 3, 3)}] * 2,
  ),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_equations(name):
  size, options, recipes = MODELS[name]
  model = tiny.swin(**options)
  video = tiny.swin_video(*size)

  @oracles.jit
  def run(video):
    return model.features(video), model(video)

  patch = options.get("patch_size", (1, 4, 4))
  norm = options.get("patch_norm", True)
  wanted = naive_swin(model, video, patch, recipes, norm=norm)
  for got, want in zip(run(video), wanted, strict=True):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=2e-4)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 5), (1, 2)])
def test_patch_merging(height, width):
  module = oracles.build(PatchMerging, 3, torch_init)
  x = oracles.normal(2, 2, height, width, 3)
  got = oracles.call(module, x)
  assert got.shape == (2, 2, -(-height // 2), -(-width // 2), 6)
  np.testing.assert_allclose(got, naive_windows.merge(module, x), atol=1e-5)


def test_padding_is_zero_after_the_normalisation():
  model = tiny.swin(patch_size=(2, 4, 4), bias_frames=2)
  video = tiny.swin_video(3, 22, 24)
  padded = np.zeros((2, 4, 24, 24, 3), np.float32)
  padded[:, :3, :22] = video
  embed = oracles.jit(lambda video: model.embed(video))
  np.testing.assert_array_equal(embed(video), embed(padded))


def official(shared, name):
  case = read_case(shared / f"golden/tps/{name}.npz")
  definition, template, stats = split(parity_tps.build(case.official))
  params = TPS.load(case.under("w/"), template)
  return merge(definition, jax.tree.map(jnp.asarray, params), stats), case


def by_window(x):
  """(b, t, h, w, c) to the official (b t windows, tokens, c)."""
  b, t, h, w, c = x.shape
  x = np.asarray(x).reshape(b, t, h // 7, 7, w // 7, 7, c)
  return x.swapaxes(3, 4).reshape(-1, 49, c)


@pytest.mark.parametrize("name", ["tiny_base", "tiny_pad"])
def test_official_activations(shared, name):
  model, case = official(shared, name)

  @oracles.jit
  def activations(video):
    x = model.embed(video)
    result = {"patch_embed": x}
    for i, stage in enumerate(model.stages):
      grid = Grid(0, *x.shape[2:4])
      tokens = x.reshape(*x.shape[:2], -1, x.shape[-1])
      for j, block in enumerate(stage.blocks):
        if (i, j) == (0, 0) and name == "tiny_base":  # whole windows
          attended = block.attend(
            block.norm1(tokens), grid, train=False, rngs=None
          )
          result["layers.0.blocks.0.attn"] = attended.reshape(x.shape)
        tokens = block(tokens, grid, train=False, rngs=None)
        result[f"layers.{i}.blocks.{j}"] = tokens.reshape(x.shape)
      x = tokens.reshape(x.shape)
      if stage.merge is not None:
        x = stage.merge(x)
        result[f"layers.{i}"] = x
    return result | {
      "backbone": model.norm(x),
      "pooled": model.features(video).mean(axis=1),
    }

  video = np.moveaxis(case.arrays["input"], 1, -1)
  ours = activations(video)
  compared = 0
  for key, stored in case.under("act/").items():
    activation = key.removeprefix("backbone.")
    if activation not in ours:
      continue
    value = np.asarray(ours[activation])
    if activation.endswith(".attn"):
      value = by_window(value)
    elif value.shape != stored.shape:
      value = np.moveaxis(value, -1, 1)
    scale = max(1, np.abs(stored).max())
    np.testing.assert_allclose(
      value, stored, rtol=0, atol=2e-6 * scale, err_msg=activation
    )
    compared += 1
  assert compared >= 4


def test_initial_values():
  model = oracles.initial(Swin, 50, **tiny.SWIN | {"dim": 64, "init_std": 0.1})
  block = model.stages[1].blocks[0]
  for values in (
    block.attention.qkv.kernel[...],
    block.mlp.fc2.kernel[...],
    block.bias.table[...],
    model.stages[0].merge.reduction.kernel[...],
  ):
    assert np.std(values) == pytest.approx(0.1, rel=0.1)
  assert np.std(model.head.fc.kernel[...]) == pytest.approx(0.01, rel=0.1)
  np.testing.assert_array_equal(model.head.fc.bias[...], 0)
  bound = 1 / np.sqrt(3 * 4 * 4)  # the convolution keeps PyTorch's default
  for values in (
    model.patch_embed.proj.kernel[...],
    model.patch_embed.proj.bias[...],
  ):
    assert 0.9 * bound < np.abs(values).max() <= bound
  assert model.stages[0].merge.reduction.bias is None
  assert model.stages[1].merge is None
  norms = [model.patch_norm, model.norm, model.stages[0].merge.norm]
  assert [norm.eps for norm in [*norms, block.norm1]] == [EPS] * 4


def abstract(**options):
  return nnx.eval_shape(
    lambda: Swin(tiny.CLASSES, **tiny.SWIN | options, rngs=nnx.Rngs(0))
  )


def test_shapes_of_the_stages():
  model = abstract(depths=(1, 3, 2), heads=(1, 2, 4), dim=8)
  assert [len(stage.blocks) for stage in model.stages] == [1, 3, 2]
  for i, stage in enumerate(model.stages):
    for block in stage.blocks:
      assert block.attention.proj.kernel.shape == (8 * 2**i, 8 * 2**i)
      assert block.bias.table.shape == (7, 5, 5, 2**i)
    # Only every second block of a stage shifts its windows.
    shifts = [(0, 0, 0), (0, 1, 1)] * 2
    assert [b.shift for b in stage.blocks] == shifts[: len(stage.blocks)]
  assert model.norm.scale.shape == (32,)
  assert model.head.fc.kernel.shape == (32, tiny.CLASSES)


def test_drop_path_grows_linearly_over_the_stages():
  model = abstract(depths=(2, 3), drop_path=0.4)
  rates = [b.drop_path for stage in model.stages for b in stage.blocks]
  assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"window": (2, 3, 3)},
      "windows of 2 frames attend over time themselves, so "
      r"temporal\.op='patch_shift' has no place in them; use .*\"none\"",
    ),
    (
      {"window": (2, 3, 3), "temporal": {"op": "mixing"}},
      r"temporal\.op='mixing' has no place in them",
    ),
    ({"window": (3, 3)}, r"window is \(3, 3\); give frames, rows and columns"),
    ({"window": (1, 0, 3)}, r"window is \(1, 0, 3\); give frames"),
    ({"patch_size": (4, 4)}, r"patch_size is \(4, 4\); give frames, rows"),
    ({"patch_size": (0, 4, 4)}, r"patch_size is \(0, 4, 4\); .* each >= 1"),
    (
      {"heads": (2, 4, 8)},
      r"depths \(2, 2\) and heads \(2, 4, 8\) differ in length",
    ),
    ({"heads": (3, 6)}, "16 channels do not divide into 3 heads"),
    ({"bias_frames": 0}, "bias_frames is 0; use 1 or more"),
    (
      {"bias_key_frame": "last"},
      "bias_key_frame is 'last'; use one of 'first'",
    ),
    ({"remat": "all"}, "remat is 'all'; use one of 'none', 'block'"),
    ({"drop_path": 1.0}, r"drop_path is 1\.0; use a number in \[0, 1\)"),
    ({"frozen_stages": 4}, r"frozen_stages is 4; use 0 \(none\) to 3 \(the"),
    ({"frozen_stages": -1}, "frozen_stages is -1"),
    ({"temporal": {"op": "warp"}}, r"temporal\.op is 'warp'; use one of"),
    (
      {"temporal": {"op": "none", "blocks": [4]}},
      r"temporal\.blocks has \[4\], .* numbered 0 to 3",
    ),
    ({"head": {"kind": "max"}}, r"head\.kind is 'max'; use one of 'average'"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message) as error:
    abstract(**options)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("options", "size", "message"),
  [
    (
      {},
      (4, 20, 24),  # 5 x 6 tokens, then 3 x 3: large enough
      None,
    ),
    (
      {},
      (4, 16, 24),
      "a map of 2 x 3 tokens is smaller than the window of 3 x 3; use larger",
    ),
    (
      {"temporal": NONE, "window": (2, 3, 3)},
      (4, 8, 24),
      "a map of 2 x 6 tokens is smaller than the window",
    ),
    (
      {},
      (8, 24, 24),
      "made for 4 frames of tokens, but the clip has 8; set bias_frames=8",
    ),
    (
      {"patch_size": (2, 4, 4)},
      (5, 24, 24),
      "made for 4 frames of tokens, but the clip has 3",
    ),
  ],
)
def test_clips_that_do_not_fit(options, size, message):
  model = tiny.swin(**options)
  video = jax.ShapeDtypeStruct((1, *size, 3), "float32")
  if message is None:
    assert jax.eval_shape(model, video).shape == (1, tiny.CLASSES)
    return
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model, video)


def test_a_plug_without_effect_may_be_named_with_joint_windows():
  model = abstract(
    window=(2, 3, 3), temporal={"op": "patch_shift", "schedule": "none"}
  )
  assert model.stages[0].blocks[0].bias.table.shape == (3, 5, 5, 2)
