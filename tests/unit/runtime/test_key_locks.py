"""One lock per key, and none left behind."""

import asyncio

from flotilla.runtime.key_locks import KeyLocks


async def test_the_holders_of_one_key_pass_one_after_the_other_also_a_late_one() -> None:
    locks, inside, most, order = KeyLocks(), 0, 0, []

    async def pass_through(number: int) -> None:
        nonlocal inside, most
        async with locks.locked("task"):
            inside += 1
            most = max(most, inside)
            order.append(number)
            await asyncio.sleep(0)
            inside -= 1
            if number == 0:  # the next in line was woken, but has not taken the lock yet
                late.append(asyncio.create_task(pass_through(2)))

    late: list[asyncio.Task[None]] = []
    await asyncio.gather(pass_through(0), pass_through(1))
    await asyncio.gather(*late)
    assert (most, order) == (1, [0, 1, 2])


async def test_other_keys_do_not_wait_and_nothing_is_kept() -> None:
    locks = KeyLocks()
    async with locks.locked("a"), locks.locked("b"):
        assert len(locks._locks) == 2
    assert (locks._locks, locks._users) == ({}, {})
