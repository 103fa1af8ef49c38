import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.models import tiny
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.tools import parity_xvit
from vidjax.tools.golden import read_case
from vidjax.weights.convert import convert

NONE = {"op": "none"}
MIXING = {"op": "mixing", "shift_div": 4}


def naive_embed(model, video, positions):
  """Tokens of every frame: patches, class token, both positions."""
  video = oracles.array(video)
  p = tiny.PATCH
  b, t, h, w, _ = video.shape
  table = oracles.array(model.position)
  height, width, _ = positions.shape
  assert (height, width) == (h // p, w // p)
  x = np.zeros((b, t, 1 + height * width, tiny.DIM))
  for frame in range(t):
    x[:, frame, 0] = oracles.array(model.class_token) + table[0]
    for row in range(height):
      for column in range(width):
        patch = video[
          :, frame, row * p : row * p + p, column * p : column * p + p
        ]
        token = oracles.linear(model.patch_embed.proj, patch.reshape(b, -1))
        token += positions[row, column]
        x[:, frame, 1 + row * width + column] = token
    if model.temporal_position is not None:
      times = oracles.array(model.temporal_position)
      first = 0 if model.class_positions else 1
      x[:, frame, first:] += times[frame % len(times)]
  return x


@pytest.mark.parametrize(
  ("frames", "options"),
  [
    (1, {}),
    (3, {}),
    (7, {"temporal_positions": 3}),  # more frames than rows
    (4, {"class_positions": False}),
    (2, {"temporal_positions": 0}),
  ],
)
def test_embed_of_any_frame_count(frames, options):
  model = tiny.vit(temporal=NONE, **options)
  video = tiny.video(frames)
  side = tiny.IMAGE // tiny.PATCH
  table = oracles.array(model.position)[1:].reshape(side, side, -1)
  tokens, grid = model_embed(model, video)
  assert grid == (1, side, side)
  np.testing.assert_allclose(
    tokens, naive_embed(model, video, table), atol=2e-5
  )


def model_embed(model, video):
  grids = []

  @oracles.jit
  def embed(video):
    tokens, grid = model.embed(video)
    grids.append(grid)
    return tokens

  return embed(video), grids[0]


@pytest.mark.parametrize(
  ("height", "width"),
  [(32, 48), (24, 16), (37, 31), (8, 40), (33, 32)],
)
def test_embed_at_other_resolutions(height, width):
  model = tiny.vit(temporal=NONE)
  video = tiny.video(2, height, width)
  side = tiny.IMAGE // tiny.PATCH
  positions = oracles.bicubic(
    oracles.array(model.position)[1:].reshape(side, side, -1),
    (height // tiny.PATCH, width // tiny.PATCH),
    (height / tiny.IMAGE, width / tiny.IMAGE),
  )
  tokens, grid = model_embed(model, video)
  assert grid == (1, height // tiny.PATCH, width // tiny.PATCH)
  np.testing.assert_allclose(
    tokens, naive_embed(model, video, positions), atol=2e-5
  )


def test_image_size_that_is_no_multiple_of_the_patch():
  model = tiny.vit(temporal=NONE, image_size=38)
  assert model.position.shape == (1 + 4 * 4, tiny.DIM)
  table = oracles.array(model.position)[1:].reshape(4, 4, -1)
  video = tiny.video(1, 38, 38)
  np.testing.assert_allclose(
    model_embed(model, video)[0], naive_embed(model, video, table), atol=2e-5
  )


def test_logits_equal_the_equations():
  """Two blocks, final norm, mean of the frames, classifier."""
  model = tiny.vit(temporal=MIXING, temporal_positions=3)
  video = tiny.video(5)
  x = naive_embed(
    model, video, oracles.array(model.position)[1:].reshape(4, 4, -1)
  )
  for block in model.blocks:
    normed = oracles.layer_norm(block.norm1, x, 1e-6)
    q, k, v = oracles.project(block.attention, normed)
    k, v = (oracles.shift(part, (1, -1), tiny.DIM // 4) for part in (k, v))
    y = oracles.attend_frames(q, k, v, tiny.HEADS)
    x += oracles.linear(block.attention.proj, y)
    x += oracles.mlp(block.mlp, oracles.layer_norm(block.norm2, x, 1e-6))
  features = oracles.layer_norm(model.norm, x[:, :, 0], 1e-6)
  logits = sum(
    oracles.linear(model.head.fc, features[:, t]) / 5 for t in range(5)
  )
  np.testing.assert_allclose(oracles.call(model, video), logits, atol=2e-4)


@pytest.mark.parametrize(
  "name", ["tiny_k400yaml_16f", "tiny_posinterp40", "tiny_eps"]
)
def test_official_activations(shared, name):
  case = read_case(shared / f"golden/xvit/{name}.npz")
  model = parity_xvit.build(case.official)
  definition, _, stats = split(model)
  params = convert(case.under("w/"), model).params
  model = merge(definition, params, stats)

  @oracles.jit
  def activations(video):
    x, grid = model.embed(video)
    result = {"embed": x}
    for i, block in enumerate(model.blocks):
      x = block(x, grid, train=False, rngs=None)
      result[f"block{i}"] = x
    return result | {"frame_features": model.features(video)}

  # Official layouts: (b, c, t, h, w), and frames folded into the batch.
  video = np.moveaxis(case.arrays["input"], 1, -1)
  for activation, ours in activations(video).items():
    stored = case.arrays[f"act/{activation}"]
    scale = max(1, np.abs(stored).max())
    np.testing.assert_allclose(
      ours.reshape(stored.shape), stored, atol=1e-5 * scale, err_msg=activation
    )


def test_initial_values():
  model = oracles.initial(
    ViT,
    5,
    image_size=64,
    patch_size=8,
    dim=96,
    depth=2,
    heads=4,
    head=tiny.AVERAGE,
    init_std=0.1,
  )
  for values in (
    model.position[...],
    model.class_token[...],
    model.blocks[1].attention.qkv.kernel[...],
    model.blocks[1].mlp.fc2.kernel[...],
  ):
    assert np.std(values) == pytest.approx(0.1, rel=0.2)
  np.testing.assert_array_equal(model.temporal_position[...], 0)
  norms = [model.norm, model.blocks[0].norm1, model.blocks[1].norm2]
  assert [norm.eps for norm in norms] == [1e-6] * 3


def test_drop_path_grows_linearly():
  model = nnx.eval_shape(
    lambda: ViT(
      5,
      image_size=32,
      patch_size=8,
      dim=24,
      depth=5,
      heads=3,
      drop_path=0.4,
      head=tiny.AVERAGE,
      rngs=nnx.Rngs(0),
    )
  )
  rates = [block.drop_path for block in model.blocks]
  assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_drop_path_is_drawn_for_every_frame():
  # Depth 2: block 0 drops nothing, block 1 each branch of a frame by half.
  model = tiny.vit(temporal=NONE, temporal_positions=0, drop_path=0.5)
  video = np.repeat(tiny.video(1, batch=1), 64, axis=1)  # equal frames

  @oracles.jit
  def features(video, key):
    return model.features(video, train=True, rngs=nnx.Rngs(dropout=key))

  y = np.asarray(features(video, jax.random.key(0)))[0].round(4)
  _, counts = np.unique(y, axis=0, return_counts=True)
  assert len(counts) == 4  # both branches, one, the other, none
  # 64 frames, each with probability 1/4: 16 +- 3.5.
  assert counts.min() >= 4
  assert counts.max() <= 32


def differentiate(model, train=False):
  """Compiled loss and gradients: of the weights, video and a random seed."""
  definition, params, stats = split(model)

  def loss(params, video, seed):
    rngs = nnx.Rngs(dropout=jax.random.key(seed)) if train else None
    logits = merge(definition, params, stats)(video, train=train, rngs=rngs)
    return (logits**2).mean()

  compiled = oracles.jit(jax.value_and_grad(loss))
  return lambda video, seed=0: compiled(params, video, seed)


def assert_same(results, wanted):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5),
    results,
    wanted,
  )


def test_remat_changes_nothing():
  results = [
    differentiate(tiny.vit(depth=1, temporal=MIXING, remat=remat))(
      tiny.video(3)
    )
    for remat in ("none", "block")
  ]
  assert_same(*results)


def test_remat_with_dropout_recomputes_the_same_draws(monkeypatch):
  random = {"drop_path": 0.5, "attention_dropout": 0.3}
  model = tiny.vit(temporal=NONE, remat="block", **random)
  recomputed = differentiate(model, train=True)
  results = [recomputed(tiny.video(3), seed) for seed in (0, 1)]
  assert abs(results[0][0] - results[1][0]) > 1e-3  # the dropouts are on
  with monkeypatch.context() as patch:
    patch.setattr(jax, "checkpoint", lambda function: function)
    kept = differentiate(model, train=True)
    for seed in (0, 1):
      assert_same(results[seed], kept(tiny.video(3), seed))


def test_remat_with_dropout_equals_none_for_the_same_key():
  def train(remat):
    model = tiny.vit(temporal=NONE, remat=remat, attention_dropout=0.3)

    @oracles.jit
    def run(video, key):
      return model(video, train=True, rngs=nnx.Rngs(dropout=key))

    return run(tiny.video(2), jax.random.key(0))

  np.testing.assert_allclose(train("block"), train("none"), atol=1e-4)


def test_remat_recomputes_in_the_backward_pass():
  def products(remat):
    model = tiny.vit(temporal=MIXING, remat=remat)
    gradient = jax.grad(lambda video: model(video).sum())
    return str(jax.make_jaxpr(gradient)(tiny.video(3))).count("dot_general[")

  # Of six products of a block, all but the last are needed again.
  assert products("block") - products("none") >= 2 * 5


def test_bfloat16_is_close():
  video = tiny.video(4)
  wide, narrow = (
    oracles.call(tiny.vit(temporal=MIXING, **options), video)
    for options in ({}, {"dtype": "bfloat16"})
  )
  assert wide.dtype == narrow.dtype == jnp.float32
  scale = np.abs(wide).max()
  assert 0 < np.abs(wide - narrow).max() < 0.1 * scale


def test_segments_do_not_leak():
  # The official Kinetics setting: 16 frames, segments of 8, depth 3.
  model = tiny.vit(
    depth=3, temporal={"op": "mixing", "segment": 8, "shift_div": 4}
  )
  video = tiny.video(16)
  changed = video.copy()
  changed[0, 8] += 1

  @oracles.jit
  def features(video):
    return model.features(video)

  before, after = np.asarray(features(video)), np.asarray(features(changed))
  differs = (before != after).any(axis=-1)
  # One frame further with each block, never back over the border.
  assert differs[0].nonzero()[0].tolist() == [8, 9, 10, 11]
  assert not differs[1].any()
  # Both segments use temporal rows 0 to 7: equal halves, equal features.
  twice = np.concatenate([video[:, :8]] * 2, axis=1)
  halves = np.asarray(features(twice))
  np.testing.assert_array_equal(halves[:, :8], halves[:, 8:])


def test_every_parameter_is_trained():
  model = tiny.vit(temporal=MIXING, head=tiny.ATTENTION, temporal_positions=4)
  _, gradients = differentiate(model)(tiny.video(4))
  for path, leaf in jax.tree.leaves_with_path(gradients):
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_frames_must_fit_the_segments():
  model = tiny.vit(temporal={"op": "mixing", "segment": 8})
  with pytest.raises(ValueError, match=r"12 frames does not divide .* of 8"):
    jax.eval_shape(model, jax.ShapeDtypeStruct((1, 12, 32, 32, 3), "float32"))


@pytest.mark.parametrize(("height", "width"), [(7, 32), (32, 5), (4, 4)])
def test_frames_smaller_than_a_patch(height, width):
  model = tiny.vit(temporal=NONE)
  video = jax.ShapeDtypeStruct((1, 2, height, width, 3), "float32")
  message = f"frames of {height} x {width} pixels are smaller than a patch of 8"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model, video)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"image_size": 7}, "image_size 7 is smaller than a patch of 8 pixels"),
    ({"remat": "all"}, "remat is 'all'; use one of 'none', 'block'"),
    ({"heads": 5}, "24 channels do not divide into 5 heads"),
    ({"temporal": {"op": "warp"}}, r"temporal\.op is 'warp'; use one of"),
    (
      {"temporal": {"op": "mixing", "shift": 1}},
      "temporal operation 'mixing': .*'shift'",
    ),
    (
      {"temporal": {"op": "joint", "blocks": [2]}},
      r"temporal\.blocks has \[2\], .* numbered 0 to 1",
    ),
    ({"head": {"kind": "max"}}, r"head\.kind is 'max'; use one of 'average'"),
    ({"head": {"kind": "average", "layers": 2}}, "head 'average': .*'layers'"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message):
    tiny.vit(**options)
