"""Open WebUI from PyPI against a gateway: `make test-open-webui`."""
