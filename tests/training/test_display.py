"""What a person sees: plain lines, the log file, and the live display on terminals of several widths."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from aloe_jax.training.display import COMPILING, Display, Pace, by_turn, duration, folded
from aloe_jax.training.stages.dpo import DPO
from aloe_jax.training.stages.sft import SFT
from aloe_jax.training.stages.stage import Watched

WATCHED = Watched({**SFT.shown.formats, **DPO.shown.formats}, DPO.shown.by_turn)

VALUES = {
    "loss": 0.6123, "perplexity": 12.34, "margin": 0.231, "accuracy": 0.812, "learning_rate": 9e-6, "grad_norm": 1.234,
    "tokens_per_second": 12345.0, "pairs_per_second": 23.4, "mfu": 0.412,
}  # fmt: skip
TURNED = {f"accuracy/turn_{turn:02}": 0.5 + turn / 50 for turn in range(1, 11)} | {
    f"margin/turn_{turn:02}": turn / 10 - 0.2 for turn in range(1, 11)
}


def terminal(width, **options):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=30, **options)


def run(display):
    with display:
        display.note("resuming after step 10")
        with display.stage("reference log-probs, train") as progress:
            for number in range(1, 31):
                progress(number, 30)
        with display.stage(COMPILING):
            pass
        display.step(15, VALUES)
        display.step(20, VALUES)
        with display.stage("validating") as progress:
            pass
        display.validation(20, VALUES | TURNED)


def test_plain_lines_and_the_same_in_the_log(tmp_path, capsys):
    run(Display(tmp_path, 20, 10, shown=WATCHED))
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "resuming after step 10"
    assert [line for line in told if line.startswith("reference")] == [
        f"reference log-probs, train: {done}/30 batches" for done in range(3, 31, 3)
    ]
    assert "compiled, and the first step done, in 0:00" in told
    values = "loss 0.6123 | ppl 12.34 | margin +0.231 | accuracy 0.812 | lr 9.00e-06 | |g| 1.23 | "
    values += "12,345 tok/s | 23.4 pairs/s | mfu 41.2%"
    assert f"step 15/20 | {values} | 0:00 left" in told and f"step 20/20 | {values}" in told
    place = next(i for i, line in enumerate(told) if line.startswith("validation at step 20 | loss 0.6123"))
    assert "turn_" not in "".join(told)
    assert told[place + 1 :] == [
        "  by turn       1     2     3     4     5     6     7     8     9    10",
        "  accuracy   0.52  0.54  0.56  0.58  0.60  0.62  0.64  0.66  0.68  0.70",
        "  margin    -0.10 +0.00 +0.10 +0.20 +0.30 +0.40 +0.50 +0.60 +0.70 +0.80",
    ]
    logged = (tmp_path / "train.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in logged)
    assert [line[26:] for line in logged] == told


def test_a_later_start_goes_on_with_the_log_and_an_error_is_its_last_line(tmp_path):
    run(Display(tmp_path, 20, 10, shown=WATCHED))
    before = (tmp_path / "train.log").read_text()
    with pytest.raises(ValueError, match="broken"), Display(tmp_path, 20, 10, shown=WATCHED) as display:
        display.record("plan\nof two lines")
        raise ValueError("broken\nin two lines")
    after = (tmp_path / "train.log").read_text()
    assert after.startswith(before)
    assert [line[26:] for line in after[len(before) :].splitlines()] == [
        "plan", "of two lines", "ended by ValueError: broken in two lines",
    ]  # fmt: skip


def test_a_part_of_a_step_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ALOE_PROGRESS_SECONDS", "0.05")
    asked = threading.Event()

    def describe():
        asked.set()
        return "turn 2 of 3, 16 conversations, 4 calls in flight"

    with Display(tmp_path, 20, 10) as display, display.part("drawing", describe):
        assert asked.wait(30)
    line = "drawing, 0:00: turn 2 of 3, 16 conversations, 4 calls in flight"
    assert line in capsys.readouterr().out.splitlines()
    assert any(logged.endswith(line) for logged in (tmp_path / "train.log").read_text().splitlines())
    console = terminal(60)
    display = Display(tmp_path, 20, 10, console=console)
    for _ in range(2):  # the line stays when the part is over, so that nothing jumps
        with display.part("drawing", lambda: "turn 2 of 3, 16 conversations"), console.capture() as shown:
            console.print(display._picture())
        assert "drawing" in shown.get() and "turn 2 of 3, 16 conversations" in shown.get().splitlines()[1]
        with console.capture() as shown:
            console.print(display._picture())
        assert len(shown.get().splitlines()) == 2 and not re.sub(r"\x1b\[[0-9;]*m", "", shown.get().splitlines()[1])
    assert display._pace._rested == 0.0  # its time is the steps'


def test_quiet_tells_and_writes_nothing(tmp_path, capsys):
    run(Display(tmp_path, 20, 10, quiet=True, console=terminal(80), shown=WATCHED))
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def pictures(tmp_path, width):
    """What the live lines look like at every stage of a run."""
    console = terminal(width)
    display = Display(tmp_path, 1500, 0, console=console, shown=WATCHED)
    made = {}

    def look(name):
        with console.capture() as shown:
            console.print(display._picture())
        made[name] = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.get()).splitlines()

    look("starting")
    with display.stage("reference log-probs, validation") as progress:
        progress(30, 100)
        look("reference")
    with display.stage(COMPILING):
        look("compiling")
    display.step(1000, VALUES)
    display.step(1200, VALUES)
    look("training")
    with display.stage("validating") as progress:
        progress(1, 2)
        look("validating")
    display.step(1201, VALUES | {"learning_rate": 0.0, "tokens_per_second": 9.0})
    look("later")
    return made


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_live_lines_fit_the_terminal_and_stand_still(tmp_path, width):
    made = pictures(tmp_path, width)
    assert all(len(line) <= width for lines in made.values() for line in lines)
    assert [len(lines) for lines in made.values()] == [1, 1, 1, 3, 3, 3]
    if width >= 80:
        assert "30/100" in made["reference"][0]
        assert made["validating"][0].split()[1] == "validating" and "1,200/1,500" in made["validating"][0]
    if width == 80:
        labels, values = made["training"][1:]
        assert labels.split() == ["loss", "ppl", "margin", "accuracy", "lr", "|g|", "tok/s", "pairs/s", "mfu"]
        assert values.split()[::4] == ["0.6123", "9.00e-06", "41.2%"]
        bar = [line.index("━") for line in (made["training"][0], made["validating"][0], made["later"][0])]
        assert len(set(bar)) == 1
        # Shorter numbers do not pull the columns to the left.
        assert made["later"][1].index("pairs/s") == labels.index("pairs/s")


def test_a_narrow_terminal_drops_columns_from_the_right(tmp_path):
    assert pictures(tmp_path, 40)["training"][1].split() == ["loss", "ppl", "margin", "accuracy"]


def test_on_a_terminal_notes_and_validations_scroll_by_and_the_last_picture_stays(tmp_path):
    console = terminal(80)
    run(Display(tmp_path, 20, 10, console=console, shown=WATCHED))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "resuming after step 10\n" in shown and "  accuracy   0.52" in shown
    assert "step 15/20 |" not in shown  # its values are in the live lines
    last = shown.splitlines()[-3:]
    assert "done" in last[0] and "20/20" in last[0] and "left" not in last[0] and last[2].split()[0] == "0.6123"
    assert "step 15/20 |" in (tmp_path / "train.log").read_text()
    assert console.file.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is back


def test_a_file_is_no_terminal_even_with_forced_colours(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(Display(tmp_path, 20, 10, shown=WATCHED))
    assert "\x1b" not in capsys.readouterr().out


SCRIPT = """
import sys, time
from pathlib import Path
import click
from aloe_jax.training.stages.dpo import DPO
from aloe_jax.training.stages.sft import SFT
from aloe_jax.training.stages.stage import Watched
from aloe_jax.training.display import Display

