"""`python -m flotilla.agent.sidecar [COMMAND…]`: run an agent whose function is in another program.

With a command, that program is started, and again whenever it ends; FLOTILLA_SIDECAR_URL and FLOTILLA_SIDECAR_KEY tell
it where to connect. Without one, it runs elsewhere in the pod, with the same FLOTILLA_SIDECAR_KEY.
"""

import os
import sys
from functools import partial

from flotilla.agent.sidecar.service import serve_sidecar_workers
from flotilla.agent.sidecar.settings import SidecarSettings
from flotilla.runtime import serve

if __name__ == "__main__":
    service = f"{os.environ.get('FLOTILLA_AGENT_NAME') or 'sidecar'}-agent"
    raise SystemExit(serve(service, SidecarSettings, partial(serve_sidecar_workers, sys.argv[1:])))
