"""Folders of weights: saved, loaded, and fetched from the Hugging Face Hub.

A folder holds `model.safetensors` (parameters and running statistics, float32,
by path: "blocks/0/mlp/fc1/kernel"), `config.json` (`vidjax.weights.info`) and a
README. A repository of the Hub is such a folder.
"""

import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import DTypeLike
from safetensors import SafetensorError
from safetensors.numpy import save_file

from vidjax.models.backbone import Backbone
from vidjax.models.registry import (
  MODELS,
  create_model,
  registered,
  with_overrides,
)
from vidjax.nn.functional import Tree, merge, split
from vidjax.weights.convert import convert
from vidjax.weights.files import Array, read_checkpoint, read_weights
from vidjax.weights.info import (
  CONFIG,
  Pretrained,
  PretrainedError,
  card,
  info_json,
  read_info,
)
from vidjax.weights.keys import WeightsError, flat, like

WEIGHTS, CARD = "model.safetensors", "README.md"


@dataclasses.dataclass(frozen=True)
class Filled:
  """A model's trees, filled from saved arrays.

  Attributes:
    params: parameters.
    stats: running statistics.
    report: what was filled, and what keeps the model's own values.
  """

  params: Tree
  stats: Tree
  report: str


def save_pretrained(
  model: Backbone,
  path: str | os.PathLike[str],
  *,
  labels: Sequence[str] | None = None,
  preprocessing: Mapping[str, Any] | None = None,
  provenance: Mapping[str, str] | None = None,
) -> pathlib.Path:
  """Writes a folder that `load_pretrained` reads; it appears whole or not.

  Args:
    model: of `create_model` or `load_pretrained`.
    path: of the folder, which must be new or empty.
    labels: name of each class.
    preprocessing: what clips must be like, by the names of
      `vidjax.weights.info.PREPROCESSING`.
    provenance: where the weights come from, as short texts by name.

  Returns:
    The folder.

  Raises:
    ValueError: if the model has no registered name, or if labels or
      preprocessing do not fit it.
    PretrainedError: if the folder exists or cannot be written.
  """
  made = registered(model)
  info = Pretrained(
    name=made.name,
    overrides=made.overrides,
    labels=None if labels is None else tuple(labels),
    preprocessing=dict(preprocessing or {}),
    provenance=dict(provenance or {}),
  )
  _, params, stats = split(model)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  arrays = {
    name: _storable(leaf) for name, leaf in (flat(params) | flat(stats)).items()
  }

  def write(folder: pathlib.Path) -> None:
    save_file(arrays, folder / WEIGHTS)
    (folder / CONFIG).write_text(info_json(info), "utf-8")
    # safetensors leaves its file to the owner alone.
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
    (folder / CARD).write_text(card(info, count), "utf-8")

  return _write_folder(pathlib.Path(path).absolute(), write)


def load_pretrained(
  name: str | os.PathLike[str],
  path: str | os.PathLike[str] | None = None,
  *,
  new_head: bool = False,
  dtype: DTypeLike = jnp.float32,
  remat: str = "none",
  **overrides: Any,
) -> Backbone:
  """Builds a model with weights from a folder, the Hub or an official file.

      load_pretrained("runs/xvit")  # a folder of save_pretrained
      load_pretrained("owner/xvit")  # the same on the Hub
      load_pretrained("xvit_b16_k400", "xvit.pyth")  # any known family's file

  Repositories are cached, and taken from the cache where there is no network;
  "owner/name@revision" pins one.

  Args:
    name: folder or repository; where `path` is given, the registered model.
    path: a weights file (`vidjax.weights.convert` brings it to the model), or a
      pretrained folder, which must be of this model.
    new_head: whether a classifier of another number of classes keeps its
      initial values, which the log says; otherwise it is an error.
    dtype: compute dtype; parameters are float32.
    remat: "none", or "block" to recompute activations in the backward pass.
    **overrides: options of the model to change, as of `create_model`.

  Raises:
    PretrainedError: if the folder is not found, or its config.json is wrong.
    WeightsFileError: if the arrays cannot be read.
    WeightsError: listing everything that does not fit the model.
    ValueError: if the model or an option is unknown.
  """
  how: dict[str, Any] = {"dtype": dtype, "remat": remat}
  if path is not None and not pathlib.Path(path).is_dir():
    model = create_model(os.fspath(name), **overrides, **how)
    filled = fill_from_file(path, model, new_head=new_head)
  else:
    folder = find_pretrained(name if path is None else path)
    info = read_info(folder)
    if path is not None and info.name != os.fspath(name):
      raise PretrainedError(
        f"{folder} holds the model {info.name!r} and not {os.fspath(name)!r}; "
        "load it without a name"
      )
    options = with_overrides(info.overrides, overrides) | how

    def make() -> Backbone:
      return create_model(info.name, **options)

    # Initial values take time, and only a new head needs them.
    model = make() if new_head else nnx.eval_shape(make)
    filled = fill_from_folder(folder, model, new_head=new_head)
  logging.info("%s", filled.report)
  return merge(split(model)[0], filled.params, filled.stats)


