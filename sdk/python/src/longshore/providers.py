"""Arguments for LLM clients: where this task's calls go, and with which key."""

from __future__ import annotations

import os
from typing import Dict, Optional

from .context import scope


def openai_kwargs() -> Dict[str, str]:
    """Returns `base_url` and `api_key` for `openai.AsyncOpenAI(**openai_kwargs())`; what is not known is left out."""
    return _kwargs("OPENAI")


def anthropic_kwargs() -> Dict[str, str]:
    """Returns `base_url` and `api_key` for `anthropic.AsyncAnthropic(**anthropic_kwargs())`, as `openai_kwargs`."""
    return _kwargs("ANTHROPIC")


def _kwargs(provider: str) -> Dict[str, str]:
    url = _value(f"{provider}_BASE_URL")
    key = _key(provider, url)
    return {name: value for name, value in (("base_url", url), ("api_key", key)) if value}


def _key(provider: str, url: Optional[str]) -> Optional[str]:
    task = scope().task
    key = task.env.get(f"{provider}_API_KEY")
    if key:
        return key
    # The task's token is for longshore alone: never send it to an address that longshore did not give.
    if task.token and url and _is_longshore(provider, url):
        return task.token
    return os.environ.get(f"{provider}_API_KEY")


def _is_longshore(provider: str, url: str) -> bool:
    relay = os.environ.get("LONGSHORE_URL", "").rstrip("/")
    given = scope().task.env.get(f"{provider}_BASE_URL")
    return url == given or (relay != "" and url.startswith(relay + "/"))


def _value(name: str) -> Optional[str]:
    return scope().task.env.get(name) or os.environ.get(name)
