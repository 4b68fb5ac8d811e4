#!/bin/sh
# Installs jmmda-node from its wheel: a virtual environment in /opt/jmmda-node with the versions of constraints.txt, the user
# jmmda-node, the systemd unit, settings in /etc/jmmda-node. Run again it upgrades; data and settings stay.
#
#   packaging/install.sh --wheel dist/jmmda_node-0.1.0-py3-none-any.whl [--python /usr/bin/python3.11] [-- PIP_OPTIONS...]
#   packaging/install.sh --uninstall [--purge]
#
#   --root DIR       install below DIR: no user, no service (for packages and tests)
#   --package        the places of a Debian package: /usr/bin, /usr/lib/systemd (else /usr/local/bin, /etc/systemd)
#   --uninstall      stop the node, remove program and unit; keep settings and data
#   --purge          with --uninstall: delete settings and data too
#   -- PIP_OPTIONS   handed to pip, such as --no-index --find-links wheels (no network)
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
user=jmmda-node
root='' wheel='' package='' uninstall='' purge=''
python=$(command -v python3 || true)

fail() { echo "install.sh: $1" >&2; exit "${2:-1}"; }

while [ $# -gt 0 ]; do
    case "$1" in
    --wheel) wheel=${2:?--wheel needs a file}; shift ;;
    --python) python=${2:?--python needs a program}; shift ;;
    --root) root=${2:?--root needs a folder}; shift ;;
    --package) package=1 ;;
    --uninstall) uninstall=1 ;;
    --purge) purge=1 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) fail "unknown option $1; see --help" 2 ;;
    esac
    shift
done
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root, or with --root DIR" 2

program=$root/opt/jmmda-node
settings=$root/etc/jmmda-node
data=$root/var/lib/jmmda-node
if [ -n "$package" ]; then
    bin=$root/usr/bin units=$root/usr/lib/systemd/system sysusers=$root/usr/lib/sysusers.d
else
    bin=$root/usr/local/bin units=$root/etc/systemd/system sysusers=$root/etc/sysusers.d
fi

# Whether there is a running systemd that this installation is for.
manager() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

make_environment() { # of the wheel, in a folder beside the old one, which stays until the new one is whole
    new=$program.new
    rm -rf "$new"
    mkdir -p "$(dirname "$new")"
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip "$new"
        set -- --python "$new/bin/python" install "$@"
        pip=$python
    else
        "$python" -m venv "$new" || fail "$python can make no environment (Debian: apt install python3-venv or python3-pip)"
        set -- install "$@"
        pip=$new/bin/python
    fi
    "$pip" -m pip --disable-pip-version-check "$@" -q --no-compile -c "$here/constraints.txt" "$wheel" ||
        fail "pip could not install $wheel; nothing was changed"
    rm -rf "$new"/lib/python3*/site-packages/pip "$new"/lib/python3*/site-packages/pip-*
    # The environment gets its real place: interpreter lines, pyvenv.cfg, compiled files.
    rm -f "$new"/bin/[Aa]ctivate* "$new"/bin/pip* "$new"/lib/python3*/site-packages/jmmda_node-*/direct_url.json
    grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | xargs -r sed -i "s|$new|/opt/jmmda-node|g"
    "$new/bin/python" -m compileall -q -f -j 0 -s "$new" -p /opt/jmmda-node "$new/lib" >/dev/null || true
    mkdir -p "$new/share/jmmda-node"
    for name in gpu.conf credentials.conf port-104.conf; do
        install -m 644 "$here/systemd/$name" "$new/share/jmmda-node/$name"
    done
    for name in "$here"/docs/*.md "$here/LICENSE" "$here/CHANGELOG.md" "$here/config/node.toml"; do
        install -m 644 "$name" "$new/share/jmmda-node/"
    done
}

put_files() {
    mkdir -p "$bin" "$units" "$sysusers" "$settings" "$data"
    install -m 755 "$here/packaging/jmmda-node.sh" "$bin/jmmda-node"
    install -m 644 "$here/systemd/jmmda-node.service" "$here/systemd/jmmda-node.slice" "$units"
    install -m 644 "$here/systemd/sysusers.conf" "$sysusers/jmmda-node.conf"
    [ -e "$settings/node.toml" ] || install -m 640 "$here/config/node.toml" "$settings/node.toml"
}

make_user() {
    getent passwd $user >/dev/null && return
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$sysusers/jmmda-node.conf"
    else
        useradd --system --user-group --home-dir /var/lib/jmmda-node --no-create-home --shell /usr/sbin/nologin $user
    fi
}

set_owners() { # the settings are read by the node alone and written by root alone
    chown root:$user "$settings" "$settings/node.toml"
    chmod 750 "$settings"
    chmod 640 "$settings/node.toml"
    chown $user:$user "$data"
    chmod 700 "$data"
}

if [ -n "$uninstall" ]; then
    if manager; then systemctl disable --now jmmda-node.service 2>/dev/null || true; fi
    rm -rf "$program" "$program.new" "$program.old"
    rm -f "$bin/jmmda-node" "$units/jmmda-node.service" "$units/jmmda-node.slice" "$sysusers/jmmda-node.conf"
    if manager; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        echo "deleting $settings and $data: settings, received images, results, ledger"
        rm -rf "$settings" "$data"
    else
        echo "removed; settings stay in $settings, received images and results in $data (delete them: --uninstall --purge)"
    fi
    exit 0
fi

[ -f "$wheel" ] || fail "name the wheel: --wheel FILE (make wheel builds it)" 2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is not Python 3.11 or newer; see --python" 2
python=$(realpath "$("$python" -c 'import sys; print(sys.executable)')")
make_environment "$@"
put_files
[ -n "$root" ] || make_user
was_active=''
if manager && systemctl is-active --quiet jmmda-node.service; then
    was_active=1
    systemctl stop jmmda-node.service
fi
rm -rf "$program.old"
[ ! -e "$program" ] || mv "$program" "$program.old"
mv "$program.new" "$program"
rm -rf "$program.old"
[ -z "$root" ] || exit 0
set_owners
# SELinux: what was moved here keeps the label of the place where it was made.
if command -v restorecon >/dev/null; then restorecon -R "$program" "$bin/jmmda-node" "$settings" "$data"; fi
if manager; then
    systemctl daemon-reload
    systemctl enable -q jmmda-node.service
    [ -z "$was_active" ] || systemctl start jmmda-node.service
fi
echo "installed. Next: edit /etc/jmmda-node/node.toml; jmmda-node config check; systemctl start jmmda-node"
