"""A stand-in for the servers of language models: `python -m tests.standin.server --port 8080`.

It speaks the Gemini API (v1beta REST: generateContent, countTokens, embedContent, batchEmbedContents, batches) and
OpenAI's chat completions. Answers depend on the `X-Request-Id` header alone, or on the content where there is none;
faults of the way are drawn for every attempt. Models of certain names behave oddly (see answers.py, faults.py,
batches.py), and so do keys that begin with `wrong` or `forbidden`. It appends a JSON line per request to its log;
GET /_log tells how many were in flight at once and shows the last requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from tests.standin.answers import answer
from tests.standin.batches import Jobs
from tests.standin.dialects import gemini_error, read_gemini, read_openai, write_gemini, write_openai
from tests.standin.faults import Faults, Refusal, refusal, refused_by_google, refused_by_openai
from tests.standin.vectors import DIMENSIONS, vector

_SECRET = ("authorization", "x-goog-api-key")
_SHOWN = 500  # so many of the last requests are shown


@dataclass
class Settings:
    """See the options of `main`."""

    latency: float = 0.0
    faults: float = 0.0
    seed: int = 0
    hang: float = 600.0
    retry_after: float = 1.0
    batch_seconds: float = 1.0
    log: str | None = None


class StandIn:
    """The server's state and handlers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Half of the faults happen on the way, half are answers that are no use.
        self._faults = Faults(settings.faults / 2, settings.seed)
        self._bad = settings.faults / 2
        self._jobs = Jobs(settings.batch_seconds, self._bad, settings.faults / 2)
        self._log = Path(settings.log) if settings.log else None
        self._recent: deque[dict[str, Any]] = deque(maxlen=_SHOWN)
        self._count = self._in_flight = self._peak = 0

    def application(self) -> web.Application:
        """All routes."""
        application = web.Application(client_max_size=64 << 20)
        application.router.add_get("/_log", self.show)
        application.router.add_get("/v1beta/batches", self.list_jobs)
        application.router.add_get("/v1beta/batches/{job}", self.get_job)
        application.router.add_post("/v1beta/batches/{job}:cancel", self.cancel_job)
        application.router.add_post("/v1beta/models/{model}:{verb}", self.google)
        vertex = "/v1beta1/projects/{project}/locations/{place}/publishers/google/models/{model}:{verb}"
        application.router.add_post(vertex, self.google)
        application.router.add_post("/v1/chat/completions", self.openai)
        return application

    # ------------------------------------------------------------ generating

    async def google(self, request: web.Request) -> web.StreamResponse:
        """The verbs of a Gemini model."""
        body = await request.json()
        model, verb = request.match_info["model"], request.match_info["verb"]
        question = read_gemini(body)
        if verb != "generateContent":
            return await self._serve(request, model, question.id, body, lambda: self._other_verb(model, verb, body))
        id = request.headers.get("x-request-id") or question.id
        numbers = "enum-encoding=int" in request.query.get("$alt", "")

        def generate() -> tuple[dict[str, Any], str, int, int]:
            made = answer(question.system, question.prompt, id, model, self._bad)
            written = write_gemini(question, made, numbers)
            usage = written["usageMetadata"]
            return written, made.kind, question.tokens, usage["totalTokenCount"] - question.tokens

        return await self._serve(request, model, id, body, generate)

    async def openai(self, request: web.Request) -> web.StreamResponse:
        """Chat completions."""
        body = await request.json()
        question, model = read_openai(body), body["model"]
        id = request.headers.get("x-request-id") or question.id

        def generate() -> tuple[dict[str, Any], str, int, int]:
            made = answer(question.system, question.prompt, id, model, self._bad)
            written = write_openai(question, made, model)
            return written, made.kind, question.tokens, written["usage"]["completion_tokens"]

        return await self._serve(request, model, id, body, generate)

    def _other_verb(self, model: str, verb: str, body: dict[str, Any]) -> tuple[dict[str, Any], str, int, int]:
        if verb == "countTokens":
            inner = body.get("generateContentRequest") or body
            return {"totalTokens": read_gemini(inner).tokens}, "ok", 0, 0
        if verb == "embedContent":
            return {"embedding": {"values": _embed(body)}}, "ok", read_gemini(_contents(body)).tokens, 0
        if verb == "batchEmbedContents":
            tokens = sum(read_gemini(_contents(one)).tokens for one in body["requests"])
            return {"embeddings": [{"values": _embed(one)} for one in body["requests"]]}, "ok", tokens, 0
        if verb == "batchGenerateContent":
            job = self._jobs.create(model, body, time.time())
            return self._jobs.describe(job, time.time()), "job", 0, 0
        raise web.HTTPNotFound

    # ------------------------------------------------------------ batch jobs

    async def list_jobs(self, request: web.Request) -> web.StreamResponse:
        """The jobs, newest first, a page at a time."""
        start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 50)

        def page() -> tuple[dict[str, Any], str, int, int]:
            jobs = self._jobs.newest_first()
            listed = [self._jobs.describe(job, time.time(), False) for job in jobs[start : start + size]]
            more = {"nextPageToken": str(start + size)} if start + size < len(jobs) else {}
            return {"operations": listed, **more}, "listed", 0, 0

        return await self._serve(request, "", "list", {}, page)

    async def get_job(self, request: web.Request) -> web.StreamResponse:
        """One job, with its results when it has succeeded."""
        job = self._jobs.get(f"batches/{request.match_info['job']}")
        if job is None:
            return web.json_response(gemini_error(404, "NOT_FOUND", "Batch not found."), status=404)

        def described() -> tuple[dict[str, Any], str, int, int]:
            fresh = job.results is None
            result = self._jobs.describe(job, time.time())
            if fresh and job.results is not None:
                for id, kind in job.kinds:
                    self._write_log({"id": id, "model": job.model, "batch": job.name, "answer": kind, "written": True})
            return result, self._jobs.state(job, time.time()).lower(), 0, 0

        return await self._serve(request, "", job.name, {}, described)

    async def cancel_job(self, request: web.Request) -> web.StreamResponse:
        """Cancel a job."""
        job = self._jobs.get(f"batches/{request.match_info['job']}")
        if job is None:
            return web.json_response(gemini_error(404, "NOT_FOUND", "Batch not found."), status=404)
        job.cancelled = True
        return web.json_response({})

    # ------------------------------------------------------------ every request

    async def _serve(
        self, request: web.Request, model: str, id: str, body: dict[str, Any], make: Any
    ) -> web.StreamResponse:
        """Answer with what `make` returns (body, kind, input tokens, output tokens), or fail."""
        line: dict[str, Any] = {"received": time.time(), "id": id, "model": model, "path": request.path}
        line |= {"answer": "gone", "input_tokens": 0, "output_tokens": 0, "written": False}
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _SECRET}
        self._recent.append({"path": request.path_qs, "headers": headers, "body": body, "id": id, "line": line})
        self._count += 1
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        try:
            return await self._answer(request, model, id, body, make, line)
        finally:
            self._in_flight -= 1
            line["answered"] = time.time()
            self._write_log(line)

    async def _answer(
        self, request: web.Request, model: str, id: str, body: dict[str, Any], make: Any, line: dict[str, Any]
    ) -> web.StreamResponse:
        google = not request.path.startswith("/v1/")
        refused = _refused(request, model, body, google)
        fault = None if refused else self._faults.next(model, id)
        if fault in ("hang", "reset", "cut", "html"):
            line["answer"] = fault
        if fault == "hang":
            await asyncio.sleep(self._settings.hang)
        elif fault not in ("reset", "cut", "html") and fault is not None:
            refused = refusal(fault, self._settings.retry_after, google)
        await asyncio.sleep(0 if refused else self._settings.latency)
        if refused:
            line["answer"] = str(refused.status)
            return await self._send(request, json.dumps(refused.body), line, refused.status, refused.headers)
        if fault in ("reset", "hang"):
            return _abort(request)
        if fault == "html":
            return await self._send(request, "<html>busy</html>", line, 200, {}, "text/html")
        made, kind, line["input_tokens"], line["output_tokens"] = make()
        if fault == "cut":
            return await _cut(request, json.dumps(made))
        line["answer"] = kind
        return await self._send(request, json.dumps(made), line, 200, {})

    async def _send(
        self,
        request: web.Request,
        text: str,
        line: dict[str, Any],
        status: int,
        headers: dict[str, str],
        kind: str = "application/json",
    ) -> web.StreamResponse:
        response = web.Response(text=text, status=status, headers=headers, content_type=kind)
        await response.prepare(request)
        await response.write_eof()
        line["written"] = True
        return response

    def _write_log(self, line: dict[str, Any]) -> None:
        if self._log:
            with self._log.open("a") as file:
                file.write(json.dumps(line) + "\n")

    async def show(self, request: web.Request) -> web.Response:
        """What happened so far; `?clear=1` forgets it afterwards."""
        shown = {
            "requests": self._count,
            "peak": self._peak,
            "in_flight": self._in_flight,
            "recent": list(self._recent),
        }
        if request.query.get("clear"):
            self._count = 0
            self._peak = self._in_flight
            self._recent.clear()
        return web.json_response(shown)


