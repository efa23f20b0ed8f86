"""Progress events, read by one process while another writes them."""

from pathlib import Path

from flotilla_devstack.progress import Journal, Progress, Stopwatch

READY = Progress("redis", "server", "ready", 0.1, "Redis 7")
FAILED = Progress("kafka", "server", "failed", 2.0, "no java")


def test_follower_sees_events_as_they_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    with journal.follow() as follower:
        assert follower.read() == []
        journal.write(READY)
        assert follower.read() == [READY]
        journal.write(FAILED)
        assert follower.read() == [FAILED]


def test_follower_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    journal.write(READY)
    line = path.read_text()
    path.write_text("")
    with journal.follow() as follower, path.open("a") as writer:
        writer.write(line[:10])
        writer.flush()
        assert follower.read() == []
        writer.write(line[10:])
        writer.flush()
        assert follower.read() == [READY]


def test_follower_begins_again_with_a_new_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    journal.write(READY)
    with journal.follow() as follower:
        follower.skip()
        journal.clear()
        journal.write(FAILED)
        assert follower.read() == [FAILED]


def test_skipped_events_are_not_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    journal.write(READY)
    with journal.follow() as follower:
        follower.skip()
        assert follower.read() == []


def test_stopwatch_names_the_process_in_each_phase() -> None:
    heard: list[Progress] = []
    watch = Stopwatch("kafka", "server", heard.append)
    watch.report("preparing", "downloading")
    watch.report("ready")
    assert [(e.name, e.phase, e.detail) for e in heard] == [
        ("kafka", "preparing", "downloading"),
        ("kafka", "ready", ""),
    ]
    assert 0 <= heard[0].seconds <= heard[1].seconds
