"""Eight virtual CPU devices, no network and one compile cache, for this process and those it starts."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# What tests spend is compiling. Without LLVM's optimisation it takes half the time; XLA's own passes are as always.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["HF_HUB_OFFLINE"] = "1"
# Many tests compile the same tiny steps again; a session's own cache keeps the suite short and starts empty.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers find it set by the process that started them
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="aloe-jax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# A shell starts what runs in its background with Ctrl-C and Ctrl-\ ignored, and nohup ignores a closed terminal: tests
# that send these signals to a process would have it inherit that.
for ignored, default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, default)

# The compiler for TPUs, where `make test` has put it: it compiles here, nothing runs on it.
libtpu = Path(sys.prefix, "libtpu", "libtpu", "libtpu.so")
if libtpu.exists():
    os.environ.setdefault("TPU_LIBRARY_PATH", str(libtpu))

# Examples that take long on a busy machine are no mistakes.
hypothesis.settings.register_profile("without a deadline", deadline=None)
hypothesis.settings.load_profile("without a deadline")


# The files that take longest, begun first, so that the workers end together.
LONG = (
    "training/test_processes.py", "training/test_interruption.py", "datagen/test_faulty_server.py",
    "training/test_maxtext.py", "training/test_run.py", "gcs/test_run.py", "test_demo.py", "sweep/test_sweep.py",
    "training/test_lora.py",
    "models/test_kernels_tpu.py", "training/test_families.py", "models/test_families.py",
    "planning/test_compiled_plans.py", "training/test_maxtext_checkpoints.py",
)  # fmt: skip

# What `make check` runs: about a minute of computing, with something of every package.
QUICK = (
    "test_architecture.py", "test_config.py", "test_conversation.py", "test_packaging.py", "test_roles.py",
    "benchmark/test_alignment_metrics.py", "benchmark/test_judge.py", "data/test_chats.py", "data/test_packing.py",
    "data/test_template.py", "datagen/test_convert.py", "datagen/test_stats_quality.py", "llm/test_ledger.py",
    "llm/test_limits.py", "llm/test_retry.py", "llm/test_schemas.py", "models/test_decoder.py", "models/test_spec.py",
    "parallel/test_mesh.py", "planning/test_chips.py", "report/test_tables.py", "rollouts/test_batch.py",
    "sampling/test_draw.py", "storage/test_locks.py", "sweep/test_plan.py", "training/test_capped_head.py",
    "training/test_objectives.py",
    "training/test_trl_golden.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    tests = Path(__file__).parent
    order = {tests / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))
    quick = {tests / name for name in QUICK}
    for item in items:
        if item.path in quick and not item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.quick)


def pytest_collection_finish():
    """Nothing that is imported by now is looked at by the collector again: a million objects, many times a minute."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests that open the pages we write; skipped without one, unless ALOE_BROWSER_REQUIRED is 1.

    Of a module, not of the session: while playwright runs, nothing else in the process can start an event loop.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        why = "no Chromium was found; `make browser` installs one, or CHROMIUM names it"
        if os.environ.get("ALOE_BROWSER_REQUIRED") == "1":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=options)
        yield started
        started.close()
