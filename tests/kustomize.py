"""Kustomizations of this repository rendered as `kustomize` does, as far as they use it: resources, labels, patches."""

import copy
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Manifest", "render"]

Manifest = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "resources", "patches", "labels"}


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization. Raises: AssertionError where it uses what is not known here."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization.keys() <= _KNOWN, kustomization.keys() - _KNOWN
    found: list[Manifest] = []
    for name in kustomization["resources"]:
        path = folder / name
        found += render(path) if path.is_dir() else [*yaml.safe_load_all(path.read_text())]
    for patch in kustomization.get("patches", ()):
        _apply(found, yaml.safe_load((folder / patch["path"]).read_text()), patch.get("target"))
    for labels in kustomization.get("labels", ()):
        assert labels["includeSelectors"] is False
        for manifest in found:
            manifest["metadata"].setdefault("labels", {}).update(labels["pairs"])
    return found


def _apply(manifests: list[Manifest], patch: Any, target: Manifest | None) -> None:
    if target is None:
        (same,) = [one for one in manifests if _identity(one) == _identity(patch)]
        same.update(_merged(same, patch))
        return
    kinds = (target["kind"], target["name"], f"{target['group']}/{target['version']}")
    (same,) = [one for one in manifests if (one["kind"], one["metadata"]["name"], one["apiVersion"]) == kinds]
    for step in patch:
        assert step["op"] == "add"
        assert step["path"].endswith("/-")
        place: Any = same
        for part in step["path"].split("/")[1:-1]:
            place = place[part]
        assert isinstance(place, list)
        place.append(copy.deepcopy(step["value"]))


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def _merged(old: Any, new: Any) -> Any:
    """Strategic merge: maps by key, lists of named maps by name, all else is replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old[key], value) if key in old else value for key, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list) and _are_named(old) and _are_named(new):
        by_name = {one["name"]: one for one in old}
        for one in new:
            before = by_name.get(one["name"], {})
            # A variable has a value or a source; the new one takes the old one's place.
            both = {"value", "valueFrom"} <= before.keys() | one.keys()
            by_name[one["name"]] = one if both else _merged(before, one)
        return list(by_name.values())
    return copy.deepcopy(new)


def _are_named(entries: list[Any]) -> bool:
    return bool(entries) and all(isinstance(one, dict) and "name" in one for one in entries)
