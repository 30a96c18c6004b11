# The bridge alone, to be copied out: one static program and nothing else.
#   docker build -f deploy/images/bridge.Dockerfile -t portcullis-bridge deploy/images
ARG BINARIES=portcullis-binaries
FROM ${BINARIES} AS binaries

FROM scratch
LABEL org.opencontainers.image.title="Portcullis: bridge" \
      org.opencontainers.image.description="A stdio server's process behind streamable HTTP" \
      org.opencontainers.image.source="https://github.com/portcullis-dev/portcullis" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=binaries /portcullis-bridge /bridge
USER 65532:65532
ENTRYPOINT ["/bridge"]
