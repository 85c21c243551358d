# One image for all three processes: `serve` (the default), `work` and `migrate`. It holds the server and
# the browser client, and neither the demo nor the sandbox.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/paidup
COPY requirements/build.txt requirements/otel.txt requirements/
RUN /opt/paidup/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt -r requirements/otel.txt
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY client_demo/paidup_demo/sdk client_demo/paidup_demo/sdk
# The build backend is needed only here.
RUN /opt/paidup/bin/pip install --no-index --no-deps --no-build-isolation ".[otel]" \
    && /opt/paidup/bin/pip uninstall --yes setuptools

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin paidup \
    && install -d -o 10001 -m 700 /var/lib/paidup
COPY --from=build /opt/paidup /opt/paidup
# The root file system may be read-only: nothing is written but DATA_DIR, and that only without DATABASE_URL.
ENV PATH=/opt/paidup/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 PORT=8000 DATA_DIR=/var/lib/paidup LOG_FORMAT=json
USER 10001
WORKDIR /var/lib/paidup
EXPOSE 8000
# paidup receives the signal itself (no shell in between) and drains its WebSockets.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/healthz\", timeout=3)"]
ENTRYPOINT ["paidup"]
CMD ["serve"]
