"""Numbers for TensorBoard, written by the run itself.

The writers that come with TensorBoard's libraries write from a thread of their own: on a full disk that thread dies,
and the run waits for it for ever. Here the run gets the error.
"""

from __future__ import annotations

import time
from pathlib import Path

FLUSH = 10.0  # seconds after which what was added is written


class Charts:
    """An event file in `directory`, where earlier starts have theirs; TensorBoard drops their steps from `first` on.

    Raises OSError where the disk is full.
    """

    def __init__(self, directory: Path, first: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        # It hides what an earlier start wrote of these steps; the first version of a step alone is no reason to.
        self._writer.write_event(Event(wall_time=time.time(), step=first, file_version="brain.Event:2"))
        started = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=first, session_log=started))
        self._writer.flush()
        self._flushed = time.monotonic()

    def add(self, name: str, value: float, step: int) -> None:
        """One point of a chart."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed > FLUSH:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write the rest."""
        self._writer.close()
