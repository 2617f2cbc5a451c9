"""A stand-in for gcloud: queued resources, their machines and a bucket.

The command `gcloud` that the scripts of tpu/ find is a few lines of shell that ask this server, because a Python of its
own for each of hundreds of calls would be most of the tests' time.
"""

from __future__ import annotations

import re
import socketserver
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

CLIENT = """#!/usr/bin/env bash
exec 3<>/dev/tcp/127.0.0.1/PORT
printf '%s\\0' "$#" "$@" >&3
IFS= read -r status <&3
while IFS= read -r line <&3; do
  if [[ $line == E* ]]; then printf '%s\\n' "${line:1}" >&2; else printf '%s\\n' "${line:1}"; fi
done
exit "$status"
"""


REFUSALS = {
    "fail": "injected",
    "done but fail": "the connection was reset",
    "forbidden": "PERMISSION_DENIED: Permission 'tpu.queuedResources.get' denied on 'projects/my-project'",
    "no project": "NOT_FOUND: Project 'my-project' was not found or has been deleted",
    "absent in other words": "Resource was not found",
}


@dataclass
class Fault:
    """What goes wrong with the next `times` calls that hold `match`, after the first `skip` of them.

    One of REFUSALS: status 1 and these words. hang: no answer. late: no answer, but it is
    done a little later all the same. slow: an answer that takes its time. lose: the slice is taken away just before.
    """

    match: str
    do: str
    times: int = 1
    skip: int = 0


