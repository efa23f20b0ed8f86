"""Prints the OpenAPI document of the HTTP API, from which the TypeScript types are generated.

python -m gateway.openapi            the schemas: the console names the paths itself
python -m gateway.openapi --paths    the whole document, for clients/typescript
"""

import json
import sys

from flotilla.runtime.health import Health
from gateway.application import create_application


def main() -> None:
    """Print the document."""
    document = create_application(None, None, Health()).openapi()  # type: ignore[arg-type]  # serves nothing
    paths = document["paths"] if "--paths" in sys.argv[1:] else {}
    sys.stdout.write(json.dumps({**document, "paths": paths}))


if __name__ == "__main__":
    main()
