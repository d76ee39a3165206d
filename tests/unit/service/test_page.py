"""The page's script, in Node.js with a document of stubs, where Node.js is installed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "service" / "static" / "page.js"
NODE = shutil.which("node")

# Elements by id that take everything, and a server that answers as told, or not at all.
STUBS = """
const elements = {};
const element = () => ({ hidden: true, textContent: "", append() {}, appendChild: node => node, setAttribute() {},
  replaceChildren() {} });
globalThis.document = { getElementById: id => elements[id] ??= element(), createElement: element, hidden: false };
globalThis.location = { reload() {}, href: "http://localhost/" };
globalThis.setInterval = () => 0;
const answers = JSON.parse(process.argv[1]);
globalThis.fetch = async address => {
  const found = answers[address.split("?")[0]];
  if (found === undefined) throw new TypeError("Failed to fetch");
  const [status, body] = found;
  const type = status < 400 ? "application/json" : "application/problem+json";
  return { status, ok: status < 400, headers: { get: () => type }, json: async () => body };
};
setTimeout(() => console.log(JSON.stringify({ ready: elements.ready.textContent, asks: !elements.enter?.hidden })), 50);
"""


def _shown(answers: dict[str, tuple[int, object]]) -> dict[str, object]:
    """What the page says in its head, and whether it asks for a token."""
    assert NODE is not None
    program = f"{STUBS}(0, eval)({json.dumps(PAGE.read_text())});"
    done = subprocess.run([NODE, "-e", program, json.dumps(answers)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


needs_node = pytest.mark.skipif(NODE is None, reason="needs Node.js")
UNAUTHORIZED = {"detail": "this needs a token: `Authorization: Bearer ...`"}


@needs_node
def test_without_a_token_the_page_says_that_one_is_needed_and_asks_for_it() -> None:
    """It said "the service does not answer: this needs a token", though it had answered."""
    strangers = dict.fromkeys(("/jobs", "/session", "/readyz"), (401, UNAUTHORIZED))
    assert _shown({**strangers}) == {"ready": UNAUTHORIZED["detail"], "asks": True}


@needs_node
def test_a_service_that_is_away_does_not_answer() -> None:
    assert _shown({}) == {"ready": "the service does not answer: Failed to fetch", "asks": False}


@needs_node
def test_a_service_that_is_ready_says_so() -> None:
    parts = {"model": {"ok": True, "detail": "none"}}
    ready = {"/jobs": (200, {"items": []}), "/readyz": (200, {"ready": True, "parts": parts}), "/session": (200, {})}
    assert _shown({**ready}) == {"ready": "ready", "asks": False}
