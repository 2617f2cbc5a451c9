"""The type of what JSON can say."""

from __future__ import annotations

type JSON = bool | int | float | str | list[JSON] | dict[str, JSON] | None
