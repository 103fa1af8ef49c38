"""The page for trying a model: its server, its queue, and a real browser."""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.small_videos import write_video
from tests.prediction.models import page, prediction, write_folder
from vidjax.data.decode import Video
from vidjax.data.motion import CLASSES
from vidjax.prediction.predictor import Predictor
from vidjax.prediction.timeline import timeline_rows
from vidjax.tools import demo_app, demo_jobs
from vidjax.tools.demo_app import Saliency, listen, make_samples, make_server
from vidjax.tools.demo_jobs import Jobs, safe_name, summary
from vidjax.tools.demo_server import Facts, make_app

SECONDS = 60.0  # no wait is longer
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp("model") / "model", page())


@pytest.fixture(scope="module")
def predictor(checkpoint):
  return Predictor(checkpoint)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  return make_samples(tuple(CLASSES), tmp_path_factory.mktemp("m") / "motion")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
  """Four seconds."""
  return write_video(tmp_path_factory.mktemp("long") / "long.mp4", 48)


def wait_until(true):
  end = time.monotonic() + SECONDS
  while not true():
    assert time.monotonic() < end
    time.sleep(0.02)


class Client:
  """Asks a server and waits for its jobs."""

  def __init__(self, port, folder):
    self.port, self.folder = port, folder
    self.url = f"http://127.0.0.1:{port}/"

  def ask(self, method, path, body=None, headers=None):
    """Returns status, headers and content."""
    to = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
    with contextlib.closing(to):
      to.request(method, path, body, headers or {})
      answer = to.getresponse()
      return answer.status, answer.headers, answer.read()

  def json(self, method, path, body=None):
    status, _, content = self.ask(method, path, body)
    return status, json.loads(content)

  def send(self, name, content, window=""):
    query = urllib.parse.urlencode({"name": name, "window": window})
    status, job = self.json("PUT", f"/videos?{query}", content)
    assert status == 202, job
    return job

  def wait(self, job):
    states = [job]

    def ended():
      states.append(self.json("GET", f"/jobs/{job['id']}")[1])
      return states[-1]["state"] not in ("waiting", "running")

    wait_until(ended)
    return states[-1]


