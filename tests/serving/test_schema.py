"""Whatever a request says that the schema allows or forbids, the reply is one that the schema names, and never a 500."""

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


def answerable(body: Any) -> Any:
    """A body with what a schema cannot say: a model that there is, a question at the end, budgets within the server's limits."""
    if not isinstance(body, dict) or "messages" not in body:
        return body
    limits = {name: min(body[name], most) for name, most in (("n", 2), ("max_tokens", 100), ("max_completion_tokens", 100)) if body.get(name)}
    if (body.get("reasoning") or {}).get("max_tokens"):
        limits["reasoning"] = body["reasoning"] | {"max_tokens": 50}
    return body | limits | {"model": "insight-v", "messages": [{"role": "user", "content": str(body["model"])}, {"role": "user", "content": "Which?"}]}


def test_no_request_is_answered_outside_the_schema(served: Callable[..., Any]) -> None:
    server = served()
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    paths = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        paths.add(operation.path)
        allowed, forbidden = (operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))

        @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
        @given(st.tuples(st.just(True), allowed) | st.tuples(st.just(False), allowed | forbidden))
        def asked(drawn: tuple[bool, Any]) -> None:
            changed, case = drawn
            case.body = answerable(case.body) if changed else case.body
            case.call_and_validate(checks=CHECKS)

        asked()
    assert "/v1/chat/completions" in paths and len(paths) == 5
    assert len(server.agents.bodies) > 20
