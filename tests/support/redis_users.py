"""Services under test reach Redis as their own users, with the rights that `flotilla.bus.acl` gives them."""

from flotilla.bus import connect_redis
from flotilla.bus.acl import create_redis_users, fleet_redis_permissions
from flotilla.bus.functions import load_redis_functions


async def url_of(redis_url: str, user: str) -> str:
    """Make `user` on the server, which has loaded the bus's functions, and return its URL."""
    agents = [user.removesuffix("-agent")] if user.endswith("-agent") else []
    async with connect_redis(redis_url) as admin:
        await load_redis_functions(admin)
        await create_redis_users(admin, {user: fleet_redis_permissions(agents)[user]}, {user: user})
    return redis_url.replace("redis://", f"redis://{user}:{user}@")