@contextlib.contextmanager
def serve(predictor, folder, samples=(), *, explain=None, **options):
  facts = Facts("tiny, here", 12, predictor.views, 2.0, 1, 60)
  folder.mkdir(exist_ok=True)
  with (
    listen("127.0.0.1", 0) as port,
    Jobs(predictor, folder, explain=explain or copy, **options) as jobs,
  ):
    server = make_server(make_app(jobs, facts, dict(samples)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
    thread.start()
    try:
      yield Client(port.getsockname()[1], folder)
    finally:
      server.should_exit = True
      thread.join(SECONDS)


def copy(found, out):
  shutil.copyfile(found.path, out)


@pytest.fixture(scope="module")
def client(predictor, samples, checkpoint, tmp_path_factory):
  folder = tmp_path_factory.mktemp("jobs")
  explain = Saliency(str(checkpoint))
  with serve(predictor, folder, samples, explain=explain) as client:
    yield client


def assert_shows(job, prediction):
  rows = [row for group in job["result"]["groups"] for row in group]
  best = prediction.top(5)
  assert [row["label"] for row in rows] == [guess.label for guess in best]
  found = [row["probability"] for row in rows]
  np.testing.assert_allclose(found, [g.probability for g in best], atol=1e-6)


# --- the server


def test_the_page_says_what_the_model_is_and_loads_nothing_else(client):
  status, headers, content = client.ask("GET", "/")
  text = content.decode()
  assert status == 200
  assert "default-src 'none'" in headers["Content-Security-Policy"]
  assert "tiny, here · 12 classes · sees 4 frames of 32 " in text
  assert "in 6 views (2 clips, 3 crops of each)" in text
  assert "up to 1 MB" in text
  addresses = set(re.findall(r"https?://[^\s\"']+", text))
  assert addresses == {"http://www.w3.org/2000/svg"}
  assert re.findall(r'data-sample="(\w+)"', text) == list(CLASSES)


def test_a_clip_is_predicted_drawn_and_explained(client, predictor, samples):
  video = samples["open"]
  job = client.wait(client.send("my clip.mp4", video.read_bytes(), "2"))
  assert (job["state"], job["error"]) == ("done", "")
  assert job["name"] == "my clip.mp4"
  assert re.fullmatch(r"[\w-]{22}", job["id"])
  assert_shows(job, predictor.predict(video))
  assert job["result"]["timeline"] is None  # shorter than the window
  assert (job["result"]["frames"], job["files"]) == (16, ["overlay"])

  address = f"/jobs/{job['id']}"
  status, headers, film = client.ask("GET", f"{address}/overlay.mp4")
  assert (status, headers["Content-Type"]) == (200, "video/mp4")
  assert film[4:8] == b"ftyp"
  some = {"Range": "bytes=4-7"}
  part = client.ask("GET", f"{address}/overlay.mp4", None, some)
  assert (part[0], part[2]) == (206, b"ftyp")
  assert client.ask("GET", f"{address}/saliency.mp4")[0] == 404

  status, asked = client.json("PUT", f"{address}/saliency")
  assert status == 202
  job = client.wait(asked)
  assert (job["state"], job["remarks"]) == ("done", {})
  assert job["files"] == ["overlay", "saliency"]
  film = client.ask("GET", f"{address}/saliency.mp4")[2]
  (client.folder / "film.mp4").write_bytes(film)
  with Video(client.folder / "film.mp4") as decoded:
    assert decoded.frames == predictor.views.frames


def test_longer_videos_have_a_timeline(client, predictor, long):
  job = client.wait(client.send("long.mp4", long.read_bytes(), "1"))
  expected = predictor.predict(long, window=1)
  assert_shows(job, expected)
  timeline = job["result"]["timeline"]
  assert (timeline["windows"], timeline["window"]) == (7, pytest.approx(1))
  np.testing.assert_allclose(timeline["edges"], expected.timeline.edges)
  for row in timeline["rows"]:
    scores = expected.timeline.probabilities[:, CLASSES.index(row["label"])]
    np.testing.assert_allclose(row["probabilities"], scores, atol=6e-5)
  best = np.array([row["best"] for row in timeline["rows"]])
  assert (best.sum(axis=0) == 1).all()

  whole = client.wait(client.send("long.mp4", long.read_bytes(), "0"))
  assert_shows(whole, predictor.predict(long))
  assert whole["result"]["timeline"] is None


def test_samples_are_the_models_own_motions(
  client, predictor, samples, tmp_path
):
  status, job = client.json("PUT", "/samples/vanish?window=2")
  assert status == 202
  assert_shows(client.wait(job), predictor.predict(samples["vanish"]))
  content = samples["vanish"].read_bytes()
  assert client.ask("GET", "/samples/vanish")[2] == content
  assert client.ask("GET", "/samples/motion.json")[0] == 404
  assert client.ask("PUT", "/samples/motion.json")[0] == 404
  assert make_samples(("archery", "open"), tmp_path / "none") == {}


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"no video at all, but text", "is not a video file"),
    (b"", "is empty (0 bytes)"),
    (b"\0\0\0\x18ftypisom and no more", "is cut short"),
    ("playlist", "is not a video file"),
  ],
)
def test_bad_videos_are_named(client, samples, content, words):
  if content == "playlist":  # which FFmpeg would follow, out of the folder
    content = f"#EXTM3U\n#EXTINF:1,\nfile://{samples['open']}\n".encode()
  job = client.wait(client.send("bad.mp4", content))
  assert job["state"] == "failed"
  assert job["error"] == f"bad.mp4 {words}: choose another video."
  assert job["result"] is None


