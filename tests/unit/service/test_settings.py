"""Settings as the environment gives them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from seqae.errors import Error
from service.db.store import Store
from service.settings import Settings


def test_everything_lies_below_the_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/control/jobs.db"
    assert settings.jobs_dir == tmp_path / "jobs"
    assert settings.cache_dir == tmp_path / "data"


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().home == tmp_path / ".seqae"


def test_the_environment_is_read_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQAE_PORT", "1234")
    monkeypatch.setenv("SEQAE_STOP_GRACE", "5")
    monkeypatch.setenv("SEQAE_WEBHOOK_URLS", '["http://a", "http://b"]')
    monkeypatch.setenv("SEQAE_WEBHOOK_SECRET", "hush")
    settings = Settings()
    assert (settings.port, settings.stop_grace) == (1234, 5.0)
    assert settings.webhook_urls == ("http://a", "http://b")
    assert "hush" not in repr(settings)


def test_webhooks_need_a_secret() -> None:
    with pytest.raises(ValidationError, match="SEQAE_WEBHOOK_SECRET"):
        Settings(webhook_urls=("http://a",))


def test_a_homes_path_may_hold_any_sign(tmp_path: Path) -> None:
    """B8: the database lies below the home, and nowhere else."""
    home = tmp_path / "h \u00fc?a#b%20c&d'e\"f:@;=+"
    (home / "control").mkdir(parents=True)
    store = Store(Settings(home=home).database)
    store.migrate()
    store.database.ping()
    store.close()
    assert (home / "control/jobs.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == [home.name]


def test_an_empty_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """B10: it would be the current folder."""
    monkeypatch.setenv("SEQAE_HOME", "")
    with pytest.raises(ValidationError, match="name a folder"):
        Settings()


@pytest.mark.parametrize("host", ["", "http://a", "a/b", "me@a", "a b"])
def test_allowed_hosts_are_names(host: str) -> None:
    """E1: a URL among them would match nothing, and nobody would see why."""
    with pytest.raises(ValidationError, match="is no host"):
        Settings(allowed_hosts=(host,))


def test_allowed_hosts_are_a_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """E1: as the compose and Kubernetes files give them."""
    monkeypatch.setenv("SEQAE_ALLOWED_HOSTS", '["api", "api.seqae:8400"]')
    assert Settings().allowed_hosts == ("api", "api.seqae:8400")


def test_further_roots_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """D1: where specs may name paths besides the data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQAE_DATA_ROOTS", '["/mnt/disk", "here"]')
    assert Settings().data_roots == (Path("/mnt/disk"), tmp_path / "here")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SEQAE_MAX_RETRIES", "secret"),
        ("SEQAE_WEBHOOK_URLS", "secret"),
        ("SEQAE_PORT", "99999"),
        ("SEQAE_RECONCILE", "?"),
    ],
)
def test_a_variable_that_can_not_be_is_named_in_a_line(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: the control plane ended in a traceback of pydantic; values may be secrets."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(Error) as refused:
        Settings.from_environment()
    message = str(refused.value)
    assert variable.lower() in message.lower() or variable.removeprefix("SEQAE_").lower() in message
    assert "\n" not in message
    assert value not in message


def test_a_storage_is_an_address_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings().storage == ""
    monkeypatch.setenv("SEQAE_STORAGE", "s3://bucket/prefix/")
    settings = Settings()
    assert settings.storage == "s3://bucket/prefix"
    assert settings.copies_dir.parent == Path("/var/tmp")
    monkeypatch.setenv("SEQAE_NODE_DIR", str(tmp_path))
    assert Settings().copies_dir == tmp_path
    monkeypatch.setenv("SEQAE_STORAGE", "s3://key:word@bucket")
    with pytest.raises(Error, match=r"^SEQAE_STORAGE: .*credentials belong into the environment") as caught:
        Settings.from_environment()
    assert "word@" not in str(caught.value)
