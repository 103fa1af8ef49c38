import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from vidjax.nn.functional import merge, split
from vidjax.tools.golden import read_case
from vidjax.weights.swin import (
  inflate,
  inflate_bias,
  inflate_patches,
  resize_biases,
)
from vidjax.weights.tps import TPS

TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"
WINDOW = (1, 7, 7)
OPTIONS = {
  "patch_size": (2, 4, 4),
  "window": WINDOW,
  "image_size": 28,
  "depths": (2,),
  "heads": (2,),
}


@pytest.mark.parametrize("name", ["w7", "w12"])
def test_official_inflation(name, shared):
  case = read_case(shared / "golden/tps/inflate.npz")
  stored = case.under(f"{name}/out/")
  ours = inflate(case.under(f"{name}/in/"), patch_frames=2, window=(16, 7, 7))
  assert {f"backbone.{key}" for key in stored} == ours.keys()
  for key, value in stored.items():
    # Windows of 7 are copied, those of 12 resized in float32.
    atol = 0 if name == "w7" or "table" not in key else 5e-6
    np.testing.assert_allclose(
      ours[f"backbone.{key}"], value, rtol=0, atol=atol, err_msg=key
    )


def image_state():
  """A 2-D Swin's state dict: the video model's, one frame, and constants."""
  model = tiny.swin(**OPTIONS | {"patch_size": (1, 4, 4), "bias_frames": 1})
  exported = TPS.export(jax.device_get(split(model)[1]))
  state = {
    # First, where a check that looks at one entry looks.
    "layers.0.blocks.0.attn.relative_position_index": np.zeros(
      (49, 49), np.int64
    )
  }
  for key, value in exported.items():
    if key.startswith("backbone."):
      state[key.removeprefix("backbone.")] = value
  state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
  return model, state | {
    "layers.0.blocks.1.attn_mask": np.zeros((4, 49, 49), np.float32),
    "head.weight": np.zeros((1000, 16), np.float32),
    "head.bias": np.zeros(1000, np.float32),
  }


def test_inflation_drops_constants_and_the_classifier():
  _, state = image_state()
  video = inflate(state, patch_frames=2, window=(3, 7, 7))
  dropped = {
    "layers.0.blocks.0.attn.relative_position_index",
    "layers.0.blocks.1.attn_mask",
    "head.weight",
    "head.bias",
  }
  assert video.keys() == {f"backbone.{k}" for k in state.keys() - dropped}
  assert video["backbone.patch_embed.proj.weight"].shape == (16, 3, 2, 4, 4)
  assert video[f"backbone.{TABLE}"].shape == (5 * 169, 2)
  key = "layers.0.blocks.0.mlp.fc1.weight"
  assert video[f"backbone.{key}"] is state[key]


def test_an_inflated_model_sees_still_frames_as_the_image_model_does():
  """Without the channel shift, of frames that are all the same."""
  image_model, state = image_state()
  temporal = {"op": "patch_shift", "schedule": "patch_only"}
  model = tiny.swin(**OPTIONS, temporal=temporal)  # of 4 frames of tokens
  definition, params, stats = split(model)
  source = inflate(state, patch_frames=2, window=(4, 7, 7))
  head = jax.device_get(image_model.head.fc)
  source["cls_head.fc_cls.weight"] = np.asarray(head.kernel[...]).T
  source["cls_head.fc_cls.bias"] = np.asarray(head.bias[...])
  loaded = jax.tree.map(jnp.asarray, TPS.load(source, params))
  still = np.repeat(tiny.swin_video(1, 28, 28), 8, axis=1)
  np.testing.assert_allclose(
    oracles.call(merge(definition, loaded, stats), still),
    oracles.call(image_model, still[:, :1]),
    atol=2e-5,
  )


def test_patches_are_spread_at_equal_shares():
  weight = oracles.normal(5, 3, 2, 2)
  for frames in (1, 2, 3):
    inflated = inflate_patches(weight, frames)
    assert inflated.shape == (5, 3, frames, 2, 2)
    assert inflated.dtype == np.float32
    for s in range(frames):
      np.testing.assert_allclose(inflated[:, :, s], weight / frames, rtol=1e-6)


def test_a_table_is_repeated_for_every_difference_of_frames():
  table = oracles.normal(25, 4)
  np.testing.assert_array_equal(
    inflate_bias(table, (2, 3, 3)), np.tile(table, (3, 1))
  )


def test_a_table_of_another_window_is_resized():
  table = oracles.normal(9, 2)
  inflated = inflate_bias(table, (2, 3, 4))
  want = oracles.bicubic(table.reshape(3, 3, 2), (5, 7), (5 / 3, 7 / 3))
  np.testing.assert_allclose(
    inflated, np.tile(want.reshape(35, 2), (3, 1)), atol=1e-5
  )


@pytest.mark.parametrize("rows", [15, 16, 170])
def test_a_table_of_no_square_window(rows):
  message = (
    f"a position bias table of {rows} rows is not of a square window; give the "
    "weights of a Swin with windows of n x n tokens"
  )
  with pytest.raises(ValueError, match=message):
    inflate_bias(oracles.normal(rows, 2), (2, 3, 3))


def test_tables_are_resized_to_another_number_of_frames():
  table = oracles.normal(7 * 9, 2)  # of 4 frames, windows of 2 x 2
  other = oracles.normal(3)
  constant = np.zeros((4, 4, 4), np.int64)
  state = {
    f"backbone.{TABLE}".replace("bias_table", "index"): constant,
    f"backbone.{TABLE}": table,
    "backbone.norm.bias": other,
  }
  resized = resize_biases(state, old_window=(4, 2, 2), window=(7, 2, 2))
  assert resized.keys() == state.keys()
  assert resized["backbone.norm.bias"] is other
  new = resized[f"backbone.{TABLE}"].reshape(13, 9, 2)
  old = table.reshape(7, 9, 2)
  for i in range(13):  # twice as many steps: each old one, and halfway
    want = (old[i // 2] + old[(i + 1) // 2]) / 2
    np.testing.assert_allclose(new[i], want, atol=1e-6)


def test_tables_are_resized_to_another_window():
  table = oracles.normal(3 * 9, 2)
  (resized,) = resize_biases(
    {TABLE: table}, old_window=(2, 2, 2), window=(2, 3, 3)
  ).values()
  want = [
    oracles.bicubic(square, (5, 5), (5 / 3, 5 / 3))
    for square in table.reshape(3, 3, 3, 2)
  ]
  np.testing.assert_allclose(resized, np.reshape(want, (75, 2)), atol=1e-5)


def test_resized_weights_fill_the_model_of_other_frames():
  weights = TPS.export(jax.device_get(split(tiny.swin(**OPTIONS))[1]))
  longer = tiny.swin(**OPTIONS | {"bias_frames": 6})
  definition, template, stats = split(longer)
  source = resize_biases(weights, old_window=(4, 7, 7), window=(6, 7, 7))
  params = jax.tree.map(jnp.asarray, TPS.load(source, template))
  logits = oracles.call(
    merge(definition, params, stats), tiny.swin_video(12, 28, 28)
  )
  assert np.isfinite(logits).all()
  same = resize_biases(weights, old_window=(4, 7, 7), window=(4, 7, 7))
  for key, value in weights.items():
    np.testing.assert_array_equal(same[key], value)
