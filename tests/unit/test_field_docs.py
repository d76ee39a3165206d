"""Every field of every spec, wire model and setting has a docstring, which the JSON schema carries."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

import service.schemas

MODULES = (
    "seqae.config",
    "jobs.search.settings",
    "jobs.search.space",
    "jobs.specs",
    "service.settings",
    *(f"service.schemas.{found.name}" for found in pkgutil.iter_modules(service.schemas.__path__)),
)


def models() -> Iterator[type[BaseModel]]:
    for name in MODULES:
        module = importlib.import_module(name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == name:
                yield value


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__name__)
def test_f9_every_field_has_a_docstring(model: type[BaseModel]) -> None:
    """F9: not one field of /docs had a description."""
    bare = [name for name, field in model.model_fields.items() if not field.description]
    assert bare == []
    for name, field in model.model_fields.items():
        text = field.description or ""
        assert len(text.split()) >= 2, f"{name}: {text}"
        assert text.endswith("."), f"{name}: {text}"
        assert not text.lower().startswith(("the same", "likewise", "as above")), f"{name}: a text stands alone"


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__name__)
def test_every_model_has_a_docstring_of_its_own(model: type[BaseModel]) -> None:
    assert model.__doc__
    assert all(model.__doc__ != base.__doc__ for base in model.__bases__)
