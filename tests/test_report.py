import base64
import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from vidjax import report
from vidjax.report import ReportError, main, write_report

CLASSES = ["left", "right <b>&", "up", "down"]
CONFUSION = [[8, 2, 0, 0], [5, 5, 0, 0], [0, 0, 9, 1], [0, 0, 0, 0]]
SVG = "{http://www.w3.org/2000/svg}"


def write(path, value):
  path.write_text(json.dumps(value))


def animation(path, color, size=48, frames=6):
  pictures = [
    Image.new("RGB", (size, size), tuple(c - 20 * i for c in color))
    for i in range(frames)
  ]
  pictures[0].save(
    path, save_all=True, append_images=pictures[1:], duration=90, lossless=True
  )


def make_workdir(tmp_path):
  rows = [
    {"step": s, "train/loss": 4.0 / s, "train/lr": 0.1, "train/accuracy": 0.5}
    for s in range(1, 31)
  ]
  rows[3]["train/loss"] = None
  rows += [{"step": s, "eval/top1": s / 40, "eval/top5": 1.0} for s in (15, 30)]
  (tmp_path / "metrics.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
  write(
    tmp_path / "config.json",
    {"name": "a run", "model": {"head": {"layers": 2}}, "data": {"root": "/d"}},
  )
  write(
    tmp_path / "summary.json",
    {
      "name": "Motion <demo>",
      "model": "xvit_motion",
      "params": 1_234_567,
      "gmacs_per_view": 0.532,
      "steps": 1375,
      "train_seconds": 203.4,
      "eval/top1": 22 / 30,
      "eval/top5": 1.0,
      "eval/class_accuracy": 0.7333,
      "eval/views": "1x3",
      "eval/videos": 30,
      "eval/failed": 1,
      "eval/extra": "something else",
      "device": "8 x TPU v5e",
      "versions": {"jax": "0.10.2"},
    },
  )
  (tmp_path / "examples").mkdir()
  animation(tmp_path / "examples/0.webp", (220, 120, 120))
  animation(tmp_path / "examples/1.webp", (120, 220, 120), size=400)
  write(
    tmp_path / "eval.json",
    {
      "classes": CLASSES,
      "confusion": CONFUSION,
      "per_class": [0.8, 0.5, 0.9, None],
      "top1": 22 / 30,
      "top5": 1.0,
      "views": "1x3",
      "videos": 30,
      "failed": ["broken.mp4"],
      "examples": [
        example("a.mp4", 0, 0, "examples/0.webp"),
        example("b.mp4", 1, 0, "examples/1.webp"),
        example("gone.mp4", 2, 2, "examples/2.webp"),
      ],
    },
  )
  return tmp_path


def example(name, label, prediction, frames):
  return {
    "id": name,
    "label": label,
    "prediction": prediction,
    "probability": 0.625,
    "frames": frames,
  }


class Page(html.parser.HTMLParser):
  """Text of each section by its heading, and what the page refers to."""

  def __init__(self, path):
    super().__init__()
    self.source = path.read_text(encoding="utf-8")
    self.tags, self.links, self.images = [], [], []
    self.text = {"": ""}
    self.heading = ""
    self.feed(self.source)
    self.svgs = [
      ElementTree.fromstring(svg)
      for svg in re.findall(r"<svg.*?</svg>", self.source, re.DOTALL)
    ]

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
    self.images += [dict(attrs)["src"] for _ in [tag] if tag == "img"]

  def handle_data(self, data):
    if self.tags and self.tags[-1] == "h2" and data.strip():
      self.heading = data
      self.text[self.heading] = ""
    elif data.strip() and self.tags[-1] != "style":
      self.text[self.heading] += " ".join(data.split()) + "\n"


@pytest.fixture
def workdir(tmp_path):
  return make_workdir(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  folder = make_workdir(tmp_path_factory.mktemp("run"))
  path = write_report(folder)
  assert path == folder / "report.html"
  return Page(path)


def test_the_page_needs_nothing_else(page):
  assert "script" not in page.tags
  assert "link" not in page.tags
  assert all(link.startswith(("data:image/", "#")) for link in page.links)
  assert "url(http" not in page.source
  assert "@import" not in page.source


def test_the_first_paragraph_says_it_all(page):
  assert (
    "xvit_motion (1.23 M parameters, 532 M multiply-adds per view) was "
    "trained for 1,375 steps in 3 min 23 s on 8 x TPU v5e. It reaches 73.3 % "
    "top-1 and 100.0 % top-5 accuracy on 30 videos, each seen as "
    "1 clip \N{MULTIPLICATION SIGN} 3 crops."
  ) in page.text[""]


def test_every_accuracy_has_its_views(page):
  views = "1 clip \N{MULTIPLICATION SIGN} 3 crops"
  table = page.text["Accuracy"]
  for name, share in (
    ("Top-1", "73.3 %"),
    ("Top-5", "100.0 %"),
    ("Mean over classes", "73.3 %"),
  ):
    assert f"{name}\n{share}\n{views}\n30\n" in table
  assert (
    "1 video could not be read, wrong in these numbers\nbroken.mp4" in table
  )


def test_names_are_text_and_not_markup(page):
  assert "<b>&" in page.text["Accuracy of each class"]
  assert "Motion <demo>" in page.text[""]
  assert "right <b>" not in page.source


def test_classes_are_sorted_by_accuracy(page):
  words = page.text["Accuracy of each class"].splitlines()
  assert words == [
    *("right <b>&", "50.0 %", "left", "80.0 %", "up", "90.0 %"),
    *("down", "-"),
  ]


def chart(page, title):
  (found,) = (s for s in page.svgs if s.findtext(".//{*}title") == title)
  return found


def test_there_is_a_curve_for_all_that_was_logged(page):
  titles = [svg.findtext(".//{*}title") for svg in page.svgs]
  assert titles == ["Loss", "Accuracy", "Learning rate", "Confusion matrix"]
  assert "evaluation top-5" in page.text["Training"]


def line_of(svg, series):
  """Points of a curve, in the picture."""
  for path in svg.iter(f"{SVG}path"):
    style = path.get("style", "")
    if f"stroke: var(--series-{series})" in style and "L" in path.get("d"):
      numbers = re.findall(r"[ML] (\S+) (\S+)", path.get("d"))
      return np.array(numbers, float)
  raise AssertionError("no such curve")


def test_a_curve_shows_its_numbers(page):
  points = line_of(chart(page, "Accuracy"), 2)  # (15, 0.375) and (30, 0.75)
  assert len(points) == 2
  train = line_of(chart(page, "Accuracy"), 1)  # 0.5 in all steps from 1 to 30
  assert np.ptp(train[:, 1]) == 0
  per_step = (train[-1, 0] - train[0, 0]) / 29
  assert points[1, 0] - points[0, 0] == pytest.approx(15 * per_step, rel=1e-4)
  # 0.5 is a third of the way from 0.375 to 0.75.
  share = (train[0, 1] - points[0, 1]) / (points[1, 1] - points[0, 1])
  assert share == pytest.approx(1 / 3, rel=1e-4)


def test_many_points_are_averaged_in_equal_parts():
  rows = [{"step": s, "a": float(s % 2)} for s in range(1000)]
  rows.insert(7, {"step": 3, "b": 1.0})
  rows.insert(9, {"step": 3, "a": None})
  points = report._series(rows, "a")
  assert len(points) == 334
  np.testing.assert_allclose(points[0], [1, 1 / 3])
  np.testing.assert_allclose(points[1], [4, 2 / 3])
  np.testing.assert_allclose(points[-1], [999, 1])


def test_the_pictures_take_the_colours_of_the_page(page):
  for svg in page.svgs:
    source = ElementTree.tostring(svg, encoding="unicode")
    assert "var(--line)" in source
    assert not re.search(r"#00000\d", source)


def test_the_confusion_matrix_shows_shares_and_counts(page):
  svg = chart(page, "Confusion matrix")
  (image,) = svg.iter(f"{SVG}image")
  link = image.get("{http://www.w3.org/1999/xlink}href")
  pixels = np.asarray(decoded(link).convert("RGBA"))
  assert pixels.shape == (4, 4, 4)
  shares = np.array(CONFUSION) / [[10], [10], [10], [1]]
  np.testing.assert_allclose(
    pixels[..., 3] / 255, np.sqrt(shares), atol=1 / 255
  )
  red, _, blue, _ = pixels[0, 1].tolist()
  assert red > blue  # a mistake
  red, _, blue, _ = pixels[0, 0].tolist()
  assert red < blue
  texts = [text.text for text in svg.iter(f"{SVG}text")]
  assert [t for t in texts if t.isdigit()] == ["8", "2", "5", "5", "9", "1"]
  assert texts.count("right <b>&") == 2


def test_the_worst_mistakes_are_listed(page):
  words = page.text["Confusion matrix"].splitlines()
  assert words[words.index("Videos") + 1 :] == [
    *("right <b>&", "left", "5 of 10"),
    *("left", "right <b>&", "2 of 10"),
    *("up", "down", "1 of 10"),
  ]


def decoded(link):
  return Image.open(io.BytesIO(base64.b64decode(link.split(",")[1])))


def test_examples_move_and_are_small(page):
  assert "wrong\n, 62.5 %\ntrue: right <b>&" in page.text["Examples"]
  assert "gone.mp4" not in page.text["Examples"]
  wrong, right = (decoded(link) for link in page.images)
  assert wrong.format == right.format == "WEBP"
  assert wrong.n_frames == right.n_frames == 6
  assert wrong.size == (160, 160)
  assert right.size == (48, 48)
  for i in (0, 5):
    right.seek(i)
    right.load()
    assert right.info["duration"] == 90
    pixel = right.convert("RGB").getpixel((20, 20))
    np.testing.assert_allclose(
      pixel, (220 - 20 * i, 120 - 20 * i, 120 - 20 * i), atol=8
    )


def test_configuration_versions_and_unknown_keys_are_shown(page):
  text = page.text["How it was made"]
  assert "model.head.layers\n2\n" in text
  assert "data.root\n/d\n" in text
  assert "jax\n0.10.2\n" in text
  assert "eval/extra\nsomething else\n" in text
  assert "eval/top5" not in text


def test_equal_runs_have_equal_pages(workdir):
  assert (
    write_report(workdir).read_bytes() == write_report(workdir).read_bytes()
  )


@pytest.mark.parametrize(
  ("missing", "sections"),
  [
    ("config.json", ["Configuration"]),
    ("eval.json", ["Confusion matrix", "Examples", "Accuracy of each class"]),
  ],
)
def test_what_is_missing_is_left_out(workdir, missing, sections):
  (workdir / missing).unlink()
  source = write_report(workdir).read_text()
  for section in sections:
    assert f">{section}<" not in source
  assert "73.3\N{NO-BREAK SPACE}%" in source


def test_the_evaluation_alone_tells_its_views(workdir):
  (workdir / "summary.json").unlink()
  text = Page(write_report(workdir)).text
  assert text["Accuracy"].count("1 clip \N{MULTIPLICATION SIGN} 3 crops") == 2
  assert text[""].startswith("a run\n")


def test_metrics_alone_make_a_page(tmp_path):
  write(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 2.0})
  page = Page(write_report(tmp_path))
  assert list(page.text) == ["", "Training"]
  assert page.text[""].startswith(tmp_path.name)


def test_a_line_that_is_being_written_is_no_error(workdir):
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 31, "train/lo')
  assert write_report(workdir).exists()


def test_a_broken_line_is_named(workdir):
  path = workdir / "metrics.jsonl"
  path.write_text("nonsense\n" + path.read_text())
  with pytest.raises(ReportError, match=r"line 1 of .*metrics\.jsonl is not"):
    write_report(workdir)


def test_a_broken_file_is_named(workdir):
  (workdir / "summary.json").write_text("{")
  with pytest.raises(ReportError, match=r"summary\.json is not a JSON file"):
    write_report(workdir)


def test_a_broken_picture_is_named(workdir):
  (workdir / "examples/0.webp").write_text("nothing")
  with pytest.raises(ReportError, match=r"0\.webp is not a picture"):
    write_report(workdir)


@pytest.mark.parametrize(("classes", "names"), [(30, 60), (60, 0)])
def test_many_classes_have_no_numbers_and_then_no_names(
  workdir, classes, names
):
  result = json.loads((workdir / "eval.json").read_text())
  result["classes"] = [f"class {i}" for i in range(classes)]
  result["confusion"] = (np.eye(classes, dtype=int) * 3).tolist()
  write(workdir / "eval.json", result)
  svg = chart(Page(write_report(workdir)), "Confusion matrix")
  texts = [text.text for text in svg.iter(f"{SVG}text")]
  assert sum(text.startswith("class ") for text in texts) == names
  assert "3" not in texts


def test_command(workdir, capsys):
  assert main([str(workdir)]) == 0
  assert capsys.readouterr().out == f"{workdir / 'report.html'}\n"


def test_command_without_metrics_is_one_clear_error(tmp_path, capsys):
  assert main([str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert error.startswith(f"error: {tmp_path / 'metrics.jsonl'} does not exist")
  assert "--workdir" in error
  assert error.count("\n") == 1
