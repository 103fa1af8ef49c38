import json

import pytest

from vidjax.data.manifest import ManifestError, load_manifest
from vidjax.data.pin import pin_manifests


def splits(root, train=("a", "b"), classes=("x", "y")):
  root.mkdir(exist_ok=True)
  (root / "labels.json").write_text(json.dumps({"classes": classes}))
  for split, names in {"train": train, "val": ["v"]}.items():
    lines = [json.dumps({"id": n, "path": n, "label": 0}) for n in names]
    (root / f"{split}.jsonl").write_text("\n".join(lines))
  return [load_manifest(root, split) for split in ("train", "val")]


def test_the_same_data(tmp_path):
  data = splits(tmp_path / "data")
  pin_manifests(tmp_path, *data, resumed=False)
  pin_manifests(tmp_path, *splits(tmp_path / "data"), resumed=True)
  note = json.loads((tmp_path / "data.json").read_text())
  assert note["train"]["digest"] == data[0].digest()
  assert note["train"]["clips"] == 2
  moved = splits(tmp_path / "elsewhere")
  pin_manifests(tmp_path, *moved, resumed=True)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"train": ("a", "b", "c")}, r"2 clips then, 3 now"),
    ({"train": ("b", "a")}, r"the same 2 clips in number, but others"),
    ({"classes": ("x", "y", "z")}, r"2 classes then, 3 now"),
  ],
)
def test_other_data(tmp_path, change, message):
  root = tmp_path / "data"
  pin_manifests(tmp_path, *splits(root), resumed=False)
  other = splits(root, **change)
  with pytest.raises(
    ManifestError, match=rf"split 'train' of .*data is not .*{message}.*delete"
  ):
    pin_manifests(tmp_path, *other, resumed=True)
  pin_manifests(tmp_path, *other, resumed=False)  # a new start
  pin_manifests(tmp_path, *other, resumed=True)


def test_one_of_several_processes_writes(tmp_path):
  root = tmp_path / "data"
  pin_manifests(tmp_path, *splits(root), resumed=False, write=False)
  assert not (tmp_path / "data.json").exists()
  pin_manifests(tmp_path, *splits(root), resumed=False)
  with pytest.raises(ManifestError, match="2 clips then, 1 now"):
    pin_manifests(
      tmp_path, *splits(root, train=("a",)), resumed=True, write=False
    )


def test_a_run_without_a_note(tmp_path):
  pin_manifests(tmp_path, *splits(tmp_path / "data"), resumed=True)
  assert (tmp_path / "data.json").exists()


def test_a_note_that_is_damaged(tmp_path):
  (tmp_path / "data.json").write_text('{"train": ')
  with pytest.raises(ManifestError, match=r"data\.json is damaged"):
    pin_manifests(tmp_path, *splits(tmp_path / "data"), resumed=True)
