#!/bin/sh
# make install, make uninstall: echod as a systemd service of this host.
#   /opt/echod                    a virtual environment with the program
#   /usr/local/lib/systemd/system the units
#   /etc/echod, /etc/systemd/system/*.d   examples, which are the user's from then on
# A second install is an upgrade: it keeps the user's changes and removals.
# Uninstalling leaves only files that the user has changed.
set -eu
cd "$(dirname "$0")/.."

target=/opt/echod
units=/usr/local/lib/systemd/system
shipped=$target/share/examples

fail() {
  echo "make: $*" >&2
  exit 1
}

systemctl_if_running() {
  [ ! -d /run/systemd/system ] || systemctl "$@"
}

check_python() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is not Python 3.11 or later: make install PYTHON=/usr/bin/python3.13, for example"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON cannot make a virtual environment; on Debian: apt-get install python3-venv"
  # The service sees no home directory, and its user has none.
  home=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')
  case $home/ in
    /root/* | /home/* | /run/user/*)
      fail "$PYTHON lives in $home, which a service must not read:" \
        "make install PYTHON=/usr/bin/python3, for example" ;;
  esac
}

install_program() {
  version=$("$PYTHON" -c 'import sys; print(sys.version)')
  [ "$($target/bin/python -c 'import sys; print(sys.version)' 2>/dev/null)" = "$version" ] ||
    "$PYTHON" -m venv --clear $target
  # Build a copy: a build leaves files owned by root beside its sources.
  sources=$(mktemp -d)
  trap 'rm -rf "$sources"' EXIT
  cp -R setup.cfg pyproject.toml README.md LICENSE echod "$sources"
  install="$target/bin/python tools/pip_install.py --no-cache-dir"
  $install --require-hashes -r requirements/run.lock
  $install --no-deps --force-reinstall "$sources"
  chmod -R go=rX $target
}

install_examples() {
  (cd systemd && find etc -type f) | while read -r file; do
    if [ ! -e "/$file" ]; then
      # Shipped before and missing now: the user has removed it.
      [ -e "$shipped/$file" ] || install -D -m 644 "systemd/$file" "/$file"
    elif cmp -s "/$file" "$shipped/$file"; then
      install -m 644 "systemd/$file" "/$file"
    elif ! cmp -s "/$file" "systemd/$file"; then
      echo "kept /$file, which is not as shipped; systemd/$file is"
    fi
  done
  rm -rf "$shipped"
  install -d "$shipped"
  cp -R systemd/etc "$shipped"
}

install_all() {
  check_python
  install_program
  install_examples
  install -d $units
  for unit in systemd/*.service systemd/*.socket; do
    install -m 644 "$unit" $units
  done
  systemctl_if_running daemon-reload
  cat <<'END'
echod is installed. Set up /etc/echod/v1.env, then start it, now and at boot:
  systemctl enable --now echod@v1.service
or, with sockets that outlive a restart:
  systemctl enable --now echod@v1.socket echod@v1.service
A traffic split is watched by echod-probe@gateway.service, set up in /etc/echod/probe-gateway.env.
After an upgrade: systemctl try-restart 'echod*.service'
END
}

uninstall_all() {
  # Instances that are enabled or running are loaded.
  systemctl_if_running stop 'echod.socket' 'echod-metrics.socket' 'echod@*.socket' \
    'echod-metrics@*.socket' 'echod.service' 'echod@*.service' 'echod-probe@*.service'
  for unit in systemd/*.service systemd/*.socket; do
    name=$(basename "$unit")
    systemctl --quiet disable "$name" 2>/dev/null || true
    rm -f "$units/$name"
  done
  (cd systemd && find etc -type f) | while read -r file; do
    if cmp -s "/$file" "$shipped/$file"; then
      rm "/$file"
      rmdir --ignore-fail-on-non-empty "$(dirname "/$file")"
    elif [ -e "/$file" ]; then
      echo "left /$file, which is not as shipped"
    fi
  done
  rm -rf $target
  systemctl_if_running daemon-reload
  systemctl_if_running reset-failed 'echod*' 2>/dev/null || true
}

PYTHON=${PYTHON:-python3}
[ "$(id -u)" = 0 ] || fail "this needs root: sudo make $1"
case ${1:-} in
  install) install_all ;;
  uninstall) uninstall_all ;;
  *) fail "systemd/install.sh install, or systemd/install.sh uninstall" ;;
esac