def test_too_large_videos_are_refused(client):
  before = set(client.folder.iterdir())
  query = "/videos?name=big.mp4"
  to = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SECONDS)
  with contextlib.closing(to):
    to.putrequest("PUT", query)
    to.putheader("Content-Length", "1000001")
    to.endheaders()
    answer = to.getresponse()
    assert answer.status == 413
    sentence = json.loads(answer.read())["error"]
  assert sentence == (
    "big.mp4 is too large: this page takes up to 1 MB; cut it or make it "
    "smaller."
  )
  # A length that is not announced ahead is counted.
  status, _, content = client.ask("PUT", query, iter([bytes(10**6), b"1"]))
  assert (status, json.loads(content)["error"]) == (413, sentence)
  assert set(client.folder.iterdir()) == before
  assert client.wait(client.send("fits.mp4", bytes(10**6)))["state"] == "failed"


def test_nothing_is_left_of_a_broken_upload(client):
  before = set(client.folder.iterdir())
  with socket.create_connection(("127.0.0.1", client.port), SECONDS) as to:
    to.sendall(
      b"PUT /videos?name=a.mp4 HTTP/1.1\r\nHost: a\r\n"
      b"Content-Length: 99\r\n\r\n1"
    )
    wait_until(lambda: set(client.folder.iterdir()) != before)
  wait_until(lambda: set(client.folder.iterdir()) == before)


@pytest.mark.parametrize("window", ["0.01", "-1", "nan", "inf", "two"])
def test_windows_are_checked(client, window):
  before = set(client.folder.iterdir())
  query = urllib.parse.urlencode({"name": "a.mp4", "window": window})
  status, found = client.json("PUT", f"/videos?{query}", b"1234")
  assert status == 400
  assert found["error"].startswith("the window is ")
  assert "; use " in found["error"]
  assert set(client.folder.iterdir()) == before


@pytest.mark.parametrize(
  ("name", "kept"),
  [
    ("../../evil.mp4", "evil.mp4"),
    ("/etc/passwd", "passwd"),
    ("..\\..\\a.mp4", "a.mp4"),
    ("..", "video"),
    (".overlay.mp4", "overlay.mp4"),
    ("shard#7.mp4", "shard_7.mp4"),
    ("a\0b\n.mp4", "a_b_.mp4"),
    ("", "video"),
  ],
)
def test_names_lead_nowhere(client, name, kept):
  outside = set(client.folder.parent.iterdir())
  job = client.send(name, b"no video")
  assert job["name"] == kept
  assert (client.folder / job["id"] / kept).read_bytes() == b"no video"
  assert set(client.folder.parent.iterdir()) == outside
  client.wait(job)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=100))
def test_names_are_safe(name):
  safe = safe_name(name)
  assert pathlib.Path(safe).name == safe
  assert not safe.startswith(".")
  assert not re.search(r"[/\\#:\0-\x1f]", safe)
  assert 1 <= len(safe.encode()) <= 255


def test_nothing_else_is_served(client, long):
  job = client.wait(client.send("a.mp4", long.read_bytes(), "0"))
  secret = client.folder / "secret.mp4"
  secret.write_bytes(b"secret")
  here = f"/jobs/{job['id']}"
  for path in (
    *(f"{here}/a.mp4", f"{here}/.overlay.mp4", f"{here}/../secret.mp4"),
    *(f"{here}/..%2fsecret.mp4", f"{here}/%2e%2e/secret.mp4"),
    *("/jobs/secret.mp4", "/jobs/..", "/jobs/none", "/jobs/none/overlay.mp4"),
    *("/samples/..%2fval.jsonl", "/samples/%2fetc%2fpasswd", "//etc/passwd"),
  ):
    status, _, content = client.ask("GET", path)
    assert status == 404, path
    assert b"secret" not in content
  gone = client.json("GET", "/jobs/none")[1]["error"]
  assert gone == (
    "this result is gone (results are kept for 60 minutes): give the video "
    "again"
  )


def test_every_head_has_its_best_classes():
  found = summary(prediction(labels=("v: a", "v: b", "n: c"), heads=(2, 1)))
  labels = [[row["label"] for row in group] for group in found["groups"]]
  assert labels == [["v: b", "v: a"], ["n: c"]]
  assert found["groups"][0][0]["probability"] == pytest.approx(0.5)


# --- the queue


