#!/bin/sh
# make deb: dist/echod_VERSION_all.deb, by Debian's own tools in a copy of the sources.
# The same commit gives the same bytes on the same release of Debian.
set -eu
# Debian's own tools and Python, whatever comes first elsewhere.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd "$(dirname "$0")/.."

fail() {
  echo "make: $*" >&2
  exit 1
}

version=$1 maintainer=$2 repository=$3
command -v dpkg-buildpackage >/dev/null ||
  fail "dpkg-buildpackage is missing: make deb needs Debian 12 or later, with what debian/control names"
case $maintainer in
  *"
"*) fail "MAINTAINER: must be one line" ;;
  *" <"*@*">") ;;
  *) fail "MAINTAINER '$maintainer': must be a name and an address: make deb MAINTAINER='NAME <ADDRESS>'" ;;
esac
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null)} ||
  fail "SOURCE_DATE_EPOCH: must be set outside a git checkout, to seconds since 1970"
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
mkdir "$work/echod"
cp -R setup.cfg pyproject.toml README.md CHANGELOG.md LICENSE echod debian systemd tools "$work/echod"
find "$work/echod" -name __pycache__ -prune -exec rm -rf {} +
chmod -R u+rwX,go=rX "$work/echod"
cat >"$work/echod/debian/changelog" <<END
echod ($version) unstable; urgency=medium

  * Release $version. CHANGELOG.md has what users notice.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
literal() { printf %s "$1" | sed 's/[&|\\]/\\&/g'; } # in what sed puts in
repository=$(literal "$repository")
sed -i "s|^Maintainer: .*|Maintainer: $(literal "$maintainer")|${repository:+;s|^Rules-|Homepage: $repository\\n&|}" \
  "$work/echod/debian/control"
(cd "$work/echod" && dpkg-buildpackage --build=binary --no-sign >"$work/log" 2>&1) || {
  cat "$work/log" >&2
  fail "dpkg-buildpackage failed"
}
mkdir -p dist
cp "$work/echod_${version}_all.deb" dist
echo "dist/echod_${version}_all.deb"
