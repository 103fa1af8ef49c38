"""The plugs in a whole ViT: order of frames, TimeSformer, TokShift, LAPS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from tests import oracles
from tests.models import tiny
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.nn.temporal import Temporal
from vidjax.ops.channel_shift import shift_channels
from vidjax.tools.golden import read_case
from vidjax.weights.xvit import AVERAGE_WITHOUT_DROPOUT

EPS = 1e-6


@pytest.mark.parametrize(
  ("temporal", "rows", "blind"),
  [
    ({"op": "none"}, 0, True),
    ({"op": "joint"}, 0, True),
    ({"op": "divided"}, 0, True),
    ({"op": "mixing", "mix": "none", "summary_tokens": True}, 0, True),
    ({"op": "none"}, 4, False),  # the positions tell the order
    ({"op": "mixing", "shift_div": 4}, 0, False),
    ({"op": "channel_shift"}, 0, False),
    ({"op": "token_shift"}, 0, False),
  ],
  ids=str,
)
def test_blindness_to_the_order_of_frames(temporal, rows, blind):
  model = tiny.vit(depth=1, temporal=temporal, temporal_positions=rows)
  video = tiny.video(4)
  run = oracles.jit(lambda video: model(video))
  ordered, permuted = run(video), run(video[:, [2, 0, 3, 1]])
  change = np.abs(np.asarray(ordered - permuted)).max()
  assert (change < 2e-5) == blind
  assert blind or change > 1e-3


def time_sformer(model, video):
  """Bertasius et al. 2021 with its ONE class token, clip by clip.

  Time embeddings on the patches only; each block: temporal attention of every
  patch position, a linear layer, spatial attention with the class token
  copied to each frame and averaged after, then the MLP.
  """
  patches = oracles.linear(
    model.patch_embed.proj,
    rearrange(
      oracles.array(video),
      "b t (y p) (x q) c -> b t (y x) (p q c)",
      p=tiny.PATCH,
      q=tiny.PATCH,
    ),
  )
  table = oracles.array(model.position)
  times = oracles.array(model.temporal_position)
  clips, frames = patches.shape[:2]
  logits = []
  for clip in range(clips):
    token = oracles.array(model.class_token) + table[0]
    x = patches[clip] + table[1:] + times[:frames, None]
    for block in model.blocks:
      plug = block.temporal
      update = np.zeros(x.shape)
      for n in range(x.shape[1]):
        normed = oracles.layer_norm(plug.norm, x[:, n], EPS)
        qkv = oracles.project(plug.attention, normed)
        y = oracles.attend(*qkv, tiny.HEADS)
        update[:, n] = oracles.linear(
          plug.fc, oracles.linear(plug.attention.proj, y)
        )
      x = x + update

      token_update, update = np.zeros(token.shape), np.zeros(x.shape)
      for t in range(frames):
        frame = np.concatenate([token[None], x[t]])
        normed = oracles.layer_norm(block.norm1, frame, EPS)
        qkv = oracles.project(block.attention, normed)
        y = oracles.linear(
          block.attention.proj, oracles.attend(*qkv, tiny.HEADS)
        )
        token_update += y[0] / frames
        update[t] = y[1:]
      token, x = token + token_update, x + update

      def mlp_unit(x, block=block):
        return oracles.mlp(block.mlp, oracles.layer_norm(block.norm2, x, EPS))

      token, x = token + mlp_unit(token), x + mlp_unit(x)
    feature = oracles.layer_norm(model.norm, token, EPS)
    logits.append(oracles.linear(model.head.fc, feature))
  return np.stack(logits)


def test_time_sformer():
  model = tiny.vit(
    temporal={"op": "divided"}, class_positions=False, temporal_positions=4
  )
  assert np.abs(model.blocks[1].temporal.fc.kernel[...]).min() > 0
  video = tiny.video(4)
  np.testing.assert_allclose(
    oracles.call(model, video), time_sformer(model, video), atol=2e-4
  )


def official(shared, name, temporal):
  """A golden ViT of the LAPS code: its model, video and logits."""
  case = read_case(shared / f"golden/laps/{name}.npz")
  settings = case.official
  definition, template, stats = split(
    nnx.eval_shape(
      lambda: ViT(
        settings["num_classes"],
        image_size=settings["image_size"],
        patch_size=settings["patch"],
        dim=settings["embed_dim"],
        depth=settings["depth"],
        heads=settings["heads"],
        temporal=temporal,
        temporal_positions=0,
        head={"kind": "average"},
        rngs=nnx.Rngs(0),
      )
    )
  )
  params = AVERAGE_WITHOUT_DROPOUT.load(case.under("w/"), template)
  params = jax.tree.map(jnp.asarray, params)
  video = rearrange(case.arrays["input"], "b t c h w -> b t h w c")
  return merge(definition, params, stats), video, case.arrays["logits"]


def assert_logits(model, video, stored):
  scale = max(1, np.abs(stored).max())
  np.testing.assert_allclose(
    oracles.call(model, video), stored, atol=1e-5 * scale
  )


def test_official_tok_shift(shared):
  assert_logits(*official(shared, "tokshift_T8", {"op": "token_shift"}))


class Laps(Temporal):
  """Leap pairs on the way in, periodic shift on the way out."""

  def __init__(self, level, heads, fold_div):
    self.level = level
    self.heads = heads
    self.fold_div = fold_div

  def qkv(self, q, k, v, grid):
    leap = q.shape[1] // 2**self.level
    q, k, v = (
      rearrange(x, "b (m p s) n c -> b (m s) (p n) c", p=2, s=leap)
      for x in (q, k, v)
    )
    return q, k, v

  def output(self, y, grid, frames):
    leap = frames // 2**self.level
    y = rearrange(y, "b (m s) (p n) c -> b (m p s) n c", p=2, s=leap)
    split_heads = rearrange(y, "b t n (g d) -> b t n g d", g=self.heads)
    width = split_heads.shape[-1] // self.fold_div
    return shift_channels(split_heads, (1, -1), width).reshape(y.shape)


def test_official_laps_is_a_plug(shared):
  """The protocol carries a system that the library does not have."""
  model, video, stored = official(shared, "vit_laps_T8", {"op": "none"})
  for i, block in enumerate(model.blocks):
    block.temporal = Laps((1, 2, 3, 1)[i % 4], heads=4, fold_div=4)
  assert_logits(model, video, stored)
