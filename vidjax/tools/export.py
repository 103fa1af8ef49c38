r"""Writes a model for other programs.

    python -m vidjax.tools.export runs/xvit out/xvit
    python -m vidjax.tools.export owner/xvit xvit.pth --format=torch

The source is a pretrained folder, a repository of the Hugging Face Hub, or the
work directory of a run, of which it takes the best checkpoint, else the newest.
Formats:

- `stablehlo`: a folder with `model.stablehlo`, a program of `jax.export` with
  weights and normalisation inside, and `signature.json`, which says what clips
  must be like. It runs where vidjax is not, with jax and flatbuffers, on any
  number of clips at a time:

      program = jax.export.deserialize(bytearray(path.read_bytes()))
      logits = jax.jit(program.call)(video)  # uint8 (b, t, h, w, 3) -> (b, k)

- `torch`, `safetensors`: a file with the weights as the model's official
  PyTorch code names and stores them, which loads it strictly.
- `pretrained`: a folder for `vidjax.load_pretrained` and the Hub, with labels
  and preprocessing.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Float, UInt8
from safetensors.numpy import save

import vidjax
from vidjax.checks import at_least, known_arguments, one_of
from vidjax.models.backbone import Backbone
from vidjax.models.registry import model_spec, registered
from vidjax.nn.functional import merge, split
from vidjax.tools.port import read_labels
from vidjax.train.inputs import normalise
from vidjax.train.restore import load_run
from vidjax.weights.convert import official_state
from vidjax.weights.info import page_preprocessing, read_info
from vidjax.weights.pretrained import (
  find_pretrained,
  load_pretrained,
  save_pretrained,
)

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, SIGNATURE = "model.stablehlo", "signature.json"


@dataclasses.dataclass(frozen=True)
class Source:
  """A model, and what is known of it.

  Attributes:
    model: with weights, of a registered name.
    labels: name of each class; None if they are not known.
    preprocessing: values by the names of `vidjax.weights.info.PREPROCESSING`.
    provenance: where the weights come from, as short texts by name.
  """

  model: Backbone
  labels: Sequence[str] | None
  preprocessing: Mapping[str, Any]
  provenance: Mapping[str, str]

  def frames(self, wanted: int | None) -> int:
    """Returns the frames of a clip: those wanted, else those trained with."""
    if wanted is not None:
      return wanted
    usual = model_spec(registered(self.model).name).frames
    return self.preprocessing.get("frames", usual)

  def image_size(self, wanted: int | None) -> int:
    """Returns the side of frames: that wanted, else that trained with."""
    if wanted is not None:
      return wanted
    made = registered(self.model)
    usual = made.overrides.get("image_size", model_spec(made.name).image_size)
    return self.preprocessing.get("image_size", usual)


def read_source(source: str | os.PathLike[str]) -> Source:
  """Reads a pretrained folder, a Hub repository or a run's work directory.

  Raises:
    ValueError: if there is no such source, or it is damaged.
  """
  folder = pathlib.Path(source)
  if (folder / "checkpoints").is_dir():
    return _read_run(folder)
  found = find_pretrained(source)
  info = read_info(found)
  return Source(
    load_pretrained(found), info.labels, info.preprocessing, info.provenance
  )


def _read_run(workdir: pathlib.Path) -> Source:
  model, config, checkpoint = load_run(workdir)
  data = config.data
  inside = workdir / "motion" if data.source == "motion" else None
  root = data.root or inside
  names = None if root is None else pathlib.Path(root) / "labels.json"
  return Source(
    model,
    read_labels(names) if names is not None and names.is_file() else None,
    page_preprocessing(config),
    {
      "run": config.name,
      "checkpoint": os.path.relpath(checkpoint, workdir.absolute()),
      "written by": f"vidjax {vidjax.__version__}",
    },
  )


def program(
  source: Source,
  *,
  platforms: Sequence[str] = PLATFORMS,
  frames: int | None = None,
  image_size: int | None = None,
) -> jax.export.Exported:
  """Returns a program from uint8 clips to float32 logits, weights inside.

  It computes in the model's dtype, for any number b of clips
  (b, frames, image_size, image_size, 3).

  Args:
    source: model and preprocessing.
    platforms: that it is to run on, of `PLATFORMS`.
    frames: of a clip; None is as the model was trained.
    image_size: side of the frames in pixels; None is as the model was trained.

  Raises:
    ValueError: if a platform is unknown, the normalisation is not known, or
      the model does not take such clips.
  """
  if not platforms or len(set(platforms)) < len(platforms):
    raise ValueError(
      f"platforms are {','.join(platforms) or 'none'}; name each of them once"
    )
  for platform in platforms:
    one_of("platform", platform, PLATFORMS)
  frames, side = source.frames(frames), source.image_size(image_size)
  at_least(1, frames=frames, image_size=side)
  mean, std = (_normalisation(source, name) for name in ("mean", "std"))
  definition, *trees = split(source.model)
  # From the host: weights spread over devices would tie it to their number.
  weights = jax.tree.map(jnp.asarray, jax.device_get(trees))

  @jax.jit
  def logits(video: UInt8[jax.Array, "b t h w 3"]) -> Float[jax.Array, "b k"]:
    model = merge(definition, *weights)
    return model(normalise(video, mean, std), train=False)

  (batch,) = jax.export.symbolic_shape("b")
  clips = jax.ShapeDtypeStruct((batch, frames, side, side, 3), jnp.uint8)
  return jax.export.export(logits, platforms=platforms)(clips)


def _normalisation(source: Source, name: str) -> tuple[float, ...]:
  values = source.preprocessing.get(name)
  if values is None:
    raise ValueError(
      f"the {name} of normalisation is not known; port the weights again with "
      f"--preprocessing={name}=(R,G,B), or add it to their config.json"
    )
  return tuple(values)


def signature(source: Source, exported: jax.export.Exported) -> dict[str, Any]:
  """Returns what a caller of a program must know, as signature.json has it.

  Args:
    source: of the program.
    exported: the program.
  """
  made = registered(source.model)
  (clips,), (logits,) = exported.in_avals, exported.out_avals
  _, frames, side, _, _ = clips.shape
  size = {"frames": frames, "image_size": side}
  return {
    "format": 1,
    "model": {"name": made.name, "overrides": made.overrides},
    "input": _described(
      clips, "RGB clips (b, t, h, w, c) of 0 to 255, normalised inside"
    ),
    "output": _described(logits, "logits (b, k); their softmax predicts"),
    "labels": source.labels,
    "preprocessing": dict(source.preprocessing) | size,
    "provenance": dict(source.provenance),
    "platforms": exported.platforms,
    "jax": jax.__version__,
    "vidjax": vidjax.__version__,
  }


def _described(array: Any, values: str) -> dict[str, Any]:
  shape = [n if isinstance(n, int) else str(n) for n in array.shape]
  return {"shape": shape, "dtype": str(array.dtype), "values": values}


def _write_stablehlo(source: Source, out: pathlib.Path, **options: Any) -> str:
  exported = program(source, **options)
  told = signature(source, exported)

  def write(part: pathlib.Path) -> None:
    part.mkdir()
    (part / PROGRAM).write_bytes(exported.serialize())
    text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
    (part / SIGNATURE).write_text(text, "utf-8")

  _place(out, write)
  ends = (
    f"{told[end]['dtype']} ({', '.join(map(str, told[end]['shape']))})"
    for end in ("input", "output")
  )
  return f"for {', '.join(exported.platforms)}, {' -> '.join(ends)}"


def _write_torch(
  source: Source, out: pathlib.Path, *, frames: int | None = None
) -> str:
  import torch

  state = official_state(source.model, frames=source.frames(frames))
  tensors = {key: torch.tensor(value) for key, value in state.items()}

  def write(part: pathlib.Path) -> None:
    with part.open("wb") as file:  # by name, torch hides why it cannot write
      torch.save(tensors, file)

  _place(out, write)
  return _counted(state)


def _write_safetensors(
  source: Source, out: pathlib.Path, *, frames: int | None = None
) -> str:
  state = official_state(source.model, frames=source.frames(frames))
  # Not with save_file, whose files are for their owner's eyes only.
  _place(out, lambda part: part.write_bytes(save(state)))
  return _counted(state)


def _counted(state: Mapping[str, Any]) -> str:
  size = sum(value.nbytes for value in state.values())
  return f"{len(state)} arrays of the official code, {math.ceil(size / 1e6)} MB"


def _write_pretrained(source: Source, out: pathlib.Path) -> str:
  save_pretrained(
    source.model,
    out,
    labels=source.labels,
    preprocessing=source.preprocessing,
    provenance=source.provenance,
  )
  return f"vidjax.load_pretrained({str(out)!r})"


@dataclasses.dataclass(frozen=True)
class _Format:
  """What writes a format and returns a line about it, and what that needs."""

  write: Callable[..., str]
  arguments: Callable[..., Any]
  package: str | None = None


FORMATS = {
  "stablehlo": _Format(_write_stablehlo, program),
  "torch": _Format(_write_torch, _write_torch, "torch"),
  "safetensors": _Format(_write_safetensors, _write_safetensors),
  "pretrained": _Format(_write_pretrained, _write_pretrained),
}


def export(
  source: str | os.PathLike[str],
  out: str | os.PathLike[str],
  form: str = "stablehlo",
  **options: Any,
) -> str:
  """Writes a model in a format of `FORMATS`; it appears whole or not.

  Args:
    source: pretrained folder, Hub repository or work directory of a run.
    out: file or folder to write, which must be new.
    form: a name of `FORMATS`.
    **options: "platforms", "frames" and "image_size" of "stablehlo", as
      `program` takes them; "frames" of "torch" and "safetensors", for SIFA,
      whose code stores constants for each.

  Returns:
    A line about what was written.

  Raises:
    ValueError: if there is no such source, the format does not have the option
      or the model, or if `out` exists or cannot be written.
    ImportError: if the format needs a package that is not installed.
  """
  chosen = FORMATS[one_of("format", form, tuple(FORMATS))]
  context = {"source": source, "out": out}
  known_arguments(f"format {form}", chosen.arguments, options, context)
  package = chosen.package
  if package is not None and importlib.util.find_spec(package) is None:
    raise ImportError(
      f'the format {form} is written with {package}: pip install "vidjax'
      f'[{package}]", or write safetensors'
    )
  place = pathlib.Path(out).absolute()
  _check_new(place)
  return chosen.write(read_source(source), place, **options)


def _check_new(place: pathlib.Path) -> None:
  empty = place.is_dir() and not any(place.iterdir())
  if place.exists() and not empty:
    raise ValueError(
      f"{place} exists already; delete it or choose another place"
    )


def _place(place: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Writes a file or folder beside its place and then puts it there."""
  part = place.with_name(f".{place.name}.{os.getpid()}.part")
  try:
    part.parent.mkdir(parents=True, exist_ok=True)
    write(part)
    part.rename(place)
  except OSError as error:
    raise ValueError(
      f"{place} cannot be written ({error.strerror}): free space, "
      "check permissions or choose another place; nothing was left there"
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
      part.unlink()


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description="Writes a model for other programs."
  )
  parser.add_argument(
    "source", help="pretrained folder, Hub repository or work directory"
  )
  parser.add_argument("out", type=pathlib.Path, help="new file or folder")
  parser.add_argument("--format", choices=FORMATS, default="stablehlo")
  parser.add_argument(
    "--platforms",
    type=lambda text: tuple(text.split(",")),
    help=f"of the program, by default {','.join(PLATFORMS)}",
  )
  parser.add_argument("--frames", type=int, help="of a clip")
  parser.add_argument("--image-size", type=int, help="side of a clip's frames")
  return parser


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  flags = _parser().parse_args(arguments)
  names = ("platforms", "frames", "image_size")
  given = {name: getattr(flags, name) for name in names}
  options = {name: value for name, value in given.items() if value is not None}
  try:
    done = export(flags.source, flags.out, flags.format, **options)
  except (ValueError, ImportError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(f"{flags.out}: {done}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
