"""One run in several processes: joining them, naming the one that writes, and stopping all of them at one step."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.parallel.mesh import sharding

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_MESSAGE = 2048  # bytes of an error that goes to all processes
JOIN_SECONDS = 300  # how long the first process waits for the others


def join() -> None:
    """Join the other processes of this run, where the environment says that there are some.

    It says so by JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by what
    a TPU slice, Slurm or Open MPI sets by itself. Must be called before anything asks JAX for its devices. Raises
    AloeError when the variables are incomplete or a process does not answer.
    """
    if jax.distributed.is_initialized():
        return
    given = {name: os.environ[name] for name in (ADDRESS, COUNT, INDEX) if name in os.environ}
    if not given and not _several_hosts():
        return
    if given and len(given) < 3:
        missing = ", ".join(sorted({ADDRESS, COUNT, INDEX} - given.keys()))
        raise AloeError(
            f"{missing}: not set, though {', '.join(sorted(given))} is; a run in several processes needs all"
        )
    try:
        numbers = {"num_processes": int(given[COUNT]), "process_id": int(given[INDEX])} if given else {}
    except ValueError:
        raise AloeError(f"{COUNT} and {INDEX}: must be numbers, not {given[COUNT]!r}, {given[INDEX]!r}") from None
    if numbers and not 0 <= numbers["process_id"] < numbers["num_processes"]:
        raise AloeError(f"{INDEX}: {given[INDEX]} is not one of the {given[COUNT]} processes, numbered from 0")
    try:
        jax.distributed.initialize(given.get(ADDRESS), **numbers, initialization_timeout=JOIN_SECONDS)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        where = given.get(ADDRESS, "the coordinator that the cluster names")
        raise AloeError(
            f"{where}: the processes of this run did not meet within {JOIN_SECONDS} s "
            f"({' '.join(str(error).split())[:200]}); start the same command on every host"
        ) from None


def _several_hosts() -> bool:
    """Whether a cluster started this process as one of several, without asking JAX for devices."""
    variables = os.environ
    return (
        "," in variables.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in variables
        or int(variables.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        # Inside `srun`; a batch script's own shell has no step.
        or ("SLURM_STEP_ID" in variables and int(variables.get("SLURM_STEP_NUM_TASKS", "1")) > 1)
        # A TPU virtual machine knows the other hosts of its slice from its metadata, which JAX reads.
        or any(Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0"))
    )


def is_lead() -> bool:
    """Whether this process is the one that writes metrics and prints what happens."""
    return jax.process_index() == 0


@contextlib.contextmanager
def only_lead_tells() -> Iterator[None]:
    """In every process but the lead, nothing is printed; errors go to the error output everywhere."""
    with contextlib.ExitStack() as stack:
        if not is_lead():
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
        sys.stdout.flush()


def from_lead[T](value: T) -> T:
    """The lead's arrays in every process; shapes and types must agree already."""
    return value if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(value)


def lead_checks(check: Callable[[], None]) -> None:
    """Run `check` in the lead alone; the AloeError that it raises there is raised in every process.

    Must be called in all of them. What only one process has to read is read once, and all end together.
    """
    if jax.process_count() == 1:
        check()
        return
    message, raised = np.zeros(_MESSAGE, np.uint8), None
    if is_lead():
        try:
            check()
        except AloeError as error:
            raised = error
            text = str(error).encode()[:_MESSAGE]
            message[: len(text)] = np.frombuffer(text, np.uint8)
    message_of_lead = bytes(np.asarray(from_lead(message))).rstrip(b"\0").decode(errors="replace")
    if message_of_lead:
        raise raised or AloeError(message_of_lead)


def preempted(step: int) -> bool:
    """Whether some process has to end (SIGTERM) and all have now reached the step to end after.

    Must be called once a step in every process; in a single process it is always False.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def local_rows(mesh: Mesh, rows: int) -> slice:
    """The rows of a global batch that this process feeds: those that its devices hold, with any between them."""
    where = sharding(mesh, ("batch",), (rows,)).addressable_devices_indices_map((rows,))
    parts = [index[0].indices(rows) for index in where.values() if index is not None]
    return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))


def place(batch: dict[str, np.ndarray], mesh: Mesh, rows: int | None = None) -> dict[str, jax.Array]:
    """A batch on the devices, split by rows.

    With `rows` the arrays hold only `local_rows` of a global batch of so many rows; without, they hold all of it.
    """
    first = 0 if rows is None else local_rows(mesh, rows).start

    def put(values: np.ndarray) -> jax.Array:
        shape = (rows or len(values), *values.shape[1:])
        where = sharding(mesh, ("batch", *(None,) * (values.ndim - 1)), shape)
        if jax.process_count() == 1:
            return jax.device_put(values, where)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(shape[0])
            return values[start - first : stop - first]

        return jax.make_array_from_callback(shape, where, part)

    return {name: put(values) for name, values in batch.items()}
