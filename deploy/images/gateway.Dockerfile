# The gateway: one binary beside a C library and certificates, no shell. Servers that run as processes need programs of their own:
# local.Dockerfile has Node and Python beside it.
#   docker build -f deploy/images/gateway.Dockerfile -t portcullis deploy/images
ARG BINARIES=portcullis-binaries
FROM ${BINARIES} AS binaries

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Portcullis" \
      org.opencontainers.image.description="One endpoint in front of many MCP servers" \
      org.opencontainers.image.source="https://github.com/portcullis-dev/portcullis" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=binaries /LICENSE /usr/share/doc/portcullis/LICENSE
COPY --from=binaries /portcullis /usr/local/bin/portcullis
# Its own, so that a new volume there is as well.
COPY --from=binaries --chown=65532:65532 /data /var/lib/portcullis
# A directory below, since a volume itself may be writable for others.
ENV PORTCULLIS_HOME=/var/lib/portcullis/data
USER 65532:65532
VOLUME /var/lib/portcullis
EXPOSE 7777
# The admin socket answers.
HEALTHCHECK --interval=15s --timeout=5s --start-period=2m CMD ["/usr/local/bin/portcullis", "get", "gateways", "-o", "json"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
# Alone it shows what it does, at the machine whose loopback its port is published on. `serve --config FILE` is for everything else.
CMD ["quickstart", "--listen", "0.0.0.0:7777", "--url", "http://127.0.0.1:7777"]
