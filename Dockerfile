# Leeway as a container: docker build -t leeway .   (make image does that, with Docker or buildah)
#
#   docker run --stop-timeout 40 -p 8080:8080 -v leeway-state:/var/lib/leeway leeway
#
# serves the shipped models, by name: POST /predict is for one only if LEEWAY_REPOSITORY__DEFAULT_MODEL names it. Mount yours over
# /srv/models, read-only. Build arguments:
#
#   VARIANT=cpu|cuda    cuda brings the GPU library; CUDA 13 and cuDNN 9 have to be in BASE (say, a CUDA runtime image)
#   RUST, BASE          the images to build with and to run on: glibc 2.28 or later, the same in both or newer in BASE

ARG RUST=rust:1.92-bookworm
ARG BASE=debian:bookworm-slim

# ----- build: the dependencies are a layer of their own, built anew only when Cargo.lock or Cargo.toml or benches/ change -----
FROM ${RUST} AS build
ARG VARIANT=cpu
WORKDIR /build
# Only pip is missing in the usual images. Nothing is installed where it is there.
RUN python3 -m pip --version >/dev/null 2>&1 \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*)
COPY scripts/fetch_onnxruntime.py scripts/
RUN python3 scripts/fetch_onnxruntime.py --variant ${VARIANT}
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY benches benches
# The manifest names examples and benches; the crate itself is empty here, so that this layer depends on neither.
RUN mkdir -p src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --locked --release --bin leeway && rm -rf src target/release/deps/*leeway* target/release/leeway*
COPY src src
COPY examples examples
# The program has a model for `leeway demo` in it.
COPY models models
# The console, which is built, and the advice on alerts.
COPY console/dist console/dist
COPY docs/alerts.md docs/
RUN cargo build --locked --release --bin leeway \
    && mkdir -p /image/usr/local/bin /image/usr/local/lib/leeway /image/srv /image/var/lib/leeway \
    && cp target/release/leeway /image/usr/local/bin/ \
    && cp -P .onnxruntime/*.so* /image/usr/local/lib/leeway/ \
    && cp .onnxruntime/LICENSE .onnxruntime/ThirdPartyNotices.txt /image/usr/local/lib/leeway/
# Models that lower the case of texts, such as scikit-learn's TfidfVectorizer, need this locale. Only its 3 MB are in the image.
RUN test -f /usr/share/i18n/locales/en_US \
    || (apt-get update && apt-get install -y --no-install-recommends locales && rm -rf /var/lib/apt/lists/*)
RUN mkdir -p /image/usr/lib/locale && localedef -i en_US -f UTF-8 /image/usr/lib/locale/en_US.utf8
RUN cp -r models /image/srv/models && rm -f /image/srv/models/train.py /image/srv/models/requirements.txt && chmod -R a+rX /image

# ----- run: the program, the library, the models; nothing is written but the state -----
FROM ${BASE}
COPY --from=build /image/usr /usr
COPY --from=build /image/srv /srv
COPY --from=build --chown=65532:65532 /image/var/lib/leeway /var/lib/leeway
ENV LEEWAY_HTTP__LISTEN=0.0.0.0:8080 \
    LEEWAY_ADMIN__LISTEN=127.0.0.1:8081 \
    LEEWAY_REPOSITORY__PATH=/srv/models \
    LEEWAY_STATE__URL=sqlite:/var/lib/leeway/leeway.db \
    LEEWAY_LOG__FORMAT=json \
    ORT_DYLIB_PATH=/usr/local/lib/leeway/libonnxruntime.so \
    ORT_DISABLE_TELEMETRY=1
LABEL org.opencontainers.image.title="Leeway" \
      org.opencontainers.image.description="A model server for ONNX models, with its latency, its versions and its inputs in view" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.documentation="docs/operations.md"
# No name: the image needs no user database.
USER 65532:65532
WORKDIR /var/lib/leeway
VOLUME /var/lib/leeway
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s --retries=3 CMD ["leeway", "health"]
# Without a shell: SIGTERM goes to the server itself.
ENTRYPOINT ["leeway"]
CMD ["serve"]
