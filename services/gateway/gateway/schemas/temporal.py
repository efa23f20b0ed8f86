"""Payloads of Temporal, as JSON has them: bytes in base64."""

from typing import Any

from pydantic import ConfigDict, Field, JsonValue

from gateway.schemas.common import RequestBody

MAX_PAYLOADS = 500
_SHOWN: JsonValue = {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "e30="}


class Payloads(RequestBody):
    """Payloads as Temporal's web page sends them, and gets them back."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"payloads": [_SHOWN]}]})

    payloads: list[dict[str, Any]] = Field(max_length=MAX_PAYLOADS)
    """In the JSON form of `temporal.api.common.v1.Payload`."""
