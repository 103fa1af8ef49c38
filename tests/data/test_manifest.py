import json
import pathlib

import pyarrow
import pytest
from pyarrow import parquet

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


# --- facts, parts, several labels

FACTS = {
  "frames": 30,
  "fps": 25.0,
  "duration": 1.2,
  "width": 8,
  "height": 6,
  "codec": "h264",
  "keyframes": [0, 12],
  "start": 5,
  "stop": 20,
}


def test_all_facts(tmp_path):
  (clip,) = load_manifest(write(tmp_path, [LINE | FACTS]), "train").clips
  for name, value in FACTS.items():
    got = getattr(clip, name)
    assert got == (tuple(value) if name == "keyframes" else value), name
  assert (clip.status, clip.labels) == ("ok", (2,))


@pytest.mark.parametrize(
  ("start", "stop", "frames", "want"),
  [
    (None, None, 9, (0, 9)),
    (3, 7, 9, (3, 4)),
    (3, None, 9, (3, 6)),
    (None, 4, 9, (0, 4)),
    (3, 12, 9, (3, 6)),
    (9, 12, 9, (8, 1)),
    (5, 5, 9, (5, 1)),
  ],
)
def test_part(start, stop, frames, want):
  assert Clip("a", "a", 0, start=start, stop=stop).part(frames) == want


def test_where_the_videos_are(tmp_path):
  write(tmp_path, [LINE], LABELS | {"videos": "../there"})
  m = load_manifest(tmp_path, "train")
  assert m.file(m.clips[0]) == tmp_path / "../there/x/v0.mp4"
  write(tmp_path, [LINE], LABELS | {"videos": "/somewhere"})
  m = load_manifest(tmp_path, "train")
  assert m.file(m.clips[0]) == pathlib.Path("/somewhere/x/v0.mp4")


def test_clips_that_cannot_be_used(tmp_path):
  lines = [
    LINE | {"id": "a"},
    LINE | {"id": "b", "status": "truncated"},
    LINE | {"id": "c", "status": "ok"},
    LINE | {"id": "d", "status": "truncated"},
    LINE | {"id": "e", "status": "empty"},
  ]
  m = load_manifest(write(tmp_path, lines), "train")
  assert m.bad() == {"truncated": 2, "empty": 1}
  assert [clip.id for clip in m.clips] == list("abcde")
  assert [clip.id for clip in m.usable().clips] == ["a", "c"]
  bad = load_manifest(write(tmp_path, lines[3:]), "train")
  with pytest.raises(
    ManifestError, match=r"all 2 clips of split 'train' .*'empty': 1"
  ):
    bad.usable()


HEADS = {"heads": {"verb": ["take", "put"], "noun": ["cup", "lid", "pan"]}}
PAIR = {"id": "v0", "path": "x", "labels": [1, 2]}


def test_several_labels(tmp_path):
  labels = HEADS | {"flip": {"0": 1, "1": 0}}
  other = PAIR | {"id": "v1", "labels": [0, 0]}
  m = load_manifest(write(tmp_path, [PAIR, other], labels), "train")
  assert dict(m.heads) == {
    "verb": ("take", "put"),
    "noun": ("cup", "lid", "pan"),
  }
  assert m.classes == ("take", "put")
  assert [(c.label, c.labels) for c in m.clips] == [(1, (1, 2)), (0, (0, 0))]
  assert m.of_head("verb") is m
  nouns = m.of_head("noun")
  assert nouns.classes == ("cup", "lid", "pan")
  assert [(c.label, c.labels) for c in nouns.clips] == [
    (2, (1, 2)),
    (0, (0, 0)),
  ]
  assert m.flip == (1, 0)
  assert nouns.flip == nouns.reverse == (0, 1, 2)
  with pytest.raises(ManifestError, match=r"head 'tool': .* verb, noun"):
    m.of_head("tool")


@pytest.mark.parametrize(
  ("line", "labels", "message"),
  [
    (PAIR | {"labels": [1, 3]}, HEADS, r"noun label 3, but .* 3 classes"),
    (PAIR | {"labels": [1]}, HEADS, "has 1 labels, but labels.json has 2"),
    (PAIR | {"labels": 1}, HEADS, "'labels' must be a list of integers"),
    (PAIR | {"labels": []}, HEADS, "'labels' must be a list of integers"),
    (LINE, HEADS, "the key 'labels' is missing"),
    (PAIR, LABELS, "the key 'label' is missing"),
    (PAIR, {"heads": {"verb": []}}, "class names under 'heads.verb'"),
    (PAIR, {"heads": []}, "'heads' must give each head's list"),
    (LINE | {"keyframes": 3}, LABELS, "keyframes must be numbers"),
  ],
)
def test_wrong_heads(tmp_path, line, labels, message):
  with pytest.raises(ManifestError, match=message):
    load_manifest(write(tmp_path, [line], labels), "train")


def test_parquet(tmp_path):
  lines = [LINE | FACTS, {"id": "v1", "path": "y", "label": 0}]
  want = load_manifest(write(tmp_path, lines), "train")
  names = ["id", "path", "label", *FACTS]
  columns = {name: [line.get(name) for line in lines] for name in names}
  parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
  (tmp_path / "train.jsonl").unlink()
  assert load_manifest(tmp_path, "train") == want
  (tmp_path / "train.parquet").write_bytes(b"PAR1")
  with pytest.raises(ManifestError, match="not a Parquet file"):
    load_manifest(tmp_path, "train")


def test_digest(tmp_path):
  lines = [LINE, LINE | {"id": "v1"}]

  def digest(lines, labels=LABELS):
    return load_manifest(write(tmp_path, lines, labels), "train").digest()

  same = digest(lines)
  assert digest([LINE | {"frames": 7}, lines[1]]) == same
  others = [
    digest(lines[::-1]),
    digest(lines[:1]),
    digest([LINE | {"label": 1}, lines[1]]),
    digest([LINE | {"path": "z"}, lines[1]]),
    digest([LINE | {"start": 2}, lines[1]]),
    digest(lines, LABELS | {"flip": {}}),
    digest(lines, LABELS | {"classes": ["a", "b", "d"]}),
  ]
  assert len({same, *others}) == 1 + len(others)
