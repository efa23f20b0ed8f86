"""The page of Kafka's users is what the rights are."""

from pathlib import Path

from flotilla.kafka.acl import kafka_permissions_page

PAGE = Path(__file__).parents[3] / "docs/generated/kafka-acls.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == kafka_permissions_page(), "run `make docs`"
