"""The chat command as a person has it: in a terminal, with a tiny model."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from aloe_jax.data.chats import read_chat
from aloe_jax.errors import AloeError
from aloe_jax.sampling.loading import load_sampler, shared_by
from aloe_jax.sampling.settings import SamplingSettings
from aloe_jax.sampling.talk import Talk
from tests.sampling.tiny import saved_model

# In a terminal of its own, so that Ctrl-C typed there is a signal; with a pause before every few tokens, so that
# there is time to type it.
START = """
import fcntl, runpy, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if pause := float(sys.argv.pop(1)):
    from aloe_jax.sampling import programs
    decode = programs.decode
    def slowly(*args, **options):
        time.sleep(pause)
        return decode(*args, **options)
    programs.decode = slowly
runpy.run_module("aloe_jax.chat", run_name="__main__", alter_sys=True)
"""
PERSONA = {"id": "ada/quiet", "profile": "Ada keeps bees. She plays the cello.", "personality": "She is quiet."}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("chat"))


class Terminal:
    """A chat behind a pseudo-terminal."""

    def __init__(self, *arguments: str, pause: float = 0.0):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(pause), *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "dumb"}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def until(self, pattern: str, seconds: float = 120) -> str:
        """What comes until the pattern has."""
        text, end = "", time.monotonic() + seconds
        while not re.search(pattern, text):
            left = end - time.monotonic()
            if left < 0 or not select.select([self.ours], [], [], left)[0]:
                self.process.kill()
                pytest.fail(f"no {pattern!r} in {text!r}")
            try:
                text += os.read(self.ours, 4096).decode(errors="replace").replace("\r", "")
            except OSError:  # it has ended
                return text
        return text

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def say(self, line: str, pattern: str = r"\nyou> $") -> str:
        """Type a line; what comes until the next prompt, the line itself left out."""
        self.type(line + "\n")
        return self.until(pattern).split("\n", 1)[1].removesuffix("you> ")


def test_a_conversation_in_a_terminal(directory, tmp_path):
    people, saved = tmp_path / "people.jsonl", tmp_path / "saved.jsonl"
    people.write_text(json.dumps(PERSONA | {"id": "bo/loud"}) + "\n" + json.dumps(PERSONA) + "\n")
    chat = Terminal(
        "--checkpoint", str(directory), "--max-new-tokens", "12", "--temperature", "1.5", "--system", "be kind",
        "--persona", f"{people}:ada/quiet",
    )  # fmt: skip
    chat.until(r"you> $")
    first = chat.say("Ada here, my bees are well")
    assert first.startswith("model> ") and len(first) > len("model> \n")
    assert "(taken back)" in chat.say("/undo")
    assert "nothing to take back" in chat.say("/undo")
    assert chat.say("Ada here, my bees are well") == first  # the same seed and the same tokens
    told = chat.say("/persona")
    assert "[x] Ada keeps bees." in told and "[ ] She plays the cello." in told and "She is quiet." in told
    assert "words that your messages share" in told
    chat.say("and you?")
    assert f"({saved}: 2 exchanges)" in chat.say(f"/save {saved}")
    (record,) = map(json.loads, saved.read_text().splitlines())
    assert [message["role"] for message in record["messages"]] == ["system", *["user", "assistant"] * 2]
    assert len(read_chat(record, "saved").exchanges) == 2
    assert "no such command" in chat.say("/sing")
    assert "/undo" in chat.say("/help")
    assert "(a new conversation)" in chat.say("/reset")
    assert "nothing has been said" in chat.say(f"/save {saved}")
    chat.type("half a line")
    chat.until("half a line$")
    time.sleep(0.2)  # Python does not see a Ctrl-C that comes while readline is about to wait, until the next key
    chat.type("\x03")
    assert "leaves" in chat.until(r"\nyou> $")
    chat.type("\x04")  # Ctrl-D
    chat.until("never", seconds=20)
    assert chat.process.wait(20) == 0


def test_nothing_that_goes_wrong_loses_the_conversation(directory, tmp_path):
    """Bytes that are no text, places that cannot be written, commands that are none, Ctrl-C anywhere."""
    chat = Terminal("--checkpoint", str(directory), "--max-new-tokens", "8", "--temperature", "1")
    chat.until(r"you> $")
    chat.say("hello")
    os.write(chat.ours, b"caf\xe9 \xff\n")
    assert "bytes that are not text in utf-8; it was not sent" in chat.until(r"\nyou> $")
    (tmp_path / "file").write_text("x")
    for place, why in {
        tmp_path: "Is a directory",
        "/dev/full/x": "/dev/full: is a file, not a directory",
        "/proc/x": "No such file",
        tmp_path / "file" / "x.json": "",
        tmp_path / ("n" * 300): "File name too long",
        "~nobody-of-that-name/x": "",
    }.items():
        told = chat.say(f"/save {place}")
        assert "not saved" in told and why in told, told
    (earlier := tmp_path / "earlier.jsonl").write_bytes(b'{"messages": [{"role": "user", "content": "caf\xe9"}')
    assert "(a new" not in chat.say(f"/save {earlier}")
    assert earlier.read_bytes().startswith(b'{"messages": [{"role": "user", "content": "caf\xe9"}\n{"messages"')
    chat.type("\x03")
    chat.until(r"you> $")
    saved = tmp_path / "saved.json"
    assert "1 exchange)" in chat.say(f"/save {saved}")
    assert json.loads(saved.read_text())["messages"][0]["content"] == "hello"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["earlier.jsonl", "file", "saved.json"]
    chat.type("/quit\n")
    chat.until("never", seconds=20)
    assert chat.process.wait(20) == 0


@pytest.mark.parametrize(
    ("around", "status"),
    [
        ('printf "hi\\n\\377\\n/save {saved}\\n" | {chat} >/dev/null', 0),  # no text among the input
        ('printf "hi\\n" | {chat} | head -c 1', 1),  # a reader that leaves
        ('printf "hi\\n" | {chat} >/dev/full', 1),
        ("{chat} <&- >/dev/null", 0),
        ('printf "hi\\n/save {saved}\\n" | {chat} >&-', 0),
    ],
)
def test_streams_that_are_closed_full_or_no_text(directory, tmp_path, around, status):
    chat = f"{sys.executable} -m aloe_jax.chat --checkpoint {directory} --max-new-tokens 4"
    saved = tmp_path / "saved.json"
    done = subprocess.run(
        ["bash", "-c", "set -o pipefail; " + around.format(chat=chat, saved=saved)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("loading", "/help lists"))]
    assert done.returncode == status and "Traceback" not in done.stderr
    assert lines == [] or (len(lines) == 1 and "No space left" in lines[0]), lines
    assert saved.exists() == ("/save" in around)


def test_ctrl_c_stops_a_reply_and_a_full_context_is_told(directory):
    chat = Terminal("--checkpoint", str(directory), "--temperature", "3", pause=0.1)
    chat.until(r"you> $")
    chat.type("hello there\n")
    chat.until(r"model> \S")
    chat.type("\x03")
    assert "(stopped; what was said so far stays" in chat.until(r"\nyou> $")
    for _ in range(20):
        text = chat.say("tell me more of it")
        if "/undo" in text:
            break
    assert re.search(r"all 192 tokens|would have \d+ tokens and the model takes 192", text), text
    chat.say("/undo")
    chat.type("/quit\n")
    chat.until("never", seconds=20)
    assert chat.process.wait(20) == 0


def settings(**values):
    return SamplingSettings.model_validate({"max_new_tokens": 20, "temperature": 2.0, "rows": 1} | values)


def test_a_talk_broken_off_or_taken_back_goes_on_as_if_told_so(directory):
    """What the model is fed is what the messages say, whatever happened before."""
    sampler, template = load_sampler(directory, 192, 1)
    talk, other = Talk(sampler, template, settings()), Talk(sampler, template, settings())
    pieces = talk.say("hello")
    told = next(pieces) + next(pieces)
    pieces.close()
    assert talk.exchanges == 1 and talk.ended is None
    assert talk.messages[-1]["content"].startswith(told.strip())
    list(talk.say("more"))
    talk.undo()
    second = list(talk.say("else"))
    other.messages, other._tokens = talk.messages[:2], talk._tokens[:1]
    assert list(other.say("else")) == second
    assert "".join(second) == talk.messages[-1]["content"]


def test_devices_that_share_the_model_say_the_same(directory):
    greedy = settings(temperature=0.0)
    told = []
    for mesh in (shared_by(1), shared_by(2)):
        sampler, template = load_sampler(directory, 192, 1, mesh=mesh)
        told.append("".join(Talk(sampler, template, greedy).say("hello")))
    assert mesh is not None and dict(mesh.shape)["tensor"] == 2
    assert told[0] == told[1] != ""
    assert shared_by(0).devices.size == 8


def test_there_is_no_silent_wrap(directory):
    sampler, template = load_sampler(directory, 4096, 1)
    talk = Talk(sampler, template, settings(max_new_tokens=60))
    with pytest.raises(AloeError, match=r"would have .* tokens and the model takes 192"):
        for exchanges in range(1, 20):
            list(talk.say("tell me"))
            assert talk.length <= 192 and talk.exchanges == exchanges
    assert talk.exchanges == exchanges - 1 > 0
    assert len(talk.messages) == 2 * talk.exchanges  # what had no room is forgotten


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "-1"), "Error: temperature=-1.0: temperature: "),
        (("--persona", "nowhere.jsonl:x"), "Error: nowhere.jsonl"),
        (("--checkpoint", "nowhere"), "Error: nowhere"),
        (("--devices", "9"), "Error: --devices 9: 8 are here"),
    ],
)
def test_mistakes_are_one_line(directory, arguments, message):
    given = ("--checkpoint", str(directory)) if "--checkpoint" not in arguments else ()
    done = subprocess.run(
        [sys.executable, "-m", "aloe_jax.chat", *given, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("loading")]
    assert len(lines) == 1 and lines[0].startswith(message)


def test_help_is_quick_and_light():
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "aloe_jax.chat", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "python -m aloe_jax.chat --checkpoint" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"jax", "flax", "transformers", "numpy"}
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2
