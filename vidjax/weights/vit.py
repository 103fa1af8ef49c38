"""Names of other ViTs: timm, the JAX files, TimeSformer and VideoMAE.

All of them are brought to timm's names (`cls_token`, `blocks.0.attn.qkv.weight`
...), which official video code prefixes.
"""

import contextlib
import re

import numpy as np
from einops import EinopsError
from jaxtyping import Float

from vidjax.weights.entries import Entry, State, joined
from vidjax.weights.keys import (
  KeyTable,
  Rule,
  block_rules,
  linear_rules,
  norm_rules,
)
from vidjax.weights.transforms import LINEAR, PATCHES, rearranged, squeeze

_BLOCK, _OURS = "model.blocks.{}", "blocks/{}"

# TimeSformer (Bertasius et al. 2021), official code.
TIMESFORMER = KeyTable(
  rules=[
    Rule("model.cls_token", "class_token", squeeze(0, 1)),
    Rule("model.pos_embed", "position", squeeze(0)),
    Rule("model.time_embed", "temporal_position", squeeze(0)),
    Rule("model.patch_embed.proj.weight", "patch_embed/proj/kernel", PATCHES),
    Rule("model.patch_embed.proj.bias", "patch_embed/proj/bias"),
    *block_rules(_BLOCK, _OURS),
    *norm_rules(f"{_BLOCK}.temporal_norm1", f"{_OURS}/temporal/norm"),
    *linear_rules(
      f"{_BLOCK}.temporal_attn.qkv", f"{_OURS}/temporal/attention/qkv"
    ),
    *linear_rules(
      f"{_BLOCK}.temporal_attn.proj", f"{_OURS}/temporal/attention/proj"
    ),
    *linear_rules(f"{_BLOCK}.temporal_fc", f"{_OURS}/temporal/fc"),
    *norm_rules("model.norm", "norm"),
    *linear_rules("model.head", "head/fc"),
  ]
)


def _npz_rules(heads: int) -> list[Rule]:
  """The JAX files' names, to timm's with q, k and v apart."""
  block = "Transformer/encoderblock_{}"
  attention = f"{block}/MultiHeadDotProductAttention_1"
  mlp = f"{block}/MlpBlock_3"
  ours = "blocks.{}"
  heads_last = rearranged("heads", "c g d -> (g d) c", g=heads)
  heads_first = rearranged("heads", "g d c -> c (g d)", g=heads)
  flat = rearranged("heads", "g d -> (g d)", g=heads)

  def norm(source: str, target: str) -> list[Rule]:
    return [
      Rule(f"{source}/scale", f"{target}.weight"),
      Rule(f"{source}/bias", f"{target}.bias"),
    ]

  def linear(source: str, target: str) -> list[Rule]:
    return [
      Rule(f"{source}/kernel", f"{target}.weight", LINEAR),
      Rule(f"{source}/bias", f"{target}.bias"),
    ]

  return [
    Rule("cls", "cls_token"),
    Rule("Transformer/posembed_input/pos_embedding", "pos_embed"),
    Rule(
      "embedding/kernel",
      "patch_embed.proj.weight",
      rearranged("conv", "p q i o -> o i p q"),
    ),
    Rule("embedding/bias", "patch_embed.proj.bias"),
    *norm(f"{block}/LayerNorm_0", f"{ours}.norm1"),
    *(
      rule
      for name, letter in (("query", "q"), ("key", "k"), ("value", "v"))
      for rule in (
        Rule(
          f"{attention}/{name}/kernel",
          f"{ours}.attn.{letter}.weight",
          heads_last,
        ),
        Rule(f"{attention}/{name}/bias", f"{ours}.attn.{letter}.bias", flat),
      )
    ),
    Rule(f"{attention}/out/kernel", f"{ours}.attn.proj.weight", heads_first),
    Rule(f"{attention}/out/bias", f"{ours}.attn.proj.bias"),
    *norm(f"{block}/LayerNorm_2", f"{ours}.norm2"),
    *linear(f"{mlp}/Dense_0", f"{ours}.mlp.fc1"),
    *linear(f"{mlp}/Dense_1", f"{ours}.mlp.fc2"),
    *norm("Transformer/encoder_norm", "norm"),
    *linear("pre_logits", "pre_logits.fc"),
    *linear("head", "head"),
  ]