def _contents(one: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [one["content"]]}


def _embed(one: dict[str, Any]) -> list[float]:
    return vector(read_gemini(_contents(one)).prompt, int(one.get("outputDimensionality") or DIMENSIONS))


def _refused(request: web.Request, model: str, body: dict[str, Any], google: bool) -> Refusal | None:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if google:
        return refused_by_google(request.headers.get("x-goog-api-key") or bearer, model)
    return refused_by_openai(bearer, model, (body.get("response_format") or {}).get("type"))


def _abort(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _cut(request: web.Request, text: str) -> web.StreamResponse:
    content = text.encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    await asyncio.sleep(0.01)  # so that the first half leaves before the connection goes
    return _abort(request)


async def serve(settings: Settings, port: int, until_stdin_closes: bool) -> None:
    """Run until cancelled, or until standard input is closed."""
    # Without cancellation, a handler that hangs would outlive the client that gave it up.
    runner = web.AppRunner(StandIn(settings).application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=512).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    if until_stdin_closes:
        await asyncio.to_thread(sys.stdin.read)
    else:
        await asyncio.Event().wait()
    await runner.cleanup()


@click.command()
@click.option("--port", default=0, show_default=True, help="0 takes a free one.")
@click.option("--latency", default=0.0, show_default=True, help="Seconds before an answer.")
@click.option("--faults", default=0.0, show_default=True, help="Share of attempts that fail or are answered badly.")
@click.option("--seed", default=0, show_default=True, help="Of the faults on the way.")
@click.option("--hang", default=600.0, show_default=True, help="Seconds that a hanging request is held.")
@click.option("--retry-after", default=1.0, show_default=True, help="Seconds that a 429 asks to wait.")
@click.option("--batch-seconds", default=1.0, show_default=True, help="How long a batch job takes.")
@click.option("--log", default=None, help="File to which a JSON line per request is appended.")
@click.option("--until-stdin-closes", is_flag=True, help="Stop when standard input is closed.")
def main(port: int, until_stdin_closes: bool, **options: Any) -> None:
    """Serve; the address is printed first."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Settings(**options), port, until_stdin_closes))


if __name__ == "__main__":
    main()
