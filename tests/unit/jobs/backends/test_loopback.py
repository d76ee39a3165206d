"""Loopback addresses are exempt from proxies, by every library that is used here."""

import os
import subprocess
import sys

import pytest

from jobs.backends.loopback import loopback_unproxied

LOOPBACK = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("given", "exempt"),
    [
        ({}, LOOPBACK),
        ({"NO_PROXY": "s3.inside,10.0.0.0/8"}, f"s3.inside,10.0.0.0/8,{LOOPBACK}"),
        ({"no_proxy": "a", "NO_PROXY": "b, a"}, f"a,b,{LOOPBACK}"),
        ({"no_proxy": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": ", ,"}, LOOPBACK),
        ({"no_proxy": "*"}, "*"),
        ({"no_proxy": "a", "NO_PROXY": "*"}, "*"),
    ],
)
def test_what_the_user_has_exempted_stays(given: dict[str, str], exempt: str) -> None:
    """B9: both names get the same value, since libraries read one or the other."""
    assert loopback_unproxied(given) == {"NO_PROXY": exempt, "no_proxy": exempt}


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_libraries_go_straight_to_the_loopback(proxy: str) -> None:
    """B9: requests (in MLflow's client), httpx and urllib, with a proxy that does not answer."""
    program = """
import http.server, threading, urllib.request
import httpx, requests
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for host in ("127.0.0.1", "localhost"):
    url = f"http://{host}:{server.server_port}/"
    print(requests.get(url, timeout=20).status_code, httpx.get(url, timeout=20).status_code)
    print(urllib.request.urlopen(url, timeout=20).status)
"""
    environment = {**os.environ, proxy: "http://127.0.0.1:9"}
    environment |= loopback_unproxied(environment)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["204"] * 6, done.stderr