class Slow(Predictor):
  """Predicts when it is let."""

  def __init__(self, predictor):
    self.__dict__.update(predictor.__dict__)
    self.go = threading.Event()

  def predict(self, path, **options):
    assert self.go.wait(SECONDS)
    if path.name == "bug.mp4":
      raise RuntimeError("a bug")
    return super().predict(path, **options)


def test_videos_queue_and_are_told_so(predictor, samples, tmp_path):
  slow = Slow(predictor)
  with serve(slow, tmp_path / "jobs", samples, capacity=2) as client:
    names = ("bug.mp4", "open.mp4", "close.mp4")
    content = {name: samples["open"].read_bytes() for name in names}
    content["close.mp4"] = samples["close"].read_bytes()
    first = client.send("bug.mp4", content["bug.mp4"])
    while client.json("GET", f"/jobs/{first['id']}")[1]["state"] == "waiting":
      time.sleep(0.01)
    second, third = (client.send(n, content[n]) for n in names[1:])
    assert [job["ahead"] for job in (second, third)] == [1, 2]
    before = len(list(client.folder.iterdir()))
    status, full = client.json("PUT", "/videos?name=a.mp4", b"1234")
    assert status == 503
    assert full["error"].startswith("2 videos are waiting already: try again")
    assert len(list(client.folder.iterdir())) == before
    slow.go.set()
    first, *rest = (client.wait(job) for job in (first, second, third))
  assert (first["state"], first["result"]) == ("failed", None)
  assert first["error"] == "bug.mp4 cannot be predicted: a bug"
  for job, name in zip(rest, ("open", "close"), strict=True):
    assert_shows(job, predictor.predict(samples[name]))


def test_a_prediction_outlives_what_cannot_be_drawn(
  predictor, samples, tmp_path, monkeypatch
):
  def refuse(prediction, out, *, top):
    raise ValueError("there is no x264")

  monkeypatch.setattr(demo_jobs, "annotate", refuse)
  with serve(predictor, tmp_path / "jobs", samples) as client:
    job = client.wait(client.json("PUT", "/samples/open")[1])
  assert (job["state"], job["files"]) == ("done", [])
  assert job["remarks"] == {"overlay": "there is no x264"}
  assert_shows(job, predictor.predict(samples["open"]))


def test_results_are_forgotten(predictor, samples, tmp_path, monkeypatch):
  monkeypatch.setattr(demo_jobs, "_SWEEP_SECONDS", 0.02)
  with serve(predictor, tmp_path / "jobs", samples, keep_seconds=0.5) as client:
    job = client.wait(client.json("PUT", "/samples/open")[1])
    assert job["state"] == "done"
    wait_until(lambda: not any(client.folder.iterdir()))
    assert client.ask("GET", f"/jobs/{job['id']}")[0] == 404


# --- the command


