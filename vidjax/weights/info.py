"""What a pretrained folder says of its weights: config.json and the card.

`config.json` has a `format` number, which changes when older readers would go
wrong. Keys that a reader does not know are left alone, so that a later vidjax
may add some.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from vidjax import __version__
from vidjax.checks import Config
from vidjax.models.registry import from_json, model_spec

FORMAT = 1
CONFIG = "config.json"
_DATA = (
  "frames",
  "image_size",
  "mean",
  "std",
  "sampling",
  "stride",
  "segments",
)
_VIEWS = ("clips", "crops", "crop_style", "short_side", "fusion")
# What clips must be like, by the names of a configuration page.
PREPROCESSING = (*_DATA, *_VIEWS)


class PretrainedError(ValueError):
  """A pretrained folder that cannot be found, read or written."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """What is known of weights beside their values.

  Attributes:
    name: of the registered model.
    overrides: options that differ from the registered ones.
    labels: name of each class; None if they are not known.
    preprocessing: values by the names of `PREPROCESSING`; those that are not
      known are left out.
    provenance: where the weights come from, as short texts by name.

  Raises:
    ValueError: if the model, an option or a name of the preprocessing is
      unknown, or if there is not one label for each class.
  """

  name: str
  overrides: Mapping[str, Any]
  labels: tuple[str, ...] | None = None
  preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    known = model_spec(self.name).options
    unknown = sorted(set(self.overrides) - set(known))
    if unknown:
      raise ValueError(
        f"model {self.name!r} has no option {', '.join(map(repr, unknown))}; "
        f"its options are {', '.join(sorted(known))}"
      )
    classes = self.options["num_classes"]
    if self.labels is not None and len(self.labels) != classes:
      raise ValueError(
        f"there are {len(self.labels)} labels for the {classes} classes of "
        f"{self.name!r}; give one for each class"
      )
    unknown = sorted(set(self.preprocessing) - set(PREPROCESSING))
    if unknown:
      raise ValueError(
        f"there is no preprocessing {', '.join(map(repr, unknown))}; use "
        f"{', '.join(PREPROCESSING)}"
      )

  @property
  def options(self) -> dict[str, Any]:
    """All options of the model."""
    return dict(model_spec(self.name).options) | dict(self.overrides)


def page_preprocessing(config: Config) -> dict[str, Any]:
  """Returns the preprocessing of a configuration page."""
  data, views = config.data.to_dict(), config.eval.to_dict()
  return {k: data[k] for k in _DATA} | {k: views[k] for k in _VIEWS}


def read_info(folder: pathlib.Path) -> Pretrained:
  """Reads the config.json of a pretrained folder.

  Raises:
    PretrainedError: if it is damaged, or of another format.
    ValueError: if what it says is not possible.
  """
  file = folder / CONFIG
  try:
    config = json.loads(file.read_text("utf-8"))
    version = config["format"]
    if version != FORMAT:
      raise PretrainedError(
        f"{file} has format {version!r}, and this vidjax reads {FORMAT}; "
        "install the vidjax that wrote it, or a newer one"
      )
    known = config["preprocessing"].items()
    return Pretrained(
      name=config["model"]["name"],
      overrides=dict(from_json(config["model"]["overrides"])),
      labels=from_json(config["labels"]),
      preprocessing={
        key: from_json(value) for key, value in known if key in PREPROCESSING
      },
      provenance=dict(config["provenance"]),
    )
  except (
    OSError,
    UnicodeDecodeError,
    json.JSONDecodeError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
  ) as error:
    raise PretrainedError(
      f"{file} does not describe a pretrained model ({error!r}): copy it "
      "again, or write the folder anew with vidjax.save_pretrained"
    ) from error


def info_json(info: Pretrained) -> str:
  """Returns the text of config.json."""
  config = {
    "format": FORMAT,
    "vidjax": __version__,
    "model": {"name": info.name, "overrides": info.overrides},
    "labels": info.labels,
    "preprocessing": info.preprocessing,
    "provenance": info.provenance,
  }
  return json.dumps(config, indent=1, ensure_ascii=False) + "\n"


def card(info: Pretrained, parameters: int) -> str:
  """Returns the README of a pretrained folder, as the Hub shows it.

  Args:
    info: of the weights.
    parameters: number of parameters.
  """
  spec = model_spec(info.name)
  size = info.options["image_size"]
  frames = info.preprocessing.get("frames", spec.frames)
  lines = [
    "---",
    "library_name: vidjax",
    "pipeline_tag: video-classification",
    "tags: [jax, flax, video]",
    "---",
    f"# {info.name}",
    "",
    f"{spec.system}: {parameters:,} parameters, clips of {frames} frames of "
    f"{size} x {size} pixels, {info.options['num_classes']} classes.",
    "",
    "```python",
    "import vidjax",
    "",
    'model = vidjax.load_pretrained("path/of/this/folder")  # or owner/name',
    "logits = model(video)  # (b, t, h, w, c), normalised -> (b, k)",
    "```",
    *_table("Preprocessing", info.preprocessing),
    *_table("Options changed from the registered model", info.overrides),
    *_table("Provenance", info.provenance),
  ]
  return "\n".join(lines) + "\n"


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
  if not rows:
    return []
  cells = [
    f"| {key} | {' '.join(str(value).split()).replace('|', chr(92) + '|')} |"
    for key, value in rows.items()
  ]
  return ["", f"## {title}", "", "| | |", "|---|---|", *cells]
