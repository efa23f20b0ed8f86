"""`docs/configuration.md` names every setting of every program.

`python -m tests.unit.config.test_documentation` writes it again.
"""

import ast
import inspect
import textwrap
from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from audit_consumer.settings import Settings as AuditConsumer
from flotilla.backup.settings import BackupSettings, RestoreSettings
from flotilla.config.settings import PREFIX
from flotilla.install.settings import Settings as Install
from gateway.settings import Settings as Gateway
from outbox_relay.settings import Settings as OutboxRelay
from research_agent.settings import Settings as ResearchAgent
from tool_gateway.settings import Settings as ToolGateway
from workflow_worker.settings import Settings as WorkflowWorker
from writer_agent.settings import Settings as WriterAgent

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
PROGRAMS: dict[str, type[BaseSettings]] = {
    "gateway": Gateway,
    "workflow-worker": WorkflowWorker,
    "research-agent": ResearchAgent,
    "writer-agent": WriterAgent,
    "tool-gateway": ToolGateway,
    "outbox-relay": OutboxRelay,
    "audit-consumer": AuditConsumer,
    "install": Install,
}
BACKUPS: dict[str, type[BaseSettings]] = {"backup": BackupSettings, "restore": RestoreSettings}
"""What runs beside a fleet; a setting of all others is still one of all."""
EVERY = {**PROGRAMS, **BACKUPS}
HEAD = """# Configuration

Every program reads its settings from environment variables and nothing else. One that can't run with what it got
reports every problem at once and exits with 2. An example for one machine:

```
FLOTILLA_POSTGRES_DSN=postgresql://flotilla_gateway:PASSWORD@127.0.0.1:5432/flotilla
FLOTILLA_REDIS_URL=redis://127.0.0.1:6379/0
FLOTILLA_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092
FLOTILLA_TEMPORAL_ADDRESS=127.0.0.1:7233
```

`install` is `python -m flotilla.install`, `backup` and `restore` are `python -m flotilla.backup create` and `restore`.
Lists are comma-separated. This page is generated from the settings' own descriptions:
`python -m tests.unit.config.test_documentation`.

| variable | default | read by | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The whole page: settings of several programs first, then each program's own."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for program, kind in EVERY.items():
        meanings = _descriptions(kind)
        for name, field in kind.model_fields.items():
            found.setdefault(_variable(name, field), {})[program] = (_default(field), meanings.get(name, ""))
    order = sorted(found, key=lambda variable: (-min(len(found[variable]), 2), _first(found[variable]), variable))
    return HEAD + "".join(_row(variable, found[variable]) for variable in order)


def _row(variable: str, programs: dict[str, tuple[str, str]]) -> str:
    defaults = {default for default, _ in programs.values()}
    shown = defaults.pop() if len(defaults) == 1 else "; ".join(f"{p}: {d}" for p, (d, _) in programs.items())
    users = "all" if PROGRAMS.keys() <= programs.keys() else ", ".join(programs)
    meaning = next((meaning for _, meaning in programs.values() if meaning), "").replace("|", "\\|")
    return f"| `{variable}` | {shown} | {users} | {meaning} |\n"


def _first(programs: dict[str, tuple[str, str]]) -> int:
    return list(EVERY).index(next(iter(programs))) if len(programs) == 1 else 0


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else PREFIX + name.upper()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", ()):
        return "unset"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"


def _descriptions(kind: type[BaseSettings]) -> dict[str, str]:
    """The string that follows each field in its class, on one line."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not issubclass(owner, BaseSettings) or owner is BaseSettings:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def test_the_page_names_every_setting_of_every_program() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.unit.config.test_documentation"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
