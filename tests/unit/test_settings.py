"""Settings: three sources, their order, and a sentence for each value that cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fix_secrets import NEW, OLD
from holdfast.errors import SettingsError
from holdfast.settings import Settings, load_settings

OWN_SERVERS: dict[str, Any] = {
    "postgres_url": "postgresql://db.example/app",
    "redis_urls": ("redis://cache.example:7000",),
}
AS_TEXT: dict[str, tuple[str, Any]] = {
    "review_policy": ("go_on", "go_on"),
    "review_fallback": ("keep_latest", "keep_latest"),
    "journal_replicas": ("7", 7),
    "postgres_url": ("postgresql://db.example/app", "postgresql://db.example/app"),
    "postgres_ca_file": ("/etc/pg.pem", "/etc/pg.pem"),
    "redis_urls": (" redis://a:1 , redis://b:2,", ("redis://a:1", "redis://b:2")),
    "redis_ca_file": ("/etc/redis.pem", "/etc/redis.pem"),
    "key_prefix": ("mine:", "mine:"),
    "home": ("/var/lib/holdfast", "/var/lib/holdfast"),
    "embedded_replicas": ("1", 1),
    "embedded_postgres_version": ("16", 16),
    "staleness_bound_seconds": ("0.5", 0.5),
    "migrate_on_connect": ("false", False),
    "l2_compress_above_bytes": ("0", 0),
    "l2_lease_seconds": ("1.5", 1.5),
    "l3_silence_seconds": ("1.5", 1.5),
    "verify_share": ("0.5", 0.5),
    "document_bytes_max": ("20000000", 20_000_000),
    "document_depth_max": ("32", 32),
    "inflated_bytes_max": ("20000000", 20_000_000),
    "master_keys": (f" {OLD} , {NEW},", (OLD, NEW)),
    "run_on_conflict": ("keep_latest", "keep_latest"),
    "export_secrets": ("mask", "mask"),
    "escalation_webhook_url": ("https://hooks.example/T0/x", "https://hooks.example/T0/x"),
    "escalation_webhook_secret": ("s3cret", "s3cret"),
    "escalation_webhook_plain": ("true", True),
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A TOML file with two settings."""
    path = tmp_path / "holdfast.toml"
    path.write_text('key_prefix = "file:"\nl3_queue_max = 7\n', encoding="utf-8")
    return path


def refusal(**sources: Any) -> str:
    """The message with which these sources are refused."""
    with pytest.raises(SettingsError) as refused:
        load_settings(**{"environment": {}, **sources})
    return str(refused.value)


def test_nothing_given_means_the_embedded_servers_and_the_sizes_of_the_seed() -> None:
    """The L1 caches have the sizes and TTLs of the seed, no server is named, and the bound is a quarter of a second."""
    settings = load_settings(environment={})
    assert settings.embedded
    assert (settings.l1_swarm_entries_max, settings.l1_swarm_ttl_seconds) == (1000, 300)
    assert (settings.l1_run_entries_max, settings.l1_run_ttl_seconds) == (500, 600)
    assert (settings.l1_config_entries_max, settings.l1_config_ttl_seconds) == (2000, 900)
    assert (settings.l2_compress_above_bytes, settings.document_bytes_max) == (1024, 2**20)
    assert settings.staleness_bound_seconds == 0.25


def test_arguments_win_over_the_environment_and_that_over_the_file(config: Path) -> None:
    """Each source is asked per setting: the first that has it decides."""
    environment = {"HOLDFAST_L3_QUEUE_MAX": "8", "HOLDFAST_L3_CONNECTIONS_MAX": "9"}
    settings = load_settings(environment=environment, file=config, arguments={"l3_connections_max": 10})
    assert (settings.key_prefix, settings.l3_queue_max, settings.l3_connections_max) == ("file:", 8, 10)


def test_the_environment_can_name_the_file(config: Path) -> None:
    """HOLDFAST_CONFIG is read if no file is given, and not if one is."""
    assert load_settings(environment={"HOLDFAST_CONFIG": str(config)}).key_prefix == "file:"
    assert load_settings(environment={"HOLDFAST_CONFIG": "/nowhere"}, file=config).key_prefix == "file:"
    assert load_settings(environment={"HOLDFAST_CONFIG": ""}) == Settings()


