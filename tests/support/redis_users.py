"""Services under test reach Redis as their own users, with the rights that `flotilla.bus.acl` gives them."""

from flotilla.bus import connect_redis
from flotilla.bus.acl import grants, set_users
from flotilla.bus.functions import load_functions


async def url_of(redis_url: str, user: str) -> str:
    """Make `user` on the server, which has loaded the bus's functions, and return its URL."""
    agents = [user.removesuffix("-agent")] if user.endswith("-agent") else []
    async with connect_redis(redis_url) as admin:
        await load_functions(admin)
        await set_users(admin, {user: grants(agents)[user]}, {user: user})
    return redis_url.replace("redis://", f"redis://{user}:{user}@")
