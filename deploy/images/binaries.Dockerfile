# The programs, built from this checkout, in an image that holds nothing else: the other images take them from it.
#   docker build -f deploy/images/binaries.Dockerfile -t portcullis-binaries .
FROM docker.io/library/rust:1.95-bookworm AS build
# dist is what is measured and shipped; release builds in a quarter of the time.
ARG PROFILE=dist
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The gateway as Debian 12 has its C library; the bridge static, since it goes into pods of any image.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    set -eu; \
    musl="$(uname -m)-unknown-linux-musl"; \
    rustup target add "$musl"; \
    cargo build --locked --profile "$PROFILE" -p portcullis; \
    cargo build --locked --profile "$PROFILE" -p portcullis-bridge --target "$musl"; \
    folder="$PROFILE"; if [ "$PROFILE" = dev ]; then folder=debug; fi; \
    mkdir -p /out/data; \
    cp "target/$folder/portcullis" "target/$musl/$folder/portcullis-bridge" LICENSE /out/; \
    strip /out/portcullis /out/portcullis-bridge

FROM scratch
COPY --from=build /out/ /
