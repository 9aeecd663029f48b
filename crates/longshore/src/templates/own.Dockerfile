FROM scratch
COPY longshore /usr/local/bin/longshore
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["/usr/local/bin/longshore", "probe", "live"]
ENTRYPOINT ["/usr/local/bin/longshore"]
ARG VERSION
LABEL org.opencontainers.image.title=longshore \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=$VERSION
