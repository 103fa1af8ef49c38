import json

import pytest

from tests.data.small_videos import encode_image, pictures, video_bytes
from vidjax.data.formats import FormatError, Request, read_listing
from vidjax.data.records import (
  Record,
  RecordError,
  pack_record,
  read_record,
  read_shard,
  split_name,
  unpack_record,
)

array_record = pytest.importorskip("array_record.python.array_record_module")


def write_shard(path, records):
  writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
  for data in records:
    writer.write(data)
  writer.close()
  return path


def example(**features):
  """The bytes of a tf.train.Example."""
  from tensorflow_datasets.proto import tf_example_pb2

  result = tf_example_pb2.Example()
  for name, values in features.items():
    feature = result.features.feature[name]
    kind = feature.bytes_list if isinstance(values[0], bytes) else None
    (kind or feature.int64_list).value.extend(values)
  return result.SerializeToString()


RECORDS = [
  Record("a", (1,), video=b"\0\1mp4", facts={"fps": 25.0}),
  Record("b", (0, 7), frames=(b"\xff\xd8\xff1", b"\xff\xd8\xff2")),
]


@pytest.mark.parametrize("record", RECORDS)
def test_round_trip(record):
  assert unpack_record(pack_record(record)) == record


def test_names():
  path = "/x/train.array_record-00001-of-00002#17"
  shard, number = split_name(path) or (None, None)
  assert (str(shard), number) == (path[:-3], 17)
  for other in ("/x/a.mp4", "/x/a#1.mp4", "/x/a.array_record"):
    assert split_name(other) is None


def test_reading_a_shard(tmp_path):
  shard = write_shard(
    tmp_path / "train-00000-of-00001.array_record", map(pack_record, RECORDS)
  )
  assert [unpack_record(data) for data in read_shard(shard)] == RECORDS
  assert read_record(f"{shard}#1") == RECORDS[1]
  with pytest.raises(RecordError, match=r"#2 cannot be read"):
    read_record(f"{shard}#2")
  with pytest.raises(FileNotFoundError):
    read_record(f"{tmp_path}/gone.array_record#0")


@pytest.mark.parametrize("content", [b"", b"text", bytes(range(256)) * 300])
def test_damaged_shards(tmp_path, content):
  path = tmp_path / "x.array_record"
  path.write_bytes(content)
  with pytest.raises(RecordError, match=str(path)):
    list(read_shard(path))


@pytest.mark.parametrize(
  "data", [b"", b"\x80", b"\x01", b"\x0a\xff\xff", pack_record(RECORDS[0])[:9]]
)
def test_damaged_records(data):
  with pytest.raises(RecordError):
    unpack_record(data)


def test_examples_of_tensorflow_datasets():
  video = video_bytes(2)
  record = unpack_record(example(id=[b"x"], label=[1], video=[video]))
  assert (record.video, record.frames) == (video, ())
  assert record.facts == {"id": [b"x"], "label": [1]}
  images = [encode_image(image) for image in pictures(3)]
  record = unpack_record(example(label=[1], video=images))
  assert (record.video, list(record.frames)) == (None, images)
  record = unpack_record(example(label=[1], video=images[:1]))
  assert (record.video, list(record.frames)) == (None, images[:1])
  with pytest.raises(RecordError, match="has no bytes, only label"):
    unpack_record(example(label=[1]))


def test_format_array_record(tmp_path):
  for number, record in enumerate(
    [Record("a", (1,), b"v"), Record("b", (0,), b"w")]
  ):
    name = f"train-{number:05}-of-00002.array_record"
    write_shard(tmp_path / name, [pack_record(record)] * 1)
  write_shard(
    tmp_path / "val.array_record", [pack_record(Record("c", (2,), b"x"))]
  )
  listing = read_listing("array_record", Request(tmp_path))
  assert listing.heads == {"label": ("0", "1", "2")}
  assert [(e.id, e.path, e.labels) for e in listing.splits["train"]] == [
    ("a", "train-00000-of-00002.array_record#0", (1,)),
    ("b", "train-00001-of-00002.array_record#0", (0,)),
  ]
  (tmp_path / "labels.json").write_text(json.dumps({"classes": list("xyz")}))
  listing = read_listing("array_record", Request(tmp_path))
  assert listing.heads == {"label": ("x", "y", "z")}
  (tmp_path / "labels.json").write_text(json.dumps({"classes": list("xy")}))
  with pytest.raises(FormatError, match="has the label 2, but there are 2"):
    read_listing("array_record", Request(tmp_path))
  write_shard(tmp_path / "val.array_record", [example(v=[b"x"])])
  with pytest.raises(FormatError, match="with the format 'tfds'"):
    read_listing("array_record", Request(tmp_path))


FEATURES = {
  "featuresDict": {
    "features": {
      "label": {"classLabel": {"numClasses": "2"}},
      "video": {"text": {}},
    }
  }
}


def write_tfds(root, kind="array_record", features=FEATURES):
  info = {"name": "tiny", "fileFormat": kind, "version": "1.0.0"}
  (root / "dataset_info.json").write_text(json.dumps(info))
  (root / "features.json").write_text(json.dumps(features))
  for split, labels in {"train": [1, 0], "test": [1]}.items():
    name = f"tiny-{split}.array_record-00000-of-00001"
    records = [example(label=[x], video=[video_bytes(x + 2)]) for x in labels]
    write_shard(root / name, records)
  return root


def test_format_tfds(tmp_path):
  listing = read_listing("tfds", Request(write_tfds(tmp_path)))
  assert listing.heads == {"label": ("0", "1")}
  name = "tiny-train.array_record-00000-of-00001"
  assert [(e.id, e.path, e.labels) for e in listing.splits["train"]] == [
    ("train_000000", f"{name}#0", (1,)),
    ("train_000001", f"{name}#1", (0,)),
  ]
  assert len(listing.splits["test"]) == 1
  (tmp_path / "label.labels.txt").write_text("run\njump\n")
  listing = read_listing("tfds", Request(tmp_path))
  assert listing.heads == {"label": ("run", "jump")}


def test_wrong_tfds(tmp_path):
  write_tfds(tmp_path, kind="tfrecord")
  with pytest.raises(FormatError, match=r"'tfrecord': prepare it with"):
    read_listing("tfds", Request(tmp_path))
  write_tfds(tmp_path, features={"featuresDict": {"features": {"video": {}}}})
  with pytest.raises(FormatError, match=r"no ClassLabel .*\(video\)"):
    read_listing("tfds", Request(tmp_path))
