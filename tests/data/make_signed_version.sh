#!/bin/sh
# Makes tests/data/signed with minisign itself (0.11): a version, keys without a password, one with the password
# "correct horse", and signatures that servers accept or refuse.
set -eu
cd "$(dirname "$0")/signed"
for key in trusted other; do minisign -G -W -f -p $key.pub -s $key.key; done
printf 'correct horse\ncorrect horse\n' | minisign -G -f -p encrypted.pub -s encrypted.key
sign() { key=$1 to=$2; shift 2; minisign -S -s "$key.key" -m echo/1/version.toml -x "$to" "$@"; }
mkdir -p signatures
sign trusted echo/1/version.toml.minisig -t "model:echo version:1"
sign trusted signatures/of_version_2.minisig -t "model:echo version:2"
sign trusted signatures/of_another_model.minisig -t "model:other version:1"
sign trusted signatures/with_usual_comment.minisig
sign trusted signatures/legacy.minisig -l -t "model:echo version:1"
sign other signatures/by_other_key.minisig -t "model:echo version:1"
