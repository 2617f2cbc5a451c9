"""The way to deletion: nothing on it is ended by its output, by signals, or by a gcloud that fails or hangs."""

import contextlib
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tpu.cloud import Cloud
from tests.tpu.gcloud import Fault

FOREVER = 10**9  # steps of a run that does not end by itself
REQUEST, DELETE, LOOK = "queued-resources create", "queued-resources delete", "queued-resources describe"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    found = Cloud(tmp_path / "cloud")
    found.stub("tar", "exit 0")
    found.gcloud.plan(steps=FOREVER)
    yield found
    found.server.shutdown()
    assert found.gcloud.mistakes == []


def until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def shell(cloud: Cloud, rest: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """tpu/run.sh in a shell line, in a process group of its own, as a terminal starts it."""
    line = " ".join(map(shlex.quote, cloud.command("run", *arguments)))
    return subprocess.Popen(
        ["bash", "-c", f"{line} {rest}"],
        env=cloud.environment | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def training(cloud: Cloud) -> None:
    until(lambda: cloud.gcloud.saved >= 3)


def gone(cloud: Cloud) -> None:
    """The slice was there, and is not any more, at the latest soon."""
    until(lambda: not cloud.gcloud.slices, 30)
    assert cloud.gcloud.created == 1


# ---------------------------------------------------------------- where the output goes

OUTPUTS = {
    "a reader that dies of the same Ctrl-C": "2>&1 | tee {log}",
    "a reader that is not waited for": "> >(cat >{log}) 2>&1",
    "a reader that leaves after a line": "2>&1 | head -n 1",
    "a full disk": ">/dev/full 2>&1",
    "nowhere, stderr closed": ">{log} 2>&-",
    "nowhere, all closed": "<&- >&- 2>&-",
}


@pytest.mark.parametrize("where", OUTPUTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_ctrl_c_deletes_wherever_the_output_goes(cloud: Cloud, where: str, number: signal.Signals) -> None:
    process = shell(cloud, OUTPUTS[where].format(log=cloud.home / "log"))
    training(cloud)
    os.killpg(process.pid, number)
    process.wait(60)
    gone(cloud)


@pytest.mark.parametrize("where", ["a reader that leaves after a line", "a full disk", "nowhere, all closed"])
def test_a_run_whose_output_nobody_reads_goes_on_to_its_end(cloud: Cloud, where: str) -> None:
    cloud.gcloud.plan(steps=4)
    shell(cloud, OUTPUTS[where].format(log=cloud.home / "log")).wait(60)
    until(lambda: "gs://my-bucket/runs/aloe-test/finished.json" in cloud.gcloud.objects)
    gone(cloud)


IN_A_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp('bash', sys.argv[1:])"


@pytest.mark.parametrize("reading", [True, False])
def test_a_closed_terminal_deletes(cloud: Cloud, reading: bool) -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, *cloud.command("run")],
        env=cloud.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    end = time.monotonic() + 60
    while cloud.gcloud.saved < 3:
        assert time.monotonic() < end
        if reading and select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    os.close(terminal)  # the kernel sends SIGHUP; what is printed from here on fails with EIO
    assert process.wait(60) == 128 + signal.SIGHUP
    gone(cloud)


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM],
    ids=lambda number: number.name,
)
def test_every_signal_that_ends_a_process_deletes_first(cloud: Cloud, number: signal.Signals) -> None:
    process = shell(cloud, "")
    training(cloud)
    os.killpg(process.pid, number)
    assert process.wait(60) == 128 + number
    gone(cloud)


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_no_second_signal_interrupts_the_deletion(cloud: Cloud, again: signal.Signals) -> None:
    cloud.gcloud.plan(steps=FOREVER, faults=[Fault(DELETE, "slow", 3)])
    process = shell(cloud, "")
    training(cloud)
    end = time.monotonic() + 3
    while process.poll() is None and time.monotonic() < end:  # from before it knows of the first
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, again)
        time.sleep(0.01)
    process.wait(60)
    gone(cloud)


@pytest.mark.soak
def test_no_ctrl_c_is_missed(tmp_path: Path) -> None:
    """Bash misses one in fifty that comes just as a command ends; polling without a pause makes that likely."""
    for number in range(150):
        cloud = Cloud(tmp_path / str(number))
        cloud.stub("tar", "exit 0")
        cloud.gcloud.plan(steps=FOREVER)
        process = shell(cloud, "2>&1 | tee /dev/null")
        training(cloud)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        gone(cloud)
        cloud.server.shutdown()


def test_a_signal_to_the_script_alone_deletes(cloud: Cloud) -> None:
    process = subprocess.Popen(cloud.command("run"), env=cloud.environment, stderr=subprocess.DEVNULL)
    training(cloud)
    process.terminate()
    assert process.wait(60) == 143
    gone(cloud)


def test_a_request_that_comes_through_late_is_found(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=FOREVER, faults=[Fault(REQUEST, "late")])
    process = shell(cloud, "2>&1 | tee /dev/null", "POLL_SECONDS=0.3")
    assert cloud.gcloud.hanging.wait(60)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    gone(cloud)


