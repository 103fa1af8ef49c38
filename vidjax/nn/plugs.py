"""The temporal plugs by name, and how a backbone gets one for each block."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx
from jaxtyping import DTypeLike

from vidjax.checks import known_arguments, one_of
from vidjax.nn.channel_shift import ChannelShift, TokenShift
from vidjax.nn.interframe import InterFrame
from vidjax.nn.leap import LeapAttention
from vidjax.nn.mixing import Mixing
from vidjax.nn.patch_shift import temporal_patch_shift
from vidjax.nn.space_time import DividedAttention, JointAttention
from vidjax.nn.temporal import BlockShape, Temporal

PLUGS: dict[str, Callable[..., Temporal]] = {
  "none": Temporal,
  "mixing": Mixing,
  "channel_shift": ChannelShift,
  "patch_shift": temporal_patch_shift,
  "token_shift": TokenShift,
  "leap": LeapAttention,
  "interframe": InterFrame,
  "joint": JointAttention,
  "divided": DividedAttention,
}


def make_plugs(
  options: Mapping[str, Any],
  blocks: list[BlockShape],
  *,
  dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> list[Temporal]:
  """Builds the plug of every block of a backbone.

  Args:
    options: "op" names the operation, "blocks" and "stages" (optional, None =
      all) the numbers, from 0, of the blocks and stages that have it, and the
      rest are its arguments; other blocks stay inside the frame.
    blocks: the shape of each block.
    dtype: compute dtype.
    rngs: keys of the initial values of plugs with parameters.

  Raises:
    ValueError: if the operation, one of its arguments or the number of a block
      or stage is unknown.
  """
  arguments = dict(options)
  op = one_of("temporal.op", arguments.pop("op", None), tuple(PLUGS))
  numbers = {
    "blocks": range(len(blocks)),
    "stages": sorted({block.stage for block in blocks}),
  }
  chosen = {
    name: _chosen(name, arguments.pop(name, None), known)
    for name, known in numbers.items()
  }

  def plug(index: int, block: BlockShape) -> Temporal:
    if index not in chosen["blocks"] or block.stage not in chosen["stages"]:
      return Temporal()
    keywords = known_arguments(
      f"temporal operation {op!r}",
      PLUGS[op],
      arguments,
      {"block": block, "index": index, "dtype": dtype, "rngs": rngs},
    )
    return PLUGS[op](**keywords)

  return [plug(i, block) for i, block in enumerate(blocks)]


def _chosen(
  name: str, wanted: Sequence[int] | None, known: Sequence[int]
) -> Sequence[int]:
  if wanted is None:
    return known
  unknown = [number for number in wanted if number not in known]
  if unknown:
    raise ValueError(
      f"temporal.{name} has {unknown}, but the model's {name} are numbered "
      f"{known[0]} to {known[-1]}"
    )
  return wanted
