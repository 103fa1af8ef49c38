import base64

import cv2
import numpy as np
import pytest

from tests.data.small_videos import (
  pictures,
  video_bytes,
  write_images,
  write_rotated,
  write_video,
)
from tests.data.test_records import write_shard
from vidjax.data.inspection import failure, inspect_video
from vidjax.data.records import Record, pack_record

# The file's frames, frames per second, pixels and codec; then its notes.
USABLE = {
  "arm_wrestling.mp4": (280, 28, 340, 256, "h264", ()),
  "av1_video.mkv": (125, 25, 640, 360, "av1", ()),
  "bit_flips.mp4": (280, 28, 340, 256, "h264", ("damaged",)),
  "bt709_full_range.mp4": (30, 30, 1280, 720, "h264", ()),
  "class_test.avi": (164, 25, 320, 240, "mpeg4", ()),
  "class_test.mp4": (300, 30, 340, 256, "h264", ()),
  "flipping_a_pancake.mkv": (310, 30, 426, 240, "h264", ()),
  "h264_10bits.mp4": (30, 30, 200, 200, "h264", ()),
  "h265_video.mp4": (10, 10, 128, 128, "hevc", ()),
  "nasa_13013.mp4": (325, 25, 320, 180, "h264", ()),
  "odd_size.mp4": (40, 30, 101, 75, "h264", ()),
  "one_frame.mp4": (1, 30, 96, 64, "h264", ()),
  "raw_part_0.mp4": (32, 29.06, 340, 256, "h264", ()),
  "variable_rate.mp4": (60, 11.06, 128, 96, "h264", ("variable_rate",)),
  "vp9.webm": (50, 25, 160, 120, "vp9", ()),
}
BAD = {
  "README.md": "not_a_video",
  "audio_only.mp3": "no_video",
  "audio_only.mp4": "no_video",
  "corrupted.mp4": "corrupt",
  "empty.mp4": "empty",
  "text.mp4": "not_a_video",
  "truncated.mp4": "truncated",
}


def test_every_real_file_is_known(shared):
  names = {path.name for path in (shared / "videos").iterdir()}
  assert names == set(USABLE) | set(BAD)


@pytest.mark.parametrize("check", ["full", "fast"])
def test_real_files(shared, check):
  for name, (frames, fps, width, height, codec, notes) in USABLE.items():
    found = inspect_video(str(shared / "videos" / name), check=check)
    assert (found.status, found.message) == ("ok", ""), name
    assert (found.width, found.height) == (width, height), name
    assert (found.frames, found.codec, found.notes) == (frames, codec, notes)
    assert found.fps == pytest.approx(fps, abs=0.07), name
    assert found.duration == pytest.approx(frames / found.fps, abs=1e-3)
    assert found.size == (shared / "videos" / name).stat().st_size
    assert found.keyframes[0] == 0


@pytest.mark.parametrize("check", ["full", "fast"])
@pytest.mark.parametrize(("name", "status"), BAD.items())
def test_real_bad_files(shared, name, status, check):
  path = str(shared / "videos" / name)
  found = inspect_video(path, check=check)
  assert found.status == status
  assert found.message.startswith(path)
  assert found.frames == 0


def test_keyframes(tmp_path):
  path = write_video(tmp_path / "a.mp4", 7, gop=3)
  assert inspect_video(str(path)).keyframes == (0, 3, 6)


@pytest.mark.parametrize(
  ("turn", "size", "notes"),
  [
    (0, (32, 24), ()),
    (90, (24, 32), ("rotated",)),
    (180, (32, 24), ("rotated",)),
    (-90, (24, 32), ("rotated",)),
  ],
)
def test_rotation(tmp_path, turn, size, notes):
  plain = write_video(tmp_path / "plain.mp4")
  path = write_rotated(plain, tmp_path / "turned.mp4", turn)
  found = inspect_video(str(path), thumbnail=True)
  assert (found.width, found.height) == size
  assert found.rotation == turn % 360
  assert found.notes == notes


def test_a_file_that_loses_frames(tmp_path):
  """Damage inside of pictures: full decoding sees it."""
  path = write_video(tmp_path / "a.mp4", 40, height=96, width=128, gop=40)
  data = bytearray(path.read_bytes())
  start = data.index(b"mdat")
  rng = np.random.default_rng(0)
  for at in rng.integers(start + 2000, start + (len(data) - start) // 2, 60):
    data[at] ^= 0xFF
  path.write_bytes(data)
  found = inspect_video(str(path))
  assert found.status == "corrupt" or "damaged" in found.notes


def test_folders_of_images(tmp_path):
  write_images(tmp_path / "v")
  found = inspect_video(str(tmp_path / "v"))
  assert (found.status, found.frames, found.codec) == ("ok", 5, "png")
  assert (found.width, found.height) == (32, 24)
  assert (found.fps, found.duration) == (0, 0)
  (tmp_path / "v" / "00002.png").write_bytes(b"")
  assert inspect_video(str(tmp_path / "v")).status == "corrupt"
  (tmp_path / "none").mkdir()
  assert inspect_video(str(tmp_path / "none")).status == "no_frames"


def test_records(tmp_path):
  records = [Record("a", (0,), video_bytes(6)), Record("b", (0,), b"text" * 99)]
  shard = write_shard(tmp_path / "t.array_record", map(pack_record, records))
  found = inspect_video(f"{shard}#0")
  assert (found.status, found.frames, found.fps) == ("ok", 6, 12)
  assert (found.width, found.height, found.codec) == (32, 24, "mpeg4")
  assert inspect_video(f"{shard}#1").status == "not_a_video"
  assert inspect_video(f"{shard}#7").status == "corrupt"


def test_thumbnail(tmp_path):
  path = write_video(tmp_path / "a.mp4", 6, height=240, width=320)
  found = inspect_video(str(path), thumbnail=True)
  data = np.frombuffer(base64.b64decode(found.thumbnail), np.uint8)
  image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
  assert image.shape == (120, 160, 3)
  want = cv2.resize(pictures(6, 240, 320)[3], (160, 120), interpolation=3)
  assert np.abs(image.astype(int) - want).mean() < 12


def test_signs_of_life(tmp_path):
  path, beats = write_video(tmp_path / "a.mp4"), []
  inspect_video(str(path), beat=lambda: beats.append(1))
  assert len(beats) >= 6


def test_a_decoder_without_memory(tmp_path, monkeypatch):
  from vidjax.data import inspection

  def full(path):
    raise MemoryError

  monkeypatch.setattr(inspection, "open_clip", full)
  assert inspect_video(str(tmp_path)) == failure("memory", str(tmp_path))


def test_an_unknown_check(tmp_path):
  with pytest.raises(ValueError, match="the check is 'deep'; use one of 'full"):
    inspect_video(str(tmp_path), check="deep")
