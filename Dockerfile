# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies, in a layer that lives until Cargo.toml or Cargo.lock changes. The empty crate's
# own outputs go: Cargo would take them for newer than the sources below.
COPY Cargo.toml Cargo.lock ./
RUN mkdir benches src \
    && echo 'fn main() {}' > src/main.rs \
    && touch benches/hot_paths.rs src/lib.rs \
    && cargo build --release --locked \
    && rm -rf src target/release/.fingerprint/forgetd-*

COPY build.rs ./
COPY data data
COPY evaluation/suites evaluation/suites
COPY migrations migrations
COPY src src
# A release has none of the steps at which tests hold the process.
RUN cargo build --release --locked \
    && ! grep -q --text FORGETD_FAIL_POINTS target/release/forgetd


FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home \
        --home-dir /var/lib/forgetd --shell /usr/sbin/nologin forgetd \
    && install -d -m 0700 -o forgetd -g forgetd /var/lib/forgetd
COPY --from=build /build/target/release/forgetd /usr/local/bin/forgetd
COPY LICENSE-MIT LICENSE-APACHE data/README.md /usr/share/doc/forgetd/

# These win over a configuration file, which can therefore be the same in and out of a container.
ENV FORGETD_LEDGER__DATA_DIR=/var/lib/forgetd \
    FORGETD_HTTP__LISTEN=0.0.0.0:8080
USER 10001:10001
WORKDIR /var/lib/forgetd
VOLUME /var/lib/forgetd
EXPOSE 8080
STOPSIGNAL SIGTERM
# Unready until a version is warm; training the first one may take longer than the start period.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["forgetd", "health"]
ENTRYPOINT ["forgetd"]
CMD ["serve"]
