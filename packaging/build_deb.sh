#!/bin/sh
# Builds dist/jmmda-node_VERSION_ARCH.deb: everything that packaging/install.sh installs, the virtual environment with all pinned
# dependencies included, so that the package installs without any network. `make deb` calls it.
#
#   packaging/build_deb.sh --wheel FILE [--python /usr/bin/python3] [--out dist] [--version VERSION] [-- PIP_OPTIONS...]
#
# The environment uses the Python it was built with: build on the release of Debian or Ubuntu that it is for.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
wheel='' out=dist version='' python=/usr/bin/python3
compression=${DEB_COMPRESSION:--Zzstd -z10}

while [ $# -gt 0 ]; do
    case "$1" in
    --wheel) wheel=$2; shift ;;
    --python) python=$2; shift ;;
    --out) out=$2; shift ;;
    --version) version=$2; shift ;;
    --) shift; break ;;
    *) echo "build_deb.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
[ -f "$wheel" ] || { echo "build_deb.sh: name the wheel: --wheel FILE" >&2; exit 2; }
[ -n "$version" ] || version=$(basename "$wheel" | cut -d- -f2)
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
umask 022
"$here/packaging/install.sh" --root "$stage" --package --wheel "$wheel" --python "$python" -- "$@"
chmod 700 "$stage/var/lib/jmmda-node"
chmod 750 "$stage/etc/jmmda-node"
mkdir -p "$stage/usr/share/doc/jmmda-node" "$stage/DEBIAN"
install -m 644 "$here/LICENSE" "$stage/usr/share/doc/jmmda-node/copyright"

arch=$(dpkg --print-architecture)
sed -e "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@MINOR@/$minor/" \
    -e "s/@SIZE@/$(du -k -s --exclude=DEBIAN "$stage" | cut -f1)/" \
    "$here/packaging/debian/control" >"$stage/DEBIAN/control"
echo /etc/jmmda-node/node.toml >"$stage/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "$here/packaging/debian/$script" "$stage/DEBIAN/$script"
done
(cd "$stage" && find opt usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)

mkdir -p "$out"
package=$out/jmmda-node_${version}_$arch.deb
# Compressing is most of the work; DEB_COMPRESSION=-Znone is for trials.
# shellcheck disable=SC2086
dpkg-deb --root-owner-group $compression --build "$stage" "$package" >/dev/null
echo "$package"