def find_pretrained(source: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a pretrained folder, fetched from the Hub if there is none here.

  Raises:
    PretrainedError: if there is none; the message says what was tried.
  """
  folder, text = pathlib.Path(source), os.fspath(source)
  if folder.is_dir():
    missing = [n for n in (CONFIG, WEIGHTS) if not (folder / n).is_file()]
    if missing:
      raise PretrainedError(
        f"{folder} is no pretrained folder, without {' and '.join(missing)}; "
        "write one with vidjax.save_pretrained or vidjax.tools.port"
      )
    return folder
  if folder.is_file():
    raise PretrainedError(
      f"{folder} is a file, which does not tell its model: use "
      f"load_pretrained(MODEL, {text!r})"
    )
  if text in MODELS:
    raise PretrainedError(
      f"{text!r} is a model without weights: use load_pretrained({text!r}, "
      f"PATH), or create_model({text!r}) for random ones"
    )
  repository, _, revision = text.partition("@")
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
    raise PretrainedError(
      f"there is no folder {text}, and it is no Hub repository (owner/name); "
      "check the path"
    )
  return _fetch(repository, revision or None)


def _fetch(repository: str, revision: str | None) -> pathlib.Path:
  # Not at the top: its import takes long, and folders do not need it.
  from huggingface_hub import snapshot_download

  try:
    folder = snapshot_download(
      repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]
    )
  except Exception as error:  # of the network, the server, the disk, ...
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    which = f"{repository} at {revision}" if revision else repository
    raise PretrainedError(
      f"there is no folder {repository} here, and the Hub repository {which} "
      f"is neither cached nor to be had ({reason}): check the name and the "
      "network, or copy the folder here"
    ) from error
  return find_pretrained(folder)


def fill_from_folder(
  folder: pathlib.Path, model: Backbone, *, new_head: bool
) -> Filled:
  """Fills a model's trees from a pretrained folder; see `fill`."""
  saved = read_weights(folder / WEIGHTS)
  return fill(saved, model, str(folder), new_head=new_head)


def fill_from_file(
  path: str | os.PathLike[str], model: Backbone, *, new_head: bool
) -> Filled:
  """Fills a model's trees from a weights file of any family, or of our own.

  Raises:
    WeightsFileError: if the file cannot be read.
    WeightsError: listing everything that does not fit the model.
  """
  saved, entry = read_checkpoint(path)
  _, *trees = split(model)
  own = {name for tree in trees for name in flat(tree) if "/" in name}
  if not own.isdisjoint(saved):
    return fill(saved, model, os.fspath(path), new_head=new_head)
  converted = convert(saved, model, new_head=new_head)
  place = f"{os.fspath(path)}, {entry}" if entry else os.fspath(path)
  report = f"{place}: {converted.report}"
  return Filled(converted.params, converted.stats, report)


def fill(
  saved: Mapping[str, Any], model: Backbone, source: str, *, new_head: bool
) -> Filled:
  """Fills a model's trees from arrays by path, strictly.

  Args:
    saved: arrays by path, such as "blocks/0/norm1/scale".
    model: to be filled, unchanged; only shapes and dtypes are read (it may be
      abstract) but for a new head.
    source: where they are from.
    new_head: whether a classifier of another number of classes keeps the
      model's values.

  Raises:
    WeightsError: listing all that is missing, unknown or of another shape.
  """
  _, *trees = split(model)
  wanted = {name: leaf for tree in trees for name, leaf in flat(tree).items()}
  faults, fresh, filled = [], [], {}
  for name in sorted({*wanted, *saved}):
    if name not in saved:
      faults.append(f"{name} {wanted[name].shape} is missing")
    elif name not in wanted:
      faults.append(f"{name} {saved[name].shape} is unknown to the model")
    elif saved[name].shape == wanted[name].shape:
      filled[name] = jnp.asarray(saved[name], wanted[name].dtype)
    elif new_head and _is_other_head(name, saved[name], wanted[name]):
      filled[name] = wanted[name]
      fresh.append(f"{name} {wanted[name].shape}, not {saved[name].shape}")
    else:
      faults.append(
        f"{name} is {saved[name].shape}, but the model has {wanted[name].shape}"
      )
  if faults:
    hint = "" if new_head else " (new_head=True leaves out another classifier)"
    raise WeightsError(
      f"the weights of {source} do not fit this model; use the options that "
      f"they were trained with{hint}:\n  " + "\n  ".join(faults)
    )
  report = (
    f"{source}: {len(filled) - len(fresh)} of {len(filled)} arrays filled"
  )
  if fresh:
    report += f"; the classifier is new: {'; '.join(fresh)}"
  params, stats = like(filled, *trees)
  return Filled(params, stats, report)


def _is_other_head(name: str, saved: Any, wanted: Any) -> bool:
  """Whether two classifiers differ in the number of classes only."""
  return (
    re.match(r"(dual_)?head/", name) is not None
    and len(saved.shape) == len(wanted.shape)
    and saved.shape[:-1] == wanted.shape[:-1]
  )


def _storable(leaf: Any) -> Array:
  """Returns an array as it is stored: floats in float32, row by row."""
  if isinstance(leaf, jax.ShapeDtypeStruct):
    raise ValueError(
      "this model is abstract (nnx.eval_shape) and has no weights to save; "
      "build it with vidjax.create_model"
    )
  array = np.asarray(leaf)
  floats = jnp.issubdtype(array.dtype, jnp.floating)
  return np.ascontiguousarray(array, np.float32 if floats else array.dtype)


def _write_folder(
  folder: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> pathlib.Path:
  """Writes a folder beside its place and then puts it there."""
  if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
    raise PretrainedError(
      f"{folder} exists already; delete it or choose another folder"
    )
  part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
  try:
    part.mkdir(parents=True)
    write(part)
    part.rename(folder)
  except (OSError, SafetensorError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise PretrainedError(
      f"{folder} cannot be written ({reason}): free space, check permissions "
      "or choose another folder; nothing was left there"
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
  return folder
