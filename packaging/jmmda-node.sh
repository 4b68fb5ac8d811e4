#!/bin/sh
# The command of an installation in /opt/jmmda-node. What works on the node's data runs as the user that owns them: a ledger opened
# by root would leave files there that the node cannot write.
set -eu
: "${JMMDA_NODE_CONFIG:=/etc/jmmda-node/node.toml}"
export JMMDA_NODE_CONFIG
program=/opt/jmmda-node/bin/jmmda-node
case "${1-}" in
serve | status | series | dead-letter | doctor | pull)
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid=jmmda-node --regid=jmmda-node --init-groups env HOME=/var/lib/jmmda-node "$program" "$@"
    fi
    ;;
esac
exec "$program" "$@"
