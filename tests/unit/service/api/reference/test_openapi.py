"""The OpenAPI document: every operation, parameter and field explained, with examples that are what they say."""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from fastapi.routing import APIRoute
from PIL import Image
from pydantic import BaseModel, TypeAdapter

from jobs.specs import job_spec
from service.api.examples import SPECS
from service.api.reference.operations import OPERATIONS
from service.api.routes import access, disk, events, health, jobs, metrics, models, nodes, trials
from service.api.uploads import Upload
from service.schemas.access import NewToken, SessionRequest
from service.schemas.jobs import PriorityChange
from service.schemas.models import MoveRequest
from tests.unit.service.conftest import MakeApp

Document = dict[str, Any]


@pytest.fixture
def document(make_app: MakeApp) -> Document:
    return make_app().openapi()


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, item in document["paths"].items():
        yield from ((f"{method.upper()} {path}", operation) for method, operation in item.items())


def media(operation: Document) -> Iterator[tuple[str, Document]]:
    """Content of the request ("body") and of each answer (by status)."""
    for status, part in [("body", operation.get("requestBody", {})), *operation["responses"].items()]:
        yield from ((status, content) for content in part.get("content", {}).values())


def examples(document: Document, content: Document) -> list[Any]:
    found = []
    for example in content.get("examples", {}).values():
        reference = example.get("$ref", "")
        assert reference.startswith("#/components/examples/") or "value" in example
        found.append(document["components"]["examples"][reference.rpartition("/")[2]] if reference else example)
    return found


def test_f9_every_operation_has_a_speaking_name_and_an_id_that_stays(document: Document) -> None:
    """F9: an id is what a generated client names a method by, so it does not follow the name of a function."""
    found = {name: (operation["operationId"], operation["summary"]) for name, operation in operations(document)}
    assert found == {name: (operation.id, operation.title) for name, operation in OPERATIONS.items()}
    assert len({operation.id for operation in OPERATIONS.values()}) == len(OPERATIONS)
    assert all(len(operation.title.split()) >= 2 for operation in OPERATIONS.values())
    assert all(operation["description"] for _, operation in operations(document))


def test_f9_every_parameter_is_explained(document: Document) -> None:
    """F9: parameters of the query, the path and the headers."""
    bare = [
        (name, parameter["name"])
        for name, operation in operations(document)
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert bare == []


def test_f9_every_field_of_every_schema_is_explained(document: Document) -> None:
    """F9: the docstrings under fields are what the reference shows."""
    schemas = document["components"]["schemas"]
    bare = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, of_field in schema.get("properties", {}).items()
        if not of_field.get("description")
    ]
    assert bare == []
    assert [name for name, schema in schemas.items() if not schema.get("description")] == []
    assert "pixels" in schemas["AttentionConfig"]["properties"]["delta_max"]["description"]


def test_f9_three_examples_an_operation(document: Document) -> None:
    """F9: of requests and answers together; a body in JSON has three of its own."""
    for name, operation in operations(document):
        found = [example for _, content in media(operation) for example in examples(document, content)]
        if OPERATIONS[name].id not in ("get_liveness", "get_frame", "end_session"):
            assert len(found) >= 3, name
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        assert body is None or len(examples(document, body)) >= 3, name
        assert all(example["summary"] for example in found)


def test_every_example_that_is_made_is_shown(document: Document) -> None:
    text = json.dumps(document["paths"])
    assert [name for name in document["components"]["examples"] if f'/examples/{name}"' not in text] == []


def test_examples_of_answers_are_answers(document: Document) -> None:
    routes = {
        f"{method} {route.path_format}": route
        for routes_of in (access, disk, events, health, jobs, metrics, models, nodes, trials)
        for route in routes_of.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    checked = 0
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get("application/json")
            if content is None or status == "422":
                continue
            for example in examples(document, content):
                TypeAdapter(routes[name].response_model).validate_python(example["value"])
                checked += 1
    assert checked >= 30


def test_examples_of_requests_are_requests(document: Document) -> None:
    """Those of specs are also submitted, in the tests of their route."""
    bodies: dict[str, type[BaseModel]] = {"priority": PriorityChange, "why": MoveRequest}
    tokens = ("token_user", "token_reader", "token_admin")
    bodies |= dict.fromkeys(tokens, NewToken) | {"session_token": SessionRequest}
    for name, example in document["components"]["examples"].items():
        start = name if name in bodies else name.partition("_")[0]
        if start in bodies:
            bodies[start].model_validate(example["value"])
        elif start == "image":
            content = Upload(json.dumps(example["value"]).encode(), is_json=True).content()
            with Image.open(BytesIO(content)) as image:
                assert image.size == (1, 1)
    for spec in SPECS.values():
        job_spec.validate_python(spec["value"])


def test_examples_of_problems_have_the_status_that_they_stand_at(document: Document) -> None:
    checked = 0
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get("application/problem+json")
            if content is not None:
                found = examples(document, content)
                assert found, (name, status)
                assert {example["value"]["status"] for example in found} == {int(status)}, (name, status)
                checked += len(found)
    assert checked > 50


def test_f9_specs_are_told_apart_by_name(document: Document) -> None:
    """F9: a union names its members by kind, wherever it stands."""
    spec = document["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    kinds = {kind: reference.rpartition("/")[2] for kind, reference in spec["discriminator"]["mapping"].items()}
    assert kinds == {kind: f"{kind.title()}Spec" for kind in kinds}
    shown = [job_spec.validate_python(example["value"]).kind for example in SPECS.values()]
    assert set(kinds) == set(shown)
    data = document["components"]["schemas"]["TrainSpec"]["properties"]["data"]
    assert set(data["discriminator"]["mapping"]) == {"images", "mnist_scenes", "sprites", "tetrominoes"}
    assert not [name for name in document["components"]["schemas"] if name.endswith(("-Input", "-Output"))]
