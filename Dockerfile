# The image of the controller: make image
# Both stages are of one Debian release, since the binary is linked to its libc.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# What `sharedlb version` says. The folder .git is not part of the context.
ARG COMMIT=unknown
# The caches make the next build a short one. They are no part of the image, so
# what goes into it is written to a folder outside of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    SHAREDLB_COMMIT=$COMMIT deploy/image/build /image

# libc and certificates, and no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="SharedLB" \
      org.opencontainers.image.description="One cloud load balancer for many L4 workloads" \
      org.opencontainers.image.source="https://github.com/sharedlb/sharedlb" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$COMMIT
COPY --from=build /image /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/sharedlb"]
CMD ["controller"]
