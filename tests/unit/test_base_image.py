"""Images are built on a base that is given by digest."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.catalog import SERVICES

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """A builder of images that only notes how it was called."""
    program = tmp_path / "buildah"
    program.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


def images(tool: Path, verb: str, base: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "IMAGE_TOOL": "buildah", "BASE_IMAGE": base}
    return subprocess.run(
        [ROOT / "k8s/images", verb], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize("verb", ["build", "build-servers", "base"])
@pytest.mark.parametrize(
    "base", ["python:3.11-slim-bookworm", "python", "r.example/python:3@sha256:abc", "evil.example/localhost/python:3"]
)
def test_a_tag_alone_is_refused_before_anything_is_built(tool: Path, verb: str, base: str) -> None:
    done = images(tool, verb, base)

    assert done.returncode != 0
    assert "give it by digest" in done.stderr
    assert not (tool.parent / "calls").exists()


@pytest.mark.parametrize(
    "base", [f"python@{DIGEST}", f"r.example/python:3.11@{DIGEST}", "localhost/base-python:bookworm"]
)
def test_a_digest_or_an_image_of_this_machine_is_used(tool: Path, base: str) -> None:
    assert images(tool, "base", base).stdout == base + "\n"
    images(tool, "build-servers", base)

    assert f"BASE_IMAGE={base} " in (tool.parent / "calls").read_text(encoding="utf-8")


def test_every_service_is_built_from_its_own_lock(tool: Path) -> None:
    done = images(tool, "build", "localhost/base:1")

    assert done.returncode == 0, done.stderr
    calls = (tool.parent / "calls").read_text(encoding="utf-8").splitlines()
    for service in SERVICES:
        (call,) = [each for each in calls if f"SERVICE={service} " in each]
        assert f"LOCK=locks/{service}.txt " in call


DOCKERFILES = [
    path
    for path in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    if Path(path).name.startswith("Dockerfile")
]


def test_there_are_the_fleets_the_demos_a_new_agents_a_new_workflows_and_the_examples() -> None:
    assert {"Dockerfile", "k8s/demo/Dockerfile", "examples/typescript/Dockerfile"} < set(DOCKERFILES)
    assert len(DOCKERFILES) == 5


@pytest.mark.parametrize("file", DOCKERFILES)
def test_no_dockerfile_names_a_base_by_tag(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8").replace("$$", "$")

    arguments = dict(re.findall(r"^ARG (\w+_IMAGE)(.*)$", text, re.MULTILINE))
    assert arguments
    assert set(arguments.values()) == {""}
    sources = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE))
    assert sources - stages == {f"${{{name}}}" for name in arguments}
    copied = set(re.findall(r"--from=(\S+)", text))
    assert copied <= stages | {"wheels", "packages"}, "a copy from another image"
