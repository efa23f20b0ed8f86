# syntax=docker/dockerfile:1
# One image per service:  docker build --build-arg BASE_IMAGE=… --build-arg SERVICE=outbox-relay -t flotilla/outbox-relay:0.1.0 .
# An image holds its own service's locked packages and nothing else.

# Python >= 3.11 on Debian, by digest: NAME@sha256:… (`k8s/images pin` looks up that of python:3.11-slim-bookworm). There is no
# default: a tag can become another image overnight.
ARG BASE_IMAGE

# The same for every service, so it is built once.
FROM ${BASE_IMAGE} AS tools
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends binutils > /dev/null \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY locks/uv.txt locks/
RUN python3 -m venv uv && uv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r locks/uv.txt
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never

FROM tools AS build
ARG SERVICE
# An agent of your own has its lock in its folder: services/NAME-agent/requirements.txt.
ARG LOCK=locks/${SERVICE}.txt
RUN test -n "${SERVICE}" || { echo 'Say which service: --build-arg SERVICE=gateway'; exit 1; }
# First what changes seldom: the dependencies. What only their builders and checkers read stays behind (sources of the
# compiled parts, their debug symbols, tests, stubs): a third of what the wheels hold. The libraries that a wheel brings along
# (numpy.libs) keep their symbols: strip moves their segments off page borders, and then they don't load.
COPY ${LOCK} locks/service.txt
RUN uv/bin/uv venv --quiet --python python3 /app \
 && uv/bin/uv pip install --python /app/bin/python --require-hashes -r locks/service.txt \
 && cd /app/lib/python3*/site-packages \
 && rm -rf temporalio/bridge/sdk-core temporalio/bridge/src \
 && find . -type d -name tests -prune -exec rm -r {} + \
 && find . -type f '(' -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.[ch]' -o -name '*.rs' -o -name 'Cargo.*' ')' -delete \
 && find . -type f -name '*.so*' -not -path '*.libs/*' -exec strip --strip-unneeded {} + \
 && rm -f /app/bin/*activate* /app/bin/*.bat
COPY shared/flotilla shared/flotilla
COPY services/${SERVICE} services/${SERVICE}
RUN uv/bin/uv pip install --python /app/bin/python --no-deps --no-sources ./shared/flotilla "./services/${SERVICE}" \
 && ln -s "/app/bin/${SERVICE}" /app/bin/service
# A service that loads whole says which settings it lacks, and ends with 2.
RUN /app/bin/service > said.txt 2>&1 || [ $? = 2 ] || { cat said.txt; exit 1; }

FROM ${BASE_IMAGE}
ARG SERVICE
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flotilla-${SERVICE}" \
      org.opencontainers.image.description="Flotilla: durable, governed, auditable agent services" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /app
EXPOSE 9090
# No shell between PID 1 and the service: it gets SIGTERM itself, and drains.
ENTRYPOINT ["/app/bin/service"]
