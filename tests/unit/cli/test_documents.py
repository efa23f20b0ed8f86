"""Which files `documents add` finds, and how their documents are named."""

from pathlib import Path

import pytest

from flotilla_cli.errors import NotFound
from flotilla_cli.uploading import find_documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("b.md", "A.HTML", "sub/c.txt", "sub/deep/d.markdown", "sub/e.png", ".hidden.md", ".git/f.md", "g.htm")
    for name in names:
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "docs"


def test_folders_are_searched_for_known_endings_and_hidden_ones_left_out(folder: Path) -> None:
    found = [str(one.path.relative_to(folder)) for one in find_documents([folder]).found]
    assert found == ["A.HTML", "b.md", "g.htm", "sub/c.txt", "sub/deep/d.markdown"]


def test_a_file_that_is_named_is_taken_whatever_its_ending(folder: Path) -> None:
    assert [one.path.name for one in find_documents([folder / "sub/e.png", folder / ".hidden.md"]).found] == [
        "e.png",
        ".hidden.md",
    ]


def test_a_file_named_twice_is_found_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert len(find_documents([Path("b.md"), folder / "b.md", Path("../docs/b.md")]).found) == 1
    assert len(find_documents([folder / "sub", folder]).found) == 5


def test_a_document_is_named_by_its_file_or_below_a_base(folder: Path) -> None:
    (by_file,) = find_documents([folder / "b.md"]).found
    assert by_file.uri == (folder / "b.md").as_uri()
    uris = [one.uri for one in find_documents([folder], "https://wiki.example/").found]
    assert "https://wiki.example/sub/deep/d.markdown" in uris
    (single,) = find_documents([folder / "sub/c.txt"], "wiki").found
    assert single.uri == "wiki/c.txt"


def test_a_folder_that_links_to_itself_ends(folder: Path) -> None:
    (folder / "sub/loop").symlink_to(folder)
    assert len(find_documents([folder]).found) == 5


def test_a_path_that_does_not_exist_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.md does not exist"):
        find_documents([folder / "nowhere.md"])