def test_the_command_ends_cleanly(checkpoint, tmp_path):
  command = [sys.executable, "-m", "vidjax.tools.demo_app", "--port=0"]
  command += [f"--checkpoint={checkpoint}", "--host=0.0.0.0"]
  process = subprocess.Popen(
    command,
    env={**os.environ, "TMPDIR": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  timer = threading.Timer(SECONDS, process.kill)
  timer.start()
  try:
    lines = iter(process.stdout.readline, "")
    port = next(int(m[1]) for x in lines if (m := re.search(r":(\d+) ", x)))
    folder = next(tmp_path.glob("vidjax-demo-*"))
    client = Client(port, folder / "jobs")
    text = client.ask("GET", "/")[2].decode()
    assert ">xvit_motion, model · 12 classes" in text
    assert str(checkpoint.parent) not in text
    job = client.wait(client.json("PUT", "/samples/open")[1])
    assert job["files"] == ["overlay"]
    # It ends in the midst of work.
    assert client.json("PUT", f"/jobs/{job['id']}/saliency")[0] == 202
    process.send_signal(signal.SIGINT)
    _, warnings = process.communicate(timeout=SECONDS)
  finally:
    timer.cancel()
    process.kill()
    process.communicate()
  assert process.returncode == 0
  assert "Traceback" not in warnings
  assert (
    f"warning: anyone who reaches 0.0.0.0:{port} over the network" in warnings
  )
  assert not folder.exists()


def test_errors_are_one_sentence(checkpoint, tmp_path, monkeypatch, capsys):
  def error(*options):
    assert demo_app.main([f"--checkpoint={checkpoint}", *options]) == 1
    return capsys.readouterr().err

  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    text = error(f"--port={port}")
  assert text.startswith(f"error: port {port} of 127.0.0.1 cannot be opened (")
  assert text.endswith("choose another with --port, or another --host\n")
  assert error("--max-mb=0") == "error: --max-mb is 0; use 1 or more\n"
  assert error("--window=-1").startswith("error: window is -1.0 s; use")
  monkeypatch.delitem(sys.modules, "vidjax.tools.demo_server")
  monkeypatch.setitem(sys.modules, "starlette.routing", None)
  assert error() == (
    "error: the page needs the package starlette.routing: pip install "
    "'vidjax[app]'\n"
  )


# --- the browser


@pytest.fixture(scope="module")
def browser():
  sync_api = pytest.importorskip("playwright.sync_api")
  path = next(filter(None, map(shutil.which, BROWSERS)), None)
  if path is None:
    pytest.skip(f"there is no browser ({', '.join(BROWSERS)})")
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=path, args=["--no-sandbox"], timeout=1000 * SECONDS
    )
    yield browser
    browser.close()


@contextlib.contextmanager
def tab(browser, width):
  """A page on which nothing may go wrong."""
  errors = []
  page = browser.new_page(viewport={"width": width, "height": 800})
  page.set_default_timeout(1000 * SECONDS)
  page.on("pageerror", lambda error: errors.append(str(error)))
  yield page
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  page.close()
  assert errors == []


def drop(page, name, content):
  data = base64.b64encode(content).decode()
  transfer = page.evaluate_handle(
    """([name, data]) => {
      const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name, {type: "video/mp4"}));
      return transfer;
    }""",
    [name, data],
  )
  page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def bars(card):
  names = card.locator("li span:first-child").all_inner_texts()
  return names, card.locator("li .number").all_inner_texts()


def texts(prediction):
  best = prediction.top(5)
  return [g.label for g in best], [f"{100 * g.probability:.1f} %" for g in best]


PLAYS = "film => film.readyState >= 2 && film.videoWidth && film.videoHeight"


def test_a_browser_shows_what_the_predictor_says(
  browser, client, predictor, samples, long
):
  clip = samples["rotate_clockwise"]
  with tab(browser, 1280) as page:
    page.goto(client.url)
    drop(page, "turning.mp4", clip.read_bytes())
    card = page.locator("article", has_text="turning.mp4")
    card.locator(".film:not([hidden])").wait_for()
    assert bars(card) == texts(predictor.predict(clip))
    film = card.locator(".film video")
    page.wait_for_function(PLAYS, arg=film.element_handle())
    assert card.locator(".timeline").is_hidden()
    card.get_by_role("button", name="What does it depend on?").wait_for()

    drop(page, "notes.mp4", b"text and no video")
    bad = page.locator("article", has_text="notes.mp4").locator(".error")
    bad.filter(has_text="is not a video file: choose").wait_for()
    drop(page, "big.mp4", bytes(10**6 + 1))
    big = page.locator("article", has_text="big.mp4").locator(".error")
    big.filter(has_text="takes up to 1 MB").wait_for()
    assert page.locator("article").count() == 3
    assert bars(card) == texts(predictor.predict(clip))  # nothing is lost

  with tab(browser, 390) as page:
    page.goto(client.url)
    page.get_by_label("Window, in seconds").fill("1")
    page.get_by_label("Drop a video here").set_input_files(str(long))
    strips = page.locator(".timeline .strip")
    strips.first.wait_for()
    expected = predictor.predict(long, window=1)
    assert bars(page.locator("article")) == texts(expected)
    rows = timeline_rows(expected.timeline)
    assert strips.all_inner_texts() == [CLASSES[row] for row in rows]
    page.reload()  # the address has the result
    page.locator(".film:not([hidden])").wait_for()
    assert bars(page.locator("article")) == texts(expected)
