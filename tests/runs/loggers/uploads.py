"""What W&B was sent, read back from its files or taken by a small server."""

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlx.runs.loggers.wandb import Mode, WandbConfig
from rlx.runs.run import open_run

KEY = "0123456789" * 4
"""A key of the right length; nobody's."""


COMMITTED: dict[str, Any] = {
    "__typename": "Artifact",
    "artifactSequence": {"__typename": "ArtifactSequence", "name": "n", "project": None},
    "artifactType": {"name": "model"},
    **dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt", "aliases")),
    **{"ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [], "state": "COMMITTED", "size": 1},
    **{"digest": "d", "versionIndex": 0, "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z"},
}
"""What W&B says of an artifact that it has."""


class Uploaded:
    """What one .wandb file would upload."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.run: Any = None
        self.exit: int | None = None
        self.artifacts: list[tuple[str, list[str], list[str]]] = []
        """Names, aliases and files of the models."""
        for kind, found in _records(file):
            if kind == "history":
                row = {_key(item): json.loads(item.value_json) for item in found.item}
                self.rows.append({**row, "_step": found.step.num})
            elif kind == "summary":
                self.summary.update({_key(item): json.loads(item.value_json) for item in found.update})
            elif kind == "run":
                self.run = found
                self.config = {item.key: json.loads(item.value_json) for item in found.config.update}
            elif kind == "artifact" and found.type == "model":
                files = [entry.path for entry in found.manifest.contents]
                assert all(Path(entry.local_path).is_file() for entry in found.manifest.contents)
                self.artifacts.append((found.name, sorted(found.aliases), sorted(files)))
            elif kind == "exit":
                self.exit = found.exit_code

    def steps(self) -> list[int]:
        return [row["_step"] for row in self.rows]


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """Kinds and contents of the records: a log of LevelDB's format, a header of 7 bytes before it."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, part = struct.unpack("<IHB", data[at : at + 7])
        if not part or at + 7 + length > len(data):
            return
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last of several
            found = Record.FromString(parts)
            kind, parts = found.WhichOneof("record_type"), b""
            yield kind, getattr(found, kind) if kind else None


def unsynced(run: Path) -> list[Uploaded]:
    """What `wandb sync --include-online` would upload, in the order of the attempts."""
    files = sorted(run.glob("wandb/*/*.wandb"), key=lambda file: file.stat().st_mtime)
    return [Uploaded(file) for file in files if not file.with_name(f"{file.name}.synced").exists()]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_rows(run: Path, sent: list[dict[str, Any]]) -> None:
    """The rows sent are those of metrics.jsonl, each once, under their steps."""
    truth = rows(run)
    assert [row["_step"] for row in sent] == [row["step"] for row in truth]
    for row, true in zip(sent, truth, strict=True):
        assert {name: row.get(name) for name in true} == pytest.approx(true, nan_ok=True)


@contextmanager
def opened(path: Path, *, mode: Mode = Mode.offline, **fields: Any) -> Iterator[Any]:
    logger = WandbConfig(mode=mode, **fields)
    with open_run(path, config={"seed": 0}, command="rlx", record={"parents": []}, logger=logger) as run:
        yield run


def append(run: Any, *steps: int, loss: float = 1.0) -> None:
    for step in steps:
        run.metrics.append({"step": step, "train/loss": loss / step})


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Server(ThreadingHTTPServer):
    """As much of W&B's server as a run needs: it keeps the lines of the files that are streamed to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, dict[int, str]] = {}
        self.exits: list[int] = []
        self.preempting = False
        self.tables: list[list[list[Any]]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.uploads: list[str] = []
        self.views: list[dict[str, Any]] = []
        """Saved workspaces."""
        self.received: list[int] = []
        self.started = False
        """A W&B run was made."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def models(self) -> list[list[str]]:
        """Aliases of the models that were announced, in order."""
        found = [given["aliases"] for given in self.artifacts if given["artifactTypeName"] == "model"]
        return [sorted(each["alias"] for each in aliases) for aliases in found]

    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.files.get("wandb-history.jsonl", {}).items())]

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        owner = {"id": "e", "name": "group"}
        if operation == "RunResumeStatus" and self.started:
            history = self.history()
            empty = dict.fromkeys(("displayName", "notes")) | {"logLineCount": 0, "eventsLineCount": 0, "tags": []}
            tail = {"historyLineCount": len(history), "historyTail": json.dumps([json.dumps(r) for r in history[-1:]])}
            texts = {"summaryMetrics": "{}", "eventsTail": "[]", "config": "{}", "wandbConfig": '{"t": {}}'}
            bucket = {"id": "b", "name": given["name"], **empty, **tail, **texts}
            return {"model": {"id": "p", "name": "rlx", "entity": owner, "bucket": bucket}}
        if operation == "UpsertBucket":
            self.started = True
            bucket = dict.fromkeys(("displayName", "description", "sweepName")) | {"historyLineCount": 0}
            project = {"id": "p", "name": given["project"], "entity": owner}
            bucket |= {"id": "b", "name": given["name"], "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "spec" in given:
            self.views.append(given)
            return {"upsertView": {"view": {"id": "w", "name": given["name"]}, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return self.answer_artifact(operation, given)

    def answer_artifact(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """What the upload of an artifact asks; a table is one of its own type."""
        given = given.get("input", given)
        found = {"id": "a", "state": "PENDING", "digest": "d", "artifactSequence": {"latestArtifact": None}}
        target = {"id": "m", "uploadUrl": f"{self.url}/manifest", "uploadHeaders": []}
        if operation == "Viewer":
            return {"viewer": {"id": "v", "entity": "group", "username": "someone", "flags": "{}"}}
        if set(given) == {"entity", "project", "name"}:
            kind = "run_table" if given["name"].startswith("run-") else "model"
            return {"project": {"artifact": {"artifactType": {"name": kind}}}}
        if operation == "CreateArtifact":
            self.artifacts.append(given)
            return {"createArtifact": {"artifact": found}}
        if operation == "CreateArtifactManifest":
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": target}}}
        if operation == "CreateArtifactFiles":
            names = [file["name"] for file in given["artifactFiles"]]
            nodes = [{**target, "uploadUrl": f"{self.url}/{name}", "artifact": found} for name in names]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": found}}
        if set(given) == {"id"}:
            return {"artifact": {**found, **COMMITTED}}
        return {}

    def stream(self, given: dict[str, Any]) -> None:
        for name, part in (given.get("files") or {}).items():
            lines = {part["offset"] + n: line for n, line in enumerate(part["content"])}
            self.files.setdefault(name, {}).update(lines)
            if name == "wandb-history.jsonl":
                self.received += [json.loads(line)["_step"] for line in lines.values()]
        self.preempting |= bool(given.get("preempting"))
        self.exits += [given["exitcode"]] if given.get("complete") else []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the client dropped."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply: dict[str, Any] = {}
        if self.path == "/graphql":
            given = json.loads(body)
            reply = {"data": self.server.answer(given.get("operationName", ""), given.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(json.loads(body))
        else:
            self.server.uploads.append(self.path.removeprefix("/"))
        if self.path == "/samples.table.json":
            self.server.tables.append(json.loads(body)["data"])
        text = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass
