"""The package of a new workflow: tests and runs as it is written."""

from importlib import resources
from pathlib import Path

from flotilla.agent.template import SETUP_OUTSIDE, WHEELS, check_new_project, render_templates


def write_workflow(name: str, folder: Path, *, wheels: Path) -> list[Path]:
    """Write the package of the new workflow `name` into `folder`, which is made; return the files written.

    It takes Flotilla from the folder `wheels`.

    Raises:
        Invalid: `name` is not lower-case letters, digits and hyphens, 40 at most.
        Conflict: `folder` exists and is not empty.
    """
    check_new_project(name, folder, "a workflow")
    words = {
        "name": name,
        "distribution": f"{name}-workflow",
        "module": f"{name.replace('-', '_')}_workflow",
        "kind": "".join(part.capitalize() for part in name.split("-")),
        "source": WHEELS % wheels.resolve().as_uri(),
        "wheels": str(wheels.resolve()),
        "setup": SETUP_OUTSIDE,
    }
    return render_templates(resources.files(__package__).joinpath("workflow_files"), folder, words)
