#!/bin/bash
# Tries a package the way an administrator meets it, in a throwaway machine without a network (packaging/box.sh): installation,
# first settings, start by systemd, upgrade of a running node, a ledger of the first version, removal, purge. Ends with PASS.
#
#   packaging/try_deb.sh dist/jmmda-node_VERSION_ARCH.deb [SITE]
#
# SITE: folder of Python packages for one that was built without its dependencies. Without it `jmmda-node demo` is run as well.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
new=$(realpath "$1")
site=${2-}
work=$(mktemp -d)
box=$work/machine
settings=/etc/jmmda-node/node.toml
data=/var/lib/jmmda-node
python=/opt/jmmda-node/bin/python

trap '"$here/box.sh" stop "$box"; rm -rf "$work"' EXIT
in_box() { "$here/box.sh" run "$box" "$@"; }
say() { echo "try_deb: $1"; }
fail() {
    echo "try_deb: FAIL: $1" >&2
    in_box journalctl -u jmmda-node --no-pager -n 40 >&2 || true
    exit 1
}
holds() { # TEXT WORDS: the output must hold the words
    case "$1" in *"$2"*) ;; *) fail "expected \"$2\" in: $1" ;; esac
}
active() { in_box systemctl is-active jmmda-node || true; }
main_pid() { in_box systemctl show -P MainPID jmmda-node; }
revision() {
    in_box $python -c "import sqlite3; print(sqlite3.connect('$data/ledger.sqlite').execute('select version_num from alembic_version').fetchone()[0])"
}
install() { in_box env DEBIAN_FRONTEND=noninteractive dpkg -i "$1" 2>&1; }
lend_site() {
    [ -n "$site" ] || return 0
    # shellcheck disable=SC2016
    in_box sh -c 'for v in 11 12 13 14; do d=/opt/jmmda-node/lib/python3.$v/site-packages; mkdir -p $d; echo /opt/site >$d/site.pth; done'
}

say "the same package under an older version"
dpkg-deb -R "$new" "$work/tree"
sed -i 's/^Version: /&0~/' "$work/tree/DEBIAN/control"
mkdir "$work/old"
dpkg-deb --root-owner-group -Znone --build "$work/tree" "$work/old/old.deb" >/dev/null
rm -rf "$work/tree"
[ -z "$site" ] || site=$site:/opt/site
"$here/box.sh" start "$box" "$work/old:/opt/old" "$(dirname "$new"):/opt/new" ${site:+"$site"}

# Images of containers forbid packages to start services; a server does not.
in_box rm -f /usr/sbin/policy-rc.d

say "installation"
lend_site
told=$(install /opt/old/old.deb)
holds "$told" "not started yet"
[ "$(active)" = inactive ] || fail "it was started at installation"
[ "$(in_box stat -c '%U:%G %a' $settings)" = "root:jmmda-node 640" ] || fail "owner or mode of the settings"
[ "$(in_box stat -c '%U:%G %a' $data)" = "jmmda-node:jmmda-node 700" ] || fail "owner or mode of the data folder"
holds "$(in_box jmmda-node --version)" "jmmda-node "
holds "$(in_box jmmda-node config check)" "no fault"

say "a start with the example peers"
in_box systemctl start jmmda-node || true
[ "$(active)" = inactive ] || fail "it runs with the example peers"
holds "$(in_box journalctl -u jmmda-node --no-pager)" "still has example peers"

say "own settings, and a start by systemd"
in_box sed -i -e 's/192\.0\.2\.[0-9]*/127.0.0.1/; s/^port = 104$/port = 11113/' -e 's/^quiet_s = .*/quiet_s = 9.0/' $settings
in_box jmmda-node config check
in_box systemctl start jmmda-node || fail "it does not start"
[ "$(in_box stat -c %U "/proc/$(main_pid)")" = jmmda-node ] || fail "user of the process"
holds "$(in_box jmmda-node echo JMMDA_NODE@127.0.0.1:11112 --calling-ae CT1)" "answered"
told=''
for _ in $(seq 90); do # the model has to load inside the unit's sandbox, too
    told=$(in_box jmmda-node status --json)
    case "$told" in *'"state": "ready"'*) break ;; esac
    sleep 0.5
done
holds "$told" '"state": "ready"'
before=$(main_pid)

say "upgrade of a running node"
lend_site
told=$(install "/opt/new/$(basename "$new")")
[ "$(active)" = active ] || fail "it does not run after the upgrade: $told"
[ "$(main_pid)" != "$before" ] || fail "it was not restarted"
holds "$(in_box cat $settings)" "quiet_s = 9.0"

say "a ledger of the first version"
in_box systemctl stop jmmda-node
newest=$(revision)
in_box setpriv --reuid=jmmda-node --regid=jmmda-node --init-groups $python -c "
from alembic import command; from dicom_node.ledger import store
engine = store._make_engine('sqlite:///$data/ledger.sqlite'); config = store._alembic_config()
with engine.connect() as connection:
    config.attributes['connection'] = connection
    command.downgrade(config, '0001'); connection.commit()"
[ "$(revision)" = 0001 ] || fail "no ledger of the first version"
in_box systemctl start jmmda-node || fail "it does not start with an older ledger"
[ "$(revision)" = "$newest" ] || fail "the ledger was not brought up to date"

if [ -z "$site" ]; then
    say "the self-test with the shipped model"
    in_box sh -c 'cd /root && jmmda-node demo --out demo' | tail -n 3
fi

say "removal"
told=$(in_box dpkg -r jmmda-node 2>&1)
holds "$told" "stay in $data"
[ "$(active)" = inactive ] || fail "it runs after its removal"
in_box sh -c "[ ! -e /opt/jmmda-node ] && [ ! -e /usr/bin/jmmda-node ]" || fail "something of the program is left"
in_box sh -c "[ -e $data/ledger.sqlite ] && grep -q 'quiet_s = 9.0' $settings" || fail "data or settings are gone"

say "installation again, upgrade refused by its own settings"
lend_site
holds "$(install "/opt/new/$(basename "$new")")" "not started"
in_box systemctl start jmmda-node || fail "it does not start after it was installed again"
in_box sh -c "echo 'quite_s = 1' >>$settings"
told=$(install "/opt/new/$(basename "$new")")
holds "$told" "not started again"
holds "$told" "quite_s"

say "purge"
told=$(in_box dpkg -P jmmda-node 2>&1)
holds "$told" "deleting $data"
in_box sh -c "[ ! -e $data ] && [ ! -e /etc/jmmda-node ]" || fail "data or settings are left"
echo "try_deb: PASS"