def test_an_argument_of_none_counts_as_not_given() -> None:
    """Callers pass their own optional arguments through."""
    environment = {"HOLDFAST_KEY_PREFIX": "env:"}
    assert load_settings(environment=environment, arguments={"key_prefix": None}).key_prefix == "env:"


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_each_setting_is_read_from_its_variable(name: str) -> None:
    """The variable is the setting's name in capitals behind HOLDFAST_, its text read in the setting's type."""
    text, value = AS_TEXT.get(name, ("777", 777))
    arguments = {other: given for other, given in OWN_SERVERS.items() if name in OWN_SERVERS and other != name}
    if name == "document_bytes_max":
        arguments["inflated_bytes_max"] = value
    settings = load_settings(environment={f"HOLDFAST_{name.upper()}": text}, arguments=arguments)
    assert getattr(settings, name) == value
    default = getattr(Settings(), name)
    assert default is None or type(getattr(settings, name)) is type(default)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({"environment": {"HOLDFAST_L3_QUEUE_MAX": "many"}}, "environment: l3_queue_max: Expected `int`"),
        ({"arguments": {"l3_queue_max": 0}}, "arguments: l3_queue_max: Expected `int` >= 1"),
        ({"arguments": {"l3_queue_max": 1_000_001}}, "arguments: l3_queue_max: Expected `int` <= 1000000"),
        ({"arguments": {"l1_run_ttl_seconds": -1}}, "arguments: l1_run_ttl_seconds: Expected `float` > 0"),
        ({"arguments": {"l1_run_ttl_seconds": float("nan")}}, "arguments: l1_run_ttl_seconds: Expected `float`"),
        ({"arguments": {"l1_run_ttl_seconds": "inf"}}, "arguments: l1_run_ttl_seconds: Expected `float` <="),
        ({"environment": {"HOLDFAST_MIGRATE_ON_CONNECT": "yes"}}, "environment: migrate_on_connect: Expected `bool`"),
        ({"arguments": {"redis_urls": "redis://a"}}, "arguments: redis_urls: Expected `array`"),
        ({"arguments": {"embedded_replicas": 2}}, "arguments: embedded_replicas: Expected `int` <= 1"),
        ({"arguments": {"staleness_bound_seconds": 0}}, "arguments: staleness_bound_seconds: Expected `float` >= 0.05"),
        ({"arguments": {"staleness_bound_seconds": 61}}, "arguments: staleness_bound_seconds: Expected `float` <= 60"),
        ({"arguments": {"l2_lease_seconds": 61}}, "arguments: l2_lease_seconds: Expected `float` <= 60"),
        ({"arguments": {"document_depth_max": 201}}, "arguments: document_depth_max: Expected `int` <= 128"),
        ({"arguments": {"key_prefix": "p" * 65}}, "arguments: key_prefix: Expected `str` of length <= 64"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_source_and_setting(source: dict[str, Any], place: str) -> None:
    """The message begins with where the value came from and which setting it is for, then says what it takes."""
    assert refusal(**source).startswith(place)


def test_a_value_of_the_file_is_refused_with_the_files_name(config: Path) -> None:
    """A bad value and an unknown setting name the file they stand in."""
    config.write_text("l3_queue_max = -1", encoding="utf-8")
    assert refusal(file=config) == f"{config}: l3_queue_max: Expected `int` >= 1"
    config.write_text("[l3]\nqueue_max = 1", encoding="utf-8")
    assert refusal(file=config) == f"{config}: there is no setting l3"


def test_an_unknown_setting_is_refused() -> None:
    """A misspelt argument is an error, not a silent default."""
    assert refusal(arguments={"l3_queue": 5}) == "arguments: there is no setting l3_queue"


def test_an_unknown_variable_is_refused() -> None:
    """A misspelt variable is an error: with HOLDFAST_POSTGRES_URI the server would store elsewhere than meant."""
    message = refusal(environment={"HOLDFAST_POSTGRES_URI": "postgresql://db.example/app"})
    assert message == "environment: there is no setting postgres_uri"


def test_variables_of_others_are_left_alone() -> None:
    """Only names behind HOLDFAST_ are looked at."""
    assert load_settings(environment={"PATH": "/bin", "POSTGRES_URL": "x", "XHOLDFAST_HOME": "/x"}) == Settings()


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    """Missing, a directory, not TOML, not UTF-8: each says which file and why."""
    missing, broken, latin = tmp_path / "none.toml", tmp_path / "broken.toml", tmp_path / "latin.toml"
    broken.write_text("key_prefix = ", encoding="utf-8")
    latin.write_bytes(b'key_prefix = "\xe9"')
    assert refusal(file=missing) == f"settings file {missing} cannot be read: No such file or directory"
    assert refusal(file=tmp_path) == f"settings file {tmp_path} cannot be read: Is a directory"
    assert refusal(file=broken).startswith(f"settings file {broken} is not TOML: ")
    assert refusal(file=latin).startswith(f"settings file {latin} is not TOML: ")


@pytest.mark.parametrize("prefix", ["{tag}", "a b", "a\tb", "a}", "holdfast:\n"])
def test_a_prefix_cannot_choose_slots_or_hold_blanks(prefix: str) -> None:
    """Braces would put every key into one slot, and a line break at the end is a blank like any other."""
    assert refusal(arguments={"key_prefix": prefix}).startswith("arguments: key_prefix: Expected `str`")


@pytest.mark.parametrize("version", [15, 17, 19])
def test_the_embedded_postgres_is_16_or_18(version: int) -> None:
    """No other version is shipped, and the refusal names the setting."""
    assert refusal(arguments={"embedded_postgres_version": version}).startswith(
        "arguments: embedded_postgres_version: "
    )


def test_the_limit_of_inflation_covers_every_document() -> None:
    """A document that may be stored could otherwise never be read back from L2."""
    message = refusal(arguments={"document_bytes_max": 1000, "inflated_bytes_max": 999})
    assert message == "inflated_bytes_max must be at least document_bytes_max"


def test_a_context_fits_in_a_document() -> None:
    """With what belongs around it; a run that is within its limit could otherwise not be kept."""
    assert refusal(arguments={"document_bytes_max": 64 * 1024}).startswith(
        "run_bytes_max must be at least 16384 below document_bytes_max"
    )
    assert refusal(arguments={"run_bytes_max": 2**20 - 16_383}).endswith("here they are 1032193 and 1048576")
    assert Settings(run_bytes_max=2**20 - 16_384).document_bytes_max == 2**20


@pytest.mark.parametrize(("given", "other"), [("postgres_url", "redis_urls"), ("redis_urls", "postgres_url")])
def test_servers_of_ones_own_are_named_both_or_neither(given: str, other: str) -> None:
    """One server named and the other not is refused, naming both settings."""
    assert refusal(arguments={given: OWN_SERVERS[given]}).startswith(f"{given} is set and {other} is not")
    assert not load_settings(environment={}, arguments=OWN_SERVERS).embedded


@pytest.mark.parametrize(
    "wrong",
    [
        {"l3_connections_max": 0},
        {"key_prefix": "{tag}"},
        {"l2_fence_lifetime_seconds": -1.0},
        {"l3_queue_max": "5"},
        {"migrate_on_connect": "false"},
    ],
)
def test_settings_built_directly_are_checked_too(wrong: dict[str, Any]) -> None:
    """`connect(Settings(...))` promises a SettingsError at once for a value that cannot work."""
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Settings(**wrong)


def test_settings_never_change() -> None:
    """A server's settings are the ones it was started with."""
    with pytest.raises(AttributeError):
        Settings().key_prefix = "other:"  # type: ignore[misc]


def test_settings_show_everything_but_user_and_password() -> None:
    """The text of the settings may be logged: hosts and limits are in it."""
    shown = repr(
        Settings(
            postgres_url="postgresql://anna:s3cret@db.example:5432/app?password=hunter2",
            redis_urls=("rediss://bob:s3cret@a.example:7000", "redis://:hunter2@b.example:7001"),
            l3_queue_max=77,
        )
    )
    assert "db.example:5432/app" in shown
    assert "a.example:7000" in shown
    assert "b.example:7001" in shown
    assert "l3_queue_max=77" in shown
    assert not any(secret in shown for secret in ("anna", "bob", "s3cret", "hunter2"))


@pytest.mark.parametrize(
    "form", ["postgresql://anna:s3cret{}hunter2@db.example/app", "anna:s3cret{}hunter2@db.example"]
)
@pytest.mark.parametrize("character", ["/", "?", "#", "@", ":", "[", "%", " ", "://"])
def test_a_password_that_was_not_escaped_is_hidden_too(form: str, character: str) -> None:
    """A URL that no driver could read still gives no part of its password away, and can be shown."""
    shown = repr(Settings(postgres_url=form.format(character), redis_urls=("redis://a.example",)))
    assert not any(secret in shown for secret in ("anna", "s3cret", "hunter2"))
