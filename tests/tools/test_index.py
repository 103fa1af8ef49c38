import json
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest

from tests.data.small_videos import write_video
from tests.data.test_inspection import BAD, USABLE
from vidjax.data.manifest import load_manifest
from vidjax.tools import index


def run(*arguments):
  index.main([*map(str, arguments), "--workers=1"])


def tree(root, clips=3):
  """Two classes of whole videos, and a broken one in each."""
  for name in ("jump", "run"):
    for i in range(clips):
      write_video(root / name / f"{i}.mp4", 4 + i)
    (root / name / "broken.mp4").write_bytes(b"")
  return root


def test_real_files(tmp_path, shared, capsys):
  names = sorted(USABLE | BAD)
  (tmp_path / "train.txt").write_text("".join(f"{n} 0\n" for n in names))
  out = tmp_path / "out"
  source = tmp_path / "train.txt"
  videos = f"--videos={shared / 'videos'}"
  run(source, "--format=list", f"--out={out}", videos)
  clips = {clip.id: clip for clip in load_manifest(out, "train").clips}
  assert {name: clips[name].status for name in BAD} == BAD
  for name, (frames, fps, width, height, codec, _) in USABLE.items():
    clip = clips[name]
    assert clip.status == "ok"
    assert (clip.frames, clip.codec) == (frames, codec)
    assert (clip.width, clip.height) == (width, height)
    assert clip.fps == pytest.approx(fps, abs=0.07)
  printed = capsys.readouterr()
  assert "1 damaged, 1 variable_rate" in printed.out
  assert f"index: {len(names)}/{len(names)} files" in printed.err
  report = json.loads((out / "report.json").read_text())
  assert report["status"]["ok"] == len(USABLE)
  assert report["source"] == str(source)


def test_your_own_folder(tmp_path, capsys):
  root = tree(tmp_path / "mine", 5)
  run(root, "--format=folders", f"--out={root}", "--holdout=0.2")
  train, val = (load_manifest(root, split) for split in ("train", "val"))
  assert train.classes == ("jump", "run")
  assert (len(train.clips), len(val.clips)) == (10, 2)
  assert {clip.path for clip in (*train.clips, *val.clips)} == {
    f"{name}/{clip}.mp4"
    for name in ("jump", "run")
    for clip in [*range(5), "broken"]
  }
  bad = [c.id for m in (train, val) for c in m.clips if c.status != "ok"]
  assert sorted(bad) == ["jump/broken.mp4", "run/broken.mp4"]
  before = (root / "train.jsonl").read_text()
  run(root, "--format=folders", f"--out={root}", "--holdout=0.2")
  assert (root / "train.jsonl").read_text() == before
  capsys.readouterr()


def test_one_split_after_the_other(tmp_path, capsys):
  write_video(tmp_path / "a.mp4")
  (tmp_path / "names.txt").write_text("jump\nrun\n")
  for split, label in {"train": 0, "val": 1}.items():
    (tmp_path / f"{split}_list.txt").write_text(f"a.mp4 {label}\n")
  out = f"--out={tmp_path / 'out'}"
  classes = f"--classes={tmp_path / 'names.txt'}"
  run(tmp_path / "train_list.txt", "--format=list", out, classes)
  run(tmp_path / "val_list.txt", "--format=list", out, "--parquet")
  for split, label in {"train": 0, "val": 1}.items():
    manifest = load_manifest(tmp_path / "out", split)
    assert manifest.classes == ("jump", "run")
    assert [clip.label for clip in manifest.clips] == [label]
  capsys.readouterr()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--format=list"], r"error: .*nothing.* does not exist"),
    (["--format=list", "--timeout=0"], r"error: .* does not exist"),
  ],
)
def test_errors_are_one_sentence(tmp_path, arguments, message):
  with pytest.raises(SystemExit, match=message):
    run(tmp_path / "nothing", f"--out={tmp_path}", *arguments)


def test_wrong_options(tmp_path, capsys):
  tree(tmp_path)
  with pytest.raises(SystemExit, match=r"error: timeout is 0\.0; use more"):
    run(tmp_path, "--format=folders", f"--out={tmp_path}", "--timeout=0")
  with pytest.raises(SystemExit, match=r"the share to hold out is 2\.0"):
    run(tmp_path, "--format=folders", f"--out={tmp_path}", "--holdout=2")
  capsys.readouterr()


def test_a_killed_index_goes_on(tmp_path, capsys):
  root = tree(tmp_path / "mine", 12)
  out = tmp_path / "out"
  command = [sys.executable, "-m", "vidjax.tools.index", str(root)]
  options = ["--format=folders", f"--out={out}", "--workers=1"]
  process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
  journal, deadline = out / "journal.jsonl", time.monotonic() + 60
  while process.poll() is None and time.monotonic() < deadline:
    if journal.exists() and journal.read_text().count("\n") > 3:
      process.kill()
    time.sleep(0.005)
  process.kill()
  process.wait()
  done = journal.read_text().count("\n")
  assert done > 3
  run(root, "--format=folders", f"--out={out}")
  assert journal.read_text().count("\n") == 26
  assert len(load_manifest(out, "train").clips) == 26
  counted = capsys.readouterr().err
  assert f"index: {done}/26 files" in counted


def test_the_terminal_shows_one_line(monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  show = index.progress_line()
  show(2, 4, {"ok": 2})
  show(4, 4, {"ok": 3, "empty": 1})
  printed = capsys.readouterr().err
  assert printed.count("\r") == 2
  assert printed.endswith("bad: {'empty': 1}\n")


def test_broken_files_do_not_reach_the_training(tmp_path, capsys):
  from ml_collections import ConfigDict

  from vidjax.data.source import open_splits

  root = tree(tmp_path / "mine")
  run(root, "--format=folders", f"--out={root}", "--holdout=0.3")
  data = {"source": "manifest", "root": str(root), "head": ""}
  data |= {"train_split": "train", "eval_split": "val"}
  config = types.SimpleNamespace(
    data=ConfigDict(data), model=ConfigDict({"num_classes": 2})
  )
  train, _ = open_splits(config, pathlib.Path(os.devnull))
  assert all(train.file(clip).stat().st_size for clip in train.clips)
  capsys.readouterr()


def test_an_index_needs_neither_jax_nor_tensorflow():
  code = (
    "import sys, vidjax.tools.index, vidjax.data.records as r; "
    "r.read_example(b''); "
    "sys.exit(bool({'jax', 'tensorflow', 'torch'} & set(sys.modules)))"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
