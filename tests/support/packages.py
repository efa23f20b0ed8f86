"""Packages of others, installed for the length of a test from a folder outside the repository."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flotilla.actions.arguments import load_action_argument_types

ANNOUNCEMENTS = Path(__file__).with_name("announcements.py")
ANNOUNCEMENTS_ENTRY_POINTS = {
    "flotilla.workflows": {"announce": "announcements:AnnounceWorkflow"},
    "flotilla.actions": {"publish_announcement": "announcements:PublishAnnouncement"},
    "flotilla.action_handlers": {"publish_announcement": "announcements:publish_announcement"},
}
BRIEFINGS = Path(__file__).with_name("briefings.py")
BRIEFINGS_ENTRY_POINTS = {
    "flotilla.workflows": {"brief": "briefings:BriefWorkflow"},
    "flotilla.actions": {"publish_brief": "briefings:PublishBrief"},
    "flotilla.action_handlers": {"publish_brief": "briefings:publish_brief"},
}

CHOOSING = Path(__file__).with_name("choosing.py")
CHOOSING_ENTRY_POINTS = {
    "flotilla.workflows": {"choose": "choosing:Choose", "later": "choosing:ChooseLater", "pass": "choosing:PassOn"}
}
SURVEYS = Path(__file__).with_name("surveys.py")
SURVEYS_ENTRY_POINTS = {"flotilla.workflows": {"survey": "surveys:SurveyWorkflow"}}


def write_package(folder: Path, module: str, source: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Lay a module and the metadata of its distribution into `folder`, as an installer does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in entry_points.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))


@contextmanager
def installed(folder: Path, *modules: str) -> Iterator[None]:
    """Let this process find the packages of `folder`."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    load_action_argument_types.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for module in modules:
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        load_action_argument_types.cache_clear()
