# The image of the controller: docker build --tag ghcr.io/sharedlb/sharedlb .
# Both stages are of one Debian release, since the binary is linked to its libc.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches make the next build a short one. They are no part of the image, so
# the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package sharedlb \
    && objcopy --strip-debug target/release/sharedlb /sharedlb

FROM debian:bookworm-slim
COPY --from=build /sharedlb /usr/local/bin/sharedlb
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/sharedlb"]
CMD ["controller"]
