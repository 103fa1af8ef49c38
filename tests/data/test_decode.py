import itertools
import os
import pathlib

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.small_videos import write_rotated
from tests.data.videos import make
from vidjax.data import packets as packets_lib
from vidjax.data.container import Source
from vidjax.data.decode import Video, VideoError, decode, probe
from vidjax.data.packets import Row, plan, scan

# name: codec, frames, width, height, and fps
GOOD = {
  "arm_wrestling.mp4": ("h264", 280, 340, 256, 28.0),
  "av1_video.mkv": ("av1", 125, 640, 360, 25.0),
  "bt709_full_range.mp4": ("h264", 30, 1280, 720, 30.0),
  "class_test.avi": ("mpeg4", 164, 320, 240, 25.0),
  "class_test.mp4": ("h264", 300, 340, 256, 30.0),
  "flipping_a_pancake.mkv": ("h264", 310, 426, 240, 30.0),
  "h264_10bits.mp4": ("h264", 30, 200, 200, 30.0),
  "h265_video.mp4": ("hevc", 10, 128, 128, 10.0),
  "nasa_13013.mp4": ("h264", 325, 320, 180, 25.0),
  "odd_size.mp4": ("h264", 40, 101, 75, 30.023),
  "one_frame.mp4": ("h264", 1, 96, 64, 30.019),
  "raw_part_0.mp4": ("h264", 32, 340, 256, 30.0),
  "variable_rate.mp4": ("h264", 60, 128, 96, 11.043),
  "vp9.webm": ("vp9", 50, 160, 120, 30.0),
}
BAD = {
  "audio_only.mp3": "no_video",
  "audio_only.mp4": "no_video",
  "empty.mp4": "empty",
  "text.mp4": "not_a_video",
  "truncated.mp4": "truncated",
  "corrupted.mp4": "corrupt",
}
X264 = "keyint=12:bframes=4:scenecut=0"
# file name: encoder and its options
MADE = {
  "long_group.mp4": ("libx264", {"bf": "8", "g": "250"}),
  "short_groups.mp4": ("libx264", {"x264-params": X264}),
  "open_groups.mp4": ("libx264", {"x264-params": X264 + ":open-gop=1"}),
  "open_groups.mkv": ("libx264", {"x264-params": X264 + ":open-gop=1"}),
  "intra_refresh.mp4": (
    "libx264",
    {"x264-params": "intra-refresh=1:keyint=15"},
  ),
  "interlaced.mkv": ("libx264", {"x264-params": X264 + ":tff=1"}),
  "slices.mp4": ("libx264", {"x264-params": X264 + ":slices=4"}),
  "stream.ts": ("libx264", {"x264-params": X264}),
  "raw.h264": ("libx264", {"x264-params": X264}),
  "h264.avi": ("libx264", {"x264-params": X264}),
  "open_groups_hevc.mkv": (
    "libx265",
    {
      "x265-params": "keyint=12:min-keyint=12:bframes=4:open-gop=1:scenecut=0"
      ":log-level=none"
    },
  ),
  "hidden.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
  "mpeg4.avi": ("mpeg4", {"bf": "2", "g": "12"}),
  "hevc.mp4": (
    "libx265",
    {"x265-params": "keyint=12:bframes=4:scenecut=0:log-level=none"},
  ),
  "av1.mp4": ("libsvtav1", {"preset": "12", "g": "12"}),
  "vp9.mp4": ("libvpx-vp9", {"cpu-used": "8", "g": "12"}),
  "vp9.webm": ("libvpx-vp9", {"cpu-used": "8", "lag-in-frames": "16"}),
  "no_groups.mp4": ("libx264", {"g": "1"}),
  "mpeg4.mp4": ("mpeg4", {"bf": "0", "g": "12"}),
  "mpeg2.mkv": ("mpeg2video", {"bf": "2", "g": "12"}),
}


