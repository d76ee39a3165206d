"""The verbs `token` and `audit`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.db.access.tokens import Tokens
from service.db.audit import AuditLog
from service.db.store import Store
from service.settings import Settings


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout


def test_the_first_token_is_made_without_a_service(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = json.loads(
        run("token", "create", "--owner", "ada", "--scope", "admin", "--scope", "read", "--home", str(home), "--json")
    )
    store = Store(Settings(home=home).database)
    row = Tokens(store.database, store.now).find(made["secret"])
    assert row is not None
    assert (row.id, row.owner, row.scopes) == (made["id"], "ada", "admin read")
    database = home / "control" / "jobs.db"
    assert database.stat().st_mode & 0o077 == 0
    assert made["secret"].encode() not in database.read_bytes()
    listed = run("token", "list", "--home", str(home))
    assert made["id"] in listed
    assert made["secret"] not in listed
    run("token", "revoke", made["id"], "--home", str(home))
    (again,) = json.loads(run("token", "list", "--home", str(home), "--json"))
    assert again["revoked_at"] is not None
    audit = AuditLog(store.database, store.now).page(None, 10)
    assert [(entry.action, entry.address) for entry in audit] == [
        ("seqae token revoke", "command line"),
        ("seqae token create", "command line"),
    ]
    store.close()


def test_a_token_in_a_file_is_made_once(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "token"
    words = ["token", "create", "--owner", "ada", "--home", str(home), "--out", str(file), "--if-none"]
    printed = run(*words)
    secret = file.read_text().strip()
    assert secret not in printed
    assert file.stat().st_mode & 0o777 == 0o600
    run(*words)
    assert file.read_text().strip() == secret
    file.unlink()
    run(*words)
    assert not file.exists(), "there is a token that can be used"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("list",), "no job database"),
        (("revoke",), "seqae token list"),
        (("create", "--owner", "\x1b[31m"), "printable"),
    ],
)
def test_what_can_not_be_is_refused(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    done = CliRunner().invoke(app, ["token", *words, "--home", str(tmp_path / "none")])
    assert done.exit_code != 0
    assert why in str(done.exception)
    assert not (tmp_path / "none").exists(), "nothing was made"
