"""Progress events, read by one process while another writes them."""

from pathlib import Path

from flotilla_devstack.progress import PhaseReporter, ProgressEvent, ProgressJournal

READY = ProgressEvent("redis", "server", "ready", 0.1, "Redis 7")
FAILED = ProgressEvent("kafka", "server", "failed", 2.0, "no java")


def test_follower_sees_events_as_they_are_written(tmp_path: Path) -> None:
    journal = ProgressJournal(tmp_path / "events.jsonl")
    with journal.follow_events() as follower:
        assert follower.read() == []
        journal.append_event(READY)
        assert follower.read() == [READY]
        journal.append_event(FAILED)
        assert follower.read() == [FAILED]


def test_follower_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = ProgressJournal(path)
    journal.append_event(READY)
    line = path.read_text()
    path.write_text("")
    with journal.follow_events() as follower, path.open("a") as writer:
        writer.write(line[:10])
        writer.flush()
        assert follower.read() == []
        writer.write(line[10:])
        writer.flush()
        assert follower.read() == [READY]


def test_follower_begins_again_with_a_new_journal(tmp_path: Path) -> None:
    journal = ProgressJournal(tmp_path / "events.jsonl")
    journal.append_event(READY)
    with journal.follow_events() as follower:
        follower.skip()
        journal.start_new_journal()
        journal.append_event(FAILED)
        assert follower.read() == [FAILED]


def test_skipped_events_are_not_read(tmp_path: Path) -> None:
    journal = ProgressJournal(tmp_path / "events.jsonl")
    journal.append_event(READY)
    with journal.follow_events() as follower:
        follower.skip()
        assert follower.read() == []


def test_stopwatch_names_the_process_in_each_phase() -> None:
    heard: list[ProgressEvent] = []
    watch = PhaseReporter("kafka", "server", heard.append)
    watch.report_phase("preparing", "downloading")
    watch.report_phase("ready")
    assert [(e.name, e.phase, e.detail) for e in heard] == [
        ("kafka", "preparing", "downloading"),
        ("kafka", "ready", ""),
    ]
    assert 0 <= heard[0].seconds <= heard[1].seconds