def test_a_request_that_came_through_though_gcloud_failed_is_taken_up(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=3, faults=[Fault(REQUEST, "done but fail")])
    done = cloud.run("run")
    assert done.returncode == 0, done.stderr
    gone(cloud)


# ---------------------------------------------------------------- a gcloud that fails, hangs or does not say


def interrupted(cloud: Cloud, *faults: Fault, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run that is interrupted while it trains, and then meets the faults."""
    process = subprocess.Popen(
        cloud.command("run"),
        env=cloud.environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    training(cloud)
    cloud.gcloud.faults = list(faults)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


NOTICE = "NOT-DELETED-aloe-test.txt"


def test_a_deletion_that_hangs_is_killed_and_tried_again(cloud: Cloud) -> None:
    done = interrupted(cloud, Fault(DELETE, "hang", 2), ALOE_GCLOUD_SECONDS="0.5")
    assert done.returncode == 130 and "gone" in done.stderr
    gone(cloud)
    assert cloud.gcloud.called(DELETE) == 3 and not (cloud.home / NOTICE).exists()


def test_a_deletion_that_always_hangs_ends_in_time_and_says_so(cloud: Cloud) -> None:
    start = time.monotonic()
    done = interrupted(cloud, Fault(DELETE, "hang", 99), ALOE_GCLOUD_SECONDS="0.3", ALOE_DELETE_SECONDS="2")
    assert time.monotonic() - start < 30
    assert done.returncode == 1 and "STILL THERE (ACTIVE) AND COSTING MONEY" in done.stderr
    message = (cloud.home / NOTICE).read_text()
    assert "queued-resources delete aloe-test --force" in message and "COSTING MONEY" in message


@pytest.mark.parametrize("how", ["fail", "hang", "forbidden", "no project"])
def test_what_cannot_be_confirmed_is_not_claimed_either_way(cloud: Cloud, how: str) -> None:
    unsaid = [Fault(call, how, 999) for call in (LOOK, "queued-resources list")]
    done = interrupted(cloud, *unsaid, ALOE_GCLOUD_SECONDS="0.3", ALOE_DELETE_SECONDS="2")
    assert done.returncode == 1 and ": gone" not in done.stderr and "STILL THERE" not in done.stderr
    assert "could not confirm that it is gone" in done.stderr
    assert "Check with: gcloud compute tpus queued-resources describe aloe-test --project=my-project" in done.stderr
    assert "could not confirm" in (cloud.home / NOTICE).read_text()
    gone(cloud)  # though nobody could say so
    cloud.gcloud.faults = []
    assert cloud.run("delete").returncode == 0 and not (cloud.home / NOTICE).exists()


def test_a_gcloud_that_is_gone_confirms_nothing(cloud: Cloud) -> None:
    process = subprocess.Popen(
        cloud.command("run"), env=cloud.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    training(cloud)
    cloud.stub("gcloud", "echo 'gcloud: command not found' >&2; exit 127")
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "could not confirm" in err
    assert list(cloud.gcloud.slices) == ["aloe-test"] and (cloud.home / NOTICE).exists()


def test_an_unusual_word_for_absent_is_looked_up_in_the_list(cloud: Cloud) -> None:
    cloud.gcloud.faults = [Fault(LOOK, "absent in other words", 99)]
    assert cloud.run("delete").returncode == 0
    cloud.run("create")
    cloud.gcloud.faults = [Fault(LOOK, "absent in other words", 99)]
    done = cloud.run("delete")  # the list has it
    assert done.returncode == 1 and "gone" not in done.stderr.replace("that it is gone", "")


def test_no_directory_for_temporary_files(cloud: Cloud) -> None:
    process = shell(cloud, "", TMPDIR="/nonexistent")
    assert process.wait(60) == 1
    gone(cloud)


# ---------------------------------------------------------------- whose it is

OTHER = ("OUTPUT=gs://my-bucket/runs/other", "CONFIG=configs/demo/sft.yaml")


@pytest.fixture
def elsewhere(cloud: Cloud) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script as on another machine, which remembers nothing of this one."""

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cloud.command(script, *arguments),
            env=cloud.environment | {"XDG_STATE_HOME": str(cloud.home / "elsewhere")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("given", [OTHER, OTHER[:1], OTHER[1:], ("OVERRIDE=seed=2",), ()], ids=str)
@pytest.mark.parametrize("machine", ["here", "elsewhere"])
def test_a_second_run_of_the_name_leaves_the_first_alone(
    cloud: Cloud, elsewhere: Callable[..., subprocess.CompletedProcess[str]], machine: str, given: tuple[str, ...]
) -> None:
    first = shell(cloud, "")
    training(cloud)
    second = (cloud.run if machine == "here" else elsewhere)("run", *given)
    if machine == "here":
        assert second.returncode == 1 and "another tpu/run.sh of that name is running on this machine" in second.stderr
    else:
        assert second.returncode == 4 and "was not requested from here" in second.stderr
    assert list(cloud.gcloud.slices) == ["aloe-test"] and first.poll() is None
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(60) == 130
    gone(cloud)


def test_a_kept_slice_is_not_for_another_run(cloud: Cloud) -> None:
    cloud.gcloud.faults = [Fault("worker.sh install", "hang")]
    assert cloud.interrupt("run", "--keep").returncode == 130
    done = cloud.run("run", *OTHER)
    assert done.returncode == 4 and "exists already for another run" in done.stderr
    assert list(cloud.gcloud.slices) == ["aloe-test"]


def test_two_that_ask_in_the_same_second(cloud: Cloud) -> None:
    """Both see that there is none; one request is the first, and the other run neither uses nor deletes it."""
    cloud.gcloud.plan(steps=FOREVER, faults=[Fault(REQUEST, "slow", 2)])
    both = [shell(cloud, "", *OTHER, XDG_STATE_HOME=str(cloud.home / "elsewhere")), shell(cloud, "")]
    until(lambda: any(process.poll() is not None for process in both))
    training(cloud)
    (loser,) = [process for process in both if process.poll() is not None]
    (winner,) = [process for process in both if process is not loser]
    assert loser.returncode == 4 and list(cloud.gcloud.slices) == ["aloe-test"]
    assert ("runs/other" in cloud.gcloud.job) == (winner is both[0])
    os.killpg(winner.pid, signal.SIGINT)
    assert winner.wait(60) == 130
    gone(cloud)


def test_two_on_one_machine_in_the_same_second(cloud: Cloud) -> None:
    both = [shell(cloud, "") for _ in range(2)]
    until(lambda: any(process.poll() is not None for process in both))
    (loser,) = [process for process in both if process.poll() is not None]
    assert loser.returncode == 1
    (winner,) = [process for process in both if process is not loser]
    training(cloud)
    os.killpg(winner.pid, signal.SIGINT)
    assert winner.wait(60) == 130
    gone(cloud)


def test_another_machine_adopts_when_asked(
    cloud: Cloud, elsewhere: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    first = shell(cloud, "")
    training(cloud)
    os.killpg(first.pid, signal.SIGKILL)  # the one thing that leaves a slice: nobody can catch it
    first.wait(60)
    assert elsewhere("delete").returncode == 4 and list(cloud.gcloud.slices) == ["aloe-test"]
    assert elsewhere("run", "--adopt", *OTHER).returncode == 4 and list(cloud.gcloud.slices) == ["aloe-test"]
    cloud.gcloud.plan(steps=cloud.gcloud.saved + 2)
    done = elsewhere("run", "--adopt")
    assert done.returncode == 0 and "taking it up" in done.stderr, done.stderr
    gone(cloud)


def test_the_same_machine_takes_up_what_a_killed_run_left(cloud: Cloud) -> None:
    first = shell(cloud, "")
    training(cloud)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(60)
    cloud.gcloud.plan(steps=cloud.gcloud.saved + 2)
    done = cloud.run("run")
    assert done.returncode == 0 and "taking it up" in done.stderr, done.stderr
    gone(cloud)


def test_what_is_another_s_is_deleted_only_when_asked(
    cloud: Cloud, elsewhere: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert cloud.run("create").returncode == 0
    assert elsewhere("delete").returncode == 4 and list(cloud.gcloud.slices) == ["aloe-test"]
    assert elsewhere("delete", "--others").returncode == 0 and cloud.gcloud.slices == {}


def test_without_flock_a_file_locks_the_name(cloud: Cloud) -> None:
    """As on macOS; a lock of a process that is gone does not count."""
    few = cloud.home / "few"
    few.mkdir()
    for directory in ("/usr/bin", "/bin"):
        for command in Path(directory).iterdir():
            if command.name != "flock" and not os.path.lexists(few / command.name):
                (few / command.name).symlink_to(command)
    path = {"PATH": f"{cloud.home / 'bin'}:{few}"}
    assert shutil.which("flock", path=path["PATH"]) is None
    first = shell(cloud, "", **path)
    training(cloud)
    second = shell(cloud, "", *OTHER, **path)
    assert second.wait(60) == 1 and list(cloud.gcloud.slices) == ["aloe-test"]
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(60)
    cloud.gcloud.plan(steps=cloud.gcloud.saved + 2)
    assert shell(cloud, "", **path).wait(60) == 0
    gone(cloud)


def test_a_home_that_cannot_be_written_rents_nothing(cloud: Cloud) -> None:
    blocked = cloud.home / "file"
    blocked.write_text("")
    done = subprocess.run(
        cloud.command("run"),
        env=cloud.environment | {"XDG_STATE_HOME": str(blocked)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "XDG_STATE_HOME" in done.stderr and cloud.gcloud.created == 0


def test_options_come_from_the_command_line_alone(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=3)
    environment = {"KEEP": "yes", "OTHERS": "yes", "MINE": "yes", "ADOPT": "yes", "OUTPUT": "gs://my-bucket/elsewhere"}
    process = shell(cloud, "", **environment)
    assert process.wait(60) == 0 and "gs://my-bucket/runs/aloe-test/finished.json" in cloud.gcloud.objects
    gone(cloud)
