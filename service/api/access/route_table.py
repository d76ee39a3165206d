"""Table of the app's routes with what each needs, made from the routes themselves."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount, Route
from starlette.types import Scope as AsgiScope

from service.api.access.principal import Requires
from service.scopes import Scope

__all__ = ["DeclaredRoute", "RouteTable"]

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class DeclaredRoute:
    """One route, and what it needs."""

    path: str
    methods: frozenset[str]
    """Empty: all."""
    scope: Scope | None
    """None: it is public."""
    pattern: re.Pattern[str]

    def takes(self, method: str) -> bool:
        """Whether it answers to a method; HEAD is answered as GET."""
        return not self.methods or ("GET" if method == "HEAD" else method) in self.methods


class RouteTable:
    """Routes of an app in their order, each with what it needs.

    Args:
        built_in: what the framework's own routes need, by path; they can't declare it.
    """

    def __init__(self, built_in: Mapping[str, Scope | None]) -> None:
        self._built_in = built_in
        self.routes: tuple[DeclaredRoute, ...] = ()

    def load(self, app: FastAPI) -> None:
        """Reads the routes of an app that has all of them.

        Raises:
            TypeError: one of them does not declare what it needs, so that nobody knows who may ask for it.
        """
        found = []
        for context in iter_route_contexts(app.routes):
            route = context.original_route
            if not isinstance(route, Route | Mount):
                raise TypeError(f"a route of an unknown kind: {route!r}")
            methods = frozenset(route.methods or ()) if isinstance(route, Route) else frozenset()
            found.append(DeclaredRoute(route.path, methods, self._declared(route), route.path_regex))
        self.routes = tuple(found)

    def _declared(self, route: Route | Mount) -> Scope | None:
        if isinstance(route, APIRoute):
            calls = [dependency.call for dependency in route.dependant.dependencies]
            declared = [call.scope for call in calls if isinstance(call, Requires)]
            if len(declared) == 1:
                return declared[0]
        if route.path in self._built_in:
            return self._built_in[route.path]
        raise TypeError(f"the route {route.path} must declare what it needs, once: see service.api.access.principal")

    def find(self, scope: AsgiScope) -> tuple[DeclaredRoute | None, Mapping[str, str]]:
        """The route that answers a request, and the parameters of its path; None where there is none."""
        for route in self.routes:
            matched = route.pattern.match(scope["path"])
            if matched is not None and route.takes(scope["method"]):
                return route, matched.groupdict()
        return None, {}

    def write(self, scope: AsgiScope) -> DeclaredRoute | None:
        """The route of a request that would change something; None for any other request."""
        if scope["method"] in _SAFE_METHODS:
            return None
        route, _ = self.find(scope)
        return None if route is None or route.scope is Scope.READ else route
