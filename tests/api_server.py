"""A fake of the Kubernetes API server on a free port: RayJobs, pods and the namespace of one service account."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["FakeApiServer"]

JOBS = "/apis/ray.io/v1/namespaces/lab/rayjobs"
PODS = "/api/v1/namespaces/lab/pods"
NAMESPACE = "/api/v1/namespaces/lab"


class FakeApiServer:
    """Keeps RayJobs as the real one would: a second object of a name is refused, and each has a uid.

    Set `loses_answers` to close the connection after a change was made, `refusal` to answer each change with a status
    and a message, `token` to the only one that is accepted, and `page` to the objects on a page.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        """RayJobs by name."""
        self.pods: list[dict[str, Any]] = []
        self.token = "first"
        self.page = 500
        self.loses_answers = False
        self.refusal: tuple[int, str] | None = None
        self.has_operator = True
        self.requests: list[tuple[str, str]] = []
        self._made = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, content = outer._answer(self.command, self.path, self.headers.get("Authorization"), body)
                if outer.loses_answers and self.command != "GET":
                    self.close_connection = True
                    return
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the names that the base class looks for

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeApiServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def set_status(self, name: str, **status: str) -> None:
        """The operator writes down how a RayJob does."""
        self.objects[name]["status"] = status

    def _answer(self, method: str, target: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        parsed = urlsplit(target)
        self.requests.append((method, parsed.path))
        if authorization != f"Bearer {self.token}":
            return _problem(401, "Unauthorized")
        if self.refusal is not None:
            return _problem(*self.refusal)
        if parsed.path == NAMESPACE:
            return 200, {"metadata": {"name": "lab", "uid": "uid-of-lab"}}
        if parsed.path == PODS:
            return 200, {"metadata": {}, "items": self.pods}
        if not self.has_operator or not parsed.path.startswith(JOBS):
            return 404, "404 page not found"
        name = parsed.path.removeprefix(JOBS).lstrip("/")
        if method == "POST":
            return self._make(body)
        if not name:
            return self._list(parse_qs(parsed.query))
        if name not in self.objects:
            return _problem(404, f'rayjobs.ray.io "{name}" not found')
        if method == "DELETE":
            if body["preconditions"]["uid"] != self.objects[name]["metadata"]["uid"]:
                return _problem(409, "the UID in the precondition does not match")
            return 200, self.objects.pop(name)
        return 200, self.objects[name]

    def _make(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["metadata"]["name"]
        if name in self.objects:
            return _problem(409, f'rayjobs.ray.io "{name}" already exists')
        self._made += 1
        self.objects[name] = {**body, "metadata": {**body["metadata"], "uid": f"uid-{self._made}"}}
        return 201, self.objects[name]

    def _list(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        (selector,) = query["labelSelector"]
        (start,) = query.get("continue", ["0"])
        found = [one for one in self.objects.values() if selector in one["metadata"]["labels"]]
        until = int(start) + min(self.page, int(query["limit"][0]))
        metadata = {"continue": str(until)} if until < len(found) else {}
        return 200, {"metadata": metadata, "items": found[int(start) : until]}


def _problem(status: int, message: str) -> tuple[int, Any]:
    return status, {"kind": "Status", "status": "Failure", "message": message, "code": status}