def from_npz(state: State, heads: int) -> State:
  """Brings the names and layouts of the JAX files to timm's.

  Args:
    state: keys such as "Transformer/encoder_norm/scale".
    heads: attention heads of the model.
  """
  rules, renamed = _npz_rules(heads), {}
  for key, entry in state.items():
    for rule in rules:
      target = rule.match(key)
      if target is not None:
        # Of other axes it stays as it is, and will not fit the model.
        with contextlib.suppress(ValueError, EinopsError):
          entry = entry.through(rule.transform)
        key = target
        break
    renamed[key] = entry
  result = {}
  for key, entry in renamed.items():
    found = re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", key)
    names = [f"{found[1]}.{x}.{found[3]}" for x in "qkv"] if found else []
    parts = [renamed[name] for name in names if name in renamed]
    whole = len({part.value.shape for part in parts}) == 1 and len(parts) == 3
    if found is None or not whole:
      result[key] = entry
    elif found[2] == "q":
      value = np.concatenate([part.value for part in parts])
      name = f"{found[1]}.qkv.{found[3]}"
      result[name] = joined(parts, value, "q, k, v")
  return result


def sinusoids(rows: int, dim: int) -> Float[np.ndarray, "n c"]:
  """Returns the fixed positions of VideoMAE (Vaswani et al. 2017)."""
  channel = np.arange(dim)
  angle = np.arange(rows)[:, None] / 10000 ** (channel // 2 * 2 / dim)
  table = np.where(channel % 2, np.cos(angle), np.sin(angle))
  return table.astype(np.float32)


def from_videomae(state: State, grid: int) -> State:
  """Brings a fine-tuned VideoMAE (Tong et al. 2022) to timm's names.

  A start and no more: its patches of two frames become patches of one that
  answer a still clip as they did, and its positions those of its first frame.
  It has no class token, and classifies the mean of all patches.

  Args:
    state: official keys, `blocks.0.attn.q_bias` and so on.
    grid: patches of a frame.
  """
  result = {}
  for key, entry in state.items():
    name = key.removesuffix(".q_bias")
    if key == "patch_embed.proj.weight":
      still = entry.value.sum(axis=2)
      result[key] = entry.changed(still, "sum over frames")
    elif name != key and f"{name}.v_bias" in state:
      last = state[f"{name}.v_bias"]
      zeros = np.zeros_like(entry.value)
      bias = np.concatenate([entry.value, zeros, last.value])
      result[f"{name}.qkv.bias"] = joined([entry, last], bias, "q, 0, v")
    elif not (key.endswith(".v_bias") and f"{key[:-6]}q_bias" in state):
      result[key.replace("fc_norm.", "norm.", 1)] = entry
  for name in ("head.weight", "head.bias"):
    if name in result:
      result[name] = result[name].dropped("a classifier of the mean patch")
  if "patch_embed.proj.weight" in result:
    dim = result["patch_embed.proj.weight"].value.shape[0]
    table = np.concatenate(
      [np.zeros((1, dim), np.float32), sinusoids(grid, dim)]
    )[None]
    result["pos_embed"] = Entry((), table.shape, table, ("sinusoids",))
  return result


def start_divided(state: State) -> State:
  """Starts TimeSformer's temporal attention as its spatial one.

  As the official code does with image weights; the linear layer behind it is
  not in them.

  Args:
    state: timm's names.
  """
  result = dict(state)
  for key, entry in state.items():
    found = re.fullmatch(r"(blocks\.\d+)\.(attn|norm1)\.(.+)", key)
    if found:
      result[f"{found[1]}.temporal_{found[2]}.{found[3]}"] = entry
  return result
