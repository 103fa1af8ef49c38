"""What is read from weights files, and what is refused without running it."""

import collections
import io
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import oracles
from vidjax.weights import files
from vidjax.weights.files import (
  WeightsFileError,
  read_checkpoint,
  read_weights,
)

STATE = {
  "head.weight": oracles.normal(5, 4),
  "head.bias": oracles.normal(5, seed=1),
  "norm.count": np.array(3, np.int64),
}


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch", reason="PyTorch is not installed")


def tensors(torch, state=STATE):
  return {key: torch.tensor(value) for key, value in state.items()}


def check(found, state=STATE):
  assert found.keys() == state.keys()
  for key, value in state.items():
    assert found[key].dtype == value.dtype, key
    np.testing.assert_array_equal(found[key], value, err_msg=key)


def refused(path, *words, **options):
  """Asserts that a file is refused with one sentence of these words."""
  with pytest.raises(WeightsFileError) as error:
    read_weights(path, **options)
  message = str(error.value)
  assert str(path) in message
  assert "\n" not in message
  for word in words:
    assert word in message


# --- formats


def test_safetensors_and_npz(tmp_path):
  save_file(STATE, tmp_path / "a.safetensors")
  np.savez(tmp_path / "a.npz", **STATE)
  np.savez_compressed(tmp_path / "b.npz", **STATE)
  for name in ("a.safetensors", "a.npz", "b.npz"):
    check(read_weights(tmp_path / name))
    check(read_weights(str(tmp_path / name)))


@pytest.mark.parametrize("archive", [True, False])
def test_torch(torch, tmp_path, archive):
  path = tmp_path / "a.pth"
  torch.save(tensors(torch), path, _use_new_zipfile_serialization=archive)
  check(read_weights(path))


def test_the_name_does_not_matter(torch, tmp_path):
  for name in ("a.npz", "a.pth.tar", "a.pyth", "a.bin", "a", "a.safetensors"):
    torch.save(tensors(torch), tmp_path / name)
    check(read_weights(tmp_path / name))
  save_file(STATE, tmp_path / "b.pth")
  check(read_weights(tmp_path / "b.pth"))
  with (tmp_path / "c.pt").open("wb") as file:
    np.savez(file, **STATE)
  check(read_weights(tmp_path / "c.pt"))


def test_dtypes_are_those_of_the_file(torch, tmp_path):
  values = np.array([1.5, -0.25, 3e-5, 6e4], np.float32)
  state = {
    "half": values.astype(np.float16),
    "brain": values.astype(ml_dtypes.bfloat16),
    "wide": values.astype(np.float64),
    "flag": np.array([True, False]),
  }
  save_file(state, tmp_path / "a")
  check(read_weights(tmp_path / "a"), state)
  with (tmp_path / "b").open("wb") as file:
    np.savez(file, **state)
  check(read_weights(tmp_path / "b"), state)
  brain = torch.tensor(values, dtype=torch.bfloat16)
  others = {key: state[key] for key in ("half", "wide", "flag")}
  torch.save({"brain": brain, **tensors(torch, others)}, tmp_path / "c")
  check(read_weights(tmp_path / "c"), state)


def test_the_file_may_change_after_it_is_read(torch, tmp_path):
  torch.save(tensors(torch), tmp_path / "a")
  found = read_weights(tmp_path / "a")
  with (tmp_path / "a").open("r+b") as file:
    file.write(bytes((tmp_path / "a").stat().st_size))
  check(found)


def test_views_and_parameters_of_torch(torch, tmp_path):
  x = torch.arange(12.0).reshape(3, 4)
  state = {
    "transposed": x.T,
    "part": x[1:, ::2],
    "parameter": torch.nn.Parameter(x),
  }
  torch.save(state, tmp_path / "a")
  a = np.arange(12, dtype=np.float32).reshape(3, 4)
  wanted = {"transposed": a.T, "part": a[1:, ::2], "parameter": a}
  check(read_weights(tmp_path / "a"), wanted)


# --- checkpoints


