"""Prints the schemas of the HTTP API, from which the console's types are generated.

python -m gateway.openapi
"""

import json
import sys

from flotilla.runtime.health import Health
from gateway.application import make_application


def main() -> None:
    """Print the OpenAPI document without its paths: the console names those itself."""
    application = make_application(None, None, Health())  # type: ignore[arg-type]  # serves nothing
    sys.stdout.write(json.dumps({**application.openapi(), "paths": {}}))


if __name__ == "__main__":
    main()
