import json
import types

import pytest
from ml_collections import ConfigDict

from vidjax.data.manifest import ManifestError
from vidjax.data.source import open_splits


def config(source="motion", root="", classes=12):
  return types.SimpleNamespace(
    data=ConfigDict(
      {
        "source": source,
        "root": str(root),
        "train_split": "train",
        "eval_split": "val",
        "head": "",
      }
    ),
    motion=ConfigDict(
      {"train_clips": 3, "val_clips": 2, "frames": 2, "size": 16, "seed": 0}
    ),
    model=ConfigDict({"num_classes": classes}),
  )


def write_manifest(root, classes=("a", "b")):
  root.mkdir()
  (root / "labels.json").write_text(json.dumps({"classes": classes}))
  for split, count in {"train": 3, "val": 1}.items():
    lines = [
      json.dumps({"id": f"{split}{i}", "path": f"{i}.mp4", "label": i % 2})
      for i in range(count)
    ]
    (root / f"{split}.jsonl").write_text("\n".join(lines))
  return root


def files(root):
  return {
    path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()
  }


def test_motion_clips_are_made_once_in_the_work_directory(tmp_path):
  train, val = open_splits(config(), tmp_path)
  assert (train.split, len(train.clips)) == ("train", 3)
  assert (val.split, len(val.clips)) == ("val", 2)
  for split in (train, val):
    assert split.root == tmp_path / "motion"
    assert all(split.file(clip).stat().st_size for clip in split.clips)
  before = files(tmp_path)
  assert open_splits(config(), tmp_path) == (train, val)
  assert files(tmp_path) == before


def test_motion_clips_go_where_the_root_is(tmp_path):
  root = tmp_path / "elsewhere"
  train, _ = open_splits(config(root=root), tmp_path / "work")
  assert train.root == root
  assert not (tmp_path / "work").exists()


def test_the_splits_of_a_manifest(tmp_path):
  root = write_manifest(tmp_path / "data")
  page = config("manifest", root, classes=2)
  train, val = open_splits(page, tmp_path)
  assert [clip.id for clip in train.clips] == ["train0", "train1", "train2"]
  assert [clip.id for clip in val.clips] == ["val0"]
  page.data.train_split, page.data.eval_split = "val", "train"
  assert open_splits(page, tmp_path) == (val, train)


def test_no_root(tmp_path):
  with pytest.raises(
    ManifestError,
    match=r"^data\.root is empty: name the folder .* --config\.data\.root=DIR",
  ):
    open_splits(config("manifest"), tmp_path)


def test_a_root_without_a_manifest(tmp_path):
  with pytest.raises(ManifestError, match=r"labels\.json does not exist"):
    open_splits(config("manifest", tmp_path), tmp_path)


def test_another_number_of_classes(tmp_path):
  root = write_manifest(tmp_path / "data")
  with pytest.raises(
    ManifestError,
    match=r"data has 2 classes, but the model has 5 logits: set "
    r"--config\.model\.num_classes=2\.$",
  ):
    open_splits(config("manifest", root, classes=5), tmp_path)


def test_an_unknown_source(tmp_path):
  with pytest.raises(
    ValueError,
    match=r"^data\.source is 'tfrecord'; use one of 'manifest', 'motion'$",
  ):
    open_splits(config("tfrecord"), tmp_path)


def test_clips_that_the_index_found_bad_are_left_out_of_training(
  tmp_path, caplog
):
  root = write_manifest(tmp_path / "data")
  for split in ("train", "val"):
    path = root / f"{split}.jsonl"
    first, *rest = path.read_text().splitlines()
    first = json.dumps(json.loads(first) | {"status": "empty"})
    path.write_text("\n".join([first, *rest]))
  page = config("manifest", root, classes=2)
  with caplog.at_level("WARNING"):
    train, val = open_splits(page, tmp_path)
  assert [clip.id for clip in train.clips] == ["train1", "train2"]
  assert [clip.id for clip in val.clips] == ["val0"]
  assert "1 of the 3 clips of split 'train' are left out" in caplog.text
  assert "{'empty': 1}" in caplog.text


def test_one_of_several_heads(tmp_path):
  root = tmp_path / "data"
  root.mkdir()
  heads = {"verb": ["take", "put"], "noun": ["cup", "lid", "pan"]}
  (root / "labels.json").write_text(json.dumps({"heads": heads}))
  line = json.dumps({"id": "a", "path": "a.mp4", "labels": [1, 2]})
  for split in ("train", "val"):
    (root / f"{split}.jsonl").write_text(line)
  page = config("manifest", root, classes=2)
  assert [s.clips[0].label for s in open_splits(page, tmp_path)] == [1, 1]
  page.data.head, page.model.num_classes = "noun", 3
  assert [s.clips[0].label for s in open_splits(page, tmp_path)] == [2, 2]
  del page.data.head  # a run of a former version
  page.model.num_classes = 2
  assert [s.clips[0].label for s in open_splits(page, tmp_path)] == [1, 1]
