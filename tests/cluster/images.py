"""Images of one's own, from folders outside the repository."""

from pathlib import Path

from tests.cluster.kubernetes import ROOT
from tests.packaging.programs import succeed

_IMAGES = ROOT / "k8s/images"


def build_image(folder: Path, image: str, **arguments: str) -> None:
    """Build the Dockerfile of `folder`, with the wheels beside it, and load the image into the cluster."""
    arguments = {"BASE_IMAGE": succeed(_IMAGES, "base").strip(), **arguments}
    options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    tool = succeed(_IMAGES, "tool").strip()
    wheels = folder.parent / "wheels"
    succeed(tool, "build", *options, "--build-context", f"wheels={wheels}", "--tag", image, ".", cwd=folder)
    succeed(_IMAGES, "load-image", image)
