"""Another root key: wraps the keys of all tenants by the current one, so that the others can be removed."""

from collections.abc import Sequence

import psycopg

from flotilla.encryption import RootKeys
from flotilla.encryption.keyring import key_context_of_tenant

_AS_INSTALL = "SET ROLE flotilla_install"
_SELECT_OTHERS_TENANT_KEYS_OF_OTHER_ROOTS = (
    "SELECT tenant_id, root_id, wrapped_key FROM flotilla.tenant_keys_of_other_roots(%s, %s)"
)
_REWRAP_TENANT_KEY = "SELECT flotilla.rewrap_tenant_key(%s, %s, %s, %s)"
_BATCH = 500


async def rotate_root_key(dsn: str, roots: RootKeys) -> tuple[str, int]:
    """Wrap each tenant's key by the current root key; return that key's id, and how many tenants' keys it was.

    `dsn` is libpq's, of the role that installs the fleet. Services go on meanwhile: they open both, as long as their
    copy of the file holds the new key, too. A call that was killed goes on when it is repeated.

    Raises:
        ConfigurationError: the file does not hold a root key that wraps a tenant's key now.
    """
    rewrapped = 0
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with connection:
        await connection.execute(_AS_INSTALL)
        while rows := await (
            await connection.execute(_SELECT_OTHERS_TENANT_KEYS_OF_OTHER_ROOTS, (roots.current_id, _BATCH))
        ).fetchall():
            rewrapped += await _rewrap(connection, roots, rows)
    return roots.current_id, rewrapped


async def _rewrap(
    connection: "psycopg.AsyncConnection[tuple[object, ...]]", roots: RootKeys, rows: Sequence[tuple[object, ...]]
) -> int:
    done = 0
    for tenant_id, root_id, wrapped in rows:
        context, former = key_context_of_tenant(str(tenant_id)), bytes(wrapped)  # type: ignore[call-overload]
        key = await roots.unwrap(str(root_id), former, context)
        again = await roots.wrap(key, context)
        found = await (
            await connection.execute(_REWRAP_TENANT_KEY, (tenant_id, former, roots.current_id, again))
        ).fetchone()
        done += found == (True,)
    return done
