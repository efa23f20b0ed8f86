"""Manuals that Debian ships, in four fields and three languages, fetched from apt when they are needed."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from flotilla.knowledge import UploadedDocument
from flotilla_devstack.folders import cache_dir


@dataclass(frozen=True)
class Manual:
    """A manual in a Debian package: its pages, and its language as ISO 639-1 code and as bm25s' stemmer has it."""

    package: str
    folder: str
    pattern: str
    ending: str
    language: str
    stemmer: str

    def uploads(self) -> list[UploadedDocument]:
        """Every page; its uri is its place without the ending."""
        folder = _unpacked(self.package) / "usr/share/doc" / self.folder
        pages = sorted(page for page in folder.glob(self.pattern) if "-big-page" not in page.name)
        if not pages:
            raise SystemExit(f"package {self.package} has no {self.pattern} in {self.folder}")
        return [
            UploadedDocument(uri=str(page.relative_to(folder)).removesuffix(self.ending), content=page.read_bytes(),
                   media_type="text/html")
            for page in pages
        ]  # fmt: skip


MANUALS = {
    "git": Manual("git-doc", "git/html", "*.html", "", "en", "english"),
    "gnucash": Manual("gnucash-docs", "gnucash-docs", "gnucash-*-en/*.html", ".html", "en", "english"),
    "apache-fr": Manual("apache2-doc", "apache2-doc/manual/fr", "**/*.html", "", "fr", "french"),
    "lilypond-de": Manual(
        "lilypond-doc-html-de", "lilypond/html/Documentation", "[ln]*/*.de.html", ".de.html", "de", "german"
    ),
}


def _unpacked(package: str) -> Path:
    """The root of the installed package's files where it is installed, else of a copy that apt downloads."""
    if Path(f"/var/lib/dpkg/info/{package}.list").exists():
        return Path("/")
    folder = cache_dir() / "manuals" / package
    if not folder.exists():
        scratch = folder.with_suffix(f".{os.getpid()}")
        scratch.mkdir(parents=True)
        _run(scratch, "apt-get", "download", package)
        [archive] = scratch.glob("*.deb")
        _run(scratch, "dpkg-deb", "-x", archive.name, "files")
        archive.unlink()
        (scratch / "files").rename(folder)
        scratch.rmdir()
    return folder


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}; apt-get update may help")
