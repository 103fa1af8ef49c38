r"""Draws where SIFA's attention looks: its offsets, as arrows over two frames.

    python -m vidjax.tools.offsets WORKDIR OUT.png [--stage=1] [--clips=3]

WORKDIR is that of a trained SIFA-Net. A row of the picture is a clip: a frame
with the positions that ask, and the next one with the centre of the nine places
that each of them samples. Arrows lead from a position to that centre; their
length is drawn as it is.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vidjax.checks import Config
from vidjax.data.pipeline import eval_batches
from vidjax.data.source import open_splits
from vidjax.models.resnet import ResNet
from vidjax.nn.functional import merge, split
from vidjax.nn.interframe import InterFrame
from vidjax.train.inputs import normalise
from vidjax.train.restore import load_run


def stage_offsets(
  model: ResNet, video: Float[jax.Array, "b t h w 3"], stage: int
) -> Float[jax.Array, "b s y x n 2"]:
  """Returns the offsets of the first block of a stage that predicts some.

  Args:
    model: a SIFA-Net.
    video: normalised clips.
    stage: from 0.

  Returns:
    Rows and columns, in positions of the stage's map, by pair of maps.

  Raises:
    ValueError: if the stage has no such block.
  """
  x = model.stem(video, train=False)
  for number, blocks in enumerate(model.stages):
    for block in blocks:
      plug = block.temporal
      if number == stage and isinstance(plug, InterFrame):
        attention = plug.attention
        if attention is not None and attention.offset is not None:
          return attention.offset(block.inner(x, train=False))
      x = block(x, train=False)
  raise ValueError(
    f"stage {stage} of the model predicts no offsets; choose another with "
    "--stage, of a SIFA-Net with offsets"
  )


def draw(
  frames: UInt8[np.ndarray, "b 2 h w 3"],
  moves: Float[np.ndarray, "b y x 2"],
) -> Figure:
  """Draws arrows from positions of one frame to places in the next.

  Args:
    frames: two frames of each clip.
    moves: rows and columns, in positions of the map.
  """
  height, width = moves.shape[1:3]
  scale = frames.shape[2] / height, frames.shape[3] / width
  figure = Figure(figsize=(6, 3 * len(frames)), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots(len(frames), 2, squeeze=False)
  rows, columns = np.meshgrid(
    (np.arange(height) + 0.5) * scale[0] - 0.5,
    (np.arange(width) + 0.5) * scale[1] - 0.5,
    indexing="ij",
  )
  for (first, second), pair, move in zip(axes, frames, moves, strict=True):
    first.imshow(pair[0])
    first.scatter(columns, rows, s=6, c="white", edgecolors="black", lw=0.4)
    second.imshow(pair[1])
    second.quiver(
      columns,
      rows,
      move[..., 1] * scale[1],
      move[..., 0] * scale[0],
      angles="xy",
      scale_units="xy",
      scale=1,
      width=0.008,
      color="white",
      edgecolor="black",
      linewidth=0.4,
    )
    for side, title in ((first, "frame t"), (second, "frame t + 1")):
      side.set(xlim=(-0.5, frames.shape[3] - 0.5), xticks=[], yticks=[])
      side.set(ylim=(frames.shape[2] - 0.5, -0.5))
      if first is axes[0, 0]:
        side.set_title(title, fontsize=10)
  return figure


def read_clips(
  config: Config, workdir: pathlib.Path, count: int
) -> UInt8[np.ndarray, "b t h w 3"]:
  """Returns the first clips of the run's evaluation split, of all classes."""
  _, split = open_splits(config, workdir)
  every = max(1, len(split.clips) // count)
  with eval_batches(
    split, config.data, batch_size=len(split.clips), clips=1, crops=1
  ) as batches:
    return next(batches)["video"][:, 0][::every][:count]


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--stage", type=int, default=1)
  parser.add_argument("--clips", type=int, default=3)
  options = parser.parse_args(arguments)
  try:
    model, config, _ = load_run(options.workdir)
    if not isinstance(model, ResNet):
      raise ValueError(
        f"the model of {options.workdir} is a {type(model).__name__}; offsets "
        "are drawn of a ResNet with SIFA"
      )
    clips = read_clips(config, options.workdir, options.clips)
    video = normalise(jnp.asarray(clips), config.data.mean, config.data.std)
    definition, params, stats = split(model)

    @jax.jit
    def predict(params, stats, video):
      merged = merge(definition, params, stats)
      return stage_offsets(merged, video, options.stage)

    moves = np.asarray(predict(params, stats, video)).mean(axis=-2)
    middle = moves.shape[1] // 2
    joined = model.stem.frames
    shown = clips[:, [middle * joined, (middle + 1) * joined]]
    draw(shown, moves[:, middle]).savefig(options.out, dpi=110)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(options.out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
