import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidjax.data.formats import (
  FORMATS,
  Entry,
  FormatError,
  Request,
  mirror_classes,
  read_listing,
)
from vidjax.data.formats.base import duplicates_apart


def write(root, files):
  """Writes text files, JSON ones, and empty ones (None)."""
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | None):
      content = json.dumps(content)
    path.write_text(content or "")
  return root


def read(name, source, **options):
  return read_listing(name, Request(source, **options))


def rows(listing, split):
  return [(e.id, e.path, *e.labels) for e in listing.splits[split]]


# --- lists


@pytest.mark.parametrize(
  "line",
  [
    "a b/c d.mp4 7",
    "a b/c d.mp4,7",
    "a b/c d.mp4\t7",
    "a b/c d.mp4::7",
    "a b/c d.mp4;7",
    '"a b/c d.mp4" 7',
    "a b/c d.mp4 7  ",
  ],
)
def test_a_list_with_any_separator(tmp_path, line):
  write(tmp_path, {"k400_val_list.txt": f"\n{line}\n\n"})
  listing = read("list", tmp_path / "k400_val_list.txt")
  assert rows(listing, "val") == [("a b/c d.mp4", "a b/c d.mp4", 7)]
  assert listing.heads == {"label": tuple(map(str, range(8)))}
  assert listing.videos == tmp_path


def test_a_folder_of_lists(tmp_path):
  files = {
    "train.csv": "x.mp4 0\ny.mp4 2\n",
    "val.csv": "z.mp4 1\n",
    "notes.txt": "nothing of interest\n",
    "videos/x.mp4": None,
  }
  listing = read("list", write(tmp_path, files))
  assert rows(listing, "train") == [
    ("x.mp4", "x.mp4", 0),
    ("y.mp4", "y.mp4", 2),
  ]
  assert rows(listing, "val") == [("z.mp4", "z.mp4", 1)]
  assert listing.heads["label"] == ("0", "1", "2")
  assert listing.videos == tmp_path / "videos"
  assert list(read("list", tmp_path, split="val").splits) == ["val"]


def test_the_split_of_a_list_can_be_named(tmp_path):
  write(tmp_path, {"videos.txt": "x.mp4 0\n"})
  assert list(read("list", tmp_path / "videos.txt").splits) == ["train"]
  mine = read("list", tmp_path / "videos.txt", split="mine")
  assert list(mine.splits) == ["mine"]


def test_a_list_of_folders_of_frames(tmp_path):
  write(tmp_path, {"train_videofolder.txt": "some/v 1 102 3\nw,12,0\n"})
  listing = read("frame_list", tmp_path / "train_videofolder.txt")
  assert listing.splits["train"] == [
    Entry("some/v 1", "some/v 1", (3,), frames=102),
    Entry("w", "w", (0,), frames=12),
  ]


def test_classes_that_are_known(tmp_path):
  write(tmp_path, {"train.txt": "x.mp4 0\n"})
  heads = {"label": ("a", "b", "c")}
  assert read("list", tmp_path, heads=heads).heads == heads
  write(tmp_path, {"train.txt": "x.mp4 3\n"})
  with pytest.raises(
    FormatError, match=r"has the label 3, but there are 3 classes \(0 to 2\)"
  ):
    read("list", tmp_path, heads=heads)


@pytest.mark.parametrize(
  ("name", "line", "message"),
  [
    ("list", "x.mp4", r"train\.txt, line 1: 'x\.mp4' is not a path and 1"),
    ("list", "x.mp4 left", r"line 1: 'left' is not a whole number"),
    ("list", "x.mp4 -1", r"has the label -1: class numbers start at 0"),
    ("frame_list", "x 3", r"'x 3' is not a path and 2 number"),
    ("list", "", r"has no clips: its splits are train"),
  ],
)
def test_wrong_lists(tmp_path, name, line, message):
  write(tmp_path, {"train.txt": line})
  with pytest.raises(FormatError, match=message):
    read(name, tmp_path)


# --- folders


def test_folders_without_splits(tmp_path):
  files = ["run/b.mp4", "run/deep/a.AVI", "jump/x.mp4", "jump/x.txt", ".git/c"]
  write(tmp_path, {**dict.fromkeys(files), "jump/y/00001.jpg": None})
  listing = read("folders", tmp_path)
  assert listing.heads == {"label": ("jump", "run")}
  assert [(e.path, *e.labels) for e in listing.splits["train"]] == [
    ("jump/x.mp4", 0),
    ("jump/y", 0),
    ("run/b.mp4", 1),
    ("run/deep/a.AVI", 1),
  ]
  assert list(read("folders", tmp_path, split="all").splits) == ["all"]


