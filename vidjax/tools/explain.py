r"""Draws where a model looks in a video: in space, and in which frames.

    python -m vidjax.tools.explain VIDEO --checkpoint=RUN --method=attention \
        --layer=blocks.2 --head=all --query=3,1,2 --out=attention.png
    python -m vidjax.tools.explain VIDEO --checkpoint=RUN --method=rollout \
        --out=rollout.mp4
    python -m vidjax.tools.explain VIDEO --checkpoint=RUN --method=saliency \
        --out=saliency.png
    python -m vidjax.tools.explain VIDEO --checkpoint=SIFA --method=offsets \
        --query=0,3,4 --out=offsets.png

Layers are named as `--list` prints them, or by their number in that list. A
query is a frame, row and column of the layer's tokens, or a frame and `class`.
docs/explain.md says what the pictures show.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from vidjax.checks import one_of
from vidjax.data.decode import VideoError
from vidjax.explain.clip import as_input, read_clip, verdict
from vidjax.explain.draw import Clip, Row, Sheet, contact_sheet, film
from vidjax.explain.draw_offsets import draw_offsets
from vidjax.explain.layers import (
  Layer,
  Query,
  attention_layers,
  interframe_layers,
  pick,
)
from vidjax.explain.offsets import neighbours_of
from vidjax.explain.rollout import rollout
from vidjax.explain.saliency import saliency
from vidjax.explain.space_time import SpaceTime, attention_of
from vidjax.prediction.trained import Trained, load_trained


@dataclasses.dataclass(frozen=True)
class Asked:
  """What the command line asks for.

  Attributes:
    trained: the model.
    clip: the frames.
    video: what the model is given of them.
    options: the arguments.
  """

  trained: Trained
  clip: Clip
  video: jax.Array
  options: argparse.Namespace

  @property
  def query(self) -> Query | None:
    """The query, if there is one."""
    text = self.options.query
    return None if text is None else parse_query(text)

  def headline(
    self, logits: Float[np.ndarray, "1 k"], label: int | None = None
  ) -> str:
    """Returns the model's name and what it says."""
    model = self.trained.description.split(",")[0]
    return f"{model} says {verdict(self.trained, logits, label)}"

  def layer(self) -> Layer:
    """Returns the layer that is meant."""
    layers = {one.name: one for one in attention_layers(self.trained.model)}
    return layers[pick(self.options.layer, list(layers))]


def parse_query(text: str) -> Query:
  """Returns the query of "frame,row,column" or "frame,class".

  Raises:
    ValueError: if it is neither.
  """
  try:
    frame, *place = text.split(",")
    if place == ["class"]:
      return Query(int(frame), None)
    row, column = map(int, place)
    return Query(int(frame), (row, column))
  except ValueError as error:
    raise ValueError(
      f"the query is {text!r}; use FRAME,ROW,COLUMN, counted from 0, or "
      "FRAME,class"
    ) from error


def parse_heads(text: str, count: int) -> list[int | None]:
  """Returns the heads of "mean" (None), "all", or a number.

  Raises:
    ValueError: if it is none of them.
  """
  if text == "all":
    return [*range(count)]
  if text == "mean":
    return [None]
  if not text.isdigit():
    raise ValueError(f"the head is {text!r}; use a number, 'mean' or 'all'")
  return [int(text)]


def _attention(asked: Asked) -> Sheet:
  layer = asked.layer()
  heads = parse_heads(asked.options.head, layer.heads)
  look = attention_of(
    asked.trained.model, asked.video, layer, query=asked.query, heads=heads
  )
  query = look.query
  own = layer.over_frames and query.place is None
  who = "the class token"
  if query.place is not None and not layer.over_frames:
    who = "row {}, column {}".format(*query.place)
  elif query.place is not None:
    who = "the feature"
  when = "the head" if own else f"token frame {query.frame}"
  rows = [
    _row("mean of heads" if head is None else f"head {head}", shares)
    for head, shares in look.heads.items()
  ]
  return Sheet(
    f"{asked.headline(look.logits)}\n{layer.name}: {who} of {when} asks",
    asked.clip,
    rows,
    "share of the attention",
    mark=None if own else (query.frame, query.place),
    grid=rows[0].shares.shape[1:],
  )


