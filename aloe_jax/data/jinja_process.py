"""Renders chat templates in a process of its own, under limits: what a template does to memory and time ends with it.

A chat template is a program that came with a model. Jinja's sandbox keeps it from files and from Python's
inside, not from looping for ever or from writing a text of a thousand gigabytes, and what happens inside C code cannot
be interrupted in a thread. So `confined.py` runs this file: the standard library and Jinja only, no secrets in the
environment. Requests and answers are JSON behind a length of eight bytes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypedDict

import jinja2
import jinja2.ext
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST = 1 << 20  # characters that a rendered chat may always have; beyond, TIMES as many as its messages
TIMES = 32


class RenderRequest(TypedDict):
    """What is asked. `nodes` are messages, a job is the number of its last message and whether a prompt follows."""

    template: str
    values: Mapping[str, object]  # further variables of the template
    nodes: Sequence[tuple[int, str, str]]  # number of the message before it or -1, role, content
    jobs: Sequence[tuple[int, bool]]
    seconds: float  # of computing
    memory: int  # bytes of address space, and more by the size of the request


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}`, with which some templates mark replies: rendered as its content."""

    tags = {"generation"}  # noqa: RUF012 - so named by Jinja

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The content as a block that is called with nothing."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


class Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore."""

    def __init__(*args: object, **values: object):  # so that a value may be called self
        self, *rest = args
        found = dict(*rest, **values)
        for name in found:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the name {name!r}")


def _dict(*args: Mapping[str, object], **values: object) -> dict[str, object]:
    return dict(*args, **values)  # a function, since a class has attributes that lead elsewhere


def _dump(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives a chat template, without what would give other text each time."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _dump
    made.filters.pop("random")
    made.globals.pop("lipsum")
    made.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _dict,
        "namespace": Namespace,
    }
    return made


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


def answer(request: RenderRequest) -> Mapping[str, object]:
    """`texts`, one for every job, or `error`: what went wrong, in words; `spent`, where memory was used up."""
    try:
        return {"texts": list(_rendered(request))}
    except MemoryError:
        return {"error": "it takes more memory than any chat template needs", "spent": True}
    except RecursionError:
        return {"error": "it is nested too deeply, or calls itself without end"}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except jinja2.TemplateError as error:
        return {"error": str(error.message or type(error).__name__)[:1000]}
    except Exception as error:  # whatever its expressions come to
        return {"error": f"{type(error).__name__}: {str(error)[:1000]}"}


def _rendered(request: RenderRequest) -> Iterator[str]:
    template, nodes = _compiled(request["template"]), request["nodes"]
    made = [{"role": role, "content": content} for _, role, content in nodes]
    for last, prompt in request["jobs"]:
        messages = []
        while last >= 0:
            messages.append(made[last])
            last = nodes[last][0]  # noqa: PLW2901 - on to the message before it
        messages.reverse()
        text = template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **request["values"]
        )
        if len(text) > LARGEST + TIMES * sum(len(message["content"]) for message in messages):
            raise jinja2.exceptions.TemplateError(f"it writes {len(text):,} characters for a short chat")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise jinja2.exceptions.TemplateError("it writes half a character (a lone surrogate)") from None
        yield text


def _limit(seconds: float, memory: int) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of computing, whatever else the machine does
    with contextlib.suppress(ValueError, OSError):  # systems that know no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its input when it ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(8)) == 8:
        data = source.read(int.from_bytes(head, "big"))
        request: RenderRequest = json.loads(data)
        _limit(request["seconds"], request["memory"] + 16 * len(data))
        del data
        found = answer(request)
        del request
        try:
            said = json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")
        except MemoryError:
            said = json.dumps({"error": "it writes more text than there is memory for", "spent": True}).encode()
        _limit(0, resource.RLIM_INFINITY)
        target.write(len(said).to_bytes(8, "big") + said)
        target.flush()


if __name__ == "__main__":
    main()
