"""Who may read and write a session: read, and changed by its owner, with an event for each change."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from flotilla.contracts.errors import Forbidden, Invalid
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.identity import group_name, parse_identity_name, user_name
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore.sessions import SessionAccess, load_access_of_session, set_session_access
from flotilla.outbox import append
from flotilla.postgres import Connection, Viewer, current_viewer
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.schemas.access import MAX_LISTED, Access, AccessChange, Party, PartyName


async def load_session_access(connection: Connection, caller: Principal, session_id: str) -> Access:
    """Return who may read and write the session.

    Raises:
        NotFound: the caller may not see it.
    """
    return _shown(session_id, await load_access_of_session(connection, caller.tenant_id, session_id))


async def change_session_access(
    connection: Connection, caller: Principal, session_id: str, change: AccessChange
) -> Access:
    """Change it, and record what was changed by whom; nothing is recorded where nothing changes.

    Raises:
        NotFound: the caller may not see the session.
        Forbidden: the caller may see it, but is not its owner.
        Invalid: a list grows too long, or a session without an owner would be nobody's.
    """
    tenant_id = caller.tenant_id
    before = await load_access_of_session(connection, tenant_id, session_id, lock=True)
    if not _may_share(before, _viewer()):
        raise Forbidden(f"session {session_id}: only its owner may change who reads and writes it")
    after = _changed(before, change, caller.issuer)
    if events := _events(before, after, caller):
        await append(connection, tenant_id, session_id, events)
        await set_session_access(connection, tenant_id, session_id, after)
    return _shown(session_id, after)


def _changed(before: SessionAccess, change: AccessChange, issuer: str) -> SessionAccess:
    removed = stored_party_names(change.remove, issuer)
    owner, left = before.owner, []
    if change.owner is not None:
        owner = user_name(change.owner.issuer or issuer, change.owner.subject)
        left = [before.owner] if before.owner not in (None, owner, *removed) else []
    writers = _merged(before.writers, removed, [*left, *stored_party_names(change.add_writers, issuer)], {owner})
    readers = _merged(before.readers, removed, stored_party_names(change.add_readers, issuer), {owner, *writers})
    visibility = change.visibility or before.visibility
    if visibility == "private" and owner is None:
        raise Invalid("the session has no owner: name one, else nobody could read it")
    return replace(before, owner=owner, visibility=visibility, readers=readers, writers=writers)


def _merged(
    before: Sequence[str], removed: Iterable[str], added: Iterable[str | None], without: set[str | None]
) -> list[str]:
    kept = [name for name in before if name not in set(removed)]
    names = [name for name in dict.fromkeys((*kept, *added)) if name is not None and name not in without]
    if len(names) > MAX_LISTED:
        raise Invalid(f"a list would have {len(names)} names, {MAX_LISTED} are allowed: share it with a group")
    return names


def _events(before: SessionAccess, after: SessionAccess, caller: Principal) -> list[AgentStateEvent]:
    by: JsonObject = {**caller.by, "issuer": caller.issuer}
    events = []
    if after.owner != before.owner:
        events.append(state_change("owner_changed", {**by, "before": before.owner, "after": after.owner}, SOURCE))
    lists = _lists(before), _lists(after)
    if lists[0] != lists[1]:
        events.append(state_change("access_changed", {**by, "before": lists[0], "after": lists[1]}, SOURCE))
    return events


def _lists(access: SessionAccess) -> JsonObject:
    return {"visibility": access.visibility, "readers": list(access.readers), "writers": list(access.writers)}


def stored_party_names(parties: Iterable[PartyName], issuer: str) -> list[str]:
    """Return the parties as they are stored; `issuer` is that of those who name none."""
    named = {"user": user_name, "group": group_name}
    return [named[party.kind](party.issuer or issuer, party.name) for party in parties]


def _viewer() -> Viewer:
    return current_viewer() or Viewer()


def _may_share(access: SessionAccess, viewer: Viewer) -> bool:
    return viewer.sees_all or access.owner in viewer.names


def _shown(session_id: str, access: SessionAccess) -> Access:
    viewer = _viewer()
    writes = {access.owner, *access.writers} & set(viewer.names) or access.visibility == "tenant"
    return Access(
        session_id=session_id,
        owner=party_from_stored_name(access.owner) if access.owner else None,
        visibility=access.visibility,
        readers=[party_from_stored_name(name) for name in access.readers],
        writers=[party_from_stored_name(name) for name in access.writers],
        may_write=bool(viewer.sees_all or writes),
        may_share=_may_share(access, viewer),
    )


def party_from_stored_name(name: str) -> Party:
    """Return the party that a stored name stands for."""
    kind, issuer, subject = parse_identity_name(name)
    return Party(kind="group" if kind == "group" else "user", issuer=issuer, name=subject)
