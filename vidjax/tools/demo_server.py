"""The page of `vidjax.tools.demo_app` and what it asks the server for."""

import contextlib
import dataclasses
import importlib.resources
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
  FileResponse,
  HTMLResponse,
  JSONResponse,
  Response,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidjax.data.views import Views
from vidjax.tools.demo_jobs import Job, Jobs, QueueFullError, WindowError

_HEADERS = {
  # Nothing is loaded from elsewhere, and no page elsewhere may show this one.
  "Content-Security-Policy": (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
  ),
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "Cache-Control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """What the page says.

  Attributes:
    description: of the model.
    classes: number of them.
    views: what the model sees of a video.
    window: seconds, filled in at first.
    max_mb: size of a video, in millions of bytes.
    keep_minutes: how long results are kept.
  """

  description: str
  classes: int
  views: Views
  window: float | int
  max_mb: int
  keep_minutes: float | int


def make_app(
  jobs: Jobs, facts: Facts, samples: Mapping[str, pathlib.Path]
) -> Starlette:
  """Returns the page and its server.

  Uploads and questions are PUT requests with the video alone as their body:
  browsers let no page of another site send them.

  Args:
    jobs: that has been started.
    facts: for the page.
    samples: videos that the page offers, by name.
  """
  page = _page(facts, tuple(samples))

  async def index(request: Request) -> Response:
    return HTMLResponse(page)

  async def upload(request: Request) -> Response:
    window = _window(request)
    video = jobs.place(request.query_params.get("name", ""))
    with _undone(video):
      await _receive(request, video, facts.max_mb)
      return _accepted(jobs, jobs.add(video, window))

  async def try_sample(request: Request) -> Response:
    source = samples.get(request.path_params["name"])
    if source is None:
      raise HTTPException(404, "there is no such sample")
    window = _window(request)
    video = jobs.place(f"{request.path_params['name']}.mp4")
    with _undone(video):
      shutil.copyfile(source, video)
      return _accepted(jobs, jobs.add(video, window))

  async def sample(request: Request) -> Response:
    source = samples.get(request.path_params["name"])
    if source is None:
      raise HTTPException(404, "there is no such sample")
    return FileResponse(source, media_type="video/mp4")

  def known(request: Request) -> Job:
    job = jobs.get(request.path_params["id"])
    if job is None:
      raise HTTPException(
        404,
        "this result is gone (results are kept for "
        f"{facts.keep_minutes:g} minutes): give the video again",
      )
    return job

  async def status(request: Request) -> Response:
    return JSONResponse(jobs.status(known(request)))

  async def explain(request: Request) -> Response:
    job = known(request)
    jobs.explain(job)
    return _accepted(jobs, job)

  async def film(request: Request) -> Response:
    path = known(request).files.get(request.path_params["film"])
    if path is None:
      raise HTTPException(404, "there is no such film")
    return FileResponse(path, media_type="video/mp4")

  return Starlette(
    routes=[
      Route("/", index),
      Route("/videos", upload, methods=["PUT"]),
      Route("/samples/{name}", try_sample, methods=["PUT"]),
      Route("/samples/{name}", sample),
      Route("/jobs/{id}", status),
      Route("/jobs/{id}/saliency", explain, methods=["PUT"]),
      Route("/jobs/{id}/{film}.mp4", film),
    ],
    middleware=[Middleware(_Headers)],
    exception_handlers={
      HTTPException: _refused,
      ClientDisconnect: _refused,
      QueueFullError: _refused,
      WindowError: _refused,
    },
  )


class _Headers:
  """Adds headers to all answers, without holding films in memory."""

  def __init__(self, app: ASGIApp):
    self._app = app
    self._headers = [
      (k.lower().encode(), v.encode()) for k, v in _HEADERS.items()
    ]

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    async def send_more(message: Message) -> None:
      if message["type"] == "http.response.start":
        message["headers"] = [*message.get("headers", ()), *self._headers]
      await send(message)

    await self._app(scope, receive, send_more)


def _page(facts: Facts, samples: tuple[str, ...]) -> str:
  template = (
    importlib.resources.files("vidjax.tools")
    .joinpath("demo_app.html.j2")
    .read_text("utf-8")
  )
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
  )
  return environment.from_string(template).render(
    **{f.name: getattr(facts, f.name) for f in dataclasses.fields(facts)},
    samples=samples,
  )


async def _receive(request: Request, video: pathlib.Path, max_mb: int) -> None:
  """Writes a request's body to a file, unless it is too large."""
  most = max_mb * 10**6
  size = int(request.headers.get("content-length", 0))
  with video.open("wb") as file:
    if size <= most:
      size = 0
      async for chunk in request.stream():
        size += len(chunk)
        if size > most:
          break
        file.write(chunk)
  if size > most:
    raise HTTPException(
      413,
      f"{video.name} is too large: this page takes up to {max_mb} MB; cut it "
      "or make it smaller.",
      {"Connection": "close"},
    )


@contextlib.contextmanager
def _undone(video: pathlib.Path) -> Iterator[None]:
  """Removes the folder of a video that does not come into the queue."""
  try:
    yield
  except BaseException:
    shutil.rmtree(video.parent, ignore_errors=True)
    raise


def _window(request: Request) -> float | None:
  text = request.query_params.get("window", "")
  try:
    return float(text or 0) or None
  except ValueError as error:
    raise WindowError(
      f"the window is {text!r}; use a number of seconds"
    ) from error


def _accepted(jobs: Jobs, job: Job) -> Response:
  return JSONResponse(jobs.status(job), 202)


async def _refused(request: Request, error: Any) -> Response:
  codes = {QueueFullError: 503, ClientDisconnect: 499}
  return JSONResponse(
    {"error": getattr(error, "detail", str(error))},
    getattr(error, "status_code", codes.get(type(error), 400)),
    headers=getattr(error, "headers", None),
  )
