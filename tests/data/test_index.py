import dataclasses
import json
import pathlib

import pytest

from tests.data.small_videos import write_images, write_video
from vidjax.data import index
from vidjax.data.formats import Entry, FormatError, Listing
from vidjax.data.index import Limits, hold_out, index_videos
from vidjax.data.index_report import describe, summarise, write_page
from vidjax.data.inspection import Inspection, inspect_video
from vidjax.data.manifest import ManifestError, load_manifest
from vidjax.data.manifest_writer import write_data_set

LIMITS = Limits(workers=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  root = tmp_path_factory.mktemp("videos")
  for name, frames in {"a": 6, "b": 8, "c": 24}.items():
    write_video(root / f"{name}.mp4", frames)
  (root / "empty.mp4").write_bytes(b"")
  (root / "text.mp4").write_text("not a video" * 10)
  write_images(root / "frames", 5)
  return root


def listing_of(videos, *entries, heads=None):
  return Listing(
    videos, heads or {"label": ("x", "y")}, {"train": list(entries)}
  )


def entries_of(*names):
  return [Entry(name, name, (i % 2,)) for i, name in enumerate(names)]


ALL = ("a.mp4", "b.mp4", "c.mp4", "empty.mp4", "frames", "gone.mp4", "text.mp4")


@pytest.fixture
def asked(monkeypatch):
  """Inspects in this process, and notes what was asked for."""
  asked = []

  def inspect_all(jobs, **limits):
    for job in jobs:
      asked.append(pathlib.Path(job.path).name)
      yield (
        job,
        inspect_video(job.path, check=job.check, thumbnail=job.thumbnail),
      )

  monkeypatch.setattr(index, "inspect_all", inspect_all)
  return asked


def test_every_file_gets_its_verdict(tmp_path, videos):
  seen = []
  rows = index_videos(
    listing_of(videos, *entries_of(*ALL)),
    tmp_path / "out",
    Limits(workers=2),
    lambda done, total, counts: seen.append((done, total, dict(counts))),
  )
  got = {row.entry.id: row.status for row in rows["train"]}
  assert got == {
    "a.mp4": "ok",
    "b.mp4": "ok",
    "c.mp4": "ok",
    "empty.mp4": "empty",
    "frames": "ok",
    "gone.mp4": "missing",
    "text.mp4": "not_a_video",
  }
  assert [done for done, _, _ in seen] == list(range(8))
  counts = {"ok": 4, "empty": 1, "missing": 1, "not_a_video": 1}
  assert seen[-1] == (7, 7, counts)


def test_an_interrupted_index_goes_on(tmp_path, videos, asked, monkeypatch):
  listing = listing_of(videos, *entries_of(*ALL))
  inspect = index.inspect_all

  def interrupted(jobs, **limits):
    for count, result in enumerate(inspect(jobs, **limits)):
      if count == 3:
        raise KeyboardInterrupt
      yield result

  monkeypatch.setattr(index, "inspect_all", interrupted)
  with pytest.raises(KeyboardInterrupt):
    index_videos(listing, tmp_path, LIMITS)
  journal = tmp_path / "journal.jsonl"
  with journal.open("a") as file:
    file.write('{"path": "frames", "sta')  # the end of a killed process
  monkeypatch.setattr(index, "inspect_all", inspect)
  asked.clear()
  rows = index_videos(listing, tmp_path, LIMITS)
  assert asked == ["empty.mp4", "frames", "gone.mp4", "text.mp4"]
  assert [row.status for row in rows["train"]] == [
    *["ok"] * 3,
    "empty",
    "ok",
    "missing",
    "not_a_video",
  ]
  assert all(json.loads(line) for line in journal.read_text().splitlines())
  asked.clear()
  assert index_videos(listing, tmp_path, LIMITS) == rows
  assert asked == ["gone.mp4"]  # it may be there now


def test_a_file_that_changes_is_looked_at_again(tmp_path, asked):
  write_video(tmp_path / "a.mp4", 6)
  (tmp_path / "b.mp4").write_bytes(b"")
  listing = listing_of(tmp_path, *entries_of("a.mp4", "b.mp4"))
  index_videos(listing, tmp_path / "out", LIMITS)
  asked.clear()
  write_video(tmp_path / "b.mp4", 7)
  rows = index_videos(listing, tmp_path / "out", LIMITS)
  assert asked == ["b.mp4"]
  assert [row.found.frames for row in rows["train"]] == [6, 7]


def test_a_full_check_answers_for_a_fast_one(tmp_path, videos, asked):
  listing = listing_of(videos, *entries_of("a.mp4"))
  for check, again in [("fast", 1), ("full", 1), ("fast", 0), ("full", 0)]:
    asked.clear()
    limits = dataclasses.replace(LIMITS, check=check)
    index_videos(listing, tmp_path, limits)
    assert len(asked) == again, check


def test_a_file_of_many_clips_is_inspected_once(tmp_path, videos, asked):
  entries = [
    Entry("p1", "c.mp4", (0,), seconds=(0.5, 1.0)),
    Entry("p2", "c.mp4", (1,), seconds=(1.49, 9.0)),
    Entry("p3", "c.mp4", (1,), seconds=(2.5, 3.0)),
    Entry("p4", "c.mp4", (1,), span=(3, 9)),
    Entry("p5", "c.mp4", (1,), span=(24, 30)),
    Entry("f1", "frames", (0,), frames=5),
    Entry("f2", "frames", (0,), frames=3),
    Entry("f3", "frames", (0,), frames=6),
  ]
  listing = listing_of(videos, *entries)
  rows = index_videos(listing, tmp_path, LIMITS)["train"]
  assert asked == ["c.mp4", "frames"]
  assert [(row.status, row.span) for row in rows] == [
    ("ok", (6, 12)),
    ("ok", (18, 24)),
    ("truncated", (30, 36)),
    ("ok", (3, 9)),
    ("truncated", (24, 30)),
    ("ok", None),
    ("ok", (0, 3)),
    ("truncated", None),
  ]
  write_data_set(tmp_path, listing, {"train": rows})
  clips = load_manifest(tmp_path, "train").clips
  assert clips[0].part(24) == (6, 6)
  assert clips[0].keyframes == (6, 9)
  assert clips[3].keyframes == (3, 6)
  assert clips[5].keyframes is None
  assert [clip.status for clip in clips] == [row.status for row in rows]


def test_the_data_set(tmp_path, videos, asked):
  listing = listing_of(videos, *entries_of("a.mp4", "empty.mp4"))
  rows = index_videos(listing, tmp_path, LIMITS)
  write_data_set(tmp_path, listing, rows)
  manifest = load_manifest(tmp_path, "train")
  assert manifest.classes == ("x", "y")
  assert manifest.videos == videos.resolve()
  a, empty = manifest.clips
  assert (a.id, a.label, a.frames, a.fps, a.duration) == (
    "a.mp4",
    0,
    6,
    12.0,
    0.5,
  )
  assert (a.width, a.height, a.codec) == (32, 24, "h264")
  assert a.keyframes == (0, 3)
  assert (empty.status, empty.frames) == ("empty", None)
  assert manifest.file(a) == videos.resolve() / "a.mp4"
  write_data_set(tmp_path, listing, rows, parquet=True)
  assert not (tmp_path / "train.jsonl").exists()
  assert load_manifest(tmp_path, "train") == manifest
  write_data_set(tmp_path, listing, rows)
  assert not (tmp_path / "train.parquet").exists()


def test_what_labels_json_has_stays(tmp_path, videos, asked):
  heads = {"label": ("left", "right")}
  listing = listing_of(videos, *entries_of("a.mp4"), heads=heads)
  rows = index_videos(listing, tmp_path, LIMITS)
  write_data_set(tmp_path, listing, rows)
  labels = json.loads((tmp_path / "labels.json").read_text())
  assert labels == {
    "name": tmp_path.name,
    "classes": ["left", "right"],
    "flip": {"0": 1, "1": 0},
    "videos": videos.resolve().as_posix(),
  }
  changed = labels | {"name": "mine", "flip": {}, "reverse": {"0": 1}}
  (tmp_path / "labels.json").write_text(json.dumps(changed))
  write_data_set(tmp_path, listing, rows)
  assert json.loads((tmp_path / "labels.json").read_text()) == changed
  renamed = dataclasses.replace(listing, heads={"label": ("L", "R")})
  write_data_set(tmp_path, renamed, rows)
  labels = json.loads((tmp_path / "labels.json").read_text())
  assert labels == changed | {"classes": ["L", "R"]}
  other = dataclasses.replace(listing, heads={"label": ("a", "b", "c")})
  with pytest.raises(
    ManifestError, match=r"\{'label': 2\} of each head, \{'label': 3\} now"
  ):
    write_data_set(tmp_path, other, rows)


def test_absolute_paths(tmp_path, videos, asked):
  path = str(videos / "a.mp4")
  for split in ("train", "val"):
    listing = Listing(tmp_path / split, {"label": ("x",)}, {split: []})
    listing.splits[split].append(Entry(path, path, (0,)))
    rows = index_videos(listing, tmp_path, LIMITS)
    write_data_set(tmp_path, listing, rows)
    manifest = load_manifest(tmp_path, split)
    assert str(manifest.file(manifest.clips[0])) == path


def test_splits_with_folders_of_their_own(tmp_path, asked):
  for split in ("train", "val"):
    write_video(tmp_path / "videos" / split / "a.mp4")
    folder = tmp_path / "videos" / split
    listing = Listing(folder, {"label": ("x",)}, {split: entries_of("a.mp4")})
    rows = index_videos(listing, tmp_path, LIMITS)
    write_data_set(tmp_path, listing, rows)
  labels = json.loads((tmp_path / "labels.json").read_text())
  assert labels["videos"] == "videos/train"
  for split in ("train", "val"):
    manifest = load_manifest(tmp_path, split)
    path = manifest.file(manifest.clips[0])
    assert path.resolve() == tmp_path / "videos" / split / "a.mp4"


def test_several_heads(tmp_path, videos, asked):
  heads = {"verb": ("take", "put"), "noun": ("cup", "lid")}
  listing = listing_of(videos, Entry("a", "a.mp4", (1, 0)), heads=heads)
  rows = index_videos(listing, tmp_path, LIMITS)
  write_data_set(tmp_path, listing, rows)
  manifest = load_manifest(tmp_path, "train")
  assert (dict(manifest.heads), manifest.clips[0].labels) == (heads, (1, 0))
  report = summarise(listing, rows)
  found = report["splits"]["train"]["heads"]
  assert found["verb"] == {"classes": 2, "clips": [0, 1], "empty": ["take"]}
  assert found["noun"] == {"classes": 2, "clips": [1, 0], "empty": ["lid"]}


# --- held out clips


def held_out(counts, share=0.2):
  entries = [
    Entry(f"{label}-{i}", f"{label}-{i}", (label,))
    for label, count in enumerate(counts)
    for i in range(count)
  ]
  listing = listing_of(pathlib.Path(), *entries)
  return listing, hold_out(listing, share)


def test_hold_out():
  whole, parts = held_out([10, 2, 1, 25])
  train, val = parts.splits["train"], parts.splits["val"]
  labels = [entry.labels[0] for entry in val]
  assert [labels.count(i) for i in range(4)] == [2, 1, 0, 5]
  assert {*train, *val} == set(whole.splits["train"])
  assert not {*train} & {*val}
  # One more clip of another class changes nothing.
  _, again = held_out([10, 2, 2, 25])
  for label in (0, 1, 3):
    assert [e for e in again.splits["val"] if e.labels == (label,)] == [
      e for e in val if e.labels == (label,)
    ]


def test_what_cannot_be_held_out():
  listing, parts = held_out([5])
  with pytest.raises(ValueError, match=r"the splits are train, val: leave"):
    hold_out(parts, 0.2)
  with pytest.raises(ValueError, match=r"is 1\.5; use one in \(0, 1\)"):
    hold_out(listing, 1.5)


# --- report


def test_report(tmp_path, videos, asked):
  listing = Listing(
    videos,
    {"label": ("x", "y", "z")},
    {
      "train": entries_of(*ALL),
      "val": [*entries_of("a.mp4"), Entry("p", "c.mp4", (1,), span=(0, 3))],
    },
  )
  rows = index_videos(listing, tmp_path, LIMITS)
  report = summarise(listing, rows, source="here", format="list")
  report |= {"limits": {"workers": 1, "check": "full"}, "seconds": 1.0}
  assert report["files"] == 7
  assert report["status"] == {
    "ok": 4,
    "empty": 1,
    "missing": 1,
    "not_a_video": 1,
  }
  assert report["codecs"] == {"h264": 3, "png": 1}
  assert report["shared"] == {"train, val": 1}
  assert report["splits"]["val"] == {
    "clips": 2,
    "status": {"ok": 2},
    "heads": {"label": {"classes": 3, "clips": [1, 1, 0], "empty": ["z"]}},
  }
  assert [bad["path"] for bad in report["bad"]] == [
    "empty.mp4",
    "gone.mp4",
    "text.mp4",
  ]
  json.dumps(report)
  text = describe(report)
  assert "7 files" in text
  assert "warning: 1 files are in both splits train, val" in text
  assert "empty.mp4 is empty (0 bytes)" in text
  write_page(tmp_path / "report.html", report, rows)
  page = (tmp_path / "report.html").read_text()
  assert page.count("data:image/jpeg;base64") == 4
  assert page.count("data:image/svg+xml;base64") == 6
  assert "gone.mp4 does not exist" in page


def test_a_report_without_one_good_file(tmp_path, videos, asked):
  listing = listing_of(videos, *entries_of("empty.mp4"))
  rows = index_videos(listing, tmp_path, LIMITS)
  report = summarise(listing, rows, source="<here>", format="list")
  report |= {"limits": {"workers": 1, "check": "full"}, "seconds": 1.0}
  write_page(tmp_path / "report.html", report, rows)
  page = (tmp_path / "report.html").read_text()
  assert "&lt;here&gt;" in page
  assert "empty.mp4 is empty" in page


def test_inspections_survive_the_journal(tmp_path, videos, asked):
  listing = listing_of(videos, *entries_of(*ALL[:-2]))
  first = index_videos(listing, tmp_path, LIMITS)
  again = index_videos(listing, tmp_path, LIMITS)
  assert first == again
  for row in again["train"]:
    assert isinstance(row.found, Inspection)


def test_a_journal_that_is_damaged(tmp_path, videos):
  (tmp_path / "journal.jsonl").write_text("{oops\n")
  with pytest.raises(FormatError, match=r"journal\.jsonl, line 1.*delete it"):
    index_videos(listing_of(videos, *entries_of("a.mp4")), tmp_path, LIMITS)
