"""Stored specs: their version, how they are migrated, and how one that can't be read is told from a newer one."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from jobs.directory import stored_specs
from jobs.directory.layout import JobFolder
from jobs.directory.stored_specs import MIGRATIONS, SPEC_VERSION, parse_spec, spec_from_json, spec_to_json
from jobs.errors import FolderError, SpecUnreadable
from jobs.specs import TrainSpec, TuneSpec, job_spec


def test_every_version_up_to_this_one_is_migrated() -> None:
    """C1."""
    assert sorted(MIGRATIONS) == list(range(1, SPEC_VERSION))


def test_a_spec_without_a_version_is_of_the_first() -> None:
    assert parse_spec({"name": "a", "seed": 3}, None) == job_spec.validate_python({"name": "a", "seed": 3})


def test_an_older_spec_goes_through_each_migration_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(fields: dict[str, Any]) -> dict[str, Any]:
        return {"name": fields["title"], "seed": 1}

    def next_seed(fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"seed": fields["seed"] + 1}

    monkeypatch.setattr(stored_specs, "SPEC_VERSION", 3)
    monkeypatch.setattr(stored_specs, "MIGRATIONS", MappingProxyType({1: renamed, 2: next_seed}))
    stored_specs._parse.cache_clear()
    for version, stored, seed in ((None, {"title": "a"}, 2), (1, {"title": "a"}, 2), (2, {"name": "a", "seed": 5}, 6)):
        spec = parse_spec(stored, version)
        assert isinstance(spec, TrainSpec)
        assert (spec.name, spec.seed) == ("a", seed)
    with pytest.raises(SpecUnreadable, match="migrated"):
        parse_spec({"name": "a"}, 1)
    stored_specs._parse.cache_clear()


def test_an_older_search_still_draws_at_random() -> None:
    search = {"kind": "tune", "name": "a", "base": {"name": "b"}, "space": {"bottleneck": [8], "alpha_region": None}}
    for version in (None, 1, 2):
        spec = parse_spec(search, version)
        assert isinstance(spec, TuneSpec)
        assert (spec.sampler, spec.stops_by, spec.trials) == ("random", "asha", 8)
    today = parse_spec(search, SPEC_VERSION)
    assert isinstance(today, TuneSpec)
    assert today.sampler == "tpe"


@pytest.mark.parametrize(
    "stored", [None, [], "x", 3, {}, {"name": "a", "of_tomorrow": 1}, {"name": "a", "kind": "dream"}]
)
def test_what_is_no_spec_is_refused_without_a_quote(stored: object) -> None:
    with pytest.raises(SpecUnreadable) as caught:
        parse_spec(stored, None)
    assert not caught.value.is_newer


def test_a_newer_spec_is_told_from_a_damaged_one() -> None:
    with pytest.raises(SpecUnreadable, match="newer release") as caught:
        parse_spec({"name": "a"}, SPEC_VERSION + 1)
    assert caught.value.is_newer
    assert f"this one, seqae 0.1.0, reads {SPEC_VERSION}): install that release" in str(caught.value)


def test_the_file_has_the_version(tmp_path: Path) -> None:
    spec = job_spec.validate_python({"name": "a"})
    assert json.loads(spec_to_json(spec))["spec_version"] == SPEC_VERSION
    assert spec_from_json(spec_to_json(spec).encode()) == spec
    folder = JobFolder(tmp_path)
    for content in ('{"spec_version": 99, "name": "a"}', '{"spec_version": "2", "name": "a"}', "[" * 5000, "{", "\xff"):
        (tmp_path / "spec.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(FolderError, match=r"spec\.json"):
            folder.read_spec()
