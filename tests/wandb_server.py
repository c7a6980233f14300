"""A stand-in for W&B's server: what wandb 0.31 asks of it, and a network that can be cut.

It holds in memory the runs that clients create, with their rows, configuration and files, and one
sweep, of which it gives an agent the first point.
"""

import dataclasses
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

API_KEY = 40 * "a"
ENTITY = "somebody"
SWEEP = "sweep1"


@dataclasses.dataclass
class Run:
  """What the server was sent of a run."""

  fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # project, displayName, ...
  lines: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # of streamed files
  files: dict[str, bytes] = dataclasses.field(default_factory=dict)  # uploaded ones
  exit_code: int | None = None

  @property
  def config(self) -> dict[str, Any]:
    """Its entries by name; `_wandb` is W&B's own."""
    entries = json.loads(self.fields.get("config", "{}"))
    return {name: entry["value"] for name, entry in entries.items()}

  @property
  def rows(self) -> list[dict[str, Any]]:
    """The history in the order of W&B's steps; a row replaces the one that had its step."""
    rows = [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]
    return [row for _, row in sorted({row["_step"]: row for row in rows}.items())]

  @property
  def summary(self) -> dict[str, Any]:
    return json.loads(self.lines.get("wandb-summary.json", ["{}"])[-1])

  def count(self, kind: str) -> int:
    """Lines that came, of history or events."""
    return len(self.lines.get(f"wandb-{kind}.jsonl", []))

  def stream(self, name: str, offset: int, content: list[str]) -> None:
    """Takes lines of a file; those from `offset` on are replaced."""
    lines = self.lines.setdefault(name, [])
    assert offset <= len(lines), f"{name}: {len(lines)} lines, and the next is {offset}"
    lines[offset : offset + len(content)] = content


class Server:
  """A context manager; answers in threads of its own, from the beginning."""

  def __init__(self) -> None:
    self.runs: dict[str, Run] = {}
    self.sweep: dict[str, Any] = {}  # as it was registered
    self.asked: list[str] = []  # operations of GraphQL and paths, in order
    self.failures: list[str] = []  # of the server itself
    self._hangs = threading.Event()
    self._mended = threading.Event()
    self._lock = threading.Lock()
    self._http: ThreadingHTTPServer | None = None
    self._port = 0  # any, and then always the same
    self.answer()

  def __enter__(self) -> "Server":
    return self

  def __exit__(self, *_: object) -> None:
    self.refuse()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self._port}"

  # The network.

  def answer(self) -> None:
    """The network is whole, again."""
    self._hangs.clear()
    self._mended.set()
    if self._http is None:
      self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
      self._port = self._http.server_port
      loop = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
      loop.start()

  def refuse(self) -> None:
    """Connections are refused."""
    self._mended.set()
    if self._http is not None:
      self._http.shutdown()
      self._http.server_close()
      self._http = None

  def hang(self) -> None:
    """Connections are taken, and no request is answered."""
    self._mended.clear()
    self._hangs.set()

  # What is asked.

  def receive(self, path: str, body: bytes) -> Any:
    """The answer to a request, None if the network was lost."""
    if self._hangs.is_set():
      self._mended.wait()
      return None
    with self._lock:
      try:
        return self._respond(path, body)
      except Exception as error:
        self.failures.append(f"{path}: {error!r}")
        raise

  def _respond(self, path: str, body: bytes) -> Any:
    parts = [urllib.parse.unquote(part) for part in path.split("/")[1:]]
    if parts[0] == "graphql":
      request = json.loads(body)
      name = request.get("operationName") or request["query"].split("(")[0].split()[1]
      self.asked.append(name)
      operation = getattr(self, f"_{name}", lambda variables: {})
      return {"data": operation(request.get("variables") or {})}
    self.asked.append(path)
    if parts[-1] == "file_stream":
      self._stream(self.runs[parts[3]], json.loads(body))
    elif parts[0] == "upload":
      self.runs[parts[1]].files["/".join(parts[2:])] = body
    return {}

  def _stream(self, run: Run, sent: dict[str, Any]) -> None:
    for name, part in sent.get("files", {}).items():
      run.stream(name, part["offset"], part["content"])
    if sent.get("complete"):
      run.exit_code = sent["exitcode"]

  def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
    teams = {"edges": []}
    person = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
    return {"viewer": {**person, "teams": teams}}

  def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
    name, run = variables["name"], self.runs.get(variables["name"])
    if run is None:
      return {"model": {**_project(variables["project"]), "bucket": None}}
    begun = {k: v for k, v in run.config.get("_wandb", {}).items() if k == "t"}
    tail = lambda kind: json.dumps(run.lines.get(f"wandb-{kind}.jsonl", [])[-1:])
    bucket = {
      **{"id": name, "name": name, "displayName": run.fields.get("displayName")},
      **{f"{kind}LineCount": run.count(kind) for kind in ("history", "events")},
      **{f"{kind}Tail": tail(kind) for kind in ("history", "events")},
      **{"summaryMetrics": json.dumps(run.summary), "config": run.fields.get("config", "{}")},
      **{"logLineCount": 0, "tags": [], "notes": None},
      "wandbConfig": json.dumps(begun),  # empty for a run that a sweep has only announced
    }
    return {"model": {**_project(variables["project"]), "bucket": bucket}}

  def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
    name = variables["name"] or variables["id"]
    inserted = name not in self.runs
    run = self.runs.setdefault(name, Run())
    run.fields |= {key: value for key, value in variables.items() if value is not None}
    bucket = {
      **{"id": name, "name": name, "displayName": run.fields.get("displayName")},
      **{"description": "", "config": run.fields.get("config"), "sweepName": None},
      **{"project": _project(run.fields["project"]), "historyLineCount": run.count("history")},
    }
    return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

  def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
    run, names = variables["run"], variables["files"]
    url = lambda name: f"{self.url}/upload/{run}/{urllib.parse.quote(name)}"
    files = [{"name": name, "uploadUrl": url(name)} for name in names]
    return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

  def _UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
    self.sweep = variables
    sweep = {"name": SWEEP, "project": _project(variables["projectName"])}
    return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

  def _SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
    sweep = {"id": SWEEP, "name": SWEEP, "config": self.sweep["config"], "runs": {"edges": []}}
    return {"project": {"sweep": sweep}}

  def _CreateAgent(self, variables: dict[str, Any]) -> dict[str, Any]:
    return {"createAgent": {"agent": {"id": "agent"}}}

  def _Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
    commands = []
    if not self.runs:
      self.runs["point"] = Run({"project": self.sweep["projectName"]})
      config = yaml.safe_load(self.sweep["config"])
      first = {name: {"value": it["values"][0]} for name, it in config["parameters"].items()}
      command = {"type": "run", "run_id": "point", "program": config["program"], "args": first}
      commands = [command]
    return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}


def _project(name: str) -> dict[str, Any]:
  return {"id": name, "name": name, "entity": {"id": ENTITY, "name": ENTITY}}


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
  class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
      body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
      answer = server.receive(self.path, body)
      if answer is not None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_PUT = do_POST

    def log_message(self, *_: object) -> None: ...

  return Handler