def test_folders_with_splits(tmp_path):
  files = ["train/b/1.mp4", "train/a/1.mp4", "validation/b/2.mp4"]
  listing = read("folders", write(tmp_path, dict.fromkeys(files)))
  assert rows(listing, "train") == [
    ("train/a/1.mp4", "train/a/1.mp4", 0),
    ("train/b/1.mp4", "train/b/1.mp4", 1),
  ]
  assert rows(listing, "val") == [
    ("validation/b/2.mp4", "validation/b/2.mp4", 1)
  ]


def test_a_class_that_is_not_known(tmp_path):
  write(tmp_path, {"c/1.mp4": None})
  with pytest.raises(FormatError, match="'c' is not among the 2 known ones"):
    read("folders", tmp_path, heads={"label": ("a", "b")})


# --- data sets

KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\n"


def test_kinetics(tmp_path):
  files = {
    "a/train.csv": KINETICS
    + "zumba,id_-1,3,13,train,0\n"
    + "air drumming,abc,0,10,train,0\n"
    + '"making tea, hot",gone,7,17,train,1\n',
    "a/validate.csv": KINETICS + "zumba,vvv,100,110,validate,0\n",
    "a/test.csv": "youtube_id,time_start,time_end,split\nx,1,2,test\n",
    "v/zumba/id_-1_000003_000013.mp4": None,
    "v/air_drumming/abc.webm": None,
    "v/val/zumba/vvv_000100_000110.mkv": None,
    "v/train/zumba/vvv_000100_000110.mkv": None,
  }
  write(tmp_path, files)
  listing = read("kinetics", tmp_path / "a", videos=tmp_path / "v")
  assert listing.heads["label"] == ("air drumming", "making tea, hot", "zumba")
  assert rows(listing, "train") == [
    ("id_-1_000003_000013", "zumba/id_-1_000003_000013.mp4", 2),
    ("abc_000000_000010", "air_drumming/abc.webm", 0),
    ("gone_000007_000017", "gone_000007_000017.mp4", 1),
  ]
  assert rows(listing, "val") == [
    ("vvv_000100_000110", "val/zumba/vvv_000100_000110.mkv", 2)
  ]


def test_kinetics_with_known_names(tmp_path):
  write(tmp_path, {"val.csv": KINETICS + "Air Drumming,abc,0,10,val,0\n"})
  heads = {"label": ("abseiling", "air_drumming")}
  listing = read("kinetics", tmp_path / "val.csv", heads=heads)
  assert listing.splits["val"][0].labels == (1,)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("youtube_id,split\nx,val\n", r"has no column 'label'"),
    (KINETICS + "zumba,abc,0\n", r"row 2: a value is missing"),
    (KINETICS + "zumba,abc,zero,10,val,0\n", "'zero' is not a whole number"),
  ],
)
def test_wrong_kinetics(tmp_path, text, message):
  write(tmp_path, {"val.csv": text})
  with pytest.raises(FormatError, match=message):
    read("kinetics", tmp_path / "val.csv")


def test_ssv1(tmp_path):
  files = {
    "something-something-v1-labels.csv": "Holding something\nBending it\n",
    "something-something-v1-train.csv": "12;Bending it\n7;Holding something\n",
    "something-something-v1-validation.csv": "9;Bending it\n",
    "something-something-v1-test.csv": "10\n",
  }
  listing = read("ssv1", write(tmp_path, files), videos=tmp_path / "frames")
  assert listing.heads["label"] == ("Holding something", "Bending it")
  assert rows(listing, "train") == [("12", "12", 1), ("7", "7", 0)]
  assert rows(listing, "val") == [("9", "9", 1)]


SSV2_LABELS = {"Bending something so that it deforms": "1", "Holding [a]": "0"}


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_ssv2(tmp_path, prefix):
  files = {
    f"{prefix}labels.json": SSV2_LABELS,
    f"{prefix}train.json": [
      {"id": "5", "template": "Bending [something] so that it deforms"},
      {"id": "6", "template": "Holding [a]"},
    ],
    f"{prefix}validation.json": [{"id": "8", "template": "Holding [a]"}],
    f"{prefix}test.json": [{"id": "9"}],
    "v/8.mp4": None,
  }
  write(tmp_path, files)
  listing = read("ssv2", tmp_path, videos=tmp_path / "v")
  assert listing.heads["label"] == (
    "Holding a",
    "Bending something so that it deforms",
  )
  assert rows(listing, "train") == [("5", "5.webm", 1), ("6", "6.webm", 0)]
  assert rows(listing, "val") == [("8", "8.mp4", 0)]
  assert list(listing.splits) == ["train", "val"]
  write(tmp_path, {"test-answers.csv": "9;Holding a\n"})
  assert rows(read("ssv2", tmp_path), "test") == [("9", "9.webm", 0)]


def test_wrong_ssv2(tmp_path):
  write(tmp_path, {"train.json": []})
  with pytest.raises(FormatError, match=r"has no file \*v2-labels\.json"):
    read("ssv2", tmp_path)
  write(tmp_path, {"labels.json": {"a": "0", "b": "2"}})
  with pytest.raises(FormatError, match="number its classes from 0 to 1"):
    read("ssv2", tmp_path)
  write(tmp_path, {"labels.json": {"a": "0"}, "train.json": {}})
  with pytest.raises(FormatError, match="holds a dict, not a list"):
    read("ssv2", tmp_path)


def test_diving48(tmp_path):
  files = {
    "Diving48_V2_train.json": [
      {"vid_name": "x_1", "label": 1, "start_frame": 0, "end_frame": 80},
      {"vid_name": "x_2", "label": 0, "start_frame": 5, "end_frame": 50},
    ],
    "Diving48_V2_test.json": [{"vid_name": "y", "label": 0}],
    "Diving48_train.json": [{"vid_name": "old", "label": 0}],
    "Diving48_vocab.json": [["Back", "15som", "NoTwis", "FREE"], ["Inward"]],
    "rgb/y.avi": None,
  }
  write(tmp_path, files)
  listing = read("diving48", tmp_path, videos=tmp_path / "rgb")
  assert listing.heads["label"] == ("Back, 15som, NoTwis, FREE", "Inward")
  assert listing.splits == {
    "train": [
      Entry("x_1", "x_1.mp4", (1,)),
      Entry("x_2", "x_2.mp4", (0,), span=(5, 50)),
    ],
    "test": [Entry("y", "y.avi", (0,))],
  }
  one = read("diving48", tmp_path / "Diving48_V2_test.json")
  assert list(one.splits) == ["test"]
  write(tmp_path, {"Diving48_V2_test.json": [{"label": 0}]})
  with pytest.raises(FormatError, match="lacks vid_name or label"):
    read("diving48", tmp_path)


EPIC = (
  "narration_id,participant_id,video_id,narration,start_timestamp,"
  "stop_timestamp,start_frame,stop_frame,verb,verb_class,noun,noun_class\n"
)


def epic_row(number, video, verb, noun):
  return (
    f"{video}_{number},P01,{video},open door,00:00:01.50,01:02:03.25,"
    f"9,202,open,{verb},door,{noun}\n"
  )


def test_epic100(tmp_path):
  files = {
    "EPIC_100_train.csv": EPIC
    + epic_row(0, "P01_01", 3, 4)
    + epic_row(1, "P01_02", 96, 299)
    + epic_row(2, "P01_03", 0, 0),
    "EPIC_100_validation.csv": EPIC + epic_row(0, "P01_09", 1, 2),
    "v/P01/P01_01.MP4": None,
    "v/P01/rgb_frames/P01_02/frame_0000000001.jpg": None,
    "v/cut/P01_03_2.mp4": None,
  }
  write(tmp_path, files)
  listing = read("epic100", tmp_path, videos=tmp_path / "v")
  assert {k: len(v) for k, v in listing.heads.items()} == {
    "verb": 97,
    "noun": 300,
  }
  assert listing.splits["train"] == [
    Entry("P01_01_0", "P01/P01_01.MP4", (3, 4), seconds=(1.5, 3723.25)),
    Entry("P01_02_1", "P01/rgb_frames/P01_02", (96, 299), span=(8, 202)),
    Entry("P01_03_2", "cut/P01_03_2.mp4", (0, 0)),
  ]
  assert listing.splits["val"][0].path == "P01/videos/P01_09.MP4"


def test_epic100_with_names(tmp_path):
  files = {
    "EPIC_100_train.csv": EPIC + epic_row(0, "P01_01", 1, 0),
    "EPIC_100_verb_classes.csv": "id,key,instances\n1,put,\n0,take,\n",
    "EPIC_100_noun_classes_v2.csv": "id,key,instances\n0,tap,\n",
  }
  listing = read("epic100", write(tmp_path, files))
  assert listing.heads == {"verb": ("take", "put"), "noun": ("tap",)}
  write(tmp_path, {"EPIC_100_train.csv": EPIC + epic_row(0, "P01_01", 1, 1)})
  with pytest.raises(FormatError, match="the noun class 1 is none of 0 to 0"):
    read("epic100", tmp_path)


