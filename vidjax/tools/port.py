r"""Turns weights of other code into a pretrained folder.

    python -m vidjax.tools.port xvit.pyth --model=xvit_b16_k400 weights/xvit
    python -m vidjax.tools.port swin.pth --model=pst_t_k400 --new-head \
        --num-classes=2 --override dropout_rate=0.2 --labels=names.txt weights/x

The source is any file that `vidjax.weights.files` reads, of any family that
`vidjax.weights.convert` knows. The folder holds `model.safetensors`,
`config.json` and a README: `vidjax.load_pretrained(FOLDER)` reads it. Prints
what became of every key; exits with 1 if anything does not fit.
"""

import argparse
import ast
import hashlib
import importlib
import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import vidjax
from vidjax.checks import Config
from vidjax.models.registry import create_model, model_spec
from vidjax.nn.functional import merge, split
from vidjax.weights.convert import convert
from vidjax.weights.files import read_checkpoint
from vidjax.weights.info import PREPROCESSING, page_preprocessing
from vidjax.weights.pretrained import save_pretrained


def port(
  source: pathlib.Path,
  name: str,
  folder: pathlib.Path,
  *,
  overrides: dict[str, Any],
  preprocessing: dict[str, Any],
  provenance: dict[str, str],
  labels: Sequence[str] | None = None,
  family: str | None = None,
  new_head: bool = False,
  ema: bool = False,
) -> str:
  """Converts a weights file and writes a pretrained folder.

  Args:
    source: weights file.
    name: registered model.
    folder: to write.
    overrides: options of the model to change.
    preprocessing: what is known beside the model's configuration page.
    provenance: what to say of the source beside its name and checksum.
    labels: name of each class.
    family: of the source; None recognises it.
    new_head: whether a classifier of other classes stays random.
    ema: whether to take the moving average of the weights.

  Returns:
    What was converted, from which entry of the file, and what is not known of
    the preprocessing.

  Raises:
    ValueError: if anything does not fit; the message lists it.
  """
  arrays, entry = read_checkpoint(source, ema=ema)
  model = create_model(name, **overrides)
  converted = convert(arrays, model, family=family, new_head=new_head)
  model = merge(split(model)[0], converted.params, converted.stats)
  size = {k: overrides[k] for k in ("image_size",) if k in overrides}
  preprocessing = find_preprocessing(name) | size | preprocessing
  fresh = [path for path, _ in converted.report.fresh]
  with source.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  save_pretrained(
    model,
    folder,
    labels=labels,
    preprocessing=preprocessing,
    provenance={
      "source": source.name,
      "sha256": digest,
      **({"read from": entry} if entry else {}),
      "family": converted.report.family,
      "not in the source": ", ".join(fresh) or "nothing",
      "converted by": f"vidjax {vidjax.__version__}",
    }
    | provenance,
  )
  unknown = [key for key in PREPROCESSING if key not in preprocessing]
  lines = [str(converted.report)]
  if entry:
    lines.append(f"read from {entry}")
  if unknown:
    lines.append(
      f"not known of the preprocessing: {', '.join(unknown)} "
      "(--preprocessing=KEY=VALUE)"
    )
  return "\n".join(lines)


def find_preprocessing(name: str) -> dict[str, Any]:
  """Returns what all configuration pages of a model agree on.

  The pages are those of this checkout; there are none in an installed package.
  """
  checkout = pathlib.Path(vidjax.__file__).parents[1]
  found = importlib.util.find_spec("configs")
  if found is None or found.origin is None:
    return {}
  if not pathlib.Path(found.origin).parents[1].samefile(checkout):
    return {}  # a package of this name that is not ours
  pages = []
  for path in sorted((checkout / "configs").glob("*.py")):
    config = _page(path.stem)
    if config is None or config.model.get("name") != name:
      continue
    # Pages of longer clips are not what the weights were trained with.
    if config.data.frames == model_spec(name).frames:
      pages.append(page_preprocessing(config))
  first = pages[0] if pages else {}
  return {
    key: value
    for key, value in first.items()
    if all(page[key] == value for page in pages)
  }


def _page(name: str) -> Config:
  """Returns a page's configuration, None if it has none."""
  try:
    return importlib.import_module(f"configs.{name}").get_config()
  except (AttributeError, ValueError):  # a helper, or a page that is not ready
    return None


def read_labels(path: pathlib.Path) -> list[str]:
  """Returns the class names of a data set's labels.json, or one a line.

  Raises:
    ValueError: if the file is neither.
  """
  try:
    text = path.read_text("utf-8")
    if path.suffix != ".json":
      return [line for line in text.splitlines() if line.strip()]
    return [str(name) for name in json.loads(text)["classes"]]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} holds no class names ({error!r}); give a labels.json with "
      '"classes", or a text file with one name a line'
    ) from error


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
  """Parses `key=value` pairs; "temporal.segment=8" nests.

  Values are Python literals, anything else is text.

  Raises:
    ValueError: if a pair has no key and value.
  """
  result: dict[str, Any] = {}
  for pair in pairs:
    key, equals, text = pair.partition("=")
    if not (key and equals):
      raise ValueError(f"{pair!r} is no setting; write key=value")
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = text
    *path, last = key.split(".")
    inner = result
    for part in path:
      inner = inner.setdefault(part, {})
    inner[last] = value
  return result


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description="Turns weights of other code into a pretrained folder."
  )
  parser.add_argument("source", type=pathlib.Path, help="weights file")
  parser.add_argument("folder", type=pathlib.Path, help="new folder")
  parser.add_argument("--model", required=True, help="registered model")
  parser.add_argument("--family", help="of the source; else it is recognised")
  parser.add_argument("--num-classes", type=int, help="logits of the model")
  parser.add_argument(
    "--new-head",
    action="store_true",
    help="keep a random classifier if the source's has other classes",
  )
  parser.add_argument(
    "--ema", action="store_true", help="take the moving average"
  )
  parser.add_argument(
    "--labels", type=pathlib.Path, help="labels.json, or one name a line"
  )
  for name, example in (
    ("--override", "temporal.segment=8: an option of the model"),
    ("--preprocessing", "frames=16: what the model's page does not say"),
    ("--provenance", "licence=MIT: what to say of the source"),
  ):
    parser.add_argument(
      name, action="append", default=[], metavar="KEY=VALUE", help=example
    )
  return parser


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  options = _parser().parse_args(arguments)
  try:
    overrides = assignments(options.override)
    if options.num_classes is not None:
      overrides["num_classes"] = options.num_classes
    provenance = assignments(options.provenance)
    report = port(
      options.source,
      options.model,
      options.folder,
      overrides=overrides,
      preprocessing=assignments(options.preprocessing),
      provenance={key: str(value) for key, value in provenance.items()},
      labels=options.labels and read_labels(options.labels),
      family=options.family,
      new_head=options.new_head,
      ema=options.ema,
    )
  except (ValueError, ImportError, OSError) as error:
    # Of the Python interface, the one argument that errors advise.
    text = str(error).replace("new_head=True", "--new-head")
    print(f"error: {text}", file=sys.stderr)
    return 1
  print(report)
  print(f"{options.folder}: vidjax.load_pretrained({str(options.folder)!r})")
  return 0


if __name__ == "__main__":
  sys.exit(main())
