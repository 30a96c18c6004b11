#!/bin/sh
# Makes the two secrets of compose.yaml, once. They are for the user of the gateway's container (65532) and of the database's.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
[ -e secrets/database-password ] || openssl rand -hex 24 >secrets/database-password
[ -e secrets/sealing-key ] || openssl rand -base64 32 >secrets/sealing-key
# Compose mounts them as they are: the containers' users have to be able to read them, and others must not.
chown 65532 secrets/sealing-key
chown 65532:999 secrets/database-password
chmod 0400 secrets/sealing-key
chmod 0440 secrets/database-password