def test_ucf101(tmp_path):
  files = {
    "classInd.txt": "1 Archery\n2 BabyCrawling\n",
    "trainlist01.txt": "BabyCrawling/v_B_g08_c01.avi 2\r\nArchery/v_A.avi 1\n",
    "testlist01.txt": "Archery/v_T.avi\n",
    "testlist02.txt": "BabyCrawling/v_U.avi\n",
    "videos/Archery/v_T.mp4": None,
  }
  listing = read("ucf101", write(tmp_path, files))
  assert listing.heads["label"] == ("Archery", "BabyCrawling")
  assert rows(listing, "train01") == [
    ("BabyCrawling/v_B_g08_c01", "BabyCrawling/v_B_g08_c01.avi", 1),
    ("Archery/v_A", "Archery/v_A.avi", 0),
  ]
  assert rows(listing, "test01") == [("Archery/v_T", "Archery/v_T.mp4", 0)]
  assert list(listing.splits) == ["test01", "test02", "train01"]
  write(tmp_path, {"classInd.txt": "0 Archery\n"})
  with pytest.raises(FormatError, match="'0 Archery' is not `1 Class`"):
    read("ucf101", tmp_path)


def test_hmdb51(tmp_path):
  files = {
    "wave_test_split1.txt": "a b.avi 1 \nc.avi 2\nd.avi 0\n",
    "brush_hair_test_split1.txt": "e.avi 2 \n",
    "brush_hair_test_split2.txt": "e.avi 1 \n",
  }
  listing = read("hmdb51", write(tmp_path, files))
  assert listing.heads["label"] == ("brush_hair", "wave")
  assert {split: rows(listing, split) for split in listing.splits} == {
    "test01": [
      ("brush_hair/e", "brush_hair/e.avi", 0),
      ("wave/c", "wave/c.avi", 1),
    ],
    "train02": [("brush_hair/e", "brush_hair/e.avi", 0)],
    "train01": [("wave/a b", "wave/a b.avi", 1)],
  }
  write(tmp_path, {"wave_test_split1.txt": "a.avi\n"})
  with pytest.raises(FormatError, match=r"'a\.avi' is not `name\.avi`"):
    read("hmdb51", tmp_path)


# --- all formats


@pytest.mark.parametrize("name", FORMATS)
def test_a_source_that_is_not_there(tmp_path, name):
  with pytest.raises(FormatError, match="nowhere does not exist"):
    read(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", FORMATS)
def test_a_source_that_is_empty(tmp_path, name):
  with pytest.raises(FormatError, match=str(tmp_path)):
    read(name, tmp_path)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"folders"}))
def test_a_source_of_random_bytes(tmp_path, name):
  path = tmp_path / "train.array_record"
  path.write_bytes(bytes(range(256)))
  with pytest.raises(FormatError, match=str(tmp_path)):
    read(name, path)


def test_an_unknown_format(tmp_path):
  with pytest.raises(ValueError, match="the format is 'tsv'; use one of 'fold"):
    read("tsv", tmp_path)


def test_duplicates():
  a, b = Entry("x", "x.mp4", (0,)), Entry("x", "x.mp4", (1,))
  c = Entry("x", "y.mp4", (1,))
  got = duplicates_apart([a, b, a, b, c, b])
  assert [(e.id, e.path, *e.labels) for e in got] == [
    ("x", "x.mp4", 0),
    ("x~2", "x.mp4", 1),
    ("x~3", "y.mp4", 1),
  ]


FACTS = st.tuples(
  st.sampled_from(["a", "b", "a~2"]),
  st.sampled_from(["p", "q"]),
  st.integers(0, 2),
)


@given(st.lists(FACTS))
def test_duplicates_keep_every_clip_once(facts):
  entries = [Entry(name, path, (label,)) for name, path, label in facts]
  got = duplicates_apart(entries)
  assert len({e.id for e in got}) == len(got)
  plain = {(name.split("~")[0], *rest) for name, *rest in facts}
  assert {(e.id.split("~")[0], e.path, *e.labels) for e in got} == plain
  assert duplicates_apart(got) == got


def test_mirror_classes():
  classes = [
    "Pushing something from left to right",
    "Pushing something from right to left",
    "Left",
    "right",
    "turn_left",
    "turn_right",
    "cleft",
    "leftovers",
    "wave right hand",
  ]
  assert mirror_classes(classes) == {0: 1, 1: 0, 4: 5, 5: 4}
