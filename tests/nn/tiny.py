"""A block small enough to compile in an instant, for the plugs' tests."""

import functools

from tests import oracles
from vidjax.nn.attention import Attention, Block
from vidjax.nn.init import torch_init
from vidjax.nn.plugs import make_plugs
from vidjax.nn.temporal import BlockShape, Grid

B, T, C, HEADS = 2, 4, 24, 4
EPS = 1e-6
SHAPE = BlockShape(C, HEADS, norm_eps=EPS, init=torch_init)
GRID = Grid(1, 2, 3)
N = 7
EVAL = {"train": False, "rngs": None}


@functools.cache
def attention():
  """An attention with random weights. Do not change it."""
  return oracles.build(Attention, C, HEADS, init=torch_init)


def tokens(seed=0):
  return oracles.normal(B, T, N, C, seed=seed)


def make_block(options, *, dtype, rngs):
  random = {"dtype": dtype, "rngs": rngs}
  (plug,) = make_plugs(options, [SHAPE], **random)
  return Block(SHAPE, plug, **random)


def attention_unit(module, norm, x):
  """attention(norm(x)) inside each frame."""
  normed = oracles.layer_norm(norm, x, EPS)
  y = oracles.attend_frames(*oracles.project(module, normed), HEADS)
  return oracles.linear(module.proj, y)


def mlp_unit(block, x):
  return oracles.mlp(block.mlp, oracles.layer_norm(block.norm2, x, EPS))
