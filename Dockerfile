# docker build --build-arg VERSION="$(git describe --always)" -t engramfs .
#
# docker run -p 127.0.0.1:8080:8080 -v engramfs:/data -e ENGRAMFS_INSECURE=true engramfs
#
# A mount inside the container needs the device and the right to mount:
#   --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined
# With --user root as well, the kernel reads and writes large files directly. For the
# host to see it: -v /srv/files:/srv/files:rshared -e ENGRAMFS_MOUNT=/srv/files

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /engramfs ./cmd/engramfs

# A distribution rather than an empty image: an unprivileged mount needs the
# setuid program fusermount3, and allow_other needs its configuration.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends fuse3 \
 && rm -rf /var/lib/apt/lists/* \
 && echo user_allow_other >> /etc/fuse.conf \
 && useradd --system --uid 65532 --user-group --no-create-home engramfs \
 && install -d -o engramfs -g engramfs -m 0700 /data
COPY --from=build /engramfs /usr/bin/engramfs
USER engramfs
# Inside a container every address is reached from outside of it, so the server
# still asks for TLS, or for ENGRAMFS_INSECURE=true when a proxy or a published
# loopback port stands before it. The admin API stays inside: docker exec.
ENV ENGRAMFS_DATA=/data ENGRAMFS_LISTEN=:8080 ENGRAMFS_ADMIN=127.0.0.1:8081
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=6s --start-period=60s CMD ["engramfs", "healthcheck"]
ENTRYPOINT ["engramfs"]
CMD ["serve"]
