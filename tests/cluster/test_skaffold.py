"""`skaffold render` and `skaffold deploy` from a clean clone, on a cluster that has nothing of the fleet yet."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import READY_WITHIN_S
from tests.cluster.fleet import DEMO_VALUES, REPOSITORY, TAG
from tests.cluster.kubernetes import ROOT, Namespace
from tests.support.catalog import SERVICES

pytestmark = pytest.mark.full
IMAGES = {service: f"{REPOSITORY}/{service}:{TAG}" for service in SERVICES}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed, and the values of the cluster under test."""
    assert shutil.which("skaffold"), (
        "skaffold is not on PATH: https://skaffold.dev/docs/install, or build its Go module"
    )
    folder = tmp_path_factory.mktemp("clone") / "flotilla"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    file = folder / "skaffold.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config["deploy"]["helm"]["releases"][0]["valuesFiles"] = list(DEMO_VALUES)
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@pytest.fixture
def flotilla(cluster: None, clone: Path) -> Iterator[Namespace]:
    """The namespace that skaffold.yaml names; it must not be there yet, and is gone afterwards."""
    namespace = Namespace("flotilla")
    there = namespace.run("kubectl", "get", "namespaces", "--output", "name").split()
    assert "namespace/flotilla" not in there, "the cluster has a namespace flotilla, which the test would delete"
    yield namespace
    skaffold(clone, "delete")
    namespace.run("kubectl", "delete", "namespace", "flotilla", "--ignore-not-found", "--timeout=180s", timeout_s=200)


def skaffold(clone: Path, *arguments: str) -> str:
    """What a command prints; fails with its words."""
    options = ("--profile", "buildah", "--interactive=false", "--update-check=false")
    done = subprocess.run(
        ["skaffold", *arguments, *options],
        cwd=clone,
        env={**os.environ, "BASE_IMAGE": os.environ.get("BASE_IMAGE", "localhost/base")},
        capture_output=True,
        text=True,
        timeout=READY_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"skaffold {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _images() -> list[str]:
    return [word for image in IMAGES.values() for word in ("--images", image)]


def test_a_render_has_the_namespace_and_each_service_with_its_image(clone: Path) -> None:
    rendered = skaffold(clone, "render", "--digest-source=none", *_images())

    manifests = [each for each in yaml.safe_load_all(rendered) if each]
    assert [each["metadata"]["name"] for each in manifests if each["kind"] == "Namespace"] == ["flotilla"]
    deployments = [each for each in manifests if each["kind"] == "Deployment"]
    used = {c["image"] for each in deployments for c in each["spec"]["template"]["spec"]["containers"]}
    assert used >= set(IMAGES.values())


async def test_a_deployment_makes_the_namespace_and_a_fleet_that_is_ready(clone: Path, flotilla: Namespace) -> None:
    skaffold(clone, "deploy", *_images())

    await flotilla.all_ready(READY_WITHIN_S)
    assert {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in flotilla.pods()} >= set(SERVICES)
