"""The npm packages as others get them: packed, installed in a folder of their own, run with Node and checked by tsc."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.gateway.conftest import gateway, log_topics, replica
from tests.packaging.programs import ROOT, run, succeed
from tests.support.gateway import RunningGateway

__all__ = ["gateway", "log_topics", "replica"]
CLIENTS = ROOT / "clients/typescript"
USES = """
import { Flotilla } from "flotilla-client";
const flotilla = new Flotilla({ url: "http://127.0.0.1:1", token: "flo_x" });
export async function question(): Promise<string> {
  const { data } = await flotilla.api.GET("/v1/runs/{run_id}", { params: { path: { run_id: "r" } } });
  return data!.QUERY;
}
"""
AGENT = """
import { agent, tool } from "flotilla-agent";
import * as z from "zod";
const pay = tool({ input: z.object({ cents: z.int() }), run: ({ cents }, { key }) => `${cents} ${key.length}` });
export const payer = agent({
  name: "payer",
  input: z.object({ iban: z.string() }),
  output: z.object({ receipt: z.string() }),
  tools: { pay },
  run: async (ctx, task) => ({ receipt: task.iban.trim() + (await ctx.tool("pay", { ARGUMENT })).toUpperCase() }),
});
"""
ZOD = "zod@4.6.7"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of somebody else's with the packed packages installed."""
    succeed("make", "typescript", PATH=os.environ["PATH"])
    folder = tmp_path_factory.mktemp("project")
    succeed("npm", "pack", "--pack-destination", folder, "--workspace", "client", "--workspace", "agent", cwd=CLIENTS)
    packages = sorted(folder.glob("flotilla-*.tgz"))
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    succeed("npm", "install", "--no-audit", "--no-fund", *packages, ZOD, cwd=folder)
    shutil.copy(CLIENTS / "client/fleet/run.mjs", folder)
    return folder


def test_its_own_tests_pass_on_what_was_packed(project: Path) -> None:
    shutil.copytree(CLIENTS / "client/test", project / "test", dirs_exist_ok=True)
    succeed("node", "--test", "test/client.test.mjs", cwd=project)


@pytest.mark.parametrize("package", ["flotilla-client", "flotilla-agent"])
def test_it_holds_what_programs_need_and_nothing_else(project: Path, package: str) -> None:
    installed = project / f"node_modules/{package}"
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {"package.json", "dist/index.js", "dist/index.d.ts", "README.md", "LICENSE"} <= files
    assert all(name.startswith("dist/") or name in ("package.json", "README.md", "LICENSE") for name in files), files
    others = {path.name for path in (project / "node_modules").iterdir() if not path.name.startswith(".")}
    assert others == {"flotilla-client", "openapi-fetch", "openapi-typescript-helpers", "flotilla-agent", "zod"}


@pytest.mark.parametrize(("member", "code"), [("query", 0), ("qwery", 2)])
def test_its_types_are_those_of_the_api(project: Path, member: str, code: int) -> None:
    assert compiled(project, USES.replace("QUERY", member)) == code


@pytest.mark.parametrize(("argument", "code"), [("cents: 5", 0), ("cents: '5'", 2), ("dollars: 5", 2)])
def test_an_agents_tools_are_typed(project: Path, argument: str, code: int) -> None:
    assert compiled(project, AGENT.replace("ARGUMENT", argument)) == code


def compiled(project: Path, program: str) -> int:
    """What the compiler ends with."""
    (project / "uses.ts").write_text(program)
    options = ("--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2023,dom,dom.iterable")
    return run(CLIENTS / "node_modules/.bin/tsc", *options, "--ignoreConfig", "uses.ts", cwd=project).returncode


async def test_a_program_follows_a_run_of_a_real_fleet_through_a_cut(
    project: Path, gateway: RunningGateway, unique: Callable[[str], str]
) -> None:
    session, key = unique("s"), await gateway.key("olga", ["operator"])
    env = {**os.environ, "FLOTILLA_URL": gateway.url, "FLOTILLA_TOKEN": key, "SESSION": session}
    program = await asyncio.create_subprocess_exec(
        "node", "run.mjs", cwd=project, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    first = await program.stdout.readline()
    assert first, (await program.stderr.read()).decode()
    run_id = json.loads(first)["run_id"]
    await gateway.work(run_id, "one", "two")
    await gateway.finish(run_id)
    seen = json.loads(await program.stdout.readline() or (await program.stderr.read()))
    assert await program.wait() == 0
    seqs = [event["data"]["sequence"] for event in seen["events"] if event["kind"] == "session_event"]
    assert seqs == list(range(1, len(seqs) + 1))
    assert [event["kind"] for event in seen["events"]].count("done") == 1
    assert (seen["lastIds"][0], len(seen["lastIds"]) > 1, seen["lastIds"][1] is not None) == (None, True, True)
    assert (seen["status"], seen["answer"]) == ("success", "The harbour master [1].")
    assert seen["listed"] == [run_id]
    assert seen["refusal"] == [404, "not_found"]