def full_decode(path):
  """The oracle: every frame from the first packet on."""
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # threads patch damage up in another way
    frames = list(container.decode(stream))
    images = [frame.to_ndarray(format="rgb24") for frame in frames]
    return [
      np.rot90(image, frame.rotation // 90)
      for image, frame in zip(images, frames, strict=True)
    ]


def check_exact(path, rounds=6):
  want = full_decode(path)
  n = len(want)
  rng = np.random.default_rng(0)
  dense = np.arange(n // 3, min(n // 3 + 16, n))
  choices = [
    [0],
    [n - 1],
    dense,
    dense[::-1],
    np.linspace(0, n - 1, 9).astype(int),
  ]
  choices += [rng.integers(0, n, 5) for _ in range(rounds)]
  with Video(path) as video:
    assert video.frames == n
    for indices in choices:
      got = video.read(indices)
      assert len(got) == len(indices)
      for frame, index in zip(got, indices, strict=True):
        np.testing.assert_array_equal(frame, want[index])


@pytest.mark.parametrize("name", GOOD)
def test_real_file(shared, name):
  path = shared / "videos" / name
  codec, frames, width, height, fps = GOOD[name]
  info = probe(path)
  assert (info.codec, info.frames) == (codec, frames)
  assert (info.width, info.height) == (width, height)
  assert info.fps == pytest.approx(fps, abs=1e-3)
  check_exact(path, rounds=3)


def test_damage_that_decoders_patch_up(shared):
  path = shared / "videos" / "bit_flips.mp4"
  assert probe(path).frames == 280
  np.testing.assert_array_equal(decode(path, range(280)), full_decode(path))


@pytest.mark.parametrize("name", MADE)
def test_made_file(tmp_path, name):
  check_exact(make(tmp_path / name, *MADE[name]))


@pytest.mark.parametrize(
  ("codec", "pix_fmt", "size"),
  [
    ("libx264", "yuv420p10le", (96, 64)),
    ("libx264", "gray", (96, 64)),
    ("libx264", "yuv444p", (97, 61)),
    ("libx264", "yuvj420p", (96, 64)),
    ("libx265", "yuv420p10le", (96, 64)),
    ("libvpx-vp9", "yuv444p", (97, 61)),
    ("ffv1", "bgr0", (97, 61)),
    ("mjpeg", "yuvj422p", (96, 64)),
  ],
)
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_pixel_formats(tmp_path, codec, pix_fmt, size, suffix):
  if codec == "ffv1" and suffix == ".mp4":
    suffix = ".avi"
  options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
  path = make(
    tmp_path / f"v{suffix}", codec, options, n=14, size=size, pix_fmt=pix_fmt
  )
  check_exact(path, rounds=2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(tmp_path, suffix):
  steps = np.random.default_rng(0).integers(10, 120, 40)
  times = np.cumsum(steps).tolist()
  options = {"x264-params": X264}
  path = make(tmp_path / f"v{suffix}", "libx264", options, n=40, times=times)
  check_exact(path)
  with Video(path) as video:
    seconds = [video.seconds(frame) for frame in video.walk()]
  want = np.array(times) / 600
  np.testing.assert_allclose(np.diff(seconds), np.diff(want), atol=2e-3)


@pytest.mark.parametrize(
  "flags", ["frag_keyframe+empty_moov", "frag_every_frame+empty_moov+dash"]
)
def test_fragmented_mp4(tmp_path, flags):
  options = {"x264-params": X264}
  muxer = {"movflags": flags}
  check_exact(make(tmp_path / "v.mp4", "libx264", options, muxer=muxer))


@pytest.mark.parametrize("name", ["short_groups.mp4", "vp9.webm", "mpeg4.avi"])
def test_content_in_memory(tmp_path, name):
  path = make(tmp_path / name, *MADE[name])
  content = path.read_bytes()
  want = decode(path, [3, 41])
  with Video("other name", content) as video:
    np.testing.assert_array_equal(video.read([3, 41]), want)
    assert video.info == probe(path)
  with pytest.raises(VideoError) as caught, Video("name", b""):
    pass
  assert caught.value.path == pathlib.Path("name")
  assert caught.value.reason == "empty"


@pytest.mark.parametrize(
  "name", ["long_group.mp4", "no_groups.mp4", "hevc.mp4", "av1.mp4"]
)
def test_mp4_is_opened_without_decoding(tmp_path, name):
  source = Source(make(tmp_path / name, *MADE[name]))
  found = []
  for container in (source.open(), source.open_quickly()):
    with container:
      stream = source.stream(container)
      context = stream.codec_context
      pix_fmt = context.pix_fmt
      found.append(
        (
          stream.average_rate,
          (stream.width, stream.height),
          # H.264 pictures come out late or not at all if this is too small.
          context.codec.name != "h264" or context.has_b_frames,
          scan(container, stream, source)[0],
        )
      )
  assert found[0] == found[1]
  if name == "long_group.mp4":  # only a decoder would know
    assert pix_fmt is None


def test_walk(tmp_path):
  path = make(tmp_path / "v.mp4", *MADE["open_groups.mp4"])
  want = full_decode(path)
  with Video(path) as video:
    for first, stop in ((0, None), (17, 41), (59, 60)):
      frames = [video.rgb(frame) for frame in video.walk(first, stop)]
      np.testing.assert_array_equal(frames, want[first:stop])


def test_keyframes(tmp_path):
  options = {"x264-params": "keyint=12:bframes=2:scenecut=0:open-gop=0"}
  with Video(make(tmp_path / "v.mp4", options=options)) as video:
    assert video.keyframes == [0, 12, 24, 36, 48]


def test_title_in_another_encoding(tmp_path):
  path = make(tmp_path / "v.mkv", n=2, muxer={"metadata": ""})
  data = path.read_bytes()
  at = data.index(b"Lavf")
  path.write_bytes(data[:at] + b"\xcf\xff" + data[at + 2 :])
  assert probe(path).frames == 2


def test_every_frame_at_once(tmp_path):
  path = make(tmp_path / "v.mp4", *MADE["short_groups.mp4"])
  np.testing.assert_array_equal(decode(path, range(60)), full_decode(path))


def test_edit_list(tmp_path):
  source = make(tmp_path / "v.mp4", options={"g": "30", "bf": "3"})
  path = tmp_path / "cut.mp4"
  options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
  with av.open(str(source)) as a, av.open(str(path), "w", options=options) as b:
    stream = a.streams.video[0]
    copy = b.add_stream_from_template(stream)
    for packet in a.demux(stream):
      if packet.size:
        packet.pts -= int(17 / 25 / stream.time_base)
        packet.dts -= int(17 / 25 / stream.time_base)
        packet.stream = copy
        b.mux(packet)
  with av.open(str(path)) as container:
    assert container.streams.video[0].frames == 60  # what must not be trusted
  assert probe(path).frames == 43
  np.testing.assert_array_equal(decode(path, [0, 42]), decode(source, [17, 59]))
  check_exact(path)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation(tmp_path, turn):
  plain = make(tmp_path / "plain.mp4", n=4)
  path = write_rotated(plain, tmp_path / "turned.mp4", turn)
  got = decode(path, range(4))
  for frame, upright in zip(got, decode(plain, range(4)), strict=True):
    np.testing.assert_array_equal(frame, np.rot90(upright, turn // 90))
  info = probe(path)
  assert got.shape[1:3] == (info.height, info.width)


@pytest.mark.parametrize(
  "name", ["open_groups.mkv", "open_groups.mp4", "stream.ts", "mpeg4.avi"]
)
def test_packets_of_a_large_file_are_not_held(tmp_path, monkeypatch, name):
  monkeypatch.setattr(packets_lib, "_KEEP_BYTES", 2000)
  path = make(tmp_path / name, *MADE[name])
  check_exact(path)
  with Video(path) as video:
    assert video._packets is None


def test_transform_is_applied_to_each_distinct_frame(tmp_path):
  path = make(tmp_path / "v.mp4")
  calls = []

  def transform(frame):
    calls.append(frame.shape)
    return frame[4:20, 8:40]

  got = decode(path, [7, 3, 7, 30, 3], transform=transform)
  want = decode(path, [7, 3, 7, 30, 3])[:, 4:20, 8:40]
  np.testing.assert_array_equal(got, want)
  assert calls == [(64, 96, 3)] * 3


def test_second_read_of_an_open_video(tmp_path):
  path = make(tmp_path / "v.mp4", *MADE["short_groups.mp4"])
  want = full_decode(path)
  with Video(path) as video:
    for indices in ([50], [2, 40], [0]):
      for frame, index in zip(video.read(indices), indices, strict=True):
        np.testing.assert_array_equal(frame, want[index])
      assert video.info.frames == 60


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("call", [probe, lambda path: decode(path, [0])])
def test_bad_file(shared, name, call):
  path = shared / "videos" / name
  with pytest.raises(VideoError) as caught:
    call(path)
  assert caught.value.reason == BAD[name]
  assert caught.value.path == path
  message = str(caught.value)
  assert message.startswith(f"{path} ")
  assert message.endswith(".")
  assert ": " in message  # what is wrong: what to do
  assert "\n" not in message


def test_missing_file_and_folder(tmp_path):
  with pytest.raises(VideoError, match=r"gone\.mp4 does not exist") as caught:
    probe(tmp_path / "gone.mp4")
  assert caught.value.reason == "missing"
  with pytest.raises(VideoError) as caught:
    probe(tmp_path)
  assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.webm", "v.avi"])
def test_cut_short(tmp_path, name):
  codec = {"v.webm": "libvpx", "v.avi": "mpeg4"}.get(name, "libx264")
  path = make(tmp_path / name, codec)
  if name == "v.mp4":  # the index first: the header alone looks complete
    fast = tmp_path / "fast.mp4"
    options = {"movflags": "faststart"}
    with av.open(str(path)) as a, av.open(str(fast), "w", options=options) as b:
      copy = b.add_stream_from_template(a.streams.video[0])
      for packet in itertools.takewhile(lambda p: p.size, a.demux(video=0)):
        packet.stream = copy
        b.mux(packet)
    path = fast
  assert probe(path).frames == 60
  data = path.read_bytes()
  path.write_bytes(data[: len(data) * 6 // 10])
  with pytest.raises(VideoError) as caught:
    probe(path)
  assert caught.value.reason == "truncated"


def test_damage_between_good_packets(tmp_path):
  path = make(tmp_path / "v.mp4", options={"bf": "0"})
  with av.open(str(path)) as container:
    packet = next(itertools.islice(container.demux(video=0), 30, None))
    at = packet.pos
  data = bytearray(path.read_bytes())
  data[at : at + 4] = b"\xff\xff\xff\xff"  # the length of its first NAL unit
  path.write_bytes(data)
  with pytest.raises(VideoError) as caught:
    decode(path, [0])
  assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("index", [-1, 60])
def test_index_out_of_range(tmp_path, index):
  path = make(tmp_path / "v.mp4")
  with pytest.raises(IndexError, match=f"frame {index} .* has 60 frames"):
    decode(path, [3, index])


def test_no_indices(tmp_path):
  path = make(tmp_path / "v.mp4", n=2)
  with pytest.raises(ValueError, match=r"no frames .* were asked for"):
    decode(path, [])


@pytest.mark.skipif(
  not pathlib.Path("/proc/self/fd").exists(), reason="needs /proc"
)
def test_files_are_closed(tmp_path, shared):
  path = make(tmp_path / "v.mp4")
  before = len(os.listdir("/proc/self/fd"))
  for _ in range(5):
    decode(path, [3])
    with pytest.raises(VideoError):
      probe(shared / "videos" / "corrupted.mp4")
    with pytest.raises(IndexError):
      decode(path, [99])
  assert len(os.listdir("/proc/self/fd")) == before


def test_plan_by_hand():
  # Decoding order I0 P3 b1 b2 | I6 b4 b5 P9 b7 b8 (open groups: b4, b5 are
  # shown before the keyframe I6); pictures called b are not referred to.
  times = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
  rows = [
    Row(t, key=i in (0, 4), shown=True, reference=i in (0, 1, 4, 7))
    for i, t in enumerate(times)
  ]
  assert plan(rows, {2}) == [[0, 1, 2]]
  assert plan(rows, {8}) == [[4, 7, 8]]
  assert plan(rows, {3, 8}) == [[0, 1, 3], [4, 7, 8]]
  assert plan(rows, {5}) == [[0, 1, 4, 5]]
  assert plan(rows, {4, 6, 9}) == [[0, 1, 4, 6, 7, 9]]


@given(
  st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
  st.data(),
)
def test_plan_decodes_what_is_needed_and_no_more(flags, data):
  rows = [
    Row(i, key=k, shown=True, reference=r or k)
    for i, (k, r) in enumerate(flags)
  ]
  wanted = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))
  needed = set(wanted)
  for row in wanted:
    i = row
    while True:  # back to the keyframe
      if rows[i].reference:
        needed.add(i)
      if rows[i].key or not i:
        break
      i -= 1
  groups = plan(rows, wanted)
  assert sorted(i for group in groups for i in group) == sorted(needed)
  assert groups == sorted(groups)


def test_sparse_read_decodes_few_frames(tmp_path):
  path = make(
    tmp_path / "v.mp4",
    options={"x264-params": "keyint=10:bframes=0:scenecut=0"},
  )
  with Video(path) as video:
    sent = []
    fetch = video._fetch

    def spy(rows):
      sent.extend(rows)
      return fetch(rows)

    video._fetch = spy
    video.read([1, 31])
  assert sent == [0, 1, 30, 31]
