"""The app as a whole: what it imports, when it answers, what a browser gets."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from service.__main__ import main  # noqa: F401  the entry point must be importable without side effects
from service.api.examples import SPECS

HEAVY = ("torch", "ray", "mlflow", "matplotlib", "sklearn", "scipy", "pandas")


@pytest.mark.parametrize("module", ["service.app", "service.__main__"])
def test_a_fresh_interpreter_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_process_answers_soon_and_stops_when_told(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nobody = "http://127.0.0.1:9"
    environment = {
        **os.environ,
        "SEQAE_HOME": str(tmp_path / "home"),
        "http_proxy": nobody,  # B9: its own requests to the loopback don't go there
        "SEQAE_PORT": str(port),
        "SEQAE_MLFLOW_URL": nobody,
        "SEQAE_RAY_URL": nobody,
    }
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=subprocess.PIPE)
    try:
        url = f"http://127.0.0.1:{port}"
        # Two seconds are promised for an idle machine; the bound is for a busy one.
        assert wait_for_health(url, 60)
        ready = httpx.get(f"{url}/readyz", timeout=60).json()
        # E5: what it makes is closed to others.
        made = [path for path in (tmp_path / "home").rglob("*") if path.is_dir() or path.name.startswith("jobs.db")]
        assert not [path for path in (tmp_path / "home", *made) if path.stat().st_mode & 0o077]
        assert ready["works"] == {"accept_jobs": True, "run_jobs": False, "reconstruct": False}
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode in (0, -15)
    finally:
        process.kill()
        process.communicate()


def wait_for_health(url: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
    return False


@pytest.mark.parametrize(("path", "name", "calls"), [("/", "page", "/reconstruct"), ("/compare", "compare", "/pairs")])
def test_a_page_needs_nobody_else(client: httpx.Client, path: str, name: str, calls: str) -> None:
    """E5: the page, its script and its style come from here, and its policy allows nothing else."""
    answer = client.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="(/[^"]+)"', answer.text)
    loaded = [one for one in loaded if one.endswith((".css", ".js"))]
    assert loaded == ["/page.css", f"/{name}.js"]
    style, script = (client.get(path) for path in loaded)
    assert style.headers["content-type"].startswith("text/css")
    assert "javascript" in script.headers["content-type"]
    assert calls in script.text
    assert not any("https://" in text for text in (answer.text, style.text, script.text))
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert re.search(r"<script(?! src)|<style|style=| on\w+=", answer.text) is None, "the policy would refuse these"


def test_the_documentation_describes_problems_and_examples(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    submit = schema["paths"]["/jobs"]["post"]
    assert "application/problem+json" in submit["responses"]["422"]["content"]
    assert set(submit["requestBody"]["content"]["application/json"]["examples"]) == set(SPECS)
    assert "pointer" in schema["components"]["schemas"]["FieldError"]["properties"]


def test_the_reference_needs_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3, "a script, a style, an icon"
    for path in loaded:
        assert client.get(path).status_code == 200
    assert "'/openapi.json'" in page.text
