# The gateway with what servers need that it runs as processes: for one machine, without a cluster.
#   docker build -f deploy/images/local.Dockerfile -t portcullis-local deploy/images
ARG BINARIES=portcullis-binaries
ARG SERVERS=portcullis-servers
FROM ${BINARIES} AS binaries

FROM ${SERVERS}
LABEL org.opencontainers.image.title="Portcullis with Node, Python and uv" \
      org.opencontainers.image.description="One endpoint in front of many MCP servers"
COPY --from=binaries /LICENSE /usr/share/doc/portcullis/LICENSE
COPY --from=binaries /portcullis /usr/local/bin/portcullis
COPY --from=binaries --chown=65532:65532 /data /var/lib/portcullis
ENV PORTCULLIS_HOME=/var/lib/portcullis/data
VOLUME /var/lib/portcullis
EXPOSE 7777
HEALTHCHECK --interval=15s --timeout=5s --start-period=2m CMD ["/usr/local/bin/portcullis", "get", "gateways", "-o", "json"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["quickstart", "--listen", "0.0.0.0:7777", "--url", "http://127.0.0.1:7777"]
