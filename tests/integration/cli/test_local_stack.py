"""`up`, `status`, `logs`, `doctor`, `demo` on real servers and services."""

import json
import os
import re
import stat
from pathlib import Path

import httpx
import pytest

from tests.e2e.fleet import Fleet
from tests.support.catalog import SERVICES

SERVERS = ("postgres", "redis", "temporal", "kafka")


def test_status_has_the_shape_of_the_contract(fleet: Fleet) -> None:
    status = fleet.cli_json("status")
    assert set(status) == {"url", "keys_file", "processes"}
    assert {process["name"] for process in status["processes"]} == {*SERVERS, *SERVICES}
    for process in status["processes"]:
        assert set(process) == {"name", "kind", "pid", "ports", "state", "log"}
        assert process["kind"] == ("server" if process["name"] in SERVERS else "service")
        assert process["state"] == "running"
        assert Path(process["log"]).is_file()
        os.kill(process["pid"], 0)


def test_every_service_serves_health_and_metrics_on_the_port_that_status_names(fleet: Fleet) -> None:
    for process in fleet.status()["processes"]:
        if process["kind"] == "service":
            port = process["ports"]["metrics"]
            for path in ("livez", "readyz", "metrics"):
                assert httpx.get(f"http://127.0.0.1:{port}/{path}").status_code == 200, (process["name"], path)


def test_the_keys_are_for_their_owner_alone(fleet: Fleet) -> None:
    path = Path(fleet.status()["keys_file"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {"admin", "alice", "bob"} <= json.loads(path.read_text()).keys()


def test_a_second_up_changes_nothing_and_says_where_everything_is(fleet: Fleet) -> None:
    before = fleet.status()
    said = fleet.cli("up").stdout
    assert fleet.status() == before
    assert before["url"] in said
    assert before["keys_file"] in said
    assert f"http://127.0.0.1:{fleet.process('temporal')['ports']['ui']}" in said
    assert str(Path(fleet.process("gateway")["log"]).parent) in said
    addresses = re.findall(r"http://\S+", said)
    assert f"{before['url']}/docs" in addresses
    for address in addresses:
        assert httpx.get(address, follow_redirects=True).status_code == 200, address


def test_logs_show_the_end_of_a_log_and_an_unknown_name_is_not_found(fleet: Fleet) -> None:
    last = Path(fleet.process("gateway")["log"]).read_text().splitlines()[-1]
    assert last in fleet.cli("logs", "gateway").stdout
    assert len(fleet.cli("logs", "gateway", "-n", "1").stdout.splitlines()) == 1
    unknown = fleet.cli("logs", "nonsense", check=False)
    assert unknown.returncode == 3
    assert "gateway" in unknown.stderr


def test_a_folder_without_a_stack_is_not_found(tmp_path: Path) -> None:
    nowhere = Fleet(tmp_path / "none")
    done = nowhere.cli("status", check=False)
    assert done.returncode == 3
    assert "flotilla up" in done.stderr


def test_doctor_finds_everything_in_order(fleet: Fleet) -> None:
    checks = {check["name"]: check for check in fleet.cli_json("doctor")["checks"]}
    assert all(check["ok"] for check in checks.values()), checks
    assert {*SERVERS, "gateway", "stack", "model"} <= checks.keys()
    assert "noeviction" in checks["redis"]["detail"]
    assert fleet.status()["url"] in checks["gateway"]["detail"]


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("FLOTILLA_POSTGRES_DSN", "postgresql://flotilla_app:secret@127.0.0.1:9/flotilla", "postgres"),
        ("FLOTILLA_REDIS_URL", "redis://127.0.0.1:9/0", "redis"),
        ("FLOTILLA_TEMPORAL_ADDRESS", "127.0.0.1:9", "temporal"),
        ("FLOTILLA_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9", "kafka"),
        ("FLOTILLA_TOKEN", "wrong", "gateway"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1", "model"),
    ],
)
def test_doctor_names_what_is_wrong_and_the_hint(fleet: Fleet, variable: str, value: str, name: str) -> None:
    sick = Fleet(fleet.home, {**fleet.env, variable: value})
    done = sick.cli("doctor", "-o", "json", check=False)
    assert done.returncode == 1
    wrong = [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]
    assert [check["name"] for check in wrong] == [name]
    assert wrong[0]["hint"]
    assert "secret" not in done.stdout + done.stderr


def test_doctor_notices_a_redis_that_may_evict_tasks(fleet: Fleet, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    done = Fleet(fleet.home, {**fleet.env, "FLOTILLA_REDIS_URL": redis_url}).cli("doctor", check=False)
    assert done.returncode == 1
    assert "allkeys-lru" in done.stdout
    assert "noeviction" in done.stderr


def test_the_demo_tells_the_whole_story_each_time(fleet: Fleet) -> None:
    for loaded in (r"(9 loaded, 0|0 loaded, 9) unchanged", r"0 loaded, 9 unchanged"):
        said = fleet.cli("demo").stdout
        assert "two people" in said
        assert "corvane-handbook/refunds.md" in said
        assert "(calibrated)" in said
        assert "seq 1 to 12 without a gap; the API shows the same" in said
        assert "the same bytes; outbox: 0 waiting" in said
        assert "its parent still ends at 12" in said
        assert [line for line in said.splitlines() if re.match(loaded, line)], said
        assert fleet.status()["url"] in said
