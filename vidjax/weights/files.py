"""Weights files of others, read without running anything that they hold.

A file is told by its first bytes and not by its name. PyTorch's files are
pickles, which can run any code when they are opened: they are read with its
restricted reader only (`weights_only=True`), and what needs more is refused.
"""

import contextlib
import os
import pathlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped
from safetensors.numpy import load_file

# Entries of a training checkpoint that hold the weights, as SlowFast and X-ViT,
# mmcv, DeiT and DeepSpeed name them, and the moving averages of timm.
CONTAINERS = ("model_state", "state_dict", "model", "module")
AVERAGES = ("model_ema", "state_dict_ema")
# Older versions can be made to run code by a file in spite of weights_only.
_SAFE_TORCH = (2, 10)
# Arrays that are this many times larger than their file are no weights.
_EXPANSION, _SMALL = 20, 2**30
_LONGEST_HEADER = 100_000_000  # of a safetensors file, in bytes

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ARCHIVE = b"PK\x03\x04"
_AGAIN = "download or copy it again"
# Kinds of files that hold no weights: place of the mark, mark, what to do.
_OTHERS = (
  (0, b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
  (0, b"\x93NUMPY", "a single NumPy array: save named ones with np.savez"),
  (0, b"\x89HDF", "an HDF5 file: save its arrays with np.savez"),
  (0, b"\x1f\x8b", "a gzip archive: unpack it"),
  (0, b"PK\x05\x06", f"an empty archive: {_AGAIN}"),
  (257, b"ustar", "a tar archive: unpack it and give the file inside"),
)

Array = Shaped[np.ndarray, "..."]


class WeightsFileError(ValueError):
  """A file that cannot be read as weights, and why."""


def read_weights(
  path: str | os.PathLike[str], *, ema: bool = False
) -> dict[str, Shaped[np.ndarray, "..."]]:
  """Reads the named arrays of a safetensors, NumPy or PyTorch file.

  A training checkpoint is opened at its entry "model_state", "state_dict",
  "model" or "module", in this order. Its moving average ("model_ema",
  "state_dict_ema") is taken if it is asked for or if there is nothing else.

  Args:
    path: of the file; its name does not matter.
    ema: whether to take the moving average of the weights.

  Returns:
    Arrays by key, as they are stored: keys, layout and dtype (bfloat16 is
    `ml_dtypes.bfloat16`); `vidjax.weights.convert` changes and reports them.

  Raises:
    WeightsFileError: if there is no such file, it is no such file, it is
      truncated, it holds anything but arrays, or it is a pickle that needs
      more than arrays.
    ImportError: if PyTorch is needed and not installed.
  """
  return read_checkpoint(path, ema=ema)[0]


def read_checkpoint(
  path: str | os.PathLike[str], *, ema: bool = False
) -> tuple[dict[str, Shaped[np.ndarray, "..."]], str]:
  """Reads arrays as `read_weights` does, and says where in the file they were.

  Returns:
    Arrays by key, and words such as "its entry 'model_ema'" for a report; no
    words if the file holds nothing but the arrays.
  """
  path = pathlib.Path(path)
  read = _reader(path, _head(path))
  tree = read(path)
  if not isinstance(tree, Mapping):
    raise WeightsFileError(
      f"{path} holds a {type(tree).__name__} and no dictionary of arrays; save "
      "model.state_dict()"
    )
  state, entry = _state(path, tree, ema)
  return _arrays(path, state), entry


def _head(path: pathlib.Path) -> bytes:
  if path.is_dir():
    raise WeightsFileError(f"{path} is a folder; name a file of weights in it")
  try:
    with path.open("rb") as file:
      head = file.read(512)
  except FileNotFoundError as error:
    raise WeightsFileError(
      f"there is no weights file {path}; check its path"
    ) from error
  except OSError as error:
    raise WeightsFileError(
      f"{path} cannot be opened ({error.strerror}); check its permissions"
    ) from error
  if not head:
    raise WeightsFileError(f"{path} is empty; {_AGAIN}")
  return head


def _reader(path: pathlib.Path, head: bytes) -> Callable[[pathlib.Path], Any]:
  """Returns what reads a file that begins like this."""
  header = int.from_bytes(head[:8], "little")
  if head[8:9] == b"{" and header <= _LONGEST_HEADER:
    return _read_safetensors
  if head.startswith(_ARCHIVE):
    return _read_archive
  if head.startswith(b"\x80"):
    return _read_torch
  for place, mark, kind in _OTHERS:
    if head[place:].startswith(mark):
      raise WeightsFileError(f"{path} is {kind}")
  if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
    raise WeightsFileError(
      f"{path} is a web page and no weights, as when a download needs a login; "
      "open its address in a browser and download it there"
    )
  raise WeightsFileError(
    f"{path} begins with {head[:8]!r} and is neither a safetensors, .npz nor "
    f"PyTorch file; check what it is, or {_AGAIN}"
  )


def _read_safetensors(path: pathlib.Path) -> Any:
  try:
    return load_file(path)
  except Exception as error:  # it raises a kind of its own, and others
    raise _damaged(path, error) from error


def _read_archive(path: pathlib.Path) -> Any:
  """Reads a ZIP archive: NumPy's `.npz`, or PyTorch's since version 1.6."""
  try:
    with zipfile.ZipFile(path) as archive:
      entries = archive.infolist()
  except Exception as error:  # it raises many kinds for damaged files
    raise _damaged(path, error) from error
  _check_expansion(path, sum(entry.file_size for entry in entries))
  names = [entry.filename for entry in entries]
  if any(re.fullmatch(r"(.*/)?constants\.pkl", name) for name in names):
    raise WeightsFileError(
      f"{path} is a TorchScript program, which is refused because it holds "
      "code; save model.state_dict()"
    )
  if any(map(_is_pickle, names)):
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
      raise WeightsFileError(
        f"{path} is compressed, which PyTorch's files never are; unpack it, or "
        "get it from another source"
      )
    return _read_torch(path)
  if all(name.endswith(".npy") for name in names):
    return _read_npz(path)
  raise WeightsFileError(
    f"{path} is an archive of {names[0]} and others; unpack it and give the "
    "weights file inside"
  )


def _read_npz(path: pathlib.Path) -> Any:
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except Exception as error:  # of zipfile, zlib, the header's parser, ...
    if "allow_pickle" in str(error):
      raise _refused(path, "numpy.ndarray of objects") from error
    raise _damaged(path, error) from error


def _read_torch(path: pathlib.Path) -> Any:
  torch = _import_torch(path)
  archive = _head(path).startswith(_ARCHIVE)
  # PyTorch goes by the name of a path that ends so.
  mapped = archive and path.suffix != ".safetensors"
  try:
    # Its warnings tell how to open a file without care.
    with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
      return torch.load(
        str(path) if mapped else file,
        map_location="cpu",
        weights_only=True,
        mmap=mapped,
      )
  except pickle.UnpicklingError as error:
    wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
    raise _refused(
      path, wanted[1] if wanted else _first_global(path, archive)
    ) from error
  except Exception as error:  # it raises many kinds for damaged files
    raise _damaged(path, error) from error


def _import_torch(path: pathlib.Path) -> Any:
  remedy = 'pip install "vidjax[torch]", or convert it to safetensors elsewhere'
  try:
    import torch
  except ImportError as error:
    raise ImportError(f"{path} is read with PyTorch: {remedy}") from error
  version = re.match(r"(\d+)\.(\d+)", torch.__version__)
  if not version or tuple(map(int, version.groups())) < _SAFE_TORCH:
    raise ImportError(
      f"PyTorch {torch.__version__} is too old to read {path} safely: {remedy}"
    )
  return torch


def _first_global(path: pathlib.Path, archive: bool) -> str:
  """Returns the first object outside of PyTorch that a pickle names.

  Its instructions are listed, not run.
  """
  try:
    with contextlib.ExitStack() as stack:
      file = stack.enter_context(path.open("rb"))
      if archive:
        entries = stack.enter_context(zipfile.ZipFile(file))
        (name,) = filter(_is_pickle, entries.namelist())
        file = stack.enter_context(entries.open(name))
      for name in _globals(file):
        if not name.startswith(("torch.", "collections.")):
          return name
  except Exception as error:  # damaged or hostile bytes may fail in any way
    return f"what cannot be read ({type(error).__name__})"
  return "a newer kind of pickle than PyTorch's"


def _globals(file: IO[bytes]) -> Iterator[str]:
  strings: list[str] = []
  for operation, argument, _ in pickletools.genops(file):
    if operation.name in ("GLOBAL", "INST"):
      yield str(argument).replace(" ", ".")
    elif operation.name == "STACK_GLOBAL":
      yield ".".join(strings[-2:])
    elif isinstance(argument, str):
      strings.append(argument)


def _is_pickle(name: str) -> bool:
  return re.fullmatch(r"(.*/)?data\.pkl", name) is not None


def _refused(path: pathlib.Path, wanted: str) -> WeightsFileError:
  return WeightsFileError(
    f"{path} is refused: reading it would need {wanted}, and a file that needs "
    "more than arrays can run any code; ask its maker for safetensors or a "
    "bare state_dict, or open it where it can do no harm and save "
    "model.state_dict() from there"
  )


def _damaged(path: pathlib.Path, error: BaseException) -> WeightsFileError:
  lines = str(error).strip().splitlines()
  reason = (lines[0] if lines else type(error).__name__)[:200]
  return WeightsFileError(
    f"{path} is truncated or damaged ({reason}): {_AGAIN}"
  )


def _check_expansion(path: pathlib.Path, size: int) -> None:
  """Refuses small files that would fill the memory."""
  stored = path.stat().st_size
  if size > max(_SMALL, _EXPANSION * stored):
    raise WeightsFileError(
      f"{path} is refused: its {stored:,} bytes claim to hold {size:,} bytes "
      "of arrays; get it from another source"
    )


def _state(
  path: pathlib.Path, tree: Mapping[Any, Any], ema: bool
) -> tuple[Mapping[Any, Any], str]:
  """Opens the nested entries of a training checkpoint; says which."""
  order = (*AVERAGES, *CONTAINERS) if ema else (*CONTAINERS, *AVERAGES)
  opened, averages = [], []
  # More levels do not occur, and a dictionary may hold itself.
  for _ in range(3):
    names = [name for name in order if isinstance(tree.get(name), Mapping)]
    if not names:
      break
    averages += [name for name in names if name in AVERAGES]
    opened.append(names[0])
    tree = tree[names[0]]
  averaged = not set(AVERAGES).isdisjoint(opened)
  if ema and not averaged:
    raise WeightsFileError(
      f"{path} has no moving average of the weights ({', '.join(AVERAGES)}); "
      "read its weights without ema"
    )
  entry = f"its entry {'.'.join(opened)!r}" if opened else ""
  if averages and not averaged:
    entry += f" (ema takes its moving average {averages[0]!r} instead)"
  return tree, entry


def _arrays(path: pathlib.Path, state: Mapping[Any, Any]) -> dict[str, Array]:
  """Turns tensors into arrays, if there is nothing else."""
  others = [
    f"{key!r} ({type(value).__name__})"
    for key, value in state.items()
    if not (isinstance(key, str) and _is_array(value))
  ]
  if others or not state:
    found = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
    raise WeightsFileError(
      f"{path} holds {found or 'nothing'} where arrays are expected; save "
      "model.state_dict()"
    )
  _check_expansion(path, sum(map(_size, state.values())))
  result = {}
  for key, value in state.items():
    try:
      result[key] = _array(value)
    except (TypeError, RuntimeError) as error:
      raise WeightsFileError(
        f"{path}: {key} is no plain array ({str(error).splitlines()[0]}); save "
        "it as a dense tensor of an ordinary dtype"
      ) from error
  return result


def _is_array(value: Any) -> bool:
  return isinstance(value, np.ndarray) or hasattr(value, "numel")


def _size(value: Any) -> int:
  if isinstance(value, np.ndarray):
    return value.nbytes
  return value.numel() * value.element_size()


def _array(value: Any) -> Array:
  if isinstance(value, np.ndarray):
    # NumPy's own files do not know the name of this type.
    return value.view(_BFLOAT16) if value.dtype == np.dtype("V2") else value
  if str(value.dtype) == "torch.bfloat16":  # which NumPy does not know either
    return value.float().numpy(force=True).astype(_BFLOAT16)
  # A copy, because the file that is mapped may change.
  return np.array(value.numpy(force=True))
