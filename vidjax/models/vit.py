"""Vision transformer over frames, with a temporal plug in its blocks.

X-ViT (Bulat et al. 2021) is this class with the "mixing" plug and a temporal
attention head; the other plugs give the baselines.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import DTypeLike, Float

from vidjax.checks import at_least, one_of, rates
from vidjax.models.backbone import REMAT, Backbone
from vidjax.models.heads import make_head
from vidjax.nn.attention import Block
from vidjax.nn.init import vit_init
from vidjax.nn.layers import LayerNorm, PatchEmbed
from vidjax.nn.plugs import make_plugs
from vidjax.nn.temporal import BlockShape, Grid, Tokens
from vidjax.ops.position import resize_grid

XVIT = MappingProxyType({"op": "mixing"})
TEMPORAL_ATTENTION = MappingProxyType(
  {"kind": "temporal_attention", "heads": 12}
)


class ViT(Backbone):
  """ViT on every frame of a clip, a plug between frames, a head over them.

  Args:
    num_classes: logits k.
    image_size: side in pixels of the square frames that the position table is
      made for; other sizes resize it (PyTorch bicubic).
    patch_size: side of a patch in pixels.
    dim: channels c.
    depth: number of blocks.
    heads: attention heads g.
    mlp_ratio: hidden width of the MLPs over `dim`.
    temporal: the plug, `{"op": name, **arguments}` (`vidjax.nn.plugs`).
    temporal_positions: rows of the temporal position table, 0 for none; frame
      t takes row `t mod rows` (official X-ViT: always 8).
    class_positions: whether class tokens get temporal positions too.
    head: `{"kind": name, **arguments}` (`vidjax.models.heads`).
    dropout_rate: of the head.
    drop_path: rate in the last block; it grows linearly from 0.
    attention_dropout: rate of dropped attention weights.
    init_std: deviation of the initial weights, tokens and positions; 0.02
      (official) suits 768 channels, narrow models learn faster with more.
    remat: "none", or "block" to recompute the blocks' activations in the
      backward pass instead of keeping them.
    dtype: compute dtype; parameters, norms and softmax are float32.
    rngs: keys of the initial values.

  Raises:
    ValueError: if an option is unknown or out of range.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    image_size: int = 224,
    patch_size: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    mlp_ratio: float = 4.0,
    temporal: Mapping[str, Any] = XVIT,
    temporal_positions: int = 8,
    class_positions: bool = True,
    head: Mapping[str, Any] = TEMPORAL_ATTENTION,
    dropout_rate: float = 0.5,
    drop_path: float = 0.0,
    attention_dropout: float = 0.0,
    init_std: float = 0.02,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    at_least(1, image_size=image_size, patch_size=patch_size)
    at_least(1, num_classes=num_classes, dim=dim, depth=depth, heads=heads)
    at_least(0, temporal_positions=temporal_positions)
    rates(
      dropout_rate=dropout_rate,
      drop_path=drop_path,
      attention_dropout=attention_dropout,
    )
    self.image_size = image_size
    self.class_positions = class_positions
    self.remat = one_of("remat", remat, REMAT)
    random = {"dtype": dtype, "rngs": rngs}
    side = image_size // patch_size
    if side < 1:
      raise ValueError(
        f"image_size {image_size} is smaller than a patch of {patch_size} "
        "pixels; use larger frames or smaller patches"
      )
    shape = BlockShape(dim, heads, norm_eps=1e-6, init=vit_init(init_std))
    normal = nnx.initializers.normal(init_std)
    key = rngs.params
    self.patch_embed = PatchEmbed((1, patch_size, patch_size), dim, **random)
    self.class_token = nnx.Param(normal(key(), (dim,)))
    # One row for the class token, then the grid row by row.
    self.position = nnx.Param(normal(key(), (1 + side * side, dim)))
    self.temporal_position = (
      nnx.Param(jnp.zeros((temporal_positions, dim)))
      if temporal_positions
      else None
    )
    plugs = make_plugs(
      temporal, [shape._replace(place=i) for i in range(depth)], **random
    )
    self.blocks = nnx.List(
      Block(
        shape,
        plug,
        mlp_ratio=mlp_ratio,
        drop_path=float(rate),
        attention_dropout=attention_dropout,
        **random,
      )
      for plug, rate in zip(
        plugs, np.linspace(0, drop_path, depth), strict=True
      )
    )
    self.norm = LayerNorm(dim, eps=shape.norm_eps, **random)
    self.head = make_head(
      head, dim, num_classes, dropout_rate=dropout_rate, **random
    )

  def features(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[jax.Array, "b t c"]:
    """Returns the normed class token of every frame."""
    x, grid = self.embed(video)
    for block in self.blocks:
      x = self.run(block, x, grid, train=train, rngs=rngs)
    return self.norm(x[:, :, 0])

  def embed(self, video: Float[jax.Array, "b t h w 3"]) -> tuple[Tokens, Grid]:
    """Returns the tokens that enter the first block, and how they lie."""
    patches = self.patch_embed(video)
    b, t, height, width, c = patches.shape
    table = self._positions((video.shape[2], video.shape[3]), (height, width))
    patches = patches + table.astype(patches.dtype)
    classes = self.class_token[...] + self.position[...][0]
    classes = jnp.broadcast_to(classes.astype(patches.dtype), (b, t, 1, c))
    patches = rearrange(patches, "b t h w c -> b t (h w) c")
    x = jnp.concatenate([classes, patches], axis=2)
    if self.temporal_position is not None:
      rows = np.arange(t) % self.temporal_position.shape[0]
      times = self.temporal_position[...].astype(x.dtype)[rows][:, None]
      first = 0 if self.class_positions else 1
      x = x.at[:, :, first:].add(times)
    return x, Grid(1, height, width)

  def _positions(
    self, size: tuple[int, int], grid: tuple[int, int]
  ) -> Float[jax.Array, "h w c"]:
    side = self.image_size // self.patch_embed.size[1]
    table = self.position[...][1:].reshape(side, side, -1)
    if size == (self.image_size, self.image_size):
      return table
    if 0 in grid:
      raise ValueError(
        f"frames of {size[0]} x {size[1]} pixels are smaller than a patch of "
        f"{self.patch_embed.size[1]}; use larger frames"
      )
    scale = (size[0] / self.image_size, size[1] / self.image_size)
    return resize_grid(table, grid, scale)