def _rollout(asked: Asked) -> Sheet:
  model = asked.trained.model
  layer = None if asked.options.layer is None else asked.layer()
  if layer is None and asked.query is not None:
    raise ValueError(
      "a query of a rollout is a token behind a layer; name it with --layer"
    )
  found = rollout(model, asked.video, layer=layer, query=asked.query)
  which = "the result" if layer is None else f"behind {layer.name}"
  row = _row("rollout", found.shares)
  query = asked.query
  return Sheet(
    f"{asked.headline(found.logits)}\n"
    f"attention rollout of {which}, {len(found.layers)} layers",
    asked.clip,
    [row],
    "share of the result",
    mark=None if query is None else (query.frame, query.place),
    grid=row.shares.shape[1:],
  )


def _saliency(asked: Asked) -> Sheet:
  label = asked.options.label
  number = None
  if label is not None:
    one_of("the label", label, asked.trained.labels)
    number = asked.trained.labels.index(label)
  found = saliency(asked.trained.model, asked.video, label=number)
  pixels = found.pixels / (found.pixels.sum() or 1)
  # A few pixels would leave all others white.
  most = float(np.quantile(pixels, 0.995)) or 1.0
  captions = [f"{100 * share:.0f} %" for share in pixels.sum(axis=(1, 2))]
  row = Row("saliency", np.minimum(pixels / most, 1), captions)
  return Sheet(
    f"{asked.headline(found.logits, found.label)}\n"
    "size of gradient times input of its logit",
    asked.clip,
    [row],
    "of the 99.5th percentile",
  )


def _row(label: str, found: SpaceTime) -> Row:
  lines = [label]
  if found.classes.size:
    lines.append(f"class tokens {100 * found.classes.sum():.0f} %")
  if found.outside > 0.005:
    lines.append(f"elsewhere {100 * found.outside:.0f} %")
  seen = found.reach.any(axis=(1, 2)) | (found.frames > 0)
  captions = [
    f"{100 * share:.0f} %" if within else ""
    for share, within in zip(found.frames, seen, strict=True)
  ]
  return Row("\n".join(lines), found.patches, captions, found.reach)


SHEETS: dict[str, Callable[[Asked], Sheet]] = {
  "attention": _attention,
  "rollout": _rollout,
  "saliency": _saliency,
}
METHODS = (*SHEETS, "offsets")


def explain(asked: Asked) -> None:
  """Draws what is asked for and writes it to `asked.options.out`.

  Args:
    asked: method and what it needs.

  Raises:
    ValueError: if the model, the layer, the head or the query has not what is
      asked for.
    OSError: if the file cannot be written.
  """
  out = asked.options.out
  suffix = one_of("the ending of --out", out.suffix, (".png", ".mp4"))
  method = asked.options.method
  if method != "offsets":
    sheet = SHEETS[method](asked)
    if suffix == ".mp4":
      film(sheet, out)
    else:
      contact_sheet(sheet).savefig(out)
    return
  if suffix == ".mp4":
    raise ValueError(
      "offsets are drawn from one frame to the next; write them to a .png"
    )
  layers = list(interframe_layers(asked.trained.model))
  name = pick(asked.options.layer, layers)
  found = neighbours_of(asked.trained.model, asked.video, name)
  title = (
    f"{asked.headline(found.logits)}\n"
    f"{name}: where positions look in the next map"
  )
  draw_offsets(asked.clip, found, asked.query, title).savefig(out)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vidjax.tools.explain",
    description="Draws where a model looks in a video.",
  )
  add = parser.add_argument
  add("video", help="file, folder of images, or record")
  add("--checkpoint", required=True, help="run, pretrained folder, owner/name")
  add("--method", choices=METHODS, default="attention", help="%(default)s")
  add("--layer", help="name or number of --list; default: the last")
  add("--head", default="mean", help="number, 'mean' or 'all'; %(default)s")
  add("--query", help="FRAME,ROW,COLUMN or FRAME,class; default: the middle")
  add("--label", help="class of a saliency; default: the predicted one")
  add("--out", type=pathlib.Path, help="picture .png or film .mp4")
  add("--list", action="store_true", help="print the layers and stop")
  return parser


def _list(trained: Trained) -> None:
  for layers in (attention_layers, interframe_layers):
    try:
      names = list(layers(trained.model))
    except ValueError:
      continue
    for number, layer in enumerate(names):
      if isinstance(layer, Layer):
        print(f"{number} {layer.name} ({layer.heads} heads)")
      else:
        print(f"{number} {layer} (offsets)")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = _parser()
  options = parser.parse_args(arguments)
  if options.out is None and not options.list:
    parser.error("name the picture with --out, or --list the layers")
  try:
    trained = load_trained(options.checkpoint)
    if options.list:
      _list(trained)
      return 0
    clip = read_clip(options.video, trained)
    explain(Asked(trained, clip, as_input(clip, trained), options))
  except (ValueError, VideoError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(options.out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
