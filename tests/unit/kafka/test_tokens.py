"""A command that prints tokens: what it may print, when it runs again, and how it fails."""

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest

from flotilla.contracts.errors import ConfigurationError
from flotilla.kafka.tokens import KafkaTokenCommand, parse_token_output, shared_token_command

NOW = 1_000_000.0


def jwt(**claims: object) -> str:
    """Unsigned."""
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def script(folder: Path, text: str) -> str:
    """A command that runs these lines of Python."""
    path = folder / "prints-a-token.py"
    path.write_text(text)
    return f"{sys.executable} {path}"


@pytest.mark.parametrize(
    ("output", "text", "renew_in_s", "expires_in_s"),
    [
        ("opaque\n", "opaque", 60, 60),
        (jwt(exp=NOW + 400), jwt(exp=NOW + 400), 300, 400),
        (jwt(exp="soon"), jwt(exp="soon"), 60, 60),
        (jwt(sub="x"), jwt(sub="x"), 60, 60),
        ("a.!.c", "a.!.c", 60, 60),
        ('{"access_token": "t", "expires_in": 200}', "t", 150, 200),
        ('{"access_token": "t"}', "t", 60, 60),
        (json.dumps({"access_token": jwt(exp=NOW + 40)}), jwt(exp=NOW + 40), 30, 40),
        (jwt(exp=NOW - 5), jwt(exp=NOW - 5), 0, 0),
        (jwt(exp=10**400), jwt(exp=10**400), 60, 60),
        ('{"access_token": "t", "expires_in": 1' + "0" * 400 + "}", "t", 60, 60),
        ('{"access_token": "t", "expires_in": true}', "t", 60, 60),
    ],
)
def test_a_token_is_renewed_before_it_ends(output: str, text: str, renew_in_s: float, expires_in_s: float) -> None:
    token = parse_token_output(output.encode(), NOW)
    assert (token.text, token.renew_at, token.expires_at) == (text, NOW + renew_in_s, NOW + expires_in_s)


NO_TOKENS = (
    *(b"", b"\n", b"two words", b"\xff\xfe", b"a\x01b", b"{", b"[]\n1"),
    b'{"access_token": ' + b"[" * 20_000,
    *(b'{"error": "invalid_client"}', b'{"access_token": 7}', b'{"access_token": "two words"}'),
)


@pytest.mark.parametrize("output", NO_TOKENS)
def test_what_is_no_token_is_refused(output: bytes) -> None:
    with pytest.raises(ConnectionError, match="FLOTILLA_KAFKA_TOKEN_COMMAND printed"):
        parse_token_output(output, NOW)


@pytest.mark.parametrize("command", ["", " ", "print 'it"])
def test_what_is_no_command_is_refused(command: str) -> None:
    with pytest.raises(ConfigurationError, match="FLOTILLA_KAFKA_TOKEN_COMMAND"):
        KafkaTokenCommand(command)


async def test_a_token_is_used_until_it_is_to_be_renewed(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text('{"access_token": "first", "expires_in": 1000}')
    provider = KafkaTokenCommand(f"cat {tmp_path}/tokens")
    assert await provider.token() == "first"
    (tmp_path / "tokens").write_text('{"access_token": "second", "expires_in": 0.001}')
    assert await provider.token() == "first"
    provider = KafkaTokenCommand(f"cat {tmp_path}/tokens")
    assert await provider.token() == "second"
    (tmp_path / "tokens").write_text("third")
    assert await provider.token() == "third"


async def test_a_token_that_can_not_be_renewed_is_used_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text('{"access_token": "t", "expires_in": 100}')
    provider = KafkaTokenCommand(f"cat {tmp_path}/token")
    monkeypatch.setattr("flotilla.kafka.tokens.time.time", lambda: NOW)
    assert await provider.token() == "t"
    (tmp_path / "token").unlink()
    monkeypatch.setattr("flotilla.kafka.tokens.time.time", lambda: NOW + 80)
    assert await provider.token() == "t"
    monkeypatch.setattr("flotilla.kafka.tokens.time.time", lambda: NOW + 100)
    with pytest.raises(ConnectionError, match=r"ended with code 1: .*No such file"):
        await provider.token()


RUNS = """
import pathlib, sys
runs = pathlib.Path(__file__).with_name("runs")
runs.write_text((runs.read_text() if runs.exists() else "") + "x")
"""


async def test_clients_that_connect_together_run_the_command_once(tmp_path: Path) -> None:
    provider = KafkaTokenCommand(script(tmp_path, RUNS + "print('t')"))
    assert await asyncio.gather(*(provider.token() for _ in range(5))) == ["t"] * 5
    assert (tmp_path / "runs").read_text() == "x"


async def test_a_command_that_failed_rests_while_the_token_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = '{"access_token": "t", "expires_in": 100}'
    provider = KafkaTokenCommand(
        script(tmp_path, RUNS + f"sys.exit('no') if len(runs.read_text()) > 1 else print('{answer}')")
    )
    for after_s, runs in ((0, 1), (80, 2), (84, 2), (86, 3), (99, 4)):
        monkeypatch.setattr("flotilla.kafka.tokens.time.time", lambda now=NOW + after_s: now)
        assert await provider.token() == "t"
        assert len((tmp_path / "runs").read_text()) == runs
    monkeypatch.setattr("flotilla.kafka.tokens.time.time", lambda: NOW + 100)
    with pytest.raises(ConnectionError, match="ended with code 1: no"):
        await provider.token()


async def test_a_command_that_fails_hangs_or_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flotilla.kafka.tokens._COMMAND_TIMEOUT_S", 0.5)
    for command, reason in (
        (script(tmp_path, "raise SystemExit('no login')"), "ended with code 1: no login"),
        ("sleep 60", "sleep took longer than 0.5 s"),
        ("/nowhere/signer --region eu", "can't run /nowhere/signer: No such file"),
    ):
        with pytest.raises(ConnectionError, match=reason):
            await KafkaTokenCommand(command).token()


async def test_output_without_end_is_cut_off(tmp_path: Path) -> None:
    command = script(tmp_path, "import sys\nsys.stdout.write('t' * 50_000_000)")
    assert len(await KafkaTokenCommand(command).token()) == 64 * 1024


def test_a_process_has_one_provider_of_each_command() -> None:
    assert shared_token_command("print-a-token") is shared_token_command("print-a-token")
    assert shared_token_command("print-a-token") is not shared_token_command("print-another")