@dataclass
class Slice:
    """A queued resource, two machines a slice."""

    accelerator: str
    hosts: int
    states: list[str] = field(default_factory=lambda: ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    node: str = "READY"
    labels: dict[str, str] = field(default_factory=dict)
    installed: bool = False
    processes: str = "idle"


@dataclass
class Gcloud:
    """All of Google Cloud that the scripts touch. A run takes `steps` looks at it, and saves after each.

    `happens`: after which step the slice is SUSPENDED or a machine PREEMPTED, or how the processes end.
    """

    steps: int = 3
    happens: dict[int, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    slices: dict[str, Slice] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    created: int = 0
    started: list[int] = field(default_factory=list)  # the step from which every start went on
    saved: int = 0
    job: str = ""
    hanging: threading.Event = field(default_factory=threading.Event)
    mistakes: list[str] = field(default_factory=list)  # calls that the real one would not understand

    def called(self, *words: str) -> int:
        """How many calls hold all of these."""
        return sum(all(word in call for word in words) for call in self.calls)

    def plan(self, steps: int = 3, happens: dict[int, str] | None = None, faults: list[Fault] | None = None) -> None:
        """What the next run meets."""
        self.steps, self.happens, self.faults = steps, happens or {}, faults or []

    # ---------------------------------------------------------------- answering

    def answer(self, arguments: list[str]) -> tuple[int, list[str]] | None:
        """Status and lines (O… for output, E… for errors), or None for no answer."""
        line = " ".join(arguments)
        self.calls.append(line)
        fault = next((fault for fault in self.faults if fault.match in line and fault.times > 0), None)
        if fault is not None and fault.skip > 0:
            fault.skip -= 1
        elif fault is not None:
            fault.times -= 1
            if fault.do in REFUSALS:
                if fault.do == "done but fail":
                    self._do(arguments)
                return 1, [f"EERROR: (gcloud) {REFUSALS[fault.do]}"]
            if fault.do == "lose":
                self._lose("SUSPENDED")
            if fault.do == "slow":
                self.hanging.set()
                time.sleep(0.3)
            if fault.do in ("hang", "late"):
                if fault.do == "late":
                    threading.Timer(0.1, self._do, [arguments]).start()
                self.hanging.set()
                return None
        return self._do(arguments)

    def _do(self, arguments: list[str]) -> tuple[int, list[str]]:  # noqa: PLR0911
        flags = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments if argument.startswith("-"))
        plain = [argument for argument in arguments if not argument.startswith("--")]
        match plain:
            case ["compute", "tpus", "queued-resources", verb, *names] if flags.get("project") and flags.get("zone"):
                return self._queued_resource(verb, names, flags)
            case ["compute", "tpus", "tpu-vm", "describe", node]:
                found = self.slices.get(node) or self.slices.get(re.sub(r"-\d+$", "", node))
                return (0, [f"O{found.node}"]) if found else (1, ["EERROR: NOT_FOUND"])
            case ["storage", "cp", _, target]:
                self.objects.add(target)
                return 0, []
            case ["storage", "cat", url]:
                if url.endswith("**"):
                    return 0, ["Othe whole log"]
                return (0, ["O{}"]) if url in self.objects else (1, ["EERROR: matched no objects"])
            case ["secrets", "versions", "access", "latest"]:
                return 0, ["Ofrom-secret-manager"]
        return self._mistake(arguments)

    def _mistake(self, what: object) -> tuple[int, list[str]]:
        self.mistakes.append(str(what))
        return 2, [f"EERROR: the stand-in does not know {what}"]

    def _queued_resource(self, verb: str, names: list[str], flags: dict[str, str]) -> tuple[int, list[str]]:  # noqa: PLR0911
        if verb == "list":
            return 0, [f"Oprojects/p/locations/z/queuedResources/{name}" for name in self.slices]
        name = names[-1].partition(":")[0]
        found = self.slices.get(name)
        if verb == "create":
            if found is not None:
                return 1, ["EERROR: ALREADY_EXISTS"]
            single, several = "node-id" in flags, "node-count" in flags and "node-prefix" in flags
            if single == several or not {"accelerator-type", "runtime-version"} <= flags.keys():
                return self._mistake(flags)
            labels = dict(pair.split("=") for pair in flags["labels"].split(",")) if "labels" in flags else {}
            self.slices[name] = Slice(flags["accelerator-type"], int(flags.get("node-count", "1")) * 2, labels=labels)
            self.created += 1
            return 0, []
        if found is None:
            return 1, [f"EERROR: (gcloud) NOT_FOUND: Resource '{name}' was not found"]
        if verb == "describe":
            if "acceleratorType" in flags.get("format", ""):
                owner, run = (found.labels.get(label, "") for label in ("aloe_owner", "aloe_run"))
                return 0, [f"O{found.accelerator}|{owner}|{run}"]
            return 0, [f"O{found.states.pop(0) if len(found.states) > 1 else found.states[0]}"]
        if verb == "delete":
            if not {"force", "quiet"} <= flags.keys():  # would ask, or refuse while there are machines
                return self._mistake(flags)
            del self.slices[name]
            return 0, []
        if verb not in ("ssh", "scp") or flags.get("node") != "all" or flags.get("worker") != "all":
            return self._mistake((verb, flags))
        if found.states != ["ACTIVE"] or found.node != "READY":
            return 1, ["EERROR: the machines cannot be reached"]
        return (0, []) if verb == "scp" else self._on_machines(found, flags["command"])

    # ---------------------------------------------------------------- what worker.sh would do

    def _on_machines(self, found: Slice, command: str) -> tuple[int, list[str]]:  # noqa: PLR0911
        if "worker.sh install" in command:
            url = re.search(r"storage cp (\S+) code.tar.gz", command)
            if url is None or url[1] not in self.objects:
                return self._mistake("install without code in the bucket")
            found.installed = True
            return 0, []
        if "worker.sh start" in command:
            if not found.installed:
                return self._mistake("start before install")
            if found.processes != "running":
                self.started.append(self.saved)
            found.processes, self.job = "running", command
            return 0, []
        if "worker.sh stop" in command:
            found.processes = "exited 143"
            return 0, []
        if "worker.sh tail" in command:
            return 0, ["Ohost-0 | the end of the log"]
        if "worker.sh state" in command:
            if found.processes == "running":
                self._advance(found)
            return 0, [f"Oaloe-worker host-{h} {found.processes} | step {self.saved}" for h in range(found.hosts)]
        return self._mistake(command)

    def _advance(self, found: Slice) -> None:
        self.saved += 1
        happens = self.happens.get(self.saved)
        if self.saved >= self.steps:
            found.processes = "exited 0"
            output = re.search(r"output=(\S+)", self.job)
            assert output is not None
            self.objects.add(f"{output[1]}/finished.json")
        elif happens in ("SUSPENDED", "PREEMPTED"):
            self._lose(happens)
        elif happens is not None:
            found.processes = happens

    def _lose(self, how: str) -> None:
        for found in self.slices.values():
            if how == "PREEMPTED":
                found.node = how  # the request still says ACTIVE
            else:
                found.states = [how]


class Server(socketserver.ThreadingTCPServer):
    """Answers the commands `gcloud` in a directory, until closed."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, gcloud: Gcloud, directory: Path):
        self.gcloud, self.turn = gcloud, threading.Lock()
        super().__init__(("127.0.0.1", 0), Connection)
        command = directory / "gcloud"
        command.write_text(CLIENT.replace("PORT", str(self.server_address[1])))
        command.chmod(0o755)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was interrupted is part of the tests."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Connection(socketserver.StreamRequestHandler):
    """One call."""

    server: Server

    def handle(self) -> None:
        read = b""
        while not read.count(b"\0") or read.count(b"\0") <= int(read.split(b"\0")[0]):
            more = self.request.recv(65536)
            if not more:
                return
            read += more
        with self.server.turn:
            found = self.server.gcloud.answer(read.decode().split("\0")[1:-1])
        if found is None:
            self.request.recv(1)  # until the client is gone
            return
        status, lines = found
        self.wfile.write("".join(f"{line}\n" for line in [str(status), *lines]).encode())