@pytest.mark.parametrize(
  "nest",
  [
    lambda s, other: {"epoch": 3, "model_state": s, "optimizer_state": other},
    lambda s, other: {"state_dict": s, "meta": {"time": "now"}, "ema": None},
    lambda s, other: {"model": s, "model_ema": other},
    lambda s, other: {"state_dict": s, "state_dict_ema": other, "arch": "x"},
    lambda s, other: {"model_ema": s, "epoch": 1},
    lambda s, other: {"module": s, "lr": 0.1},
    lambda s, other: {"model_state": s, "state_dict": other, "model": other},
    lambda s, other: {"model": {"state_dict": s}},
    lambda s, other: collections.OrderedDict(s),
  ],
)
def test_nested_checkpoints(torch, tmp_path, nest):
  other = {"head.weight": torch.zeros(2)}
  torch.save(nest(tensors(torch), other), tmp_path / "a.pth")
  check(read_weights(tmp_path / "a.pth"))


@pytest.mark.parametrize("name", ["model_ema", "state_dict_ema"])
def test_the_moving_average_on_request(torch, tmp_path, name):
  other = {"head.weight": torch.zeros(2)}
  path = tmp_path / "a.pth"
  torch.save({"model": other, name: tensors(torch)}, path)
  check(read_weights(path, ema=True))
  torch.save({"model": tensors(torch)}, path)
  refused(path, "no moving average", "model_ema, state_dict_ema", ema=True)


@pytest.mark.parametrize(
  ("nest", "ema", "words"),
  [
    (lambda x: x, False, ""),
    (lambda x: {"model_ema": x}, False, "its entry 'model_ema'"),
    (
      lambda x: {"model": {"state_dict": x}},
      False,
      "its entry 'model.state_dict'",
    ),
    (
      lambda x: {"model": x, "model_ema": {}},
      False,
      "its entry 'model' (ema takes its moving average 'model_ema' instead)",
    ),
    (lambda x: {"model": {}, "model_ema": x}, True, "its entry 'model_ema'"),
  ],
)
def test_what_was_read_is_said(torch, tmp_path, nest, ema, words):
  torch.save(nest(tensors(torch)), tmp_path / "a.pth")
  found, entry = read_checkpoint(tmp_path / "a.pth", ema=ema)
  check(found)
  assert entry == words


def test_keys_are_those_of_the_file(torch, tmp_path):
  state = {f"module.{key}": value for key, value in STATE.items()}
  torch.save({"state_dict": tensors(torch, state)}, tmp_path / "a.pth")
  check(read_weights(tmp_path / "a.pth"), state)


def test_what_is_no_dictionary_of_arrays(torch, tmp_path):
  path = tmp_path / "a.pth"
  for value, words in (
    ([torch.zeros(2)], ("holds a list", "model.state_dict()")),
    (torch.zeros(2), ("holds a Tensor",)),
    ({"a": torch.zeros(2), "epoch": 3}, ("holds 'epoch' (int) where arrays",)),
    ({"a": {"b": torch.zeros(2)}}, ("holds 'a' (dict)",)),
    ({3: torch.zeros(2)}, ("holds 3 (Tensor)",)),
    ({str(i): i for i in range(9)}, ("'4' (int), ... where",)),
    ({}, ("holds nothing",)),
    ({"model": {}}, ("holds nothing",)),
    ({"a": torch.zeros(2).to_sparse()}, ("a is no plain array",)),
    ({"a": torch.zeros(2, device="meta")}, ("a is no plain array",)),
  ):
    torch.save(value, path)
    refused(path, *words)


def test_a_dictionary_that_holds_itself(torch, tmp_path):
  state = {"epoch": 1}
  state["model"] = state
  torch.save(state, tmp_path / "a.pth")
  refused(tmp_path / "a.pth", "where arrays are expected")


# --- files that are none


def test_missing_folder_and_empty(tmp_path):
  refused(tmp_path / "a.pth", "there is no weights file", "check its path")
  refused(tmp_path, "is a folder")
  (tmp_path / "b.pth").touch()
  refused(tmp_path / "b.pth", "is empty", "download or copy it again")


