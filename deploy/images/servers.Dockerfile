# What most MCP servers need: Node with npx, Python, uv with uvx. Not root, and everything that is written lies below /tmp, so it runs on a
# read-only root file system. A base for images of your own, and for servers of which only a command is known.
#   docker build -f deploy/images/servers.Dockerfile -t portcullis-servers deploy/images
FROM docker.io/library/node:24-bookworm-slim
ARG UV=0.13.8
LABEL org.opencontainers.image.title="Portcullis: base for MCP servers" \
      org.opencontainers.image.source="https://github.com/portcullis-dev/portcullis" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates git python3 python3-venv && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "uv==$UV" \
    && ln -s /opt/uv/bin/uv /opt/uv/bin/uvx /usr/local/bin/
ENV HOME=/tmp \
    npm_config_cache=/tmp/.npm \
    npm_config_update_notifier=false \
    UV_CACHE_DIR=/tmp/.uv/cache \
    UV_TOOL_DIR=/tmp/.uv/tools \
    UV_PYTHON_DOWNLOADS=never \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
