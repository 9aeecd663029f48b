"""The errors that an agent may meet or raise."""

from __future__ import annotations

from typing import Any, Dict, Optional, Union


class BadDocument(ValueError):
    """What was sent as a task is not one."""


class NoTask(RuntimeError):
    """Something that belongs to a task was asked for where no task runs."""


class Refused(RuntimeError):
    """longshore said no. `status` is HTTP's; `code` is a stable word for programs, or nothing."""

    def __init__(self, status: int, code: Optional[str], detail: str) -> None:
        super().__init__(f"{detail} [{code or status}]")
        self.status = status
        self.code = code
        self.detail = detail


class Unreachable(ConnectionError):
    """The worker's relay gave no answer: the worker is ending, or this is no agent of longshore's."""


class Failed(Exception):
    """Raise it in a handler to end the attempt as failed.

    `code` is a stable word for programs. `retry=False` says that another attempt would fail as well. `retry_after` says
    not to try before then: seconds, or a duration such as `"90s"`; a day at most.
    """

    def __init__(
        self,
        message: str,
        code: Optional[str] = None,
        retry: Optional[bool] = None,
        retry_after: Union[int, float, str, None] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry = retry
        self.retry_after = retry_after

    def event(self) -> Dict[str, Any]:
        """The `error` event; keys that say nothing are left out."""
        event: Dict[str, Any] = {"longshore": "error", "message": self.message}
        if self.code is not None:
            event["code"] = self.code
        if self.retry is not None:
            event["retry"] = self.retry
        if self.retry_after is not None:
            event["retry_after"] = self.retry_after
        return event
