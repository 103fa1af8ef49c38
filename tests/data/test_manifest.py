import json

import pytest

from vidjax.data.manifest import Clip, ManifestError, load_manifest

LABELS = {"name": "tiny", "classes": ["a", "b", "c"], "flip": {"0": 1, "1": 0}}
LINE = {"id": "v0", "path": "x/v0.mp4", "label": 2}


def write(root, lines, labels=LABELS):
  text = [x if isinstance(x, str) else json.dumps(x) for x in lines]
  (root / "train.jsonl").write_text("\n".join(text))
  if labels is not None:
    labels = labels if isinstance(labels, str) else json.dumps(labels)
    (root / "labels.json").write_text(labels)
  return root


def test_load(tmp_path):
  full = LINE | {"id": "v1", "frames": 30, "fps": 25, "width": 8, "height": 6}
  m = load_manifest(write(tmp_path, [LINE, "", full, ""]), "train")
  assert m.clips == (
    Clip("v0", "x/v0.mp4", 2),
    Clip("v1", "x/v0.mp4", 2, 30, 25.0, 8, 6),
  )
  assert (m.root, m.split, m.name) == (tmp_path, "train", "tiny")
  assert m.classes == ("a", "b", "c")
  assert m.flip == (1, 0, 2)
  assert m.reverse == (0, 1, 2)
  assert m.file(m.clips[0]) == tmp_path / "x" / "v0.mp4"


def test_reverse_table(tmp_path):
  labels = LABELS | {"reverse": {"2": 0, "0": 2}}
  m = load_manifest(write(tmp_path, [LINE], labels), "train")
  assert m.reverse == (2, 1, 0)


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ([LINE, "{oops"], r"train\.jsonl, line 2: not JSON"),
    (["[1]"], "line 1: not a JSON object"),
    ([LINE | {"label": 3}], r"'v0' has label 3, .* lists 3 classes \(0 to 2\)"),
    ([LINE | {"label": -1}], "'v0' has label -1"),
    ([LINE | {"label": "2"}], "'label' must be an integer.* 'v0'"),
    ([LINE | {"label": True}], "'label' must be an integer"),
    ([LINE | {"frames": "many"}], "must be numbers"),
    ([LINE, LINE], "line 2: the id 'v0' occurs twice"),
    ([], "lists no clips"),
    ([{"id": "v0", "label": 1}], "line 1: the key 'path' is missing"),
    ([{"path": "v0", "label": 1}], "line 1: the key 'id' is missing"),
    ([{"id": "v0", "path": "p"}], "line 1: the key 'label' is missing"),
  ],
)
def test_bad_lines(tmp_path, lines, message):
  with pytest.raises(ManifestError, match=message):
    load_manifest(write(tmp_path, lines), "train")


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (None, r"labels\.json does not exist"),
    ("{", r"labels\.json is not JSON"),
    ("[]", "must hold one JSON object"),
    ({}, "no list of class names"),
    ({"classes": []}, "no list of class names"),
    (LABELS | {"flip": {"0": 3}}, "'flip' maps '0' to 3, .* 0 to 2"),
    (LABELS | {"flip": {"left": 0}}, "'flip' maps 'left' to 0"),
    (LABELS | {"reverse": {"5": 0}}, "'reverse' maps '5' to 0"),
  ],
)
def test_bad_labels(tmp_path, labels, message):
  with pytest.raises(ManifestError, match=message):
    load_manifest(write(tmp_path, [LINE], labels), "train")


def test_missing_split(tmp_path):
  with pytest.raises(ManifestError, match=r"val\.jsonl does not exist"):
    load_manifest(write(tmp_path, [LINE]), "val")
