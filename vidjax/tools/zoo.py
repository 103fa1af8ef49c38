r"""The page of all registered models, docs/models.md.

    python -m vidjax.tools.zoo            # prints it
    python -m vidjax.tools.zoo --write    # writes docs/models.md
    python -m vidjax.tools.zoo --check    # exits with 1 if it is out of date

Everything on it comes from code: models from the registry, their parameters and
multiply-adds are counted (about a minute for all), frames and strides are those
of the configuration pages, and `vidjax.tools.published` has what others
published. Needs a checkout: the pages are not part of the package.
"""

import argparse
import dataclasses
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import vidjax
from vidjax.checks import Config
from vidjax.models.registry import MODELS
from vidjax.models.spec import ModelSpec
from vidjax.tools.profile_model import profile
from vidjax.tools.published import (
  ALSO_PUBLISHED,
  OPERATIONS,
  PAPERS,
  PUBLISHED,
  RELEASED,
)

ROOT = pathlib.Path(vidjax.__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
NONE = "-"
_TINY = "_motion"  # the end of the names of tiny models

Profile = Callable[[str], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Use:
  """A configuration page that has a model.

  Attributes:
    page: its module in configs/.
    variant: of the page that puts the model there; "" is the page itself.
    config: the page with this variant.
  """

  page: str
  variant: str
  config: Config


@dataclasses.dataclass(frozen=True)
class Row:
  """What the page says of one model.

  Attributes:
    name: registered name.
    spec: its specification.
    params: number of parameters.
    gmacs: 1e9 multiply-adds of one view.
    uses: configuration pages that have it.
  """

  name: str
  spec: ModelSpec
  params: int
  gmacs: float
  uses: Sequence[Use]

  @property
  def published(self) -> Mapping[str, Any]:
    """What others published of it."""
    return {**PUBLISHED, **ALSO_PUBLISHED}.get(self.name, {})


def find_uses() -> dict[str, list[Use]]:
  """Returns the configuration pages of each model, by its name.

  A variant counts if it puts another model in the page's place.

  Raises:
    ValueError: if this is no checkout with pages.
  """
  paths = sorted((ROOT / "configs").glob("*.py"))
  if not paths or importlib.util.find_spec("configs") is None:
    raise ValueError(
      f"there are no configuration pages in {ROOT / 'configs'}; run this at "
      "the root of a checkout"
    )
  uses: dict[str, list[Use]] = {}
  for path in paths:
    if path.stem.endswith("_long"):  # a model's page, but of other clips
      continue
    get_config = getattr(
      importlib.import_module(f"configs.{path.stem}"), "get_config", None
    )
    if get_config is None or path.stem == "common":
      continue
    plain = get_config()
    for variant in ("", *_variants(get_config)):
      config = get_config(variant)
      if not variant or config.model.name != plain.model.name:
        use = Use(path.stem, variant, config)
        uses.setdefault(config.model.name, []).append(use)
  return uses


def _variants(get_config: Callable[[str], Config]) -> list[str]:
  """Returns a page's variants, which it names if it is asked for another."""
  try:
    get_config("?")
  except ValueError as error:
    return str(error).rpartition("use one of ")[2].split(", ")
  raise ValueError(
    f"{get_config.__module__} takes any variant; end it with "
    "common.apply_variant"
  )


_SIZES: dict[tuple[Any, ...], str] = {
  ("ViT", 768, 12): "ViT-B",
  ("ViT", 1024, 24): "ViT-L",
  ("Swin", 96, (2, 2, 6, 2)): "Swin-T",
  ("Swin", 96, (2, 2, 18, 2)): "Swin-S",
  ("Swin", 128, (2, 2, 18, 2)): "Swin-B",
  ("Swin", 192, (2, 2, 18, 2)): "Swin-L",
  ("Visformer", 384, (7, 4, 4)): "Visformer-S",
  ("ResNet", 64, (3, 4, 6, 3)): "ResNet-50",
  ("ResNet", 64, (3, 4, 23, 3)): "ResNet-101",
}


def backbone(spec: ModelSpec) -> str:
  """Returns the usual name of a model's backbone, such as "ViT-B/16"."""
  family, options = spec.backbone.__name__, spec.options
  blocks = options["depth"] if family == "ViT" else options["depths"]
  size = _SIZES.get((family, options["dim"], blocks))
  if size is None:
    return f"{family}, {options['dim']} channels"
  return f"{size}/{options['patch_size']}" if family == "ViT" else size


def _frames(row: Row) -> str:
  """Frames and native frames between two, as the model's pages sample them."""
  frames = row.spec.frames
  found = dict.fromkeys(
    f"{frames} segments"
    if use.config.data.sampling == "segments"
    or use.config.data.segments == frames
    else f"{frames} x {use.config.data.stride}"
    for use in row.uses
  )
  return " or ".join(found) or f"{frames}"


def _gmacs(row: Row) -> str:
  views = row.published.get("views")
  figure = f"{row.gmacs:.4g}"
  return " x ".join([figure, *views.split("x")]) if views else figure


def _accuracy(row: Row) -> str:
  """Top-1 / top-5 by data set, as far as they are published."""
  cells = [
    " ".join([data, " / ".join(str(x) for x in figures if x is not None)])
    for data, figures in row.published.get("published", {}).items()
  ]
  return ", ".join(cells) or NONE


def _weights(row: Row) -> str:
  address = RELEASED.get(row.name)
  return f"[file]({address})" if address else NONE


def _configurations(row: Row) -> str:
  links = [
    f"[{use.page}](../configs/{use.page}.py)"
    + (f" `:{use.variant}`" if use.variant else "")
    for use in row.uses
  ]
  return ", ".join(links) or NONE


def _paper(name: str) -> str:
  return f"[{name}](https://arxiv.org/abs/{PAPERS[name]})"


def _operation(row: Row) -> tuple[str, str]:
  """What joins the frames of a model, and the paper that it is from."""
  known = [start for start in OPERATIONS if row.name.startswith(start)]
  if not known:
    raise ValueError(
      f"what joins the frames of {row.name!r} is not known; add it to "
      "OPERATIONS in vidjax/tools/published.py"
    )
  return OPERATIONS[max(known, key=len)]


_COLUMNS: dict[str, Callable[[Row], str]] = {
  "model": lambda row: f"`{row.name}`",
  "temporal operation": lambda row: _operation(row)[0],
  "paper": lambda row: _paper(_operation(row)[1]),
  "backbone": lambda row: backbone(row.spec),
  "frames x stride": _frames,
  "pixels": lambda row: f"{row.spec.image_size}",
  "parameters (M)": lambda row: f"{row.params / 1e6:.4g}",
  "GMACs x clips x crops": _gmacs,
  "top-1 / top-5, published, not re-measured": _accuracy,
  "trained weights": _weights,
  "configuration": _configurations,
}
_ALL = tuple(_COLUMNS)
_OF_SYSTEM = tuple(c for c in _ALL if c not in ("temporal operation", "paper"))
_OF_TINY = tuple(
  c for c in _ALL if not c.startswith("top-1") and c != "trained weights"
)


@dataclasses.dataclass(frozen=True)
class Section:
  """A table of the page, with its heading.

  Attributes:
    title: of the section.
    text: ahead of the table.
    holds: whether a model belongs to it, given its name and system.
    home: class of the backbone whose models come first.
    columns: of the table.
  """

  title: str
  text: str
  holds: Callable[[str, str], bool]
  home: str = "ViT"
  columns: Sequence[str] = _OF_SYSTEM


def _of(system: str) -> Callable[[str, str], bool]:
  return lambda name, of: of == system and not name.endswith(_TINY)


SECTIONS = (
  Section(
    "X-ViT: space-time mixing attention",
    f"""\
Paper: {_paper("X-ViT")}, Bulat et al., NeurIPS 2021.
Published: K600 and `xvit_b16_ssv2` in the official repository, the rest in the
paper. Weights: official files for these two, none for K400. Training starts
from a ViT of ImageNet-21k.""",
    _of("X-ViT"),
  ),
  Section(
    "TPS: temporal patch shift",
    f"""\
Paper: {_paper("TPS")}, Xiang et al., ECCV 2022.
Published: in the paper; SSv1 and SSv2 after K400. Weights: the official
repository has none; the authors put a PST-T for K400 on ModelScope (its card
says 78.6 / 93.5, which the paper has for windows of two frames). Training
starts from Swin-T of ImageNet-1k, or Swin-B of ImageNet-22k.""",
    _of("TPS"),
    home="Swin",
  ),
  Section(
    "LAPS: leap attention and periodic shift",
    f"""\
Paper: {_paper("LAPS")}, Zhang et al., ACM MM 2022.
Published: in the official repository. Weights: none were released. Training
starts from Visformer-S of ImageNet (timm's `visformer_small` is the same
network), or a ViT of ImageNet-21k (384 pixels: trained further on
ImageNet-1k).""",
    _of("LAPS"),
    home="Visformer",
  ),
  Section(
    "TokShift: token shift",
    f"""\
Paper: {_paper("TokShift")}, Zhang et al., ACM MM 2021.
Published: in the official repository of LAPS, which trained the models anew;
`tokshift_l16_384_k400` in the paper. Training starts from a ViT of ImageNet-21k
(384 pixels: trained further on ImageNet-1k).""",
    _of("TokShift"),
  ),
  Section(
    "SIFA: stand-alone inter-frame attention",
    f"""\
Paper: {_paper("SIFA")}, Long et al., CVPR 2022.
Published: in the paper. Weights: none were released. Training starts from a
ResNet or a Swin of ImageNet.""",
    _of("SIFA"),
    home="ResNet",
  ),
  Section(
    "Baselines",
    """\
The same backbones with other temporal operations, or none. Published: of
TimeSformer and Video Swin in their official repositories, of Visformer in that
of LAPS, of ResNet in the ablation of SIFA's paper.""",
    lambda name, of: of.endswith("baseline") and not name.endswith(_TINY),
    columns=_ALL,
  ),
  Section(
    "Tiny models for the built-in motion clips",
    """\
Minutes on a CPU, from random weights. Their accuracy, measured here, is in
[benchmarks/motion.md](../benchmarks/motion.md).""",
    lambda name, of: name.endswith(_TINY),
    columns=_OF_TINY,
  ),
)

_HEAD = """\
<!-- Written by python -m vidjax.tools.zoo --write: change the code instead. -->

# Models

```python
import vidjax

vidjax.list_models("xvit")  # all names that contain it
model = vidjax.create_model("xvit_b16_k600")  # random weights
model = vidjax.load_pretrained("xvit_b16_k600", "xvit_b16_16_k600.pth")
```

- **Published accuracy is quoted, never re-measured here**: top-1 / top-5 in
  percent from the papers and official repositories, with the views (clips x
  crops of each video) that it takes. K400 and K600 are Kinetics, SSv1 and SSv2
  Something-Something. `-`: nothing is published.
- Parameters and multiply-adds are counted on these models: matrix products and
  convolutions of one view, without element-wise work.
- Frames x stride is what the configuration samples: every stride-th native
  frame, or one from each of as many segments of the video.
- Trained weights are files of their authors, which `load_pretrained` converts;
  vidjax has none of its own. `-`: no file is known. A configuration starts from
  them, or from weights of images, with `--config.init_from=FILE`.
- Configuration: a page of [configs](../configs), run as
  `--config=configs/PAGE.py` or `--config=configs/PAGE.py:VARIANT`. `-`: the
  model is registered, but has no page, and no stride.
"""


def render(figures: Profile = profile) -> str:
  """Returns the text of the page.

  Args:
    figures: what a model of a name costs: `params` and `gmacs_per_view`.

  Raises:
    ValueError: if this is no checkout, or a model fits into no section.
  """
  uses = find_uses()
  rows: dict[str, list[Row]] = {section.title: [] for section in SECTIONS}
  for name, spec in MODELS.items():
    cost = figures(name)
    row = Row(
      name, spec, cost["params"], cost["gmacs_per_view"], uses.get(name, ())
    )
    rows[_section(name, spec).title].append(row)
  return _HEAD + "".join(_render(s, rows[s.title]) for s in SECTIONS)


def _render(section: Section, rows: Sequence[Row]) -> str:
  # Otherwise in the order of the registry.
  rows = sorted(rows, key=lambda r: r.spec.backbone.__name__ != section.home)
  lines = [section.columns, ["---"] * len(section.columns)]
  lines += [
    [_COLUMNS[column](row) for column in section.columns] for row in rows
  ]
  table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
  return f"\n## {section.title}\n\n{section.text}\n\n{table}"


def _section(name: str, spec: ModelSpec) -> Section:
  for section in SECTIONS:
    if section.holds(name, spec.system):
      return section
  raise ValueError(
    f"model {name!r} of the system {spec.system!r} has no place on the page; "
    "add one to SECTIONS in vidjax/tools/zoo.py"
  )


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = argparse.ArgumentParser(
    description="The page of all registered models, docs/models.md."
  )
  mode = parser.add_mutually_exclusive_group()
  mode.add_argument("--write", action="store_true", help="write the page")
  mode.add_argument("--check", action="store_true", help="compare the page")
  options = parser.parse_args(arguments)
  try:
    text = render()
  except ValueError as error:
    print(error, file=sys.stderr)
    return 2
  if options.write:
    PAGE.write_text(text, "utf-8")
  elif not options.check:
    print(text, end="")
  elif not PAGE.is_file() or PAGE.read_text("utf-8") != text:
    print(
      f"{PAGE} is not what the code says; write it anew with "
      "python -m vidjax.tools.zoo --write",
      file=sys.stderr,
    )
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
