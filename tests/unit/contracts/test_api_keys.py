from flotilla.contracts.api_keys import key_hint, new_key


def test_hint_is_the_beginning_of_a_key_that_was_made_here() -> None:
    key = new_key()
    hint = key_hint(key)
    assert hint is not None
    assert key.startswith(hint)
    assert len(hint) == 10


def test_key_that_a_person_chose_has_no_hint() -> None:
    for key in ("correct-horse-battery-staple", "flo_short", "", "flo_" + "x" * 90):
        assert key_hint(key) is None
