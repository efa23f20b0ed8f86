"""Query parameters that a route does not have are refused, as unknown fields of a body are: a typo must not pass for
"no filter"."""

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query
from starlette.requests import Request

_MOST_NAMED = 10
_SHOWN = 100


def query_parameter_names(dependant: Dependant) -> frozenset[str]:
    """Return the names of the query parameters that an endpoint takes."""
    return frozenset(field.alias for field in get_flat_params(dependant) if isinstance(field.field_info, Query))


def check_query_parameters(request: Request, known: frozenset[str], prefix: str = "") -> None:
    """Refuse parameters that are unknown or given twice: each route takes one value per name.

    Names that begin with `prefix`, if there is one, are known.

    Raises:
        RequestValidationError: with the names that the route has.
    """
    given = [name for name, _ in request.query_params.multi_items()]
    free = frozenset(name for name in given if prefix and name.startswith(prefix))
    wrong = [name for name in dict.fromkeys(given) if name not in known | free or given.count(name) > 1]
    if wrong:
        raise RequestValidationError([_error(name, known | free) for name in wrong[:_MOST_NAMED]])


def _error(name: str, known: frozenset[str]) -> dict[str, object]:
    takes = f"this route takes: {', '.join(sorted(known))}" if known else "this route takes none"
    why = "it is given more than once" if name in known else f"there is no such parameter; {takes}"
    return {"type": "query", "loc": ("query", name[:_SHOWN]), "msg": why}
