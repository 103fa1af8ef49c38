import pathlib

import pytest

from tests.data.small_videos import write_images
from vidjax.prediction.inputs import NoVideosError, find_inputs


def names(paths):
  return [(str(x.path), x.name) for x in find_inputs(paths)]


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in (
    "v/b.mp4",
    "v/A.MKV",
    "v/x/b.mp4",
    "v/x/note.txt",
    "w/b.mp4",
    "v/.h/c.mp4",
  ):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  write_images("v/frames", 2)
  return tmp_path


def test_a_folder_stands_for_what_is_below(root):
  assert names(["v"]) == [
    ("v/A.MKV", "A"),
    ("v/b.mp4", "b"),
    ("v/frames", "frames"),
    ("v/x/b.mp4", "x_b"),
  ]


def test_files_keep_their_order_and_come_once(root):
  paths = ["w/b.mp4", "v/b.mp4", "w", "s.array_record#3", "gone.mp4", "note"]
  assert names(paths) == [
    ("w/b.mp4", "b"),
    ("v/b.mp4", "b_2"),
    ("s.array_record#3", "s"),
    ("gone.mp4", "gone"),
    ("note", "note"),
  ]


def test_names_tell_videos_apart(root):
  paths = ["v/b.mp4", "b.avi", "x/b.avi", "b"]
  assert [name for _, name in names(paths)] == [
    *("b_mp4", "b_avi", "b_avi_2", "b")
  ]


def test_a_folder_of_frames_is_a_video(root):
  assert names(["v/frames", pathlib.Path("v/frames")]) == [
    ("v/frames", "frames")
  ]


def test_nothing_to_see(root):
  (root / "empty").mkdir()
  with pytest.raises(
    NoVideosError, match=r"there is no video in .*empty: name"
  ):
    find_inputs([root / "empty"])
  with pytest.raises(NoVideosError, match="no video was named"):
    find_inputs([])
  with pytest.raises(NoVideosError, match=r"empty \(''\): is a variable"):
    find_inputs(["v", ""])