WATCHED = Watched({**SFT.shown.formats, **DPO.shown.formats}, DPO.shown.by_turn)
with Display(Path(sys.argv[1]), 100, shown=WATCHED) as display:
    display.step(1, {"loss": 1.0})
    click.echo("told by other code")
    while True:
        time.sleep(0.1)
"""


def test_interrupted_on_a_real_terminal_leaves_the_cursor_and_no_mess(tmp_path):
    import termios

    main, other = pty.openpty()
    before = termios.tcgetattr(other)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdin=other, stdout=other, stderr=other, env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"},
    )  # fmt: skip
    shown, deadline = b"", time.monotonic() + 60
    while b"told by other code" not in shown and time.monotonic() < deadline:
        shown += os.read(main, 4096)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert termios.tcgetattr(other) == before
    os.close(other)
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # the other end is closed and all was read
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert b"\x1b[?25l" in shown and shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"KeyboardInterrupt" in shown[shown.rindex(b"\x1b[?25h") :]  # the traceback comes after the last picture
    assert "ended by KeyboardInterrupt" in (tmp_path / "train.log").read_text()


def test_long_readings_break_between_values():
    text = "validation at step 20 | loss 0.6123 | ppl 12.34 | margin +0.231\n  by turn       1"
    assert folded(text, 80) == text
    assert folded(text, 40).splitlines() == [
        "validation at step 20 | loss 0.6123", "  ppl 12.34 | margin +0.231", "  by turn       1",
    ]  # fmt: skip


def test_the_time_left_leaves_out_the_first_step_and_counts_validations():
    now = [0.0]
    pace = Pace(100, clock=lambda: now[0])
    pace.reach(1)  # the step that compiles: its time is not looked at
    assert pace.left() is None
    now[0] += 20
    pace.reach(11)  # 2 s a step
    assert pace.left() == pytest.approx(89 * 2)
    now[0] += 3
    assert pace.left() == pytest.approx(89 * 2 - 3)
    now[0] += 7 + 5
    pace.rest(5)  # a validation of 5 s in between
    pace.reach(16)
    assert pace.left() == pytest.approx(84 * (2 + 5 / 15))
    pace.reach(100)
    assert pace.left() == 0


def test_the_time_left_follows_the_last_readings():
    now = [0.0]
    pace = Pace(1000, clock=lambda: now[0], readings=5)
    pace.start(0)
    for step in range(1, 11):
        now[0] += 10 if step <= 5 else 1
        pace.reach(step)
    assert pace.left() == pytest.approx(990)


def test_by_turn_in_blocks_of_ten_with_gaps():
    assert by_turn({"loss": 1.0, "kl/turn_01": 2.0}, DPO.shown.by_turn) == []
    lines = by_turn({f"accuracy/turn_{turn:02}": turn / 100 for turn in range(1, 13) if turn != 2}, DPO.shown.by_turn)
    assert lines == [
        "  by turn       1     2     3     4     5     6     7     8     9    10",
        "  accuracy   0.01     -  0.03  0.04  0.05  0.06  0.07  0.08  0.09  0.10",
        "  by turn      11    12",
        "  accuracy   0.11  0.12",
    ]
    assert all(len(line) < 80 for line in lines)


def test_durations():
    told = [duration(seconds) for seconds in (0, 7.4, 59.6, 750, 11_045, 183_600)]
    assert told == ["0:00", "0:07", "1:00", "12:30", "3:04:05", "2 d 03 h"]
