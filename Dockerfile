# The longshore image: one static binary and the authorities that it trusts, from nothing. `./dev image` makes the same
# with the Rust that is on the machine.

ARG BUILD_BASE=rust:1-slim
FROM ${BUILD_BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev ca-certificates
WORKDIR /build
COPY . .
# glibc linked in: names are looked up by its own resolver, files and DNS, see docs/decisions/0016-static-binary.md.
RUN target="$(uname -m)-unknown-linux-gnu" && \
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile image --package longshore --target "$target" && \
    mkdir /out && cp "target/$target/image/longshore" /etc/ssl/certs/ca-certificates.crt /out/

FROM scratch
COPY --from=build /out/longshore /usr/local/bin/longshore
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["/usr/local/bin/longshore", "probe", "live"]
ENTRYPOINT ["/usr/local/bin/longshore"]
ARG VERSION
ARG REVISION
ARG SOURCE
ARG CREATED
LABEL org.opencontainers.image.title=longshore \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.source=$SOURCE \
      org.opencontainers.image.created=$CREATED
