from flotilla.contracts.api_keys import api_key_hint, new_api_key


def test_hint_is_the_beginning_of_a_key_that_was_made_here() -> None:
    key = new_api_key()
    hint = api_key_hint(key)
    assert hint is not None
    assert key.startswith(hint)
    assert len(hint) == 10


def test_key_that_a_person_chose_has_no_hint() -> None:
    for key in ("correct-horse-battery-staple", "flo_short", "", "flo_" + "x" * 90):
        assert api_key_hint(key) is None
