"""Which agents of one's own a stack runs, and how."""

import sys
from pathlib import Path

import pytest

from flotilla.agent.template import write_agent
from flotilla_devstack.errors import DevstackError
from flotilla_devstack.own_agents import agent_command, agent_environment, find_agent_folders, read_agent_folders
from flotilla_devstack.services import SERVICES
from flotilla_devstack.supervisor import SupervisorOptions, parse_supervisor_options

ROOT = Path(__file__).parents[3]


def test_a_new_agents_folder_is_one_that_the_stack_runs(tmp_path: Path) -> None:
    folder = tmp_path / "word-count-agent"
    write_agent("word-count", folder)

    assert find_agent_folders(tmp_path) == find_agent_folders(folder) == [folder]
    (spec,) = read_agent_folders([folder]).values()
    assert (spec.name, spec.agent, spec.module) == ("word-count-agent", "word-count", "word_count_agent")
    assert spec.role == "flotilla_agent_word-count"
    assert agent_command(spec) == (sys.executable, "-m", "word_count_agent.main")
    assert agent_environment(spec)["PYTHONPATH"].split(":")[0] == str(folder)
    assert agent_environment(spec)["FLOTILLA_AGENT_NAME"] == "word-count"


def test_an_agent_with_an_environment_of_its_own_runs_in_it(tmp_path: Path) -> None:
    write_agent("word-count", tmp_path / "a")
    own = tmp_path / "a/.venv/bin/python"
    own.parent.mkdir(parents=True)
    own.touch()

    (spec,) = read_agent_folders([tmp_path / "a"]).values()
    assert agent_command(spec)[0] == str(own)


def test_an_agent_in_another_language_runs_beside_the_sdk(tmp_path: Path) -> None:
    (tmp_path / "service.toml").write_text('agent = "translate"\ncommand = ["node", "main.js"]', encoding="utf-8")
    (spec,) = read_agent_folders([tmp_path]).values()
    assert agent_command(spec) == (sys.executable, "-m", "flotilla.agent.sidecar", "node", "main.js")
    assert agent_environment(spec)["FLOTILLA_AGENT_NAME"] == "translate"


def test_the_six_services_are_no_agents_of_ones_own() -> None:
    assert [folder.name for folder in find_agent_folders(ROOT / "services") if folder.name in SERVICES] == []


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "agent = 7",
        'agent = "../x"\nmodule = "m"',
        'agent = "x"\nmodule = "os;x"',
        "agent = ",
        'agent = "x"',
        'agent = "x"\ncommand = []',
        'agent = "x"\ncommand = "node"',
        'agent = "x"\ncommand = [1]',
    ],
)
def test_a_folder_without_a_usable_declaration_is_refused_by_name(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "service.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DevstackError, match="service\\.toml"):
        read_agent_folders([tmp_path])


def test_two_agents_of_one_name_or_that_of_a_service_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_agent("word-count", tmp_path / folder)
    write_agent("research", tmp_path / "c")
    with pytest.raises(DevstackError, match="word-count-agent already"):
        read_agent_folders([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(DevstackError, match="research-agent already"):
        read_agent_folders([tmp_path / "c"])


def test_the_supervisor_gets_them_on_its_command_line(tmp_path: Path) -> None:
    options = SupervisorOptions(state=tmp_path, agents=(tmp_path / "a", tmp_path / "b"))
    assert parse_supervisor_options(options.to_arguments()) == options
