"""The settings as arguments, for editors and type checkers, which cannot derive them from `Settings`.

A test keeps both alike. What each means: `holdfast.settings.Settings`.
"""

from __future__ import annotations

from typing import Literal, TypedDict


class SettingArguments(TypedDict, total=False):
    """Any of the fields of `Settings`, by name; their limits are checked there."""

    postgres_url: str
    postgres_ca_file: str
    redis_urls: tuple[str, ...]
    redis_ca_file: str
    key_prefix: str
    home: str
    embedded_replicas: int
    embedded_postgres_version: Literal[16, 18]
    staleness_bound_seconds: float
    migrate_on_connect: bool
    l1_swarm_entries_max: int
    l1_swarm_ttl_seconds: float
    l1_run_entries_max: int
    l1_run_ttl_seconds: float
    l1_config_entries_max: int
    l1_config_ttl_seconds: float
    l2_request_timeout_seconds: float
    l2_connect_timeout_seconds: float
    l2_compress_above_bytes: int
    l2_lease_seconds: float
    l2_fence_lifetime_seconds: float
    l3_connections_max: int
    l3_queue_max: int
    l3_connect_timeout_seconds: float
    l3_statement_timeout_seconds: float
    l3_silence_seconds: float
    verify_share: float
    verify_checks_max: int
    document_bytes_max: int
    document_depth_max: int
    inflated_bytes_max: int
    event_bytes_max: int
    event_queue_max: int
    event_backlog_max: int
    event_handler_timeout_seconds: float
    event_attempts_max: int
    event_publish_timeout_seconds: float
    event_lease_seconds: float
    event_group_idle_seconds: float
    write_behind_quiet_seconds: float
    write_behind_age_seconds: float
    write_behind_writes_max: int
    write_behind_bytes_max: int
    write_behind_crowded_seconds: float
    write_behind_commit_seconds: float
    write_behind_close_seconds: float
    write_behind_takeover_seconds: float
    journal_replicas: int | None
    run_deltas_per_base: int
    run_variables_max: int
    run_bytes_max: int
    run_depth_max: int
    run_children_max: int
    run_snapshot_months: int | None
    master_keys: tuple[str, ...]
    run_on_conflict: Literal["parent_wins", "child_wins", "merge_objects", "keep_latest", "manual_review"]
    export_secrets: Literal["refuse", "mask"]
    clock_skew_ms_max: int
    delivery_attempts_max: int
    delivery_timeout_seconds: float
    review_policy: Literal["wait", "go_on"]
    review_timeout_seconds: float
    review_fallback: Literal["parent_wins", "child_wins", "merge_objects", "keep_latest"]
    review_keep_days: int
    recovery_log_rows_max: int
    quarantine_rows_max: int
    escalation_keep_days: int
    escalation_webhook_url: str
    escalation_webhook_secret: str
    escalation_webhook_plain: bool