@pytest.mark.skipif(
  not hasattr(os, "geteuid") or os.geteuid() == 0,
  reason="the administrator may read every file",
)
def test_without_permission(tmp_path):
  save_file(STATE, tmp_path / "a")
  (tmp_path / "a").chmod(0)
  refused(tmp_path / "a", "cannot be opened (Permission denied)")


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"<!DOCTYPE html><title>Sign in</title>", "is a web page"),
    (b"\n\xef\xbb\xbf <html>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\x93NUMPY\x01\x00v\x00{", "a single NumPy array"),
    (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    (b"\x1f\x8b\x08" + bytes(20), "a gzip archive"),
    (b"PK\x05\x06" + bytes(18), "an empty archive"),
    (b"model.pth".ljust(257, b"\0") + b"ustar  ", "a tar archive"),
    (b"epoch,loss\n", "begins with b'epoch,lo'"),
    (b"\0", "begins with"),
    (struct.pack("<Q", 2**40) + b"{", "begins with"),
    (struct.pack("<Q", 10**8) + b"{", "truncated or damaged"),
  ],
)
def test_other_files(tmp_path, content, words):
  (tmp_path / "a.pth").write_bytes(content)
  refused(tmp_path / "a.pth", words)


def test_other_archives(tmp_path):
  with zipfile.ZipFile(tmp_path / "a", "w") as archive:
    archive.writestr("readme.txt", "hello")
  refused(tmp_path / "a", "an archive of readme.txt")


def write(make, torch, path):
  if make == "safetensors":
    save_file(STATE, path)
  elif make == "npz":
    with path.open("wb") as file:
      np.savez(file, **STATE)
  else:
    archive = make == "archive"
    torch.save(tensors(torch), path, _use_new_zipfile_serialization=archive)


MAKES = ("safetensors", "npz", "archive", "legacy")


@pytest.mark.parametrize("make", MAKES)
def test_truncated_files(torch, tmp_path, make):
  path = tmp_path / "a"
  write(make, torch, path)
  whole = path.read_bytes()
  for length in {
    *(1, 4, 7, 8, 9, 16, 40),
    *(round(share * len(whole)) for share in (0.2, 0.5, 0.8, 0.95)),
    *(len(whole) - cut for cut in (1, 2, 8, 21, 22, 23)),
  }:
    path.write_bytes(whole[:length])
    refused(path)


@pytest.mark.parametrize("make", MAKES)
def test_damaged_files_are_read_or_refused(torch, tmp_path, make):
  path = tmp_path / "a"
  write(make, torch, path)
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  for _ in range(60):
    damaged = bytearray(whole)
    for place in rng.integers(0, len(whole), rng.integers(1, 5)):
      damaged[place] = rng.integers(256)
    path.write_bytes(damaged)
    try:
      found = read_weights(path)
    except WeightsFileError:
      continue
    assert all(isinstance(value, np.ndarray) for value in found.values())


# --- hostile files


class Evil:
  """A pickle of it makes a file when it is opened without care."""

  def __init__(self, mark):
    self.mark = mark

  def __reduce__(self):
    return open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path):
  path = tmp_path / "executed"
  yield path
  assert not path.exists()


def test_the_hostile_pickle_works_where_it_is_not_refused(tmp_path):
  mark = tmp_path / "executed"
  pickle.loads(pickle.dumps(Evil(mark))).close()
  assert mark.exists()


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("nest", [0, 1, 2])
def test_hostile_checkpoints(torch, tmp_path, mark, archive, nest):
  state = tensors(torch)
  value = (
    Evil(mark),
    {"extra": Evil(mark), "state_dict": state},
    state | {"last": Evil(mark)},
  )[nest]
  path = tmp_path / "a.pth"
  torch.save(value, path, _use_new_zipfile_serialization=archive)
  refused(path, "is refused", "io.open", "any code", "ask its maker")


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_hostile_pickles_of_every_protocol(torch, tmp_path, mark, protocol):
  path = tmp_path / "a.pth"
  path.write_bytes(pickle.dumps({"a": Evil(mark)}, protocol=protocol))
  refused(path, *(["is refused", "io.open"] if protocol > 1 else []))


def handmade(call):
  """A pickle, written by hand, that runs a shell command."""
  module, name, argument = call
  text = argument.encode()
  return (
    b"\x80\x02c"
    + f"{module}\n{name}\n".encode()
    + b"X"
    + struct.pack("<I", len(text))
    + text
    + b"\x85R."
  )


CALLS = (
  ("os", "system", "os.system"),
  ("posix", "system", "posix.system"),
  ("subprocess", "getoutput", "subprocess.getoutput"),
  ("builtins", "eval", "builtins.eval"),
  ("__builtin__", "exec", "builtins.exec"),
  ("torch.hub", "load", "torch.hub.load"),
  ("torch", "load", "torch.load"),
)


@pytest.mark.parametrize(("module", "name", "named"), CALLS)
@pytest.mark.parametrize("kind", ["bare", "archive"])
def test_pickles_written_by_hand(
  torch, tmp_path, mark, module, name, named, kind
):
  data = handmade((module, name, f"touch {mark}"))
  path = tmp_path / "a.pth"
  if kind == "bare":
    path.write_bytes(data)
  else:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", data)
      archive.writestr("archive/byteorder", "little")
      archive.writestr("archive/version", "3\n")
  refused(path, "is refused", named.split(".")[-1])


def test_text_pickles(tmp_path, mark):
  (tmp_path / "a.pth").write_bytes(
    f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
  )
  refused(tmp_path / "a.pth", "begins with")


def test_pickled_objects_in_npz(tmp_path, mark):
  objects = np.array([Evil(mark)], dtype=object)
  np.savez(tmp_path / "a.npz", good=np.zeros(2), bad=objects)
  refused(tmp_path / "a.npz", "is refused", "numpy.ndarray of objects")


def test_whole_models_are_refused_by_class(torch, tmp_path):
  torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
  refused(tmp_path / "a.pth", "torch.nn.modules.linear.Linear")


def test_programs_are_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
    for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
      archive.writestr(f"model/{name}", "")
  refused(tmp_path / "a.pt", "a TorchScript program", "holds code")


# --- files that would fill the memory


def test_compressed_bombs(torch, tmp_path, monkeypatch):
  monkeypatch.setattr(files, "_SMALL", 10**6)
  zeros = np.zeros(10**6)
  np.savez_compressed(tmp_path / "a.npz", zeros=zeros)
  refused(tmp_path / "a.npz", "claim to hold 8,000,1")
  stored, path = io.BytesIO(), tmp_path / "b.pth"
  torch.save({"a": torch.zeros(8)}, stored)
  with (
    zipfile.ZipFile(stored) as old,
    zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
  ):
    for name in old.namelist():
      new.writestr(name, old.read(name))
  refused(path, "is compressed")


def test_expanded_tensors(torch, tmp_path):
  torch.save({"a": torch.zeros(1).expand(10**6, 10**5)}, tmp_path / "a.pth")
  refused(tmp_path / "a.pth", "claim to hold 400,000,000,000 bytes")


def test_headers_that_lie(tmp_path):
  """Sizes far beyond the file's are found before they are allocated."""
  header = b'{"a":{"dtype":"F32","shape":[999999999999],"data_offsets":[0,4]}}'
  (tmp_path / "a").write_bytes(
    struct.pack("<Q", len(header)) + header + bytes(4)
  )
  refused(tmp_path / "a", "truncated or damaged")
  text = "{'descr': '<f4', 'fortran_order': False, 'shape': (10**12,), }"
  text = text.replace("10**12", str(10**13)).ljust(117) + "\n"
  array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
  with zipfile.ZipFile(tmp_path / "b", "w") as archive:
    archive.writestr("a.npy", array + bytes(4))
  refused(tmp_path / "b", "truncated or damaged")


# --- PyTorch


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cu117", "nightly"])
def test_unsafe_versions_of_torch(torch, tmp_path, monkeypatch, version):
  torch.save(tensors(torch), tmp_path / "a.pth")
  monkeypatch.setattr(torch, "__version__", version)
  with pytest.raises(
    ImportError, match=r"too old .* safely: pip install .vidj"
  ):
    read_weights(tmp_path / "a.pth")


def test_without_torch(torch, tmp_path, monkeypatch):
  torch.save(tensors(torch), tmp_path / "a.pth")
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  with pytest.raises(ImportError, match=r'pip install "vidjax\[torch\]"'):
    read_weights(tmp_path / "a.pth")
  save_file(STATE, tmp_path / "b")
  check(read_weights(tmp_path / "b"))
